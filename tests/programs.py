"""Programs run as a call in this process: what a shell would see of them, without a new process."""

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from support.errors import run_program


def run_here(main: Callable[[], int | None], *arguments) -> subprocess.CompletedProcess:
    """`main` with these arguments as its command line; exit status, stdout and stderr as text."""
    line = ["program", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        try:
            run_program(main)
        except SystemExit as leaving:
            return subprocess.CompletedProcess(line, leaving.code or 0, out.getvalue(), err.getvalue())
