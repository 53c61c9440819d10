"""What a run tells: log.txt for people, stats.jsonl for programs, TensorBoard for curves and pictures."""

import json
import os
import resource
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class RunLog:
    """log.txt for people, stats.jsonl for programs, TensorBoard for curves: one call writes all three."""

    def __init__(self, run_dir: Path, purge_after: int, silent: bool):
        """Lines and curves past iteration `purge_after` belong to steps that will be done again: dropped.

        A silent log (of ranks other than 0) writes nothing.
        """
        self.run_dir, self.silent = run_dir, silent
        if silent:
            return
        stats = run_dir / "stats.jsonl"
        if stats.exists():
            rows = [line for line in stats.read_text().splitlines(True) if line.endswith("\n")]
            stats.write_text("".join(row for row in rows if json.loads(row)["iter"] <= purge_after))
        self._text = (run_dir / "log.txt").open("a", 1, "utf-8", errors="backslashreplace")
        self._stats = stats.open("a", buffering=1)
        self._board = SummaryWriter(_utf8_name(run_dir), purge_step=purge_after + 1)

    def line(self, text: str) -> None:
        if self.silent:
            return
        tqdm.write(text)
        self._text.write(f"{text}\n")

    def stats(
        self, epoch: int, iteration: int, losses: dict[str, float], seconds: float, memory_mb: float
    ) -> None:
        """One row: losses are means since the last call, seconds are those of an iteration."""
        if self.silent:
            return
        cost = {"seconds_per_iter": round(seconds, 4), "peak_memory_mb": round(memory_mb)}
        self._stats.write(json.dumps({"epoch": epoch, "iter": iteration, **losses, **cost}) + "\n")
        terms = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self.line(f"epoch {epoch} iter {iteration} {terms} ({seconds:.2f} s/it)")
        for group, values in (("loss", losses), ("run", cost)):
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, iteration)

    def picture(self, picture: np.ndarray, epoch: int, iteration: int) -> None:
        path = self.run_dir / "samples" / f"epoch_{epoch:02d}_iter_{iteration:04d}.png"
        path.write_bytes(cv2.imencode(".png", picture[:, :, ::-1])[1])
        self._board.add_image("samples", picture, iteration, dataformats="HWC")

    def close(self) -> None:
        if self.silent:
            return
        self._board.close()
        self._stats.close()
        self._text.close()


def _utf8_name(folder: Path) -> str:
    """A name of a folder for TensorBoard, which takes every name for UTF-8 and makes another one of it."""
    if os.fsencode(folder) == str(folder).encode(errors="replace"):
        return str(folder)
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory in at the moment of the fork
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
