"""What tests compare to the last bit: folders, states, the rows of a run's log."""

import json
import re
from pathlib import Path

import torch


def files_in(root: Path, *left_out: str) -> dict[str, bytes]:
    """All files below a folder by their paths, but those of these names. Links are followed to files."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in left_out)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def tree_in(root: Path, *left_out: str) -> dict[str, bytes]:
    """`files_in` without the durations that manifests and summaries hold."""
    files = files_in(root, *left_out)
    return {
        name: re.sub(rb'"seconds": [\d.e+-]+', b"", content) if ".json" in name else content
        for name, content in files.items()
    }


def assert_same(a, b, where="state") -> None:
    """Nested dicts, lists and tensors are equal to the last bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def stats(run_dir: Path) -> list[dict]:
    """Rows of stats.jsonl without what the clock and the machine decide."""
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds_per_iter", "peak_memory_mb")} for r in rows]
