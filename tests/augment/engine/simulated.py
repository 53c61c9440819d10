"""A program of the engine that makes nothing: what the engine itself costs."""

import resource
import tempfile
import time
from pathlib import Path

from augment.engine.records import Item, Records, line_of, write_outputs
from augment.engine.shards import Shard
from augment.engine.tree import Program, Tree, is_current, opened

STAGE = "make"
PROGRAM = Program("simulated", "1", "simulated.json", (STAGE,), ("made",))


def work(tree: Tree, items: list[Item], *, files: bool = False) -> bool:
    """Make all items of a shard, with a part each; files: with a file each. Whether this process merged."""
    for item in tree.to_do(STAGE, items):
        made = {f"made/{item.key}": item.key.encode()} if files else {}
        part = line_of(STAGE, f"{item.key}/1", "ok", box=[0, 0, 100, 200], seed=1, prompt="a red car")
        tree.append([part, item.line(STAGE, "ok", outputs=write_outputs(tree.out, made))])
    by_key = {item.key: item for item in items}
    with tree.merging(
        list(by_key), lambda key: is_current(tree.records.get(STAGE, key), by_key[key])
    ) as merged:
        if merged:
            tree.write_summary({"state": "complete"})
        return merged


def run(out: Path, items: list[Item], shard: Shard | None = None, *, files: bool = False) -> bool:
    """Open OUT and make the items of a shard (default: all). Whether this process merged."""
    with opened(PROGRAM, out, {}, shard or Shard()) as tree:
        return work(tree, items, files=files)


def cost(out: Path, count: int) -> tuple[float, float]:
    """Milliseconds an item of `count` items without work, and MB of memory that knowing them all takes."""
    source = out.parent / "source"
    source.touch()
    items = [Item(f"town_{number:06d}_000019", {"source": source}) for number in range(count)]
    begin = time.perf_counter()
    run(out, items)
    seconds = time.perf_counter() - begin
    before = resident()
    records = Records(out, (STAGE,))
    assert len(records.places[STAGE]) == count
    return 1000 * seconds / count, resident() - before


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    for count in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            milliseconds, peak = cost(Path(folder) / "out", count)
        print(f"{count:>7} items: {milliseconds:.3f} ms an item, {peak:.0f} MB")
