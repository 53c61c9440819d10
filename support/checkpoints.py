"""Checkpoints: one file `state-<iteration, 8 digits>.pt`, a plain dict that `torch.load` reads safely.

Keys: format, iteration, samples_seen (global position in the data), options, networks, optimisers,
window (sums of losses since the last log line), and averages (averaged weights of G) where used. There
are no random states in it: all noise and all draws from the data depend on random_seed and the sample's
position alone.

A packed file, NAME.safetensors, holds only what samples: some networks in float16, and the options in its
header. `builtin:NAME` means the one that comes with this project.
"""

import json
import math
import os
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from support.errors import InputError
from support.files import listed, replacing, write_atomic

FORMAT = 1
PACKED = ".safetensors"
BUILTIN = "builtin:"
_HEADER = "where_what"
_BUILTIN_FOLDER = Path(__file__).resolve().parents[1] / "weights"
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError)  # what torch.load raises, and its parts
REQUIRED_KEYS = ("iteration", "samples_seen", "options", "networks", "optimisers", "window")


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    return sorted(folder.glob("state-????????.pt"))


def set_aside(folder: Path, iteration: int) -> list[Path]:
    """Rename the checkpoints of a folder that are later than an iteration, so that nothing takes them.

    A run goes on from that iteration: what came later belongs to another one. Their new names. OSError if
    they can't be renamed.
    """
    later = [path for path in list_checkpoints(folder) if int(path.stem.removeprefix("state-")) > iteration]
    return [path.rename(path.with_name(path.name.replace("state-", "earlier-run-"))) for path in later]


def save_checkpoint(folder: Path, state: dict, keep: int) -> Path:
    """Write state under a temporary name, rename it, then drop all but the newest `keep` checkpoints.

    A kill at any moment leaves the earlier checkpoints whole. Raises InputError if the file can't be written,
    and for a state that holds a number which is not finite: that is never written.
    """
    path = folder / f"state-{state['iteration']:08d}.pt"
    if spoilt := _not_finite(state):
        spoilt += f" is not finite at iteration {state['iteration']}"
        raise InputError(f"{spoilt}; {last_good_state(folder)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        for old in list_checkpoints(folder)[:-keep]:
            if old != path:
                old.unlink()
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path}: can't be saved, perhaps for want of space ({reason}); free some and --resume auto"
        ) from None
    return path


def last_good_state(folder: Path) -> str:
    """For a message: which it is, and what to do after a number that is not finite."""
    if found := list_checkpoints(folder):
        return f"the last good state is {found[-1]}: resume from it with a lower --learning_rate"
    return "no state is saved yet: start again with a lower --learning_rate"


def _not_finite(value, name: str = "") -> str:
    """The name of the first number that is NaN or infinite in nested dicts, lists and tensors; or nothing."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = (_not_finite(item, f"{name}/{key}" if name else str(key)) for key, item in items)
        return next(filter(None, found), "")
    if isinstance(value, float):
        return "" if math.isfinite(value) else name
    return name if isinstance(value, torch.Tensor) and not value.isfinite().all() else ""


def shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def differing_network(path: Path, state: dict, ours: dict[str, torch.Size], program: str) -> str:
    """The first of a state's weights that is not among `ours` or has another shape, or the other way round.

    Nothing if all agree. Raises InputError if no name does: the state is not one of `program`.
    """
    theirs = shapes(state["networks"])
    if theirs.keys().isdisjoint(ours):
        raise InputError(f"{path}: holds no networks of {program}; give a state of one of its own runs")
    return next((name for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)), "")


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint given as the file, its folder, the run folder (then the newest one), or builtin:NAME.

    Raises InputError if there is none.
    """
    if str(path).startswith(BUILTIN):
        path, name = _BUILTIN_FOLDER / (str(path).removeprefix(BUILTIN) + PACKED), path
        if not path.is_file():
            raise InputError(f"{name}: there is none; {', '.join(builtin_names())} come with this project")
    path = Path(path)
    if path.is_file():
        return path
    found = list_checkpoints(path) or list_checkpoints(path / "checkpoints")
    if not found:
        raise InputError(f"{path}: no checkpoint here (a file state-*.pt, or a run folder that holds some)")
    return found[-1]


def builtin_names() -> list[str]:
    """What may be given as a checkpoint without any training, e.g. builtin:person."""
    return [BUILTIN + path.stem for path in listed(_BUILTIN_FOLDER, "*" + PACKED)]


def save_packed(path: Path, state: dict, networks: tuple[str, ...]) -> None:
    """Write these networks of a checkpoint's state, averaged where it has averages, and its options."""
    weights = state["networks"] | state.get("averages", {})
    of_networks = {name: value for name, value in weights.items() if name.split(".")[0] in networks}
    kept = {name: value.half().contiguous() for name, value in of_networks.items()}
    header = {"format": FORMAT, "iteration": state["iteration"], "options": state["options"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry: the library writes several in an order of chance.
    write_atomic(path, save(kept, {_HEADER: json.dumps(header, sort_keys=True)}))


def _load_packed(path: Path) -> dict:
    """options, iteration and networks, in float32; InputError for anything but a packed file."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            networks = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no dict)
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}, not {FORMAT}")
        return {"options": header["options"], "iteration": header["iteration"], "networks": networks}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable packed model ({error}); pack it again") from None


def load_checkpoint(path: Path) -> dict:
    """The state in a checkpoint, tensors on the CPU; InputError if it is corrupt or something else.

    Of a packed file: options, iteration and networks alone.
    """
    if path.suffix == PACKED:
        return _load_packed(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGE, pickle.UnpicklingError, zipfile.BadZipFile):
        raise InputError(
            f"{path}: not a readable checkpoint (cut off or damaged?); take an earlier one"
        ) from None
    missing = [key for key in REQUIRED_KEYS if not isinstance(state, dict) or key not in state]
    if missing or state.get("format") != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint of this program (format {FORMAT}), missing: {missing}; take"
            " another one"
        )
    return state
