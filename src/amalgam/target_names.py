"""The names of targets and objectives in params.yaml, and what sort of target each is."""

from typing import Literal

Target = Literal["mean", "blocks", "joint", "confidence", "stacked", "balanced"]
FITTED_TARGETS = ("stacked", "balanced")  # to all teachers' answers, before training
Objective = Literal["kl", "dkd", "dist"]
