"""Commands for those who make and measure models: eval, compare, bench, train. torch is imported only by the work itself."""

import json
from pathlib import Path

import click

from . import container, locate
from .defaults import ENTROPY, MODEL
from .errors import MissingExtra
from .options import device_option, effort_option, threads_option


def _list(context, option, value: str | None) -> list[str] | None:
    return None if value is None else [part for part in value.split(",") if part]


def _numbers(low: float, high: float):
    """A callback: at least one number, by comma, each within low .. high."""

    def parse(context, option, value: str) -> list[float]:
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if not all(low <= number <= high for number in numbers):
            raise click.BadParameter(f"{value} is not all within {low:g} .. {high:g}")
        return numbers

    return parse


out_option = click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("eval"), show_default=True,
                          help="Folder for everything that is written.")  # fmt: skip


@click.command("eval")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--models", callback=_list, help="Our models, by comma, also as NAME+ms-ssim [default: all in the weights folder].")
@click.option("--qualities", default="0,20,40,60,80,100", show_default=True, callback=_numbers(0, 100))
@click.option("--against", callback=_list,
              help="Of Pillow: jpeg, jpeg420, webp, avif, avif-ssim, jpeg2000; of imagecodecs: jxl, heif "
                   "[default: all that run here].")  # fmt: skip
@effort_option
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes; they share the threads, and times suffer.")
@click.option("--bits", "with_bits", is_flag=True, help="Also tell where the bits go, at the middle quality.")
@click.option("--compressai", "with_compressai", is_flag=True, help="Also time CompressAI's models on the first image.")
@out_option
@device_option
@threads_option
def evaluate(folder, models, qualities, against, effort, jobs, with_bits, with_compressai, out, device, threads):
    """Measure bytes, PSNR, MS-SSIM, times and memory on the lossless images of FOLDER, beside other codecs.

    Writes report.txt, results.json, CSV files and plots. A run that was stopped goes on where it was.
    """
    device = _prepare(device, threads)
    from .evaluate import plots, report, rivals, run

    models = [name for name in locate.names() if "-" in name] if models is None else models
    against = rivals.available() if against is None else against
    results = run.evaluate(
        folder, models, qualities, against, out,
        effort=effort, device=device.type, jobs=jobs, with_bits=with_bits, with_compressai=with_compressai,
    )  # fmt: skip
    report.write(results, out)
    click.echo(report.table(results))
    try:
        plots.draw(results, out)
    except MissingExtra as error:
        click.echo(f"lic: {error}", err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="The transforms.")
@click.option("--entropy", callback=_list, metavar="NAMES",
              help="By comma; the others are held against the first [default: all for pictures, against hyperprior].")  # fmt: skip
@click.option("--qualities", default="20,50,80", show_default=True, callback=_numbers(0, 100))
@out_option
@device_option
@threads_option
def compare(folder, model, entropy, qualities, out, device, threads):
    """Measure entropy models on the very same latents of the lossless images of FOLDER: bytes, steps, parameters, times."""
    device = _prepare(device, threads)
    from .evaluate import compare

    names = compare.available(model) if entropy is None else [f"{model}-{name}" for name in entropy]
    click.echo(compare.table(compare.run(folder, names, qualities, device, out)))


@click.command()
@click.option("--model", default=f"{MODEL}-{ENTROPY}", show_default=True, metavar="NAME")
@click.option("--sizes", default="0.1,0.4,1,2.8,8,25", show_default=True, help="Megapixels.",
              callback=_numbers(0.001, container.MAX_PIXELS / 1e6))  # fmt: skip
@out_option
@device_option
@threads_option
def bench(model, sizes, out, device, threads):
    """Measure time and memory over the size of a picture, as whole processes and with the model loaded."""
    device = _prepare(device, threads)
    from .evaluate import bench, plots

    results = bench.run(model, sizes, device.type, out)
    click.echo(bench.table(results))
    try:
        plots.cost(results, out / "cost.png")
    except MissingExtra as error:
        click.echo(f"lic: {error}", err=True)


@click.group()
def train():
    """Train models on a folder of images, and export them as weights files."""


enlarge_option = click.option("--enlarge", type=click.FloatRange(1), default=1.0, show_default=True,
                              help="Every second crop by up to this factor.")  # fmt: skip
seed_option = click.option("--seed", type=int, default=0, show_default=True)


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
        click.option("--start", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
                     help="Checkpoint or weights file to take the common parts from; of several the last one's, where they differ."),
        click.option("--minutes", type=click.FloatRange(0), required=True,
                     help="Training time, over all resumed runs; 0 takes what --start has as it is."),
        click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Crops per step."),
        click.option("--save-every", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds."),
        click.option("--learning-rate", type=float, default=8e-4, show_default=True, help="At the start; falls to 0."),
        click.option("--config", default="{}", metavar="JSON", callback=_json,
                     help="Sizes that differ from the architecture's defaults."),
        seed_option,
    )):  # fmt: skip
        command = option(command)
    return command


def _prepare(device: str, threads: int | None, *crops: int):
    """-> torch device; common to all kinds of training."""
    import torch

    from .weights import device_of

    if any(crop % 64 for crop in crops):
        raise click.UsageError("--crop and --last-crop must be multiples of 64")
    if threads:
        torch.set_num_threads(threads)
    return device_of(device)


