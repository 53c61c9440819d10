"""Files read whole, files that are never seen half-written, and their digests."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from support.errors import InputError

LOCK = ".lock"  # in a folder that a program is writing to; with an ending, for a part of the work
_MOMENT = 0.5  # seconds; one that only asks whether a lock is held has it for less


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


@contextmanager
def alone_in(out: Path, part: str = "") -> Iterator[None]:
    """The only process in the folder `out`, which is made if absent, as long as the block lasts.

    part: the only one that works on it there, such as "3-of-16"; nobody then has the whole folder. The locks
    are the operating system's and end with this process, however that ends. Raises InputError at once if
    another process is there.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with writing_to(out):
            try:
                name = f"{LOCK}-{part}" if part else LOCK
                held.enter_context(_held(out / name, _MOMENT if part else 0))
                if part:
                    with in_turn(out):
                        refused = (out / LOCK).exists() and _is_held(out / LOCK)
                else:
                    refused = any(_is_held(path) for path in out.glob(f"{LOCK}-*"))
            except Timeout:
                refused = True
        if refused:
            raise InputError(
                f"--out {out}: another process is at work there; wait for its end, or choose another --out"
            )
        yield


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """One process after another in the folder `out`, for what is done once."""
    with _held(out / f"{LOCK}-turn", seconds=-1):
        yield


def has_parts(out: Path) -> bool:
    """Whether a process works on a part of the folder `out`, this one included."""
    return any(_is_held(path) for path in out.glob(f"{LOCK}-*-of-*"))


@contextmanager
def _held(path: Path, seconds: float = 0) -> Iterator[None]:
    """A lock, whose file goes with it. Raises Timeout if another has it for so long; never if negative."""
    lock = FileLock(path)
    lock.acquire(timeout=seconds)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: later it may be another's
        lock.release()


def _is_held(path: Path) -> bool:
    """Whether a process has a lock; the file that a killed one left is removed."""
    try:
        with _held(path):
            return False
    except Timeout:
        return True


def is_lock(path: Path) -> bool:
    """Whether a file is there for locking only."""
    return path.name.startswith(LOCK)


def is_empty(out: Path) -> bool:
    """Whether a folder holds nothing, or only locks and what a process that was killed left half-written."""
    return all(is_lock(path) or (path.name[0] == "." and path.suffix == ".tmp") for path in out.iterdir())


def listed(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder, sorted, without what is hidden or lies in a hidden folder.

    Systems and editors put files there that only look like ours: "._NAME.png" beside each NAME.png on a disk
    that macOS wrote to, .DS_Store, .ipynb_checkpoints.
    """
    folder = Path(folder)
    found = ((path, path.relative_to(folder).parts) for path in folder.glob(pattern))
    return sorted(path for path, parts in found if not any(part.startswith(".") for part in parts))


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
