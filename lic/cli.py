"""The command line: arguments in, one call, errors to exit codes. torch is imported only by the work itself.

Here are the commands for using the codec; those for training and measuring it are in workshop.py.

Exit codes: 0 done; 1 an input could not be processed; 2 wrong usage; 130 interrupted; 143 terminated.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import click

from . import __version__, container, files, locate, workshop
from .defaults import ENTROPY, MODEL, QUALITY
from .errors import LicError, MissingWeights
from .options import device_option, effort_option, pixels_option, quiet_option, threads_option, weights_option

PATH = click.Path(path_type=Path, allow_dash=True)
FORMATS = {  # what decode can write
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP",
}  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="lic %(version)s")
def cli():
    """A learned image codec: small .lic files that open on every machine.

    \b
    lic encode photo.png photo.lic          compress
    lic encode -q 80 photo.jpg photo.lic    better quality, larger file
    lic decode photo.lic photo.png          decompress
    lic decode photo.lic - | display        "-" is standard input or output
    lic info photo.lic                      what a file says of itself
    lic verify photo.lic                    check that a file decodes
    """


@contextmanager
def _about(path: Path):
    """Name the file in every error about it."""
    try:
        yield
    except LicError as error:
        raise type(error)(f"{_shown(path)}: {error}") from error
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        raise LicError(f"{_shown(path)}: {error.strerror or error}") from error


def _shown(path: Path) -> str:
    return "standard input" if path == files.STREAM else click.format_filename(path)


def _codec(device: str, threads: int | None, max_pixels: int, **options):
    import torch

    from .codec import Codec

    if threads:
        torch.set_num_threads(threads)
    return Codec(device=device, max_pixels=max_pixels, **options)


def _not_the_same(source: Path, target: Path) -> None:
    if files.STREAM not in (source, target) and target.exists() and source.exists() and os.path.samefile(source, target):
        raise click.UsageError(f"{_shown(target)} is both input and output")


@cli.command()
@click.argument("source", type=PATH, metavar="IN")
@click.argument("target", type=PATH, metavar="OUT")
@click.option("-q", "--quality", type=click.FloatRange(0, 100), default=QUALITY, show_default=True, help="0 (smallest) .. 100 (best).")
@effort_option
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="Transforms.")
@click.option("--entropy", default=ENTROPY, show_default=True, metavar="NAME", help="Entropy model: parallel, local or hyperprior.")
@weights_option
@device_option
@threads_option
@pixels_option
@quiet_option
def encode(source, target, quality, effort, device, threads, max_pixels, quiet, **models):
    """Compress an image file that Pillow can read into a .lic file.

    The orientation that EXIF asks for is applied and an ICC profile is kept; other metadata is not stored.
    """
    from . import image

    _not_the_same(source, target)
    with _about(source):
        picture = image.open_bytes(files.read(source), max_pixels)
        start = time.perf_counter()
        data = _codec(device, threads, max_pixels, **models).encode(picture, quality, effort)
        seconds = time.perf_counter() - start
    with _about(target):
        files.write(target, data)
    if not quiet:
        W, H = picture.size
        note = f"{_shown(source)}: {W}x{H}, {len(data)} bytes, {8 * len(data) / (W * H):.3f} bits per pixel, {seconds:.1f} s"
        click.echo(note, err=True)


@cli.command()
@click.argument("source", type=PATH, metavar="IN")
@click.argument("target", type=PATH, metavar="OUT")
@click.option("--format", "extension", type=click.Choice([e[1:] for e in FORMATS]), help="[default: by OUT's name; png on a pipe]")
@weights_option
@device_option
@threads_option
@pixels_option
def decode(source, target, extension, weights_folder, device, threads, max_pixels):
    """Decompress a .lic file to PNG, PPM, TIFF, BMP or lossless WebP."""
    from . import image

    extension = f".{extension}" if extension else ".png" if target == files.STREAM else target.suffix.lower()
    if extension not in FORMATS:
        raise click.UsageError(f"cannot tell the format of {_shown(target)}: use one of {' '.join(FORMATS)}, or --format")
    _not_the_same(source, target)
    with _about(source):
        data = files.read(source)
        container.unpack(data)  # a bad file is told at once, before torch is loaded
        decoded = _codec(device, threads, max_pixels, weights_folder=weights_folder).decode(data)
    with _about(target):
        files.write(target, image.to_bytes(decoded, FORMATS[extension]))


@cli.command()
@click.argument("source", type=PATH, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(source, as_json):
    """Print what a .lic file says of itself, without decoding it."""
    with _about(source):
        data = files.read(source)
        header, payload = container.unpack(data)
    try:
        name = locate.name_of(locate.by_fingerprint(header.weights.hex()))
    except MissingWeights:
        name = None
    facts = {
        "file": _shown(source), "width": header.width, "height": header.height, "bytes": len(data),
        "bits_per_pixel": round(8 * len(data) / (header.width * header.height), 4), "quality": round(header.quality, 2),
        "weights": header.weights.hex(), "weights_name": name, "payload_bytes": len(payload),
        "icc_profile_bytes": len(header.profile or b""), "format_version": container.VERSION,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        click.echo(f"{key.replace('_', ' '):18} {'not installed' if value is None else value}")


@cli.command()
@click.argument("source", type=PATH, metavar="FILE")
@weights_option
@device_option
@threads_option
@pixels_option
@quiet_option
def verify(source, weights_folder, device, threads, max_pixels, quiet):
    """Decode a .lic file, compare its checksums and write nothing."""
    with _about(source):
        data = files.read(source)
        container.unpack(data)
        _codec(device, threads, max_pixels, weights_folder=weights_folder).decode(data)
    if not quiet:
        click.echo(f"{_shown(source)}: ok", err=True)


for command in workshop.COMMANDS:
    cli.add_command(command)


def _one_line(error: BaseException) -> str:
    if filename := getattr(error, "filename", None):
        return f"{click.format_filename(filename)}: {error.strerror}"
    return " ".join(str(error).split()) or "out of memory"


def _terminate(signum, frame):
    raise SystemExit(128 + signum)


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(prog_name="lic", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit has nowhere to go
        code = 1
    except (LicError, OSError, MemoryError) as error:
        if os.environ.get("LIC_DEBUG"):
            raise
        click.echo(f"lic: {_one_line(error)}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
