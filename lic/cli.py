"""The command line: arguments in, one call, errors to exit codes. torch is imported only by the work itself.

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

from . import __version__, container, files, locate
from .errors import LicError, MissingWeights

PATH = click.Path(path_type=Path, allow_dash=True)
FORMATS = {  # what decode can write
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP",
}  # fmt: skip

device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", envvar="LIC_DEVICE",
                             show_default=True, help="Where to compute; files do not depend on it.")  # fmt: skip
threads_option = click.option("--threads", type=click.IntRange(1), envvar="LIC_THREADS", help="CPU threads [default: all].")
pixels_option = click.option("--max-pixels", type=click.IntRange(1), default=container.MAX_PIXELS, show_default=True,
                             help="Refuse larger images.")  # fmt: skip
weights_option = click.option("--weights", "weights_folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
                              help="Folder of further weights files.")  # fmt: skip
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="lic %(version)s")
def cli():
    """A learned image codec: small .lic files that open on every machine.

    \b
    lic encode photo.png photo.lic          compress (quality 50)
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
@click.option("-q", "--quality", type=click.FloatRange(0, 100), default=50.0, show_default=True, help="0 (smallest) .. 100 (best).")
@click.option("--model", default="lite", show_default=True, metavar="NAME", help="Transforms.")
@click.option("--entropy", default="local", show_default=True, metavar="NAME", help="Entropy model: local or hyperprior.")
@weights_option
@device_option
@threads_option
@pixels_option
@quiet_option
def encode(source, target, quality, device, threads, max_pixels, quiet, **models):
    """Compress an image file that Pillow can read into a .lic file.

    The orientation that EXIF asks for is applied and an ICC profile is kept; other metadata is not stored.
    """
    from . import image

    _not_the_same(source, target)
    with _about(source):
        picture = image.open_bytes(files.read(source), max_pixels)
        start = time.perf_counter()
        data = _codec(device, threads, max_pixels, **models).encode(picture, quality)
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


def _list(context, option, value: str) -> list[str]:
    return [part for part in value.split(",") if part]


@cli.command("eval")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--models", default="lite-local", show_default=True, callback=_list, help="Our models, by comma.")
@click.option("--qualities", default="0,10,20,30,40,50,60,70,80,90,100", show_default=True, callback=_list)
@click.option("--against", default="jpeg,webp,avif", show_default=True, callback=_list, help="Codecs of Pillow's; also jpeg420.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("eval"), show_default=True, help="For files and results.json.")
@device_option
@threads_option
def evaluate(folder, models, qualities, against, out, device, threads):
    """Measure bytes, PSNR and times on the lossless images of FOLDER, beside other codecs."""
    try:
        qualities = [float(q) for q in qualities]
    except ValueError as error:
        raise click.UsageError(f"--qualities: {error}") from error
    import torch

    from .evaluate import run

    if threads:
        torch.set_num_threads(threads)
    click.echo(run.table(run.evaluate(folder, models, qualities, against, out, device)))


@cli.group()
def train():
    """Train models on a folder of images, and export them as weights files."""


def _json(context, option, value: str) -> dict:
    try:
        fields = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise click.BadParameter("not a JSON object")
    return fields


def _training_options(command):
    for option in reversed((
        click.option("--out", "checkpoint", type=click.Path(path_type=Path), required=True,
                     help="Checkpoint file; resumed from if it exists."),
        click.option("--minutes", type=click.FloatRange(0, min_open=True), required=True, help="Training time, over all resumed runs."),
        click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Crops per step."),
        click.option("--crop", type=click.IntRange(64), default=128, show_default=True, help="Side of the crops, a multiple of 64."),
        click.option("--last-crop", type=click.IntRange(64), default=128, show_default=True,
                     help="Side in the last fifth of the budget, with half the batch if larger."),
        click.option("--save-every", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds."),
        click.option("--learning-rate", type=float, default=8e-4, show_default=True, help="At the start; falls to 0."),
        click.option("--config", default="{}", metavar="JSON", callback=_json,
                     help="Sizes that differ from the architecture's defaults."),
        click.option("--seed", type=int, default=0, show_default=True),
        device_option,
        threads_option,
    )):  # fmt: skip
        command = option(command)
    return command


def _prepare(device: str, threads: int | None, *crops: int):
    """-> torch device; common to both kinds of training."""
    import torch

    if any(crop % 64 for crop in crops):
        raise click.UsageError("--crop and --last-crop must be multiples of 64")
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@train.command("transforms")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--architecture", default="patch", show_default=True, help="Key of TRANSFORMS.")
@click.option("--entropy-config", default="{}", metavar="JSON", callback=_json, help="The same for the hyperprior.")
@_training_options
def train_transforms(folder, architecture, entropy_config, checkpoint, device, threads, config, **options):
    """Train transforms jointly with a hyperprior on the images of FOLDER."""
    device = _prepare(device, threads, options["crop"], options["last_crop"])
    from .train import stages

    stages.train_transforms(folder, checkpoint, device, name=architecture, config=config, entropy_config=entropy_config, **options)


@train.command("entropy")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", default="lite", show_default=True, help="Weights of the transforms whose latents to code.")
@click.option("--start", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Checkpoint to take common parts from.")
@_training_options
def train_entropy(name, folder, model, checkpoint, device, threads, config, **options):
    """Train the entropy model NAME on the frozen latents of exported transforms."""
    device = _prepare(device, threads, options["crop"], options["last_crop"])
    from . import weights
    from .train import stages

    path = locate.by_name(model)
    transforms, _ = weights.load(path)
    stages.train_entropy(folder, checkpoint, transforms.to(device), locate.fingerprint_of(path), name=name, config=config, **options)


@train.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="lite", show_default=True, help="Name of the transforms.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
def train_export(checkpoint, name, folder):
    """Write a checkpoint's averaged weights as weights files: fp16 transforms, integer entropy models."""
    from .train import export

    for path in export.export(checkpoint, name, folder):
        click.echo(path)


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
