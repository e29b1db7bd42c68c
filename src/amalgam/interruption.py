"""Being told to end: by Ctrl-C, by SIGTERM, by the end of the terminal."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

ENDS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C's
SECONDS_BEFORE_REPEAT = 0.1


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block SIGTERM, and SIGHUP unless it is ignored (as nohup has it), raise KeyboardInterrupt as Ctrl-C does."""
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_interrupt_again, hook)
    heard = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with _handled(heard, _interrupt):
            yield
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
    with _handled([number for number in (*ENDS, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN], wait):
        yield
    for number in waiting:
        os.kill(os.getpid(), number)


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


def _interrupt_again(hook: Callable[["sys.UnraisableHookArgs"], object], dropped: "sys.UnraisableHookArgs") -> None:
    """Repeat an interruption that came while a destructor or another callback ran, whose exceptions Python drops."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        hook(dropped)
        return
    number = dropped.exc_value.args[0] if dropped.exc_value.args else signal.SIGINT
    again = threading.Timer(SECONDS_BEFORE_REPEAT, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
