"""Files that are never half-written, and folders that one process at a time works in."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.errors import InputError
from support.files import (
    LOCK,
    WorkLock,
    at_work_in,
    files_below,
    is_empty,
    is_there,
    listed,
    read_json,
    read_text,
)

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from support.files import at_work_in
with at_work_in(Path(sys.argv[1])):
    print("there", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    out = tmp_path / "new" / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, out], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"there\n"
        assert (out / LOCK).exists() and is_empty(out)
        with pytest.raises(InputError, match="another process is at work there; wait"), at_work_in(out):
            pass
        assert (out / LOCK).exists()  # not taken away by the one that was refused
    finally:
        holder.kill()
        holder.wait()
    with at_work_in(out), pytest.raises(InputError, match="another process"), at_work_in(out):
        pass
    assert not list(out.iterdir())


def test_several_at_work_together_and_one_alone_keep_each_other_away(tmp_path):
    with at_work_in(tmp_path, alone=False) as one:
        with at_work_in(tmp_path, alone=False) as other:
            with pytest.raises(InputError, match="another process"), at_work_in(tmp_path):
                pass
            assert not other.take(alone=True)
        assert one.take(alone=True)
        with pytest.raises(InputError, match="another process"), at_work_in(tmp_path, alone=False):
            pass
    assert not list(tmp_path.iterdir())


def test_who_has_a_folder_alone_for_a_moment_keeps_nobody_away(tmp_path):
    leaving = WorkLock(tmp_path)
    assert leaving.take(alone=True)
    threading.Timer(0.1, leaving.leave).start()
    with at_work_in(tmp_path, alone=False):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file"), at_work_in(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="out: can't be written"), at_work_in(tmp_path / "file" / "out"):
        pass


# ---- text in any locale -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    (
        ('{"who": "Müller 标注员"}'.encode(), None),
        ('\ufeff{"who": "Müller 标注员"}'.encode(), None),
        ('{"who": "Müller"}'.encode("latin-1"), "is no UTF-8 (invalid start byte at byte 10)"),
        (b"[1]", "is no table: it holds no JSON object"),
        (b"{", "can't be read as table"),
        (None, "can't be read (No such file or directory)"),
    ),
)
def test_json_is_utf8_with_or_without_a_mark(tmp_path, content, words):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    if words is None:
        assert read_json(path, "table") == {"who": "Müller 标注员"} and read_text(path).startswith("{")
        return
    with pytest.raises(InputError) as error:
        read_json(path, "table")
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


@pytest.mark.parametrize("encoding", ("ascii", "latin-1", "gbk", "utf-8"))
def test_a_program_prints_whatever_there_is_in_any_locale(encoding):
    code = (
        "from support.errors import InputError, run_program\n"
        "def main():\n"
        "    print('Stra\\udcdfe \\u2191 \\u00b1 0.5')\n"
        "    raise InputError('Stra\\udcdfe')\n"
        "run_program(main)"
    )
    line, environment = [sys.executable, "-c", code], os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, env=environment)
    assert done.returncode == 2 and done.stderr.strip() == rb"error: Stra\udcdfe"
    assert done.stdout.startswith(rb"Stra\udcdfe ") and done.stdout.strip().endswith(b"0.5")


def test_files_of_linked_folders_count_once_and_a_loop_ends(tmp_path):
    for name in ("in/a/x", "in/.hidden/y", "in/.z", "elsewhere/w"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    found = files_below(tmp_path / "in")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in found] == ["a/x", "b/w"]


def test_folders_that_hold_nothing_of_ours_may_be_closed(tmp_path, monkeypatch):
    for name in ("city/x", "lost+found/x", ".Trash/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name in (tmp_path.name, "city"))
    assert listed(tmp_path, "*/x") == files_below(tmp_path) == [tmp_path / "city/x"]
    monkeypatch.setattr(os, "access", lambda path, mode: path == tmp_path)
    with pytest.raises(InputError, match=r"city: can't be read \(Permission denied\)"):
        listed(tmp_path, "*/x")


def test_what_may_not_be_looked_at_is_not_taken_for_absent(tmp_path, monkeypatch):
    def closed(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    assert not is_there(tmp_path / "gone.png")
    monkeypatch.setattr(Path, "is_file", closed)
    assert is_there(tmp_path / "gone.png")
