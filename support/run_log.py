"""What a run tells: log.txt for people, stats.jsonl for programs, TensorBoard for curves and images."""

import io
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from support.errors import InputError
from support.files import append, write_atomic


class RunLog:
    """log.txt for people, stats.jsonl for programs, TensorBoard for curves: one call writes all three.

    Everything is written at once, by the calling thread, and whole or not at all. Any call raises InputError
    if that can't be done, on a full disk for example.
    """

    def __init__(self, run_dir: Path, purge_after: int, silent: bool):
        """Lines and curves past iteration `purge_after` belong to steps that will be done again: dropped.

        A silent log (of ranks other than 0) writes nothing.
        """
        self.run_dir, self.silent = run_dir, silent
        if silent:
            return
        stats = run_dir / "stats.jsonl"
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._events = run_dir / name
        with _writing(run_dir):
            if stats.exists():
                rows = stats.read_bytes().splitlines(keepends=True)
                write_atomic(stats, b"".join(row for row in rows if _iteration(row) <= purge_after))
        self._event(file_version="brain.Event:2")
        self._event(step=purge_after + 1, session_log=SessionLog(status=SessionLog.START))

    def line(self, text: str) -> None:
        if self.silent:
            return
        tqdm.write(text)
        with _writing(self.run_dir):
            append(self.run_dir / "log.txt", f"{text}\n".encode(errors="backslashreplace"))

    def stats(
        self, epoch: int, iteration: int, losses: dict[str, float], seconds: float, memory_mb: float
    ) -> None:
        """One row: losses are means since the last call, seconds are those of an iteration."""
        if self.silent:
            return
        cost = {"seconds_per_iter": round(seconds, 4), "peak_memory_mb": round(memory_mb)}
        row = json.dumps({"epoch": epoch, "iter": iteration, **losses, **cost})
        with _writing(self.run_dir):
            append(self.run_dir / "stats.jsonl", f"{row}\n".encode())
        terms = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self.line(f"epoch {epoch} iter {iteration} {terms} ({seconds:.2f} s/it)")
        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for group, values in (("loss", losses), ("run", cost))
            for name, value in values.items()
        ]
        self._event(step=iteration, summary=Summary(value=values))

    def image(self, png: bytes, epoch: int, iteration: int) -> None:
        """An image, RGB, as the bytes of a PNG."""
        width, height = struct.unpack(">2I", png[16:24])  # where each PNG has them
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        with _writing(self.run_dir):
            name = f"epoch_{epoch:02d}_iter_{iteration:04d}.png"
            write_atomic(self.run_dir / "samples" / name, png)
        self._event(step=iteration, summary=Summary(value=[Summary.Value(tag="samples", image=image)]))

    def _event(self, **content) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        with _writing(self.run_dir):
            append(self._events, record.getvalue())


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where, why = error.filename or run_dir, error.strerror or error
        raise InputError(f"{where}: can't be written ({why}); free some space, then --resume auto") from None


def _iteration(row: bytes) -> float:
    """That of a row of stats.jsonl; infinite for one that was cut off."""
    try:
        return json.loads(row)["iter"] if row.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory in at the moment of the fork
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
