"""Reading input and writing output for the command line: files or streams, never a half-written file."""

import os
import stat
import sys
import tempfile
from pathlib import Path

from .errors import LicError

STREAM = Path("-")


def read(path: Path) -> bytes:
    """The bytes of a file, or of standard input for "-"."""
    if path != STREAM:
        return path.read_bytes()
    if sys.stdin.isatty():
        raise LicError("standard input is a terminal; name a file or pipe one in")
    return sys.stdin.buffer.read()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, or standard output for "-".

    A regular file is written beside its place, synced and moved there, so that a reader, a crash or a
    full disk meets the old content or the new, never a part. Devices and pipes are written straight.
    """
    if path == STREAM:
        if sys.stdout.isatty():
            raise LicError("refusing to write an image to a terminal; name a file or pipe it")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = Path(os.path.realpath(path))  # a link keeps pointing where it pointed
    if path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        with path.open("wb") as out:
            out.write(data)
        return
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory", str(path))
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(aside, mode)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
