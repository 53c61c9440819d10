"""Progress where stderr is no terminal: whole lines, few of them, and none for what is soon done."""

import sys

import pytest

from support import progress
from support.progress import progress_bar


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def ten_seconds_each(clock: list[float], count: int):
    for number in range(count):
        clock[0] += 10
        yield number


def test_a_log_gets_a_line_each_half_minute_and_one_at_the_end(clock, capsys):
    assert list(progress_bar(ten_seconds_each(clock, 7), "scenes", 7, "scene")) == list(range(7))
    assert capsys.readouterr().err.splitlines() == [
        "scenes: 3 of 7 scenes after 00:30, about 00:40 to go",
        "scenes: 6 of 7 scenes after 01:00, about 00:10 to go",
        "scenes: 7 of 7 scenes after 01:10",
    ]


def test_what_is_soon_done_or_not_to_be_shown_leaves_no_line(clock, capsys):
    assert list(progress_bar(range(1000), "frames")) == list(range(1000))
    assert len(list(progress_bar(ten_seconds_each(clock, 20), "frames", 20, show=False))) == 20
    assert capsys.readouterr().err == ""


def test_steps_told_by_hand_count_from_where_a_run_goes_on(clock, capsys):
    bar = progress_bar(None, "training", 100, "iteration", initial=90)
    for _ in range(5):
        clock[0] += 31
        bar.update()
    bar.close()
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "training: 95 of 100 iterations after 02:35, about 02:35 to go"


def test_a_stopped_loop_says_how_far_it_came(clock, capsys):
    for number in progress_bar(ten_seconds_each(clock, 9), "scenes", 9, "scene"):
        if number == 7:
            break
    assert capsys.readouterr().err.splitlines()[-1].startswith("scenes: 7 of 9")


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(progress_bar(range(3), "scenes", unit="scene"))
    assert "scenes: 100%" in capsys.readouterr().err
