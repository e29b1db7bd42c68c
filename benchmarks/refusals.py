"""What the benchmark of accuracies refuses: what would make one table of things that are not to be compared."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.protocol import ROOT, Job, Protocol, results
from benchmarks.rows import IMAGES, SHIPPED, START, images_of, shipped_settings, start_weights

from amalgam.contradictions import contradiction
from amalgam.errors import UserError


def refuse_uncommitted_settings() -> None:
    """An experiment's settings stay in params.yaml; what the protocol does not say would be theirs."""
    if _is_uncommitted(ROOT / "params.yaml"):
        raise UserError("params.yaml holds settings that are not committed; set them back: git checkout params.yaml")


def refuse_uncommitted_protocol(protocol: Protocol) -> None:
    """Rows, seeds and what was chosen for them are fixed before the test images are looked at."""
    for file in (protocol.file, protocol.choice_file):
        if _is_uncommitted(file):
            raise UserError(f"{file.name} is to be committed before the test images are looked at: git add {file.name}, git commit")


def _is_uncommitted(file: Path) -> bool:
    """Whether a file of a git repository differs from what is committed, or never was."""
    command = ["git", "status", "--porcelain", "--ignored", "--", file.name]
    return bool(subprocess.run(command, cwd=file.parent, capture_output=True, check=False).stdout)


def refuse_contradictions(jobs: list[Job]) -> None:
    """Raise UserError if a row's settings contradict each other or suit the task's teachers ill: the pipeline would refuse them."""
    for job in {job.row: job for job in jobs}.values():
        if problem := contradiction(job.protocol.parameters(job.seed).folder.tasks[job.task], job.settings):
            raise UserError(f"{job.protocol.file.name}, {job.row}, {job.task}: {problem}")


def refuse_incomparable(jobs: list[Job]) -> None:
    """Raise UserError if one of these would stand beside trainings of other settings, weights to start from, or images."""
    known = results()
    for job in jobs:
        seeds = sorted({*job.protocol.named_seeds(job.task), *(other.seed for other in jobs)})
        refuse_other_settings(job, seeds, known)
        refuse_other_weights(job, seeds, known)
        refuse_other_images(job, known)


def refuse_other_settings(job: Job, seeds: list[int], known: dict[str, Any]) -> None:
    """Raise UserError if a seed of the job's row was trained with another value of a setting that the protocol leaves to params.yaml."""
    here = shipped_settings(job, job.settings.model_dump(mode="json"))
    for other in (replace(job, seed=seed) for seed in seeds):
        before = known.get(other.key, {}).get(SHIPPED, {})
        for name in sorted(here.keys() & before.keys()):
            if here[name] != before[name]:
                raise UserError(
                    f"{job.row} of {job.task}: seed {other.seed} was trained with {name} {before[name]}, params.yaml says {here[name]}; "
                    "set it back, or say it in the protocol, whose rows are then others"
                )


def refuse_other_weights(job: Job, seeds: list[int], known: dict[str, Any]) -> None:
    """Raise UserError if a row of the protocol started from another file of that name."""
    name, weights = job.settings.student_weights, start_weights(job.settings)
    for other in [job, *job.protocol.chosen_jobs(job.task, job.protocol.rows, seeds)] if weights else []:
        before = known.get(other.key, {}).get(START)
        if before not in (None, weights) and other.settings.student_weights == name:
            raise UserError(
                f"{other.row} of {other.task}, seed {other.seed}, started from another {name} than is here now; bring that back, or rename "
                "this one"
            )


def refuse_other_images(job: Job, known: dict[str, Any]) -> None:
    """Raise UserError if it was trained or tested on other images than the archive's.

    A row that is new is compared with the others of its task, image by image: it may not be tested on other images than they.
    """
    which, before = f"{job.row} of {job.task}, seed {job.seed},", known.get(job.key, {})
    tested = {entry["test_images"] for entry in known.values() if entry.get("task") == job.task and "test_images" in entry}
    here = images_of(job) if tested or before.keys() & IMAGES else {}
    elsewhere = f"other images than {job.protocol.archive} holds; keep results of another archive in another copy of this repository, "
    elsewhere += "without benchmarks/accuracy.results.json"
    if any(before.get(name, found) != found for name, found in here.items()):
        raise UserError(f"{which} was trained or tested on {elsewhere}")
    if tested - set(here.values()):
        raise UserError(f"{which} would be compared with rows that were tested on {elsewhere}")
