"""Loops that take turns: each in a process of its own, waiting while another runs, so that noise of the machine falls on all."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from benchmarks.speed import loops
from benchmarks.speed.setting import Setting
from scipy import stats

KINDS = ("naive", "shipped", "bare")
WARM_STEPS = 3


@dataclass(frozen=True)
class Measured:
    """A setting's loops: seconds a step of each turn, and the variant that was fastest."""

    seconds: dict[str, list[float]]
    variant: dict[str, str]

    def ratio(self, faster: str, slower: str) -> tuple[float, float, float]:
        """How many times as fast, turn by turn: the geometric mean, and its 95 % interval (Student's t on the logarithms)."""
        logs = np.log(self.seconds[slower]) - np.log(self.seconds[faster])
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
        low, mean, high = np.exp(logs.mean() + np.array([-half, 0.0, half]))
        return float(mean), float(low), float(high)


class Loop:
    """A loop in its own process."""

    def __init__(self, kind: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kind, setting))
        self.process.start()
        self.variant: str = self.connection.recv()
        self.turn(WARM_STEPS)  # what the start costs is in these
        self.step = self.turn(WARM_STEPS)

    def turn(self, steps: int) -> float:
        """Seconds a step, over so many."""
        self.connection.send(steps)
        seconds: float = self.connection.recv()
        return seconds / steps

    def end(self) -> None:
        self.connection.send(0)
        self.process.join()


def serve(connection: Connection, kind: str, setting: Setting) -> None:
    """Find the loop's best variant, say which, then take so many steps as asked, and wait again; none ends it."""
    due, started = 0, 0.0

    def tick() -> None:
        nonlocal due, started
        due -= 1
        if due == 0:
            connection.send(time.perf_counter() - started)
            due = connection.recv()
            if due == 0:
                raise loops.EnoughError
            started = time.perf_counter()

    name, loop = best(kind, setting)
    connection.send(name)
    due, started = connection.recv(), time.perf_counter()
    try:
        loop(tick)
    except loops.EnoughError:
        connection.close()


def best(kind: str, setting: Setting) -> tuple[str, Callable[[loops.Tick], None]]:
    """The loop in its fastest variant, and that variant's name."""
    variants: Mapping[str, Callable[[loops.Tick], Any]]
    if kind == "shipped":
        return "as shipped", partial(loops.shipped, setting)
    if kind == "naive":
        variants = {f"{workers} workers": partial(loops.naive, setting, workers=workers) for workers in loops.WORKERS}
    else:
        variants = {named(variant): partial(loops.bare, setting, variant=variant) for variant in loops.VARIANTS}
    seconds = {name: loops.trial(loop) for name, loop in variants.items()}
    name = min(seconds, key=seconds.__getitem__)
    return name, variants[name]


def named(variant: loops.Variant) -> str:
    return ", ".join(str(part).removeprefix("torch.") for part in variant)


def measure(setting: Setting, turns: int, seconds: float) -> Measured:
    """Let the loops take turns of about so many seconds each, in an order that rotates."""
    found = {kind: Loop(kind, setting) for kind in KINDS}
    steps = {kind: max(round(seconds / loop.step), 1) for kind, loop in found.items()}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(turns):
        for place in range(len(KINDS)):
            kind = KINDS[(turn + place) % len(KINDS)]
            taken[kind].append(found[kind].turn(steps[kind]))
    for loop in found.values():
        loop.end()
    return Measured(taken, {kind: loop.variant for kind, loop in found.items()})
