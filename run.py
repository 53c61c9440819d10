"""What a training run has around its steps: where it goes on from, its folder, log and checkpoints, its end.

`main.py` and `segment/training.py` are loops around it:

    state = find_state(folder, resume, "--out")
    run = Run(folder, "--out", options_yaml, names_of_losses, iterations, ranks, state)
    with run:
        while run.goes_on():
            ...
            run.count(losses, samples)
            run.log_losses(epoch, device)  # now and then
    run.end(run.save(...))
"""

import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from distributed import average, largest, wait_for_all
from support.checkpoints import (
    find_checkpoint,
    last_good_state,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from support.errors import InputError, Stopped
from support.files import write_atomic
from support.launch import Ranks
from support.processes import StopRequest
from support.progress import progress_bar
from support.run_log import RunLog, peak_memory_mb

CHECKPOINTS = "checkpoints"
FAILED = 1  # among numbers of signals: why a loop ends, if its data have


def find_state(folder: Path, resume: str, flag: str) -> tuple[Path, dict] | None:
    """The checkpoint to go on from and its state, if any.

    resume: nothing, "auto" for the newest one of the run folder, or a path. flag: which gives the folder.
    Raises InputError if the folder holds a run and `resume` is empty, or if there is no good checkpoint.
    """
    there = list_checkpoints(folder / CHECKPOINTS)
    if there and not resume:
        raise InputError(
            f"{flag} {folder} already holds a run: give --resume auto to go on with it, or another {flag}"
        )
    if not resume or (resume == "auto" and not there):
        return None
    path = there[-1] if resume == "auto" else find_checkpoint(resume)
    return path, load_checkpoint(path)


class Run:
    """A run on its way: iterations done, losses since the last log line, and all that it writes.

    In its `with` block Ctrl-C and SIGTERM, sent to any of the ranks, make `goes_on` false on all of them.
    """

    def __init__(
        self,
        folder: Path,
        flag: str,
        options: str,
        losses: tuple[str, ...],
        iterations: int,
        ranks: Ranks,
        state: Mapping | None,
    ):
        """Make the folder and write options.yaml; all ranks have looked for checkpoints by now.

        flag: which gives the folder; options: the content of options.yaml; losses: names of what is counted;
        state: of the checkpoint to go on from. Raises InputError if the folder can't be written.
        """
        self.checkpoints, self.losses, self.ranks = folder / CHECKPOINTS, losses, ranks
        self.iterations, self.iteration, self.samples_seen = iterations, 0, 0
        self.window = self._empty_window()
        if state:
            self.iteration, self.samples_seen, self.window = (
                state[name] for name in ("iteration", "samples_seen", "window")
            )
        kept = [] if ranks.rank else _start_folder(folder, flag, options, self.iteration)
        self.log = RunLog(folder, purge_after=self.iteration, silent=ranks.rank > 0)
        if kept:
            self.log.line(f"later states of the run before are kept as {kept[0]} to {kept[-1]}")
        self.stop = StopRequest()
        self.failure: InputError | None = None

    def _empty_window(self) -> dict:
        """Sums of the losses since the last log line, and how many iterations they cover."""
        return dict.fromkeys((*self.losses, "count"), 0)

    def __enter__(self) -> "Run":
        show = not self.ranks.rank
        self._bar = progress_bar(
            None, "training", self.iterations, "iteration", initial=self.iteration, show=show
        )
        self._started, self._iterations_before = time.perf_counter(), self.iteration
        self.stop.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.stop.__exit__(*exception)
        self._bar.close()

    def goes_on(self) -> bool:
        """Whether a step is to be taken: there are some left, and no rank was told to stop or has failed."""
        return self.iteration < self.iterations and not self._why_it_ends()

    def _why_it_ends(self) -> int:
        """The number of a signal or FAILED, of whichever rank; else 0."""
        return largest(self.stop.number or (FAILED if self.failure else 0))

    def count(self, losses: Mapping[str, torch.Tensor], samples: int) -> None:
        """A step is done: its losses, detached, and how many samples all ranks together have seen in it."""
        self.iteration += 1
        self.samples_seen += samples
        self._bar.update()
        for name in self.losses:
            self.window[name] = self.window[name] + losses[name]
        self.window["count"] += 1

    def log_losses(self, epoch: int, device: torch.device) -> None:
        """Log the means since the last call. Raises InputError if one is NaN or infinite."""
        count = self.window["count"]
        means = average({name: float(self.window[name]) / count for name in self.losses})
        if not all(map(torch.isfinite, torch.tensor(list(means.values())))):
            raise self.spoilt(f"the loss is not finite at iteration {self.iteration}")
        seconds = (time.perf_counter() - self._started) / (self.iteration - self._iterations_before)
        self.log.stats(epoch, self.iteration, means, seconds, peak_memory_mb(device))
        self.window = self._empty_window()
        self._started, self._iterations_before = time.perf_counter(), self.iteration

    def spoilt(self, reason: str) -> InputError:
        """The error for numbers that no run can go on with: what it is, and which state is good. Logged."""
        reason = f"{reason}; {last_good_state(self.checkpoints)}"
        self.log.line(f"stopped: {reason}")
        return InputError(reason)

    def save(self, keep: int, options: dict, networks: dict, optimisers: dict, **more) -> Path:
        """Write a checkpoint; the newest `keep` stay. All ranks come here together, with the same weights."""
        window = average({name: float(value) for name, value in self.window.items()})
        if self.ranks.rank:
            return self.checkpoints
        state = {
            "iteration": self.iteration,
            "samples_seen": self.samples_seen,
            "options": options,
            "networks": networks,
            "optimisers": optimisers,
            "window": window,
        }
        return save_checkpoint(self.checkpoints, state | more, keep)

    def end(self, saved: Path) -> None:
        """Log how the run ended. Raises Stopped if it was told to, InputError if a rank has failed."""
        end = self._why_it_ends()
        if self.iteration >= self.iterations:
            self.log.line(f"finished {self.iteration} iterations, saved {saved}")
        else:
            reason = "a failure" if end == FAILED else signal.Signals(end).name
            self.log.line(f"stopped by {reason} at iteration {self.iteration}, saved {saved}")
        if end:
            wait_for_all()  # no rank leaves before all have come so far
        if end == FAILED:
            raise self.failure or InputError("another process of this job failed; see its own message")
        if end:
            raise Stopped(end)


def _start_folder(folder: Path, flag: str, options: str, iteration: int) -> list[Path]:
    """Make a run folder ready to go on from an iteration; new names of its states that are later."""
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "options.yaml", options.encode())
        if not iteration:  # a run that died before its first checkpoint may have left lines
            (folder / "stats.jsonl").unlink(missing_ok=True)
        return set_aside(folder / CHECKPOINTS, iteration)
    except OSError as error:
        raise InputError(f"{flag} {folder}: can't be written ({error.strerror}); choose another") from None
