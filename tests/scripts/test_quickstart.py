"""The first command of README, with few small scenes and few steps."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
SMALLER = {
    "--train 400 --val 60 --size 512x256": "--train 8 --val 4 --size 256x128",
    "data=datasets/streets": 'data="$FOLDER/streets"',
    "install_requirements requirements.txt": "",
    ".venv/bin/python ": '"$PYTHON" ',
}


def test_quickstart_makes_what_it_names(tmp_path):
    script = (ROOT / "scripts/quickstart.sh").read_text()
    for text, smaller in SMALLER.items():
        assert text in script
        script = script.replace(text, smaller)
    done = subprocess.run(
        ["bash", "-c", script, "scripts/quickstart.sh", "--max_iters", "2", "--sample_every", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHON": sys.executable, "FOLDER": str(tmp_path), "RUN": str(tmp_path / "run")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    named = dict(line.split("   ", 1) for line in done.stdout.splitlines()[-4:])
    assert list(named) == ["new objects", "sample grid", "run folder", "curves"]
    assert Path(named["new objects"].strip()).stat().st_size
    assert Path(named["sample grid"].strip()).name == "epoch_01_iter_0002.png"
    assert "checkpoints" in os.listdir(named["run folder"].strip())


PYTHON = """#!/bin/sh
# In place of a program that takes long and can be stopped.
trap 'exit 130' INT
trap 'exit 143' TERM
echo "$@"
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["the shell", "the program"])
def test_a_quickstart_that_is_stopped_says_how_to_go_on(tmp_path, number, whom):
    script = (ROOT / "scripts/quickstart.sh").read_text().replace(".venv/bin/python ", '"$PYTHON" ')
    script = script.replace("install_requirements requirements.txt", "")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    started = subprocess.Popen(
        ["bash", "-c", script, "scripts/quickstart.sh"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHON": str(tmp_path / "python")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    lines = iter(started.stdout.readline, "")
    next(line for line in lines if "make_streets" in line)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    os.kill(started.pid if whom == "the shell" else int(children[0]), number)
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 128 + number
    assert out == "stopped: run the same script again, it goes on from there\n"
