"""The command line: arguments in, one call, errors to exit codes. torch is imported only by the work itself.

Here are the commands for using the codec; those for training and measuring it are in workshop.py.

Exit codes: 0 done; 1 an input could not be processed; 2 wrong usage; 130 interrupted; 143 terminated.
"""

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import click

from . import __version__, batch, container, files, startup, workshop
from .batch import shown
from .defaults import ENTROPY, GOP, MODEL, TEMPORAL, TUNE
from .errors import LicError
from .facts import facts
from .options import codec_options, convert_option, effort_option, goal_options, keep_option, quiet_option, tune_option

FORMATS = {  # what decode can write
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP",
}  # fmt: skip
ANIMATED = (".png", ".webp")  # also all frames of a sequence
PICTURES = {*FORMATS, ".jpg", ".jpeg", ".gif", ".avif", ".jp2", ".qoi", ".tga"}  # what encode does not write


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="lic %(version)s")
def cli():
    """A learned image codec: small .lic files that open on every machine.

    \b
    lic encode photo.png photo.lic          compress
    lic encode -q 80 photo.jpg photo.lic    better quality, larger file
    lic encode --target-size 50000 photo.jpg photo.lic    as good as 50 kB can be
    lic encode -O small/ *.png              many files, each into one of its own
    lic encode a.png b.png c.png film.lic   a sequence of frames
    lic decode photo.lic photo.png          decompress
    lic decode film.lic frames/             all frames, into a folder; or as an animation, film.png or film.webp
    lic decode photo.lic - | display        "-" is standard input or output
    lic info photo.lic                      what a file says of itself
    lic verify photo.lic                    check that a file decodes
    """


@contextmanager
def _about(paths: Sequence[Path]):
    """Name the first of the files, as they are by then, in every error about it."""
    try:
        yield
    except LicError as error:
        raise type(error)(f"{shown(paths[0])}: {error}") from error
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        raise LicError(f"{shown(paths[0])}: {error.strerror or error}") from error


def _codec(device: str, threads: int | None, max_pixels: int, **options):
    """-> a function that gives the codec, one and the same: torch is loaded when it is asked for first."""

    @cache
    def codec():
        torch = startup.import_torch()

        from .codec import Codec

        if threads:
            torch.set_num_threads(threads)
        return Codec(device=device, max_pixels=max_pixels, **options)

    return codec


def _not_the_same(source: Path, target: Path) -> None:
    if files.STREAM not in (source, target) and target.exists() and source.exists() and os.path.samefile(source, target):
        raise click.UsageError(f"{shown(target)} is both input and output")


def _is_other(target: Path) -> bool:
    """True if a file is there that encode has not written: the last name of *.pgm, say."""
    if target.suffix.lower() in PICTURES:
        return True
    if not files.replaces(target):
        return False
    with target.open("rb") as file:
        return file.read(len(container.MAGIC)) not in (b"", container.MAGIC)


@cli.command()
@batch.options
@goal_options
@effort_option
@tune_option
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="Transforms.")
@click.option("--entropy", default=ENTROPY, show_default=True, metavar="NAME", help="Entropy model; see README.")
@click.option("--temporal", default=TEMPORAL, show_default=True, metavar="NAME", help="Entropy model of predicted frames.")
@click.option("--gop", type=click.IntRange(1), default=GOP, show_default=True, metavar="N", help="One frame in N, at least, stands alone.")
@click.option("--fps", type=click.FloatRange(0, 1000, min_open=True), metavar="N",
              help="Of a sequence, frames per second [default: what an animation says].")  # fmt: skip
@keep_option
@convert_option
@codec_options
@quiet_option
def encode(
    names, into, skip, replace, device, threads, max_pixels, model, entropy, temporal, weights_folder, keep, tune, convert, **options
):
    """Compress an image file that Pillow can read into a .lic file; with -O, many, each into one of its own.

    The orientation that EXIF asks for is applied, an ICC profile and an alpha channel are kept (the latter without
    loss); other metadata is only stored if --keep asks for it.

    A picture of few colours, a screenshot or a drawing, is stored without loss where that takes hardly more bytes.

    Several files of one size, in this order, or one animation become a sequence: later frames are predicted from those
    before where that is smaller. How long an animation shows each frame is kept.
    """
    what = {
        "model": model, "entropy": entropy, "temporal": temporal, "weights_folder": weights_folder,
        "keep": keep, "tune": tune, "convert": convert,
    }  # fmt: skip
    if tune != TUNE and not options["effort"]:
        raise click.UsageError("--tune needs an --effort of 1 or more")
    what["progress"] = iter if options["quiet"] else batch.bar
    work = partial(_encode, _codec(device, threads, max_pixels, **what), max_pixels=max_pixels, convert=convert, **options)
    if into:
        return batch.run(work, batch.outputs(names, into, ".lic"), skip, replace)
    *sources, target = names
    if not sources:
        raise click.UsageError("Missing argument 'OUT'.")
    if not replace and _is_other(target):
        raise click.UsageError(f"the last name, {shown(target)}, is that of the output: call it something.lic")
    if not (skip and target.exists()):
        work(sources, target)


