"""The first command of README, with few small scenes and few steps."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
