"""Train a task's student from its images, labels and stored targets; one run in MLflow.

As a stage of the pipeline (dvc repro) its settings are those of params.yaml. By hand it is a one-off: flags stand in for params.yaml's
settings of the task, everything it writes goes into a new folder below runs/, and the pipeline's outputs stay as they are. It needs
the pipeline's images and teachers (dvc repro models.dvc).
"""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from amalgam import reference_protocol
from amalgam.advice import advice
from amalgam.brought import copied_weights, refuse_changed
from amalgam.checkpoint import checkpoint, finish
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.feasibility import check_labels, check_student
from amalgam.flags import add_settings, given_settings, refuse_idle
from amalgam.history import Epoch, Fit
from amalgam.live import LOG, PICTURE, LiveCurve, log_line
from amalgam.one_off import check_common, new_folder, targets_for, write_state_dict
from amalgam.origin import changed_from_commit, commands_that_repeat
from amalgam.params import Params
from amalgam.params_file import PARAMS_FILE, load_params
from amalgam.places import LIVE, MODELS, PREPARED, STUDENTS, TARGETS, brought_file
from amalgam.preprocessing import Preprocessing
from amalgam.processes import in_processes
from amalgam.provenance import configure_execution
from amalgam.record import RunRecord
from amalgam.stage import check_task, full_task_name, in_pipeline, run_stage, stage_params
from amalgam.students import student_metrics
from amalgam.targets import StoredTargets, ViewSettings
from amalgam.teaching import Teaching
from amalgam.team import Team, joined
from amalgam.tracking.publish import attempt, publish_training
from amalgam.training import Job, assist, milliseconds, one_run, past_epochs, run_params
from amalgam.transfer_set import TransferSet
from amalgam.up_to_date import check_brought, check_made, check_prepared, check_recipe, prepared
from amalgam.whole import whole_folder


def main() -> None:
    began = milliseconds()
    arguments = parser().parse_args()
    task = full_task_name(arguments.task)
    with joined() as team:
        if in_pipeline():
            stage(task, began, team)
        else:
            by_hand(task, given_settings(arguments), arguments.protocol == reference_protocol.NAME, began, team)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--task", default="B", help="the task, as taskB or B (default: B)")
    found.add_argument(
        "--protocol",
        choices=[reference_protocol.NAME],
        help="train and choose as the reference system does, for comparison: its settings where no flag says otherwise, no validation "
        "images, the epoch chosen by the test images (so that its accuracy is optimistic), one normalisation for every network",
    )
    add_settings(found)
    return found


def stage(task: str, began: int, team: Team) -> None:
    """Train as a stage of the pipeline."""
    params = stage_params()
    check_task(task, params.task_names)
    refuse_changed(params)
    configure_execution()
    job, changed, commands = pipeline_job(task, params), changed_from_commit(), commands_that_repeat()
    if not team.is_first:
        assist(job, team)
        return
    advise(job)
    with checkpoint(job.key(team.world_size)) as own:
        own.write(began=(*own.sessions.began, began))
        live = LiveCurve(LIVE / task / PICTURE, f"{task}: training", past_epochs(own))
        with whole_folder(STUDENTS / task) as work:
            record, result = one_run(job, params.source, own, work, live.add, changed, commands, team)
        finish(own, STUDENTS / task)
    live.remove()
    report(task, result, record, "validation accuracy")
    attempt(lambda: publish_training(STUDENTS / task))


def pipeline_job(task: str, params: Params) -> Job:
    """From what the stages before have made."""
    settings = params.student(task)
    folder = PREPARED / task / "trainval"
    check_prepared(task, folder, params)  # DVC has seen to it, unless it was told to run this stage alone
    label_sets, split = LabelSets.read(folder), PreparedSplit.read(folder)
    targets = StoredTargets.read(TARGETS / task, split, label_sets)
    targets.check_made_with(ViewSettings.of(settings, params.source_block.augmentation, params.data_seed), settings.stored_teachers)
    targets.check_made_by(MODELS / task)
    for manifest in sorted((MODELS / task).glob("*/manifest.json")):
        check_recipe(manifest.parent, params)
    supplied = copied_weights(task, settings.student_weights)
    transfer_set = TransferSet.of(label_sets, split, targets, Teaching.of(settings))
    return Job(task, settings, run_params(params, settings), transfer_set, supplied)


