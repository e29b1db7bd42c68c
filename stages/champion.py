"""Each task's champion: the student that models:/amalgam-<task>@champion loads; or make a run's student champion by hand."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from amalgam.params_file import load_params
from amalgam.places import STUDENTS
from amalgam.record import RUN_FILE, RunRecord
from amalgam.stage import check_task, run_stage
from amalgam.summary import table
from amalgam.tracking.registry import PREVIOUS_TAG, champion, crown_by_hand, data_key
from amalgam.tracking.run import find_run
from amalgam.tracking.store import answering, connect, experiment

HEADER = ("task", "version", "run", "val %", "test %", "because", "took over from")


def row(client: MlflowClient, task: str) -> list[str]:
    found = champion(client, task)
    if found is None:
        return [task, "none yet", *["–"] * (len(HEADER) - 2)]
    name, test = "deleted for good", None
    with suppress(MlflowException):
        run = client.get_run(found.run_id)
        name, test = run.info.run_name, run.data.metrics.get("test_accuracy")
    before = f"version {found.tags[PREVIOUS_TAG]}, run {found.tags.get('previous_run', '?')}" if PREVIOUS_TAG in found.tags else "–"
    numbers = [found.tags.get("val_accuracy", "–"), "–" if test is None else f"{test:g}"]
    return [
        task,
        str(found.version),
        f"{name} ({found.run_id})",
        *numbers,
        found.tags.get("why", "not crowned by this pipeline"),
        before,
    ]


def remark(client: MlflowClient, task: str) -> str | None:
    """Whether the present student cannot be compared with the champion."""
    found = champion(client, task)
    if found is None or not (STUDENTS / task / RUN_FILE).is_file():
        return None
    record = RunRecord.read(STUDENTS / task)
    if data_key(record) == found.tags.get("data"):
        return None
    run = find_run(client, record.run_id, experiment(client, task))
    crown = f"make crown TASK={task} RUN={run.info.run_id}" if run else "make sync brings its run back"
    return f"{task}: the present student and the champion are not of the same images and classes; to crown it: {crown}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crown", nargs=2, metavar=("TASK", "RUN"), help="make the student of this run champion, whatever its accuracy")
    crowned = parser.parse_args().crown
    client, tasks = connect(), load_params().task_names
    with answering(client.tracking_uri):
        if crowned:
            check_task(crowned[0], tasks)
            print(crown_by_hand(client, *crowned))
        print(table(HEADER, [row(client, task) for task in tasks]))
        for line in filter(None, (remark(client, task) for task in tasks)):
            print(line)


if __name__ == "__main__":
    run_stage(main)
