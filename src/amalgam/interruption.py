"""Being told to end: by Ctrl-C, by SIGTERM, by the end of the terminal."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BEFORE_REPEAT = 0.1


def end_at_once() -> None:
    """Have Ctrl-C end the process without a word, as SIGTERM does, until it becomes ``interruptible``; unless it is ignored.

    For the time in which modules are loaded: nothing is there yet to be put in order, and Python would drop some of the exceptions
    that it makes of Ctrl-C (those that come in a callback of the import system, or while an extension module looks something up).
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt with the signal's number; not those that are ignored (nohup).

    It is raised again and again until it is on its way out: Python drops the exceptions of destructors and other callbacks, and many
    an extension module those of whatever it looks up.
    """
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_BEFORE_REPEAT, SECONDS_BEFORE_REPEAT)
        _interrupt(number, frame)

    def repeat(_: int, frame: object) -> None:
        if heard and not _on_its_way(sys.exception()):
            _interrupt(heard[-1], frame)

    hook = sys.unraisablehook
    sys.unraisablehook = partial(_tell_unless_interrupted, hook)
    try:
        with _handled([signal.SIGALRM], repeat), _handled(_not_ignored(), interrupt):
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        sys.unraisablehook = hook


@contextmanager
def put_off() -> Iterator[None]:
    """In the block, the first of these signals waits for the block's end, unless that is an exception; a second one breaks it off.

    For the last words of what failed or was interrupted, which may well be told to end while it says them: a launcher that sees one of its
    processes gone ends the others, which have seen it too.
    """
    waiting: list[int] = []

    def wait(number: int, frame: object) -> None:
        if waiting:
            _interrupt(number, frame)
        waiting.append(number)

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    with _handled(_not_ignored(), wait):
        yield
    for number in waiting:
        os.kill(os.getpid(), number)


def _not_ignored() -> list[signal.Signals]:
    return [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _on_its_way(handled: BaseException | None) -> bool:
    """Whether what is being handled is an interruption, or came of one."""
    while handled is not None and not isinstance(handled, KeyboardInterrupt):
        handled = handled.__context__
    return handled is not None


def _tell_unless_interrupted(hook: Callable[["sys.UnraisableHookArgs"], object], dropped: "sys.UnraisableHookArgs") -> None:
    """An interruption that is dropped comes again."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        hook(dropped)