def _encode(codec, sources, target, *, quality, goal, effort, gop, fps, max_pixels, convert, quiet):
    from . import image

    for source in sources:
        _not_the_same(source, target)
    files.check_place(target)
    with _about(sources[:1]):
        picture = image.open_bytes(files.read(sources[0]), max_pixels, convert)
    start = time.perf_counter()
    left = deque(sources)
    with _about(left):
        several = len(sources) > 1 or image.frame_count(picture) > 1
        if several and goal:
            raise LicError("a sequence can be asked for a --quality only")
        if fps and not several:
            raise LicError("a single picture has no --fps")
        if several:
            pictures = _pictures(picture, left, max_pixels, convert) if len(sources) > 1 else image.frames(picture, convert)
            data = codec().encode_sequence(image.at_rate(pictures, fps) if fps else pictures, quality, effort, gop)
        elif goal:
            from .target import encode as meet

            data = meet(codec(), picture, effort, **goal)
        else:
            data = codec().encode(picture, quality, effort)
    seconds = time.perf_counter() - start
    with _about([target]):
        files.write(target, data)
    if not quiet:
        header, frames = container.unpack(data)
        size = f"{header.width}x{header.height}" + (f", {len(frames)} frames" if header.predicted_by else "")
        bpp = 8 * len(data) / (header.width * header.height * len(frames))
        how = f"quality {header.quality:.4g}" if header.weights else "stored without loss"
        what = f"{size}, {how}, {len(data)} bytes, {bpp:.3f} bits per pixel, {seconds:.1f} s"
        click.echo(f"{shown(sources[0])}: {what}", err=True)


def _pictures(first, left: deque[Path], max_pixels: int, convert: bool):
    """One at a time, as a sequence may be longer than memory; left[0] is the file of the last one."""
    from . import image

    yield first
    while len(left) > 1:
        left.popleft()
        yield image.open_bytes(files.read(left[0]), max_pixels, convert)


@cli.command()
@batch.options
@click.option("--format", "extension", type=click.Choice([e[1:] for e in FORMATS]), help="[default: by OUT's name, or png]")
@click.option("--frame", "number", type=click.IntRange(1), metavar="N", help="Of a sequence, the N-th frame only.")
@codec_options
def decode(names, into, skip, replace, extension, number, weights_folder, device, threads, max_pixels):
    """Decompress a .lic file to PNG, PPM, TIFF, BMP or lossless WebP; with -O, many, each into one of its own.

    EXIF and XMP data that it holds go to PNG and WebP only.

    Of a sequence, OUT is an animated PNG or WebP, a folder for all frames (0001.png, 0002.png, ...), or an image file for
    one --frame.
    """
    extension = f".{extension}" if extension else None
    work = partial(_decode, _codec(device, threads, max_pixels, weights_folder=weights_folder), number=number)
    if into:
        work = partial(work, extension=extension or ".png", many=True)
        return batch.run(work, batch.outputs(names, into, extension or ".png"), skip, replace)
    if len(names) != 2:
        raise click.UsageError("decode takes one file and the name of the output; -O takes many")
    if not (skip and names[1].exists()):
        work(names[:1], names[1], extension=extension)


def _decode(codec, sources, target, *, extension, number, many=False):
    from . import image

    (source,) = sources
    _not_the_same(source, target)
    with _about([source]):
        data = files.read(source)
        header, frames = container.unpack(data)  # a bad file is told at once, before torch is loaded
    several = header.predicted_by is not None and number is None
    folder = several and (many or target.is_dir() or not (target == files.STREAM or target.suffix))
    if folder and many:
        target = target.with_suffix("")
        if target.exists():
            raise LicError(f"{shown(target)} is there already")
    extension = extension or (".png" if folder or target == files.STREAM else target.suffix.lower())
    if several and not folder and extension not in ANIMATED:
        what = f"{shown(source)} is a sequence of {len(frames)} frames"
        raise click.UsageError(f"{what}: name a folder for them, or one {' or '.join(ANIMATED)}, or choose a --frame")
    if extension not in FORMATS:
        raise click.UsageError(f"cannot tell the format of {shown(target)}: use one of {' '.join(FORMATS)}, or --format")
    if not folder:
        files.check_place(target)
        with _about([source]):
            decoded, *others = codec().decode_sequence(data) if several else [codec().decode(data, number)]
        with _about([target]):
            files.write(target, image.to_bytes(decoded, FORMATS[extension], others))
        return
    target.mkdir(exist_ok=True)
    with _about([source]):
        for count, decoded in enumerate(codec().decode_sequence(data), 1):
            files.write(target / f"{count:04}{extension}", image.to_bytes(decoded, FORMATS[extension]))


@cli.command()
@click.argument("source", type=batch.PATH, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(source, as_json):
    """Print what a .lic file says of itself, without decoding it."""
    with _about([source]):
        found = {"file": shown(source), **facts(files.read(source))}
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        click.echo(f"{key.replace('_', ' '):18} {'not installed' if value is None else value}")


@cli.command()
@click.argument("source", type=batch.PATH, metavar="FILE")
@codec_options
@quiet_option
def verify(source, weights_folder, device, threads, max_pixels, quiet):
    """Decode a .lic file, compare its checksums and write nothing."""
    with _about([source]):
        data = files.read(source)
        container.unpack(data)
        for _ in _codec(device, threads, max_pixels, weights_folder=weights_folder)().decode_sequence(data):
            pass
    if not quiet:
        click.echo(f"{shown(source)}: ok", err=True)


for command in workshop.COMMANDS:
    cli.add_command(command)


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
    except Exception as error:
        batch.tell(error)
        code = 1
    code = code if isinstance(code, int) else 0
    try:
        if sys.stdout is not None:  # it was closed when we started
            sys.stdout.flush()
    except OSError:
        code = 1
    os._exit(code)  # nothing is left to do, and taking torch down in good order would take a second
