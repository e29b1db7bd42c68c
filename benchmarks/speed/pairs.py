"""Loops that take turns: each in a process of its own, waiting while another runs, so that noise of the machine falls on all."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.comparison import by_student
from benchmarks.speed import loops
from benchmarks.speed.setting import Setting

KINDS = ("naive", "shipped", "bare")
FINALISTS, MORE_TRIALS = 3, 4  # of the bare step's variants: those that are fastest in one trial, and how many more each of them gets
WARM_STEPS = {"naive": 1, "shipped": 3, "bare": 3}  # a step of the naive loop takes seconds
STEPS_TO_PEAK = {"naive": 3, "shipped": 10, "bare": 10}


@dataclass(frozen=True)
class Measured:
    """A setting's loops: seconds a step in each round, the geometric mean of its turns, and the variant that was fastest."""

    seconds: dict[str, list[float]]
    variant: dict[str, str]
    first_step: dict[str, float]  # seconds from the start of a process, imports included
    peak: dict[str, float]  # MB of memory, of a process that does nothing else

    def ratio(self, faster: str, slower: str) -> tuple[float, float, float]:
        return times_as_fast(self.seconds[faster], self.seconds[slower])


def times_as_fast(faster: list[float], slower: list[float]) -> tuple[float, float, float]:
    """How many times as fast, pair by pair: the geometric mean, and its 95 % interval (Student's t on the logarithms)."""
    mean, low, high = np.exp(by_student(np.log(slower) - np.log(faster)))
    return float(mean), float(low), float(high)


class Loop:
    """A loop in its own process."""

    def __init__(self, kind: str, setting: Setting, variant: str | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kind, setting, variant))
        self.process.start()
        theirs.close()  # so that its death is an end of file
        self.variant: str = self.connection.recv()
        self.turn(WARM_STEPS[kind])  # what the start costs is in these
        self.step = self.turn(WARM_STEPS[kind])

    def turn(self, steps: int) -> float:
        """Seconds a step, over so many."""
        self.connection.send(steps)
        seconds: float = self.connection.recv()
        return seconds / steps

    def end(self) -> None:
        self.connection.send(0)
        self.process.join()


def serve(connection: Connection, kind: str, setting: Setting, variant: str | None) -> None:
    """Find the loop's best variant, if none is given, say which, then take so many steps as asked, and wait again; none ends it."""
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

    name = variant or best(kind, setting)
    loop = variants_of(kind, setting)[name]
    connection.send(name)
    due, started = connection.recv(), time.perf_counter()
    try:
        loop(tick)
    except loops.EnoughError:
        connection.close()


def variants_of(kind: str, setting: Setting) -> Mapping[str, Callable[[loops.Tick], Any]]:
    """The ways to run a loop, by name."""
    if kind == "shipped":
        return {"as shipped": partial(loops.shipped, setting)}
    if kind == "naive":
        return {f"{workers} workers": partial(loops.naive, setting, workers=workers) for workers in loops.WORKERS}
    return {named(variant): partial(loops.bare, setting, variant=variant) for variant in loops.VARIANTS}


def best(kind: str, setting: Setting) -> str:
    """The name of the fastest: in one trial; of the bare step, by the median of more trials, in turns, of those that are fastest in one.

    The naive loop's variants, which differ by how they load images, take half a minute each.
    """
    variants = variants_of(kind, setting)
    if len(variants) == 1:
        return next(iter(variants))
    seconds = {name: [loops.trial(loop)] for name, loop in variants.items()}
    if kind == "bare":
        finalists = sorted(variants, key=seconds.__getitem__)[:FINALISTS]
        seconds = {name: seconds[name] for name in finalists}
        for _ in range(MORE_TRIALS):
            for name in finalists:
                seconds[name].append(loops.trial(variants[name]))
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def named(variant: loops.Variant) -> str:
    return ", ".join(str(part).removeprefix("torch.") for part in variant)


def measure(setting: Setting, rounds: int, turns: int, seconds: float) -> Measured:
    """In every round one turn of the naive loop, then ``turns`` of about so many seconds of the shipped loop and the bare step in turn.

    Each round has new processes of these two, since where a process's memory lies may make it slower or faster for all its life. They
    come first as often as each other.
    """
    naive, *others = (Loop(kind, setting) for kind in KINDS)
    variant = {kind: loop.variant for kind, loop in zip(KINDS, (naive, *others), strict=True)}
    for loop in others:
        loop.end()
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        taken["naive"].append(naive.turn(max(round(seconds / naive.step), 1)))
        pair = {kind: Loop(kind, setting, variant[kind]) for kind in ("shipped", "bare")}
        for kind, found in in_turn(pair, turns, seconds, number).items():
            taken[kind].append(statistics.geometric_mean(found))
        for loop in pair.values():
            loop.end()
    naive.end()
    starts = {kind: start_of(kind, setting, variant[kind]) for kind in KINDS}
    return Measured(taken, variant, *({kind: start[which] for kind, start in starts.items()} for which in (0, 1)))


def in_turn(pair: dict[str, Loop], turns: int, seconds: float, first: int) -> dict[str, list[float]]:
    """Seconds a step in each turn of two loops; which of them begins changes from turn to turn."""
    steps = {kind: max(round(seconds / loop.step), 1) for kind, loop in pair.items()}
    found: dict[str, list[float]] = {kind: [] for kind in pair}
    for turn in range(turns):
        for kind in list(pair)[:: 1 if (first + turn) % 2 == 0 else -1]:
            found[kind].append(pair[kind].turn(steps[kind]))
    return found


def start_of(kind: str, setting: Setting, variant: str) -> tuple[float, float]:
    """Seconds from the start of a process to the end of its first step, and its peak of memory in MB after some steps."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=take_some_steps, args=(theirs, kind, setting, variant))
    started = time.time()
    process.start()
    theirs.close()
    ended, peak = ours.recv()
    process.join()
    return ended - started, peak


def take_some_steps(connection: Connection, kind: str, setting: Setting, variant: str) -> None:
    times: list[float] = []

    def tick() -> None:
        times.append(time.time())
        if len(times) == STEPS_TO_PEAK[kind]:
            raise loops.EnoughError

    with suppress(loops.EnoughError):
        variants_of(kind, setting)[variant](tick)
    status = Path("/proc/self/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    connection.send((times[0], peak / 1000))
