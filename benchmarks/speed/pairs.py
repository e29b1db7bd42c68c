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
from benchmarks.speed import loops
from benchmarks.speed.setting import Setting
from scipy import stats

KINDS = ("naive", "shipped", "bare")
FINALISTS, MORE_TRIALS = 3, 4  # of the bare step's variants: those that are fastest in one trial, and how many more each of them gets
WARM_STEPS = 3
STEPS_TO_PEAK = 10


@dataclass(frozen=True)
class Measured:
    """A setting's loops: seconds a step in each turn that they took part in, and the variant that was fastest."""

    seconds: dict[str, dict[int, float]]
    variant: dict[str, str]
    first_step: dict[str, float]  # seconds from the start of a process, imports included
    peak: dict[str, float]  # MB of memory, of a process that does nothing else

    def ratio(self, faster: str, slower: str) -> tuple[float, float, float]:
        one, other = self.seconds[faster], self.seconds[slower]
        both = [turn for turn in one if turn in other]
        return times_as_fast([one[turn] for turn in both], [other[turn] for turn in both])


def times_as_fast(faster: list[float], slower: list[float]) -> tuple[float, float, float]:
    """How many times as fast, turn by turn: the geometric mean, and its 95 % interval (Student's t on the logarithms)."""
    logs = np.log(slower) - np.log(faster)
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
        theirs.close()  # so that its death is an end of file
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

    name = best(kind, setting)
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


def measure(setting: Setting, turns: int, every: int, seconds: float) -> Measured:
    """Let the loops take turns of about so many seconds each; the naive one in each ``every``-th alone, before the two others.

    Each of these is first as often as the other, and as often right after the naive one.
    """
    found = {kind: Loop(kind, setting) for kind in KINDS}
    steps = {kind: max(round(seconds / loop.step), 1) for kind, loop in found.items()}
    taken: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    for turn in range(turns):
        pair = ("shipped", "bare") if (turn + turn // every) % 2 == 0 else ("bare", "shipped")
        for kind in ("naive", *pair) if turn % every == 0 else pair:
            taken[kind][turn] = found[kind].turn(steps[kind])
    for loop in found.values():
        loop.end()
    variant = {kind: loop.variant for kind, loop in found.items()}
    starts = {kind: start_of(kind, setting, variant[kind]) for kind in KINDS}
    return Measured(taken, variant, *({kind: start[which] for kind, start in starts.items()} for which in (0, 1)))


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
        if len(times) == STEPS_TO_PEAK:
            raise loops.EnoughError

    with suppress(loops.EnoughError):
        variants_of(kind, setting)[variant](tick)
    status = Path("/proc/self/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    connection.send((times[0], peak / 1000))
