"""Files that are never seen half-written, and their digests."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from support.errors import InputError

LOCK = ".lock"  # in a folder that a program is writing to


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
def alone_in(out: Path) -> Iterator[None]:
    """The only process in the folder `out`, which is made if absent, as long as the block lasts.

    The lock is the operating system's and ends with this process, however that ends. Raises InputError at
    once if another process is there.
    """
    lock = FileLock(out / LOCK)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"--out {out}: another process is at work there; wait for its end, or choose another --out"
            ) from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)  # while it is held: later it may be another's
        lock.release()


def is_empty(out: Path) -> bool:
    """Whether a folder holds nothing, or only a lock."""
    return all(path.name == LOCK for path in out.iterdir())


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
