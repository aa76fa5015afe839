"""Seconds and memory of this process and of others, and what machine it is. No torch here: see `process`."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..errors import LicError


def timed(work):
    """-> result, (seconds, peak resident megabytes of this process meanwhile; None where the system does not tell)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    try:
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return result, (seconds, None)
    return result, (seconds, int(peak.split()[1]) / 1000)


def release() -> None:
    """Hand memory that earlier work left unused back to the system (where it is Linux), lest it count in the next peak."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def process(arguments: list) -> tuple[float, float | None]:
    """Run `lic ARGUMENTS`: (seconds, peak resident megabytes, None where the system does not tell).

    Between this process and that one stands a small one, this module as a program: the peak that Linux reports of a
    process is never below that of the one that started it. Raises LicError if the command fails.
    """
    watcher = subprocess.run([sys.executable, "-m", __name__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False)
    if watcher.returncode:
        raise LicError(f"lic {' '.join(map(str, arguments))} failed with exit code {watcher.returncode}")
    seconds, *peak = map(float, watcher.stdout.split())
    return seconds, peak[0] if peak else None


def _watch() -> int:
    """Run `lic` with the arguments of this program, print what `process` reads, return the exit code."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "lic", *sys.argv[1:]], stdout=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):
        code, peak = child.wait(), ""
    else:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = code = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(time.perf_counter() - start, peak)
    return code


def described(threads: int, device) -> str:
    """For tables: processor, threads, device."""
    return f"{processor()}, {threads} threads, {device}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(_watch())
