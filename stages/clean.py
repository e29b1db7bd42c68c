"""Remove what broken-off, failed and finished trainings left: checkpoints, half-written folders; nothing that a running one holds."""

import argparse
from pathlib import Path

from amalgam.cleaning import clean_checkpoints, clean_leftovers, clean_unused
from amalgam.files import repository_root
from amalgam.params_file import load_params
from amalgam.stage import run_stage
from amalgam.tracking.run import end_marked
from amalgam.tracking.store import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, help="also teachers, logits and downloads that were not used for so many days")
    days = parser.parse_args().days
    broken_off = list(clean_checkpoints())
    removed = [(path, size) for path, size, _ in broken_off] + list(clean_leftovers())
    if days is not None:
        removed += clean_unused(days)
    for path, size in removed:
        print(f"removed {shown(path)}, {size / 1e6:.1f} MB")
    ended = end_marked(connect(), load_params().task_names, {mark for _, _, mark in broken_off}) if broken_off else 0
    print(f"{len(removed)} removed, {sum(size for _, size in removed) / 1e6:.1f} MB; {ended} runs in MLflow marked as killed")


def shown(path: Path) -> str:
    return str(path.relative_to(repository_root()))


if __name__ == "__main__":
    run_stage(main)
