"""Print the table of the pipeline's last evaluation."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse

from amalgam.evaluation_table import evaluation_table
from amalgam.params_file import load_params
from amalgam.places import EVALUATION
from amalgam.stage import run_stage


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(evaluation_table(load_params().task_names, EVALUATION))


if __name__ == "__main__":
    run_stage(main)
