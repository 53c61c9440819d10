"""A program of the engine that makes nothing: what the engine itself costs."""

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.records import Records, WorkItem, line_of
from engine.shards import Shard
from engine.tree import Program, Tree, opened

STAGE = "make"
PROGRAM = Program("simulated", "1", "simulated.json", (STAGE,), ("made",))


def make(item: WorkItem, write: Callable, *, files: bool) -> list[dict]:
    """A part for each item, and a file if `files`; an item whose task is False fails."""
    if item.task is False:
        return [{"status": "failed", "reason": "can't be made"}]
    outputs = write({f"made/{item.key}": item.key.encode()} if files else {})
    part = line_of(STAGE, f"{item.key}/1", "ok", box=[0, 0, 100, 200], seed=1, prompt="a red car")
    return [part, {"outputs": outputs}]


def work(tree: Tree, items: list[WorkItem], *, files: bool = False) -> bool:
    """Make all items of a shard, with a part each; files: with a file each. Whether this process merged."""
    with tree.pool(partial(partial, make, files=files), 1) as pool:
        tree.make(tree.to_do(items), pool, "simulated")
    merged = tree.merge(items)
    if merged:
        tree.write_summary({"state": "complete"})
    return merged


def run(out: Path, items: list[WorkItem], shard: Shard | None = None, *, files: bool = False) -> bool:
    """Open OUT and make the items of a shard (default: all). Whether this process merged."""
    with opened(PROGRAM, out, {}, shard or Shard()) as tree:
        return work(tree, items, files=files)


def cost(out: Path, count: int) -> tuple[float, float]:
    """Milliseconds an item of `count` items without work, and MB of memory that knowing them all takes."""
    source = out.parent / "source"
    source.touch()
    items = [WorkItem(f"town_{number:06d}_000019", {"source": source}) for number in range(count)]
    begin = time.perf_counter()
    run(out, items)
    seconds = time.perf_counter() - begin
    before = resident()
    records = Records(out, (STAGE,))
    memory = resident() - before
    assert all(records.get(item.key) for item in items)
    return 1000 * seconds / count, memory


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    for count in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            milliseconds, peak = cost(Path(folder) / "out", count)
        print(f"{count:>7} items: {milliseconds:.3f} ms an item, {peak:.0f} MB")