def by_hand(task: str, flags: dict[str, str], reference: bool, began: int, team: Team) -> None:
    """Train as a one-off, into a folder of its own."""
    configure_execution()
    params = load_params(PARAMS_FILE, task, (reference_protocol.SETTINGS if reference else {}) | flags)
    settings = params.student(task)
    refuse_idle(flags, settings)
    label_sets, split = prepared(PREPARED / task / "trainval")
    check_made(task, PREPARED / task / "trainval", MODELS / task, params)
    check_brought(params)
    common: Preprocessing | None = None
    about: dict[str, str] = {}
    if reference:
        split, common, about = reference_protocol.applied(split, prepared(PREPARED / task / "test")[1], settings.student_resolution)
        check_common(MODELS / task, label_sets, common)
    check_labels(task, settings, label_sets, split.labels[split.training_rows])
    supplied = brought_file(settings.student_weights) if settings.student_weights else None
    check_student(settings, label_sets.classes, supplied)
    folder = team.broadcast(new_folder(task, settings.run) if team.is_first else Path())
    if team.is_first:
        print(f"student {task}: everything goes into {folder}", flush=True)
    with targets_for(split, label_sets, MODELS / task, settings, params, common, folder, team) as targets:
        values = run_params(params, settings) | about
        about = about | {"one_off": folder.name}
        transfer_set = TransferSet.of(label_sets, split, targets, Teaching.of(settings))
        job = Job(task, settings, values, transfer_set, supplied, common, about, latest_of_few=not reference)
        if not team.is_first:
            assist(job, team)
            return
        advise(job)
        record, result, exported = one_off(job, params.source, folder, flags, began, team)
    chosen_by = f"accuracy on the {reference_protocol.SELECTED_ON}" if reference else "validation accuracy"
    report(task, result, record, chosen_by)
    print(f"evaluate it: python stages/evaluate.py --task {task} --checkpoint {exported}", flush=True)
    attempt(lambda: publish_training(folder), folder, f"python stages/sync.py {folder} sends what is missing")


def advise(job: Job) -> None:
    learnt = job.transfer_set
    if found := advice(learnt.teaching, learnt.label_sets.teachers, learnt.subset.labels):
        print(f"{job.task}: {found} (docs/your_own.md, Few labels, or none)", flush=True)


def one_off(job: Job, source: str, folder: Path, flags: dict[str, str], began: int, team: Team) -> tuple[RunRecord, Fit, Path]:
    """Train into the ``folder``; the run's record, the result, and the student in the reference's form."""
    with checkpoint(job.key(team.world_size)) as own:
        own.write(began=(*own.sessions.began, began))
        live = LiveCurve(folder / PICTURE, f"{job.task}: training", past_epochs(own))
        command = commands_that_repeat(shlex.join(["python", *sys.argv]))
        watch = logged(live, folder / LOG, job.settings.num_epochs)
        record, result = one_run(job, source, own, folder, watch, flags, command, team)
        live.draw()
        exported = write_state_dict(folder, job.task)
        own.remove()
    return record, result, exported


def logged(live: LiveCurve, path: Path, epochs: int) -> Callable[[Epoch], None]:
    """Show every epoch in the live picture and as a line of the file, those before a break included."""
    path.write_text("".join(f"{log_line(record, epochs)}\n" for record in live.epochs), encoding="utf-8")

    def watch(record: Epoch) -> None:
        live.add(record)
        with path.open("a", encoding="utf-8") as file:
            file.write(log_line(record, epochs) + "\n")

    return watch


def report(task: str, result: Fit, record: RunRecord, chosen_by: str) -> None:
    accuracy = student_metrics(result).get("val_accuracy")
    chosen = "no validation images" if accuracy is None else f"{chosen_by} {accuracy} %"
    print(f"student {task}: epoch {result.best_epoch} of {len(result.history)}, {chosen}, {record.seconds} s", flush=True)


if __name__ == "__main__":
    run_stage(in_processes(main))
