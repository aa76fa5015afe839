"""Reading input and writing output for the command line: files or streams, never a half-written file."""

import errno
import os
import re
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
    if sys.stdin is None:
        raise LicError("standard input is closed")
    if sys.stdin.isatty():
        raise LicError("standard input is a terminal; name a file or pipe one in")
    return sys.stdin.buffer.read()


def check_place(path: Path) -> None:
    """Raise what write() would raise for that name, as far as that can be told before there is anything to write."""
    if path == STREAM:
        if sys.stdout is None:
            raise LicError("standard output is closed")
        if sys.stdout.isatty():
            raise LicError("refusing to write an image to a terminal; name a file or pipe it")
    elif path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    elif not path.exists() and not path.resolve().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    elif replaces(path) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "is read-only", str(path))


def replaces(path: Path) -> bool:
    """True if write() would replace a file."""
    return path != STREAM and _descriptor(path) is None and path.is_file()


def _descriptor(path: Path) -> int | None:
    """The number of an open file of this process, if that is what the name means."""
    if named := {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path)):
        return named
    number = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(number[1]) if number else None


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, or standard output for "-".

    A regular file is written beside its place, synced and moved there, so that a reader, a crash or a
    full disk meets the old content or the new, never a part. Devices and pipes are written straight, and
    so is an open file of this process (/dev/stdout): what else it holds stays.
    """
    check_place(path)
    if path == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif (number := _descriptor(path)) is not None:
        with os.fdopen(os.dup(number), "wb") as out:
            out.write(data)
    elif path.exists() and not path.is_file():
        with path.open("wb") as out:
            out.write(data)
    else:
        try:
            _replace(Path(os.path.realpath(path)), data)  # a link keeps pointing where it pointed
        except OSError as error:  # it may name the file aside
            raise type(error)(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, data: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
    descriptor, aside = tempfile.mkstemp(prefix=".lic-", suffix=".tmp", dir=path.parent)
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
