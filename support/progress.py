"""Progress on stderr: a bar on a terminal; elsewhere, as in the log of a job, a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

SECONDS = 30.0  # between lines; what takes less has none


def progress_bar(
    items: Iterable | None = None,
    title: str = "",
    total: int | None = None,
    unit: str = "frame",
    *,
    initial: int = 0,
    show: bool = True,
) -> "tqdm | Lines":
    """The same items, their progress shown meanwhile; without items it is told by `update` and `close`.

    total: how many there are, by default len(items); initial: so many were done before.
    """
    if sys.stderr.isatty() or not show:
        return tqdm(items, title, total, unit=unit, initial=initial, dynamic_ncols=True, disable=not show)
    return Lines(items, title, total if total is not None else len(items), unit, initial)


class Lines:
    """As much of `tqdm` as this project uses, in whole lines."""

    def __init__(self, items: Iterable | None, title: str, total: int, unit: str, initial: int):
        self.items, self.title, self.total, self.unit = items, title, total, unit
        self.done = self.initial = initial
        self.started = self.printed_at = time.monotonic()
        self.printed_done = initial

    def __iter__(self) -> Iterator:
        try:
            for item in self.items:
                yield item
                self.update()
        finally:
            self.close()

    def update(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() - self.printed_at >= SECONDS:
            self._tell()

    def close(self) -> None:
        """Ends with a line, if there was any before."""
        if self.printed_at > self.started and self.done > self.printed_done:
            self._tell()

    def _tell(self) -> None:
        self.printed_at, self.printed_done = time.monotonic(), self.done
        seconds = self.printed_at - self.started
        left = seconds / max(self.done - self.initial, 1) * (self.total - self.done)
        more = f", about {tqdm.format_interval(left)} to go" if self.done < self.total else ""
        counted = f"{self.done} of {self.total} {self.unit}s after {tqdm.format_interval(seconds)}{more}"
        print(f"{self.title}: {counted}" if self.title else counted, file=sys.stderr, flush=True)
