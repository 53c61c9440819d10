"""What each process of a run keeps: a `Worker`, and the functions that a pool calls with it."""

import sys
from pathlib import Path

from augment.options import WITH_WEIGHTS, SynthOptions
from augment.repaint.select import Source
from augment.repaint.stages import Job, Worker
from support.processes import Pool

_worker: Worker | None = None


def pool_of(workers: int, out: Path, root: Path, options: SynthOptions) -> Pool:
    """Processes for a run into `out` from the input `root`."""
    return Pool(workers, _start, (Path(out), Path(root), options))


def _start(out: Path, root: Path, options: SynthOptions) -> None:
    global _worker
    if "torch" in sys.modules and options.backend not in WITH_WEIGHTS:
        sys.modules["torch"].set_num_threads(1)
    _worker = Worker(out, root, options)


def work(job: Job) -> list[dict]:
    """`Worker.run` in a process of a Pool."""
    return _worker.run(job)


def survey(source: Source) -> list[int]:
    """`Worker.survey` in a process of a Pool."""
    return _worker.survey(source)
