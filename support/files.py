"""Files read whole, files that are never seen half-written, and their digests."""

import errno
import fcntl
import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

from filelock import FileLock

from support.errors import InputError

LOCK = ".lock"  # begins the name of what is in a folder for locking only
# Whatever a damaged zip of arrays makes its readers raise.
DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, struct.error, zlib.error, BadZipFile)
_MOMENT = 0.5  # seconds; who leaves a folder has it alone for less


def read_bytes(path: Path) -> bytes:
    """What is in a file. Raises InputError if it can't be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from None


def read_text(path: Path) -> str:
    """The text in a file, UTF-8 whatever the locale, a mark at its start or not. InputError if it is none."""
    return _decoded(path, read_bytes(path))


def read_json(path: Path, what: str) -> dict:
    """The object in a JSON file. Raises InputError, saying `what` it should be, if there is none."""
    return parse_json(path, read_bytes(path), what)


def parse_json(path: Path, content: bytes, what: str) -> dict:
    """The object in a JSON file's content. Raises InputError, naming `path`, if there is none."""
    try:
        found = json.loads(_decoded(path, content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as {what} ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no {what}: it holds no JSON object")
    return found


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 ({error.reason} at byte {error.start}); save it so") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there is `path` when the block ends well.

    Whoever looks sees the old file or the new one. A block that fails leaves the old one and nothing else.
    """
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file as a whole: see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    """Write at the end of a file, which is made if absent: all of it, or on a full disk (OSError) nothing."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(content)
            while rest:  # the system may take less at once
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turns what goes wrong with writing files into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--out {out}: can't be written ({error.strerror or error}); what is finished is kept, the same"
            " command goes on from there"
        ) from None


class WorkLock:
    """Who is at work in a folder: one process alone, or several together.

    The lock is the operating system's and ends with its process, however that ends. The last process to leave
    takes the file away.
    """

    def __init__(self, out: Path):
        self.path = Path(out) / LOCK
        self._file: IO | None = None

    def take(self, *, alone: bool) -> bool:
        """Be at work there, in place of what was held before; False, with nothing held, if others are."""
        self.leave()
        end = time.monotonic() + _MOMENT
        while True:
            file = self.path.open("a+")
            if _locked(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
                if _is_there(file, self.path):
                    self._file = file
                    return True
            elif time.monotonic() > end:
                file.close()
                return False
            else:
                time.sleep(0.02)
            file.close()

    def leave(self) -> None:
        if self._file is not None:
            if _locked(self._file, fcntl.LOCK_EX):
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def _locked(file: IO, kind: int) -> bool:
    """Get a lock on an open file at once; whether it was free."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _is_there(file: IO, path: Path) -> bool:
    """Whether an open file is still the one of that name: who left meanwhile may have taken it away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def at_work_in(out: Path, *, alone: bool = True) -> Iterator[WorkLock]:
    """At work in the folder `out`, which is made if absent, alone there or with others that are not.

    Raises InputError if that can't be.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another")
    lock = WorkLock(out)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        taken = lock.take(alone=alone)
    if not taken:
        raise InputError(
            f"--out {out}: another process is at work there; wait for its end, or choose another --out"
        )
    try:
        yield lock
    finally:
        lock.leave()


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """One process after another in the folder `out`, for what is done once."""
    path = out / f"{LOCK}-turn"
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: later it may be another's


def is_lock(path: Path) -> bool:
    """Whether a file is there for locking only."""
    return path.name.startswith(LOCK)


def check_apart(out: Path, root: Path, place: str) -> None:
    """Raises InputError, naming `place`, if OUT lies in the folder `root` or around it."""
    out_at, root_at = Path(out).resolve(), Path(root).resolve()
    if out_at.is_relative_to(root_at) or root_at.is_relative_to(out_at):
        raise InputError(f"--out {out}: inside {place}; choose another")


def is_empty(out: Path) -> bool:
    """Whether a folder holds nothing, or only locks and what a process that was killed left half-written."""
    return all(is_lock(path) or (path.name[0] == "." and path.suffix == ".tmp") for path in out.iterdir())


def listed(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder, sorted, without what is hidden or lies in a hidden folder.

    Systems and editors put files there that only look like ours: "._NAME.png" beside each NAME.png on a disk
    that macOS wrote to, .DS_Store, .ipynb_checkpoints.
    """
    folder = Path(folder)
    _check_readable(folder, pattern)
    return sorted(path for path in folder.glob(pattern) if not _is_hidden(path.relative_to(folder)))


def _is_hidden(path: Path) -> bool:
    """Whether a part of it is; what a file system keeps at its top for itself counts, too."""
    return any(part[0] == "." or part == "lost+found" for part in path.parts)


def _check_readable(folder: Path, pattern: str) -> None:
    """Raises InputError for a folder on the way that can't be read, which `Path.glob` takes for empty."""
    parts = Path(pattern).parts[:-1]
    for count in range(len(parts) + 1):
        for place in folder.glob("/".join(parts[:count])) if count else [folder]:
            if _is_hidden(place.relative_to(folder)):
                continue
            if place.is_dir() and not os.access(place, os.R_OK | os.X_OK):
                _refuse(PermissionError(errno.EACCES, os.strerror(errno.EACCES), place))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: can't be read ({error.strerror}); make it readable, or take it away")


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and those below it, linked ones too, sorted, without what is hidden.

    A folder that several links lead to counts once. Raises InputError for one that can't be read.
    """
    found, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(Path(name)))
        found += (Path(place, name) for name in names if not _is_hidden(Path(name)))
    return sorted(found)


def is_there(path: Path) -> bool:
    """Whether there is a file, or one that can't be looked at: reading it says why."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def stamp(*paths: Path) -> list[int] | None:
    """By what a change of source files shows: size in bytes and mtime in ns of each; None if one is gone."""
    try:
        found = [path.stat() for path in paths]
    except OSError:
        return None
    return [number for status in found for number in (status.st_size, status.st_mtime_ns)]


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
