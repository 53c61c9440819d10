"""Programs end with one line, whatever ends them."""

import sys

from tests.programs import run_here


def test_what_is_called_does_not_end_a_program_without_a_word():
    done = run_here(lambda: sys.exit(-1))
    assert done.returncode == 1
    assert done.stderr == "error: something that was called ended the program: -1\n"
    assert run_here(lambda: sys.exit(0)).returncode == 0  # as --help does
