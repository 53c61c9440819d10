"""The log of a run: what is dropped on a resume, and what a full disk leaves."""

import json
import resource

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.writer import encode_png
from support.errors import InputError
from support.run_log import RunLog


def events_of(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_resumed_run_drops_what_comes_again_and_what_was_cut_off(tmp_path):
    log = RunLog(tmp_path, 0, silent=False)
    for iteration in (1, 2, 3):
        log.stats(0, iteration, {"g_total": iteration / 2}, 0.1, 99)
    rows = (tmp_path / "stats.jsonl").read_bytes().splitlines(keepends=True)
    damaged = [b"\0\0\0\n", b"[1]\n", b'{"epoch": 0}\n', b'{"epoch": 0, "it']
    (tmp_path / "stats.jsonl").write_bytes(b"".join(rows + damaged))
    RunLog(tmp_path, 2, silent=False).stats(0, 3, {"g_total": 7.0}, 0.1, 99)
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["g_total"] for line in lines] == [0.5, 1.0, 7.0]
    assert [point.value for point in events_of(tmp_path).Scalars("loss/g_total")] == [0.5, 1.0, 7.0]


def limit_size(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("large", ["log.txt", "stats.jsonl", "events", "samples"])
def test_a_full_disk_is_one_line_and_no_file_is_cut(tmp_path, large, capsys):
    """The disk is full for one of the files: none can become larger than it is."""
    (tmp_path / "samples").mkdir()
    image = encode_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    log = RunLog(tmp_path, 0, silent=False)
    log.stats(0, 1, {"g_total": 0.5}, 0.1, 99)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.is_file()}
    call = {
        "log.txt": lambda: log.line("what happens next"),
        "stats.jsonl": lambda: log.stats(0, 2, {"g_total": 1.0}, 0.1, 99),
        "events": lambda: log.stats(0, 2, {"g_total": 1.0}, 0.1, 99),
        "samples": lambda: log.image(image, 0, 2),
    }[large]
    said = r"can't be written .*; free some space, then --resume auto"
    try:
        limit_size(max((size for name, size in sizes.items() if name.startswith(large)), default=100) + 9)
        with pytest.raises(InputError, match=said) as caught:
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and not list((tmp_path / "samples").iterdir())
    for name, size in sizes.items():
        assert not name.startswith(large) or (tmp_path / name).stat().st_size == size
    log = RunLog(tmp_path, 1, silent=False)
    log.stats(0, 2, {"g_total": 1.0}, 0.1, 99)
    log.image(image, 0, 2)
    assert [point.value for point in events_of(tmp_path).Scalars("loss/g_total")] == [0.5, 1.0]
