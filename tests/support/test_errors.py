"""How programs end: one line and an exit status for whatever ends them."""

import errno
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from support.errors import SAME_COMMAND, InputError, run_program
from tests.programs import run_here


def told_to_end(_arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def interrupted(_arguments):
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()


def on_a_full_disk(_arguments):
    raise OSError(errno.ENOSPC, "No space left on device", "tree/a.png")


def where_a_folder_is(_arguments):
    Path(__file__).parent.write_text("")


def bad_input(_arguments):
    raise InputError("a.png: is no image")


@pytest.mark.parametrize(
    ("main", "status", "out", "err"),
    [
        (interrupted, 130, "stopped\n", ""),
        (told_to_end, 143, "stopped\n", ""),
        (bad_input, 2, "", "error: a.png: is no image\n"),
        (where_a_folder_is, 2, "", f"error: {os.path.dirname(__file__)}: Is a directory; name another path"),
        (on_a_full_disk, 2, "", "error: tree/a.png: No space left on device; free some space and"),
    ],
)
def test_what_ends_a_program_is_one_line_and_a_status(main, status, out, err):
    before = signal.getsignal(signal.SIGTERM)
    done = run_here(main)
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith(err) and done.stderr.count("\n") == bool(err)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_that_is_stopped_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit):
        run_program(partial(interrupted, []), SAME_COMMAND)
    assert capsys.readouterr().out == "stopped; the same command goes on from there\n"


def test_what_is_called_does_not_end_a_program_without_a_word():
    done = run_here(lambda _: sys.exit(-1))
    assert done.returncode == 1
    assert done.stderr == "error: something that was called ended the program: -1\n"
    assert run_here(lambda _: sys.exit(0)).returncode == 0  # as --help does
