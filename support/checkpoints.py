"""Checkpoints: one file `state-<iteration, 8 digits>.pt`, a plain dict that `torch.load` reads safely.

Keys: format, iteration, samples_seen (global position in the data), options, networks, optimisers,
window (sums of losses since the last log line), and averages (averaged weights of G) where used. There
are no random states in it: all noise and all draws from the data depend on random_seed and the sample's
position alone.
"""

import os
import pickle
import zipfile
from pathlib import Path

import torch

from support.errors import InputError
from support.files import replacing

FORMAT = 1
REQUIRED_KEYS = ("iteration", "samples_seen", "options", "networks", "optimisers", "window")


def checkpoint_path(folder: Path, iteration: int) -> Path:
    return folder / f"state-{iteration:08d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    return sorted(folder.glob("state-????????.pt"))


def save_checkpoint(folder: Path, state: dict, keep: int) -> Path:
    """Write state under a temporary name, rename it, then drop all but the newest `keep` checkpoints.

    A kill at any moment leaves the earlier checkpoints whole. InputError if the file can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, state["iteration"])
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise InputError(f"{path}: can't be saved ({error}); free some space and --resume auto") from None
    for old in list_checkpoints(folder)[:-keep]:
        if old != path:
            old.unlink()
    return path


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint given as the file itself, as its folder, or as the run folder (then the newest one).

    Raises InputError if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    found = list_checkpoints(path) or list_checkpoints(path / "checkpoints")
    if not found:
        raise InputError(f"{path}: no checkpoint here (a file state-*.pt, or a run folder that holds some)")
    return found[-1]


def load_checkpoint(path: Path) -> dict:
    """The state in a checkpoint, tensors on the CPU; InputError if it is corrupt or something else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ):
        raise InputError(
            f"{path}: not a readable checkpoint (cut off or damaged?); take an earlier one"
        ) from None
    missing = [key for key in REQUIRED_KEYS if not isinstance(state, dict) or key not in state]
    if missing or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this program (format {FORMAT}); missing: {missing}")
    return state
