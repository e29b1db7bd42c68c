"""Images per second of the training loop as shipped, beside a naive loop and the student's bare step.

    PYTHONPATH=src:. python -m benchmarks.speed path/to/images.zip

Prints a Markdown table and writes benchmarks/speed.results.json. What the three loops do stands in ``loops.py``; they take turns, and every
ratio has its 95 % interval. Nothing else should run on the machine.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.measured import keep, measured
from benchmarks.speed.pairs import KINDS, Measured, measure
from benchmarks.speed.setting import ROOT, Setting, prepare, processor

from amalgam.provenance import configure_execution
from amalgam.student_settings import STUDENTS

BATCH_SIZES = (32, 128)
RESULTS = ROOT / "benchmarks" / "speed.results.json"


def entry(setting: Setting, found: Measured) -> dict[str, Any]:
    speeds = {kind: setting.batch_size / statistics.geometric_mean(seconds) for kind, seconds in found.seconds.items()}
    return {
        "student": setting.student,
        "batch_size": setting.batch_size,
        "images_per_second": {kind: round(speed, 1) for kind, speed in speeds.items()},
        "shipped / bare": [round(value, 3) for value in found.ratio("shipped", "bare")],
        "shipped / naive": [round(value, 2) for value in found.ratio("shipped", "naive")],
        "variant": found.variant,
        "seconds_to_first_step": {kind: round(seconds, 1) for kind, seconds in found.first_step.items()},
        "peak_mb": {kind: round(peak) for kind, peak in found.peak.items()},
        "rounds": len(found.seconds["shipped"]),
    }


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a line a student and batch size."""
    columns = ["student", "batch", *(f"{kind}, images/s" for kind in KINDS), "shipped / bare (95 %)", "shipped / naive (95 %)"]
    columns += ["peak, MB: naive, shipped, bare", "first step, s", "processor, date"]
    rows = []
    for found in entries:
        speeds = (f"{found['images_per_second'][kind]:.0f}" for kind in KINDS)
        bare, naive = ("{:g} ({:g} … {:g})".format(*found[f"shipped / {kind}"]) for kind in ("bare", "naive"))
        peaks, starts = (", ".join(f"{found[name][kind]:g}" for kind in KINDS) for name in ("peak_mb", "seconds_to_first_step"))
        where = f"{processor(found['machine'])}, {found['date']}"
        rows.append((found["student"], str(found["batch_size"]), *speeds, bare, naive, peaks, starts, where))
    return markdown(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="train/<class>/* with the classes of params.yaml's block folder, task A")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=STUDENTS, help="these alone")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--rounds", type=int, default=7, help="each with new processes, and one turn of the naive loop")
    parser.add_argument("--turns", type=int, default=12, help="how often shipped loop and bare step are measured in a round")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, if no single step takes longer")
    arguments = parser.parse_args()
    configure_execution()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        prepare(arguments.archive.resolve(), Path(folder))
        for student in arguments.students:
            for batch_size in arguments.batch_sizes:
                setting = Setting(Path(folder), student, batch_size)
                found = entry(setting, measure(setting, arguments.rounds, arguments.turns, arguments.seconds))
                found = keep(RESULTS, found, "student", "batch_size")
                print(table([found]).splitlines()[-1], flush=True)
    print(table(measured(RESULTS)))


if __name__ == "__main__":
    main()
