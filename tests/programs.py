"""Programs run as a call in this process: what a shell would see of them, without a new process."""

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch

from support.errors import run_program


def as_flags(given: dict) -> list[str]:
    """{"size": "64x32", "data": [a, b], "quick": [], "out": None} as words of a command line: no --out."""
    named = {name: value for name, value in given.items() if value is not None}
    return [word for name, value in named.items() for word in (f"--{name}", *map(str, np.atleast_1d(value)))]


def run_here(main: Callable[[list[str]], int | None], *arguments) -> subprocess.CompletedProcess:
    """`main` with these arguments as its command line; exit status, stdout and stderr as text."""
    words, threads = [*map(str, arguments)], torch.get_num_threads()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_program(partial(main, words))
        except SystemExit as leaving:
            status = leaving.code or 0
        finally:
            torch.set_num_threads(threads)  # some programs want only one
    print(out.getvalue(), end="")  # for whoever reads why a test failed
    print(err.getvalue(), end="", file=sys.stderr)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def run_ok(main: Callable[[list[str]], int | None], *arguments) -> str:
    """What a program printed that must end well."""
    done = run_here(main, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(main: Callable[[list[str]], int | None], *arguments, keeps: Path | None = None) -> str:
    """The one line with which a program must refuse its input, as a command in a shell does.

    keeps: a folder that must be as it was before.
    """
    before = paths_in(keeps)
    done = run_here(main, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert paths_in(keeps) == before
    return done.stderr


def paths_in(folder: Path | None) -> dict[Path, bytes | None]:
    """All files below a folder with their content, and all folders."""
    found = folder.rglob("*") if folder else ()
    return {path: path.read_bytes() if path.is_file() else None for path in found}
