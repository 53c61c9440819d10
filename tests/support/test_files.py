"""Files that are never half-written, and folders that one process at a time works in."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from support.errors import InputError
from support.files import LOCK, alone_in, has_parts, is_empty

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from support.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("there", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    out = tmp_path / "new" / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, out], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"there\n"
        assert (out / LOCK).exists() and is_empty(out)
        with pytest.raises(InputError, match="another process is at work there; wait"), alone_in(out):
            pass
        assert (out / LOCK).exists()  # not taken away by the one that was refused
    finally:
        holder.kill()
        holder.wait()
    with alone_in(out), pytest.raises(InputError, match="another process"), alone_in(out):
        pass
    assert not list(out.iterdir())


def test_who_only_asks_for_a_lock_keeps_nobody_away(tmp_path):
    asking = FileLock(tmp_path / f"{LOCK}-1-of-2", thread_local=False)
    asking.acquire()
    threading.Timer(0.1, asking.release).start()
    with alone_in(tmp_path, "1-of-2"):
        assert has_parts(tmp_path)
    assert not has_parts(tmp_path) and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file"), alone_in(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="out: can't be written"), alone_in(tmp_path / "file" / "out"):
        pass