bfloat16_option = click.option(
    "--bfloat16/--float32",
    default=None,
    help="Of the blocks of transforms [default: bfloat16 on a GPU]; processors with AVX512_BF16 gain, too.",
)


@train.command("transforms")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--architecture", default="patch", show_default=True, help="Key of TRANSFORMS.")
@click.option("--entropy", default="hyperprior", show_default=True, metavar="NAME", help="Entropy model to train along.")
@click.option("--entropy-config", default="{}", metavar="JSON", callback=_json, help="Its sizes that differ from the defaults.")
@click.option("--crop", type=click.IntRange(64), default=128, show_default=True, help="Side of the crops, a multiple of 64.")
@click.option(
    "--last-crop",
    type=click.IntRange(64),
    default=128,
    show_default=True,
    help="Side in the last fifth of the budget, with half the batch if larger.",
)
@enlarge_option
@click.option("--recolour", is_flag=True, help="Every fourth crop with another contrast and saturation.")
@click.option(
    "--also", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of further images, none of them held out."
)
@bfloat16_option
@_training_options
@device_option
@threads_option
def train_transforms(folder, architecture, checkpoint, device, threads, **options):
    """Train transforms jointly with an entropy model on the images of FOLDER."""
    device = _prepare(device, threads, options["crop"], options["last_crop"])
    from .train import stages

    stages.train_transforms(folder, checkpoint, device, name=architecture, **options)


@train.command("latents")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", default=MODEL, show_default=True, help="Weights of the transforms.")
@click.option("--entropy", default=ENTROPY, show_default=True, metavar="NAME",
              help="Entropy model that the search goes by.")  # fmt: skip
@click.option("--pairs", is_flag=True, help="Of pairs of frames, as models of sequences want them.")
@click.option("--integers", is_flag=True, help="Without dependent quantisation, as models of mixtures want them.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder; several seeds may share one.")
@click.option("--count", type=click.IntRange(1), default=2560, show_default=True, help="Crops; 256 pixels wide one takes 1.1 MB.")
@click.option("--crop", type=click.IntRange(64), default=256, show_default=True, help="Side of the crops, a multiple of 64.")
@enlarge_option
@seed_option
@device_option
@threads_option
def train_latents(folder, model, entropy, device, threads, **options):
    """Search crops of the images of FOLDER for the latents that entropy models and syntheses learn from."""
    device = _prepare(device, threads, options["crop"])
    from . import weights
    from .train import latents

    latents.write(folder, options.pop("out"), weights.load_models(locate.by_name(f"{model}-{entropy}"), device), **options)


@train.command("entropy")
@click.argument("name")
@click.argument("latents", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_training_options
@click.option("--keep", multiple=True, metavar="PREFIX", help="Parameters called PREFIX... stay as --start has them, hyper.h_a say.")
@click.option(
    "--fresh",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="With every batch as many crops of the images there, not searched; for models that have learned already.",
)
@enlarge_option
@click.option("--bfloat16", is_flag=True, help="For all layers; processors with AVX512_BF16 gain.")
@device_option
@threads_option
def train_entropy(name, latents, checkpoint, device, threads, batch, config, **options):
    """Train the entropy model NAME on what `lic train latents` has put in the folder LATENTS."""
    device = _prepare(device, threads)
    if options["enlarge"] > 1 and not options["fresh"]:
        raise click.UsageError("--enlarge is for the crops of --fresh")
    from . import weights
    from .train import stages
    from .train.latents import Pool

    pool = Pool(latents, device, batch)
    transforms, _ = weights.load(locate.by_fingerprint(pool.fingerprint))
    stages.train_entropy(pool, checkpoint, transforms.to(device), name=name, config=config, **options)


@train.command("synthesis")
@click.argument("latents", type=click.Path(path_type=Path, exists=True, file_okay=False))
@bfloat16_option
@_training_options
@device_option
@threads_option
def train_synthesis(latents, checkpoint, device, threads, batch, **options):
    """Train the synthesis on what `lic train latents` has put in the folder LATENTS, all else as it is."""
    device = _prepare(device, threads)
    from . import weights
    from .train import stages
    from .train.latents import DecodedPool

    pool = DecodedPool(latents, device, batch)
    transforms, meta = weights.load(locate.by_fingerprint(pool.fingerprint))
    stages.train_synthesis(pool, checkpoint, transforms, name=meta["name"], **options)


@train.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default=MODEL, show_default=True, help="Name of the transforms.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
def train_export(checkpoint, name, folder):
    """Write a checkpoint's averaged weights as weights files: fp16 transforms, integer entropy models."""
    from .train import export

    for path in export.export(checkpoint, name, folder):
        click.echo(path)


@train.command("graphics")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", type=click.IntRange(1), default=300, show_default=True, help="Pictures; six kinds in turn.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first picture; they count up.")
@click.option("--size", nargs=2, type=click.IntRange(256), default=(512, 384), show_default=True, help="Width and height.")
def train_graphics(folder, count, seed, size):
    """Draw flat graphics into FOLDER: text, interfaces, charts, line drawings, signs, empty pages."""
    from .train import graphics

    graphics.write(folder, range(seed, seed + count), size)


COMMANDS = (evaluate, compare, bench, train)
