"""One kind of error for everything a person can put right: bad files, bad options, bad checkpoints."""

import argparse
import errno
import io
import signal
import sys
import threading
from collections.abc import Callable

# What a program says when it was stopped.
SAME_COMMAND = "the same command goes on from there"
WITH_RESUME = "the same command with --resume auto goes on from there"

_REMEDIES = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT), "free some space and give the same command again"
) | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    "name another path, or make this one fit to be read and written",
)
LISTED = 20  # items named in one message


class InputError(Exception):
    """What is wrong, where, and what to do, in one line; programs print it and exit with status 2."""


class Stopped(KeyboardInterrupt):
    """Signal `number` ended the work; what can be saved is saved."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are an InputError, without the page of usage before them.

    Flags must be written out: an abbreviation would change its meaning when a flag is added.
    """

    def __init__(self, prog: str, description: str, **settings):
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def error(self, message: str) -> None:
        raise InputError(f"{message} (see --help)")


def warn(message: str) -> None:
    """One line on stderr; the program goes on."""
    print(f"warning: {message}", file=sys.stderr)


def name_some(items: list[str]) -> str:
    """The first few items, and how many more there are, on one line."""
    more = f"; and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return "; ".join(items[:LISTED]) + more


def run_program(main: Callable[[], int | None], go_on: str = "") -> None:
    """Run `main` as a command-line program: what ends it becomes one line and an exit status.

    InputError, a full disk, a path that can't be written: a line on stderr, 2. Ctrl-C: a line that ends with
    `go_on`, which says how to go on from there, 130; SIGTERM likewise, 143. What the locale can't show, such
    as a path that is no UTF-8, is printed with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    said, before = "", signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()  # others can't be told of signals
    if in_main:
        signal.signal(signal.SIGTERM, _stop)
    try:
        status = main() or 0
    except InputError as error:
        status, said = 2, f"error: {error}"
    except SystemExit as leaving:
        status = 1 if leaving.code else 0  # 0: after --help
        if status:
            said = f"error: something that was called ended the program: {leaving.code}"
    except KeyboardInterrupt as stop:
        status = 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    except BrokenPipeError:  # the reader of a pipe (head, less) went away: nobody is left to tell
        sys.stderr.close()
        status = 1
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        path = error.filename2 or error.filename
        where = f"{path}: " if path else ""
        status, said = 2, f"error: {where}{error.strerror}; {_REMEDIES[error.errno]}"
    if in_main:
        signal.signal(signal.SIGTERM, before)
    # Not sooner: a progress bar ends its line when the exception that holds it is gone.
    if said:
        print(said, file=sys.stderr)
    elif status > 128:
        print("; ".join(["stopped", *([go_on] if go_on else [])]), flush=True)
    sys.exit(status)


def _stop(number: int, _frame) -> None:
    raise Stopped(number)
