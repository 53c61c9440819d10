"""One kind of error for everything a person can put right: bad files, bad options, bad checkpoints."""

import argparse
import io
import sys
from collections.abc import Callable


class InputError(Exception):
    """What is wrong, where, and what to do, in one line; programs print it and exit with status 2."""


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


def run_program(main: Callable[[], int | None]) -> None:
    """Run `main` as a command-line program: an InputError becomes one line on stderr and exit status 2.

    What the locale can't show, such as a path that is no UTF-8, is printed with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except SystemExit as leaving:
        if not leaving.code:
            raise
        print(f"error: something that was called ended the program: {leaving.code}", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # the reader of a pipe (head, less) went away: nobody is left to tell
        sys.stderr.close()
        status = 1
    sys.exit(status or 0)
