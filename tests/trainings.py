"""Runs of main.py on a miniature data set: in this process, or as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import main
from distributed import Ranks
from options import parse
from support.checkpoints import list_checkpoints, load_checkpoint
from tests.programs import as_flags

ROOT = Path(__file__).parents[1]


def flags(streets, run_dir, **options) -> list[str]:
    given = {"db_root": streets / "set", "cache_dir": streets / "cache", "run_dir": run_dir, **options}
    return as_flags({"preset": "tiny", **given})


def run(streets, run_dir, **options) -> dict:
    """Train in this process; the last checkpoint."""
    main.train(*parse(flags(streets, run_dir, **options)), Ranks())
    return load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])


def command(arguments: list[str], **kwargs) -> subprocess.CompletedProcess:
    """Run `python main.py` as a user would."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "main.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment, **kwargs)


def weights_and_optimisers(state: dict) -> dict:
    return {name: state[name] for name in ("iteration", "samples_seen", "networks", "optimisers")}
