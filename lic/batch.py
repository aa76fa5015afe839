"""One file, or many files in one process: where each output goes, and errors that stop nothing but their own file."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from . import files
from .errors import LicError

PATH = click.Path(path_type=Path, allow_dash=True)


def options(command):
    """What all commands that write files have in common: their names, and what becomes of outputs that are there."""
    for option in reversed((
        click.argument("names", type=PATH, metavar="IN... OUT", nargs=-1, required=True),
        click.option("-O", "--into", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                     help="All names are inputs, each for itself; outputs go to this folder."),
        click.option("-n", "--no-clobber", "skip", is_flag=True, help="Skip what has an output already."),
        click.option("-f", "--force", "replace", is_flag=True, help="Replace any file; with -O nothing is replaced otherwise."),
    )):  # fmt: skip
        command = option(command)
    return command


def outputs(names: Sequence[Path], into: Path, suffix: str) -> list[tuple[tuple[Path], Path]]:
    """Of every input its output in the folder `into`, which is made; wrong usage if two have the same, or a stream has no name for one."""
    pairs = [((name,), into / (name.stem + suffix)) for name in names]
    counts = Counter(target for _, target in pairs)
    for (name,), target in pairs:
        if name == files.STREAM:
            raise click.UsageError("standard input has no name for an output")
        if counts[target] > 1:
            raise click.UsageError(f"several inputs would become {shown(target)}")
    into.mkdir(parents=True, exist_ok=True)
    return pairs


def run(work: Callable[[tuple[Path, ...], Path], None], pairs: Iterable[tuple[tuple[Path, ...], Path]], skip: bool, replace: bool) -> int:
    """work(inputs, output) for each; what fails is told and left out. Returns the exit code."""
    code = 0
    for sources, target in pairs:
        if target.exists() and skip:
            continue
        try:
            if target.exists() and not replace:
                raise LicError(f"{shown(target)} is there already: -n skips it, -f replaces it")
            work(sources, target)
        except Exception as error:
            if isinstance(error, BrokenPipeError | click.ClickException):
                raise
            tell(error)
            code = 1
    return code


def bar(blocks: list) -> Iterable:
    """Iterates over the blocks of a picture, and shows how far it is where somebody may wait for it: several blocks, on a terminal."""
    from tqdm import tqdm

    return tqdm(blocks, unit="block", leave=False, disable=None if len(blocks) > 1 else True)


def tell(error: Exception) -> None:
    """Print a failure as one line; what is no failure but a mistake of ours is raised again, and everything if LIC_DEBUG is set."""
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if os.environ.get("LIC_DEBUG") or not (no_memory or isinstance(error, LicError | OSError)):
        raise error
    line = "out of memory" if no_memory else " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        line = f"{click.format_filename(error.filename)}: {error.strerror}"
    click.echo(f"lic: {line}", err=True)


def shown(path: Path) -> str:
    """A path as it can be printed."""
    return "standard input" if path == files.STREAM else click.format_filename(path)
