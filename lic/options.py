"""Options that several commands share, and those of `lic encode` for what a file shall be."""

from functools import wraps
from pathlib import Path

import click
from click.core import ParameterSource

from . import container
from .defaults import EFFORT, QUALITY, TUNE, TUNES

effort_option = click.option("-e", "--effort", type=click.IntRange(0, 9), default=EFFORT, show_default=True,
                             help="Time spent on smaller files; 0 is quickest.")  # fmt: skip
tune_option = click.option("--tune", type=click.Choice(TUNES), default=TUNE, show_default=True,
                           help="What that time goes into: nearness of pixels, or of structures, too.")  # fmt: skip
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", envvar="LIC_DEVICE",
                             show_default=True, help="Where to compute; files do not depend on it.")  # fmt: skip
threads_option = click.option("--threads", type=click.IntRange(1), envvar="LIC_THREADS", help="CPU threads [default: all].")
pixels_option = click.option("--max-pixels", type=click.IntRange(1), default=container.MAX_PIXELS, show_default=True,
                             help="Refuse larger images.")  # fmt: skip
weights_option = click.option("--weights", "weights_folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
                              help="Folder of further weights files.")  # fmt: skip
_KEEP = {"none": ()} | {name: (name,) for name in container.METADATA} | {"all": container.METADATA}
keep_option = click.option("--keep", type=click.Choice(list(_KEEP)), default="none", show_default=True,
                           callback=lambda context, option, name: _KEEP[name], help="Metadata of a picture to store.")  # fmt: skip
convert_option = click.option("--convert", is_flag=True, help="Make 8-bit RGB of more bits, of CMYK and of grey with a profile.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


def codec_options(command):
    """Those of all commands that encode or decode."""
    for option in (pixels_option, threads_option, device_option, weights_option):
        command = option(command)
    return command


def goal_options(command):
    """--quality and what can be asked for in its place: `goal`, a dict, is that for target.encode(), and empty for --quality."""
    positive = click.FloatRange(0, min_open=True)
    options = (
        click.option("-q", "--quality", type=click.FloatRange(0, 100), default=QUALITY, show_default=True,
                     help="0 (smallest) .. 100 (best)."),
        click.option("--target-size", "size", type=click.IntRange(1), metavar="BYTES",
                     help="In place of a quality, the best file of at most so many bytes."),
        click.option("--target-bpp", "bpp", type=positive, metavar="BITS", help="Likewise, bits per pixel."),
        click.option("--target-psnr", "psnr", type=positive, metavar="DB",
                     help="In place of a quality, the smallest file of at least so many decibels."),
    )  # fmt: skip

    @wraps(command)
    def with_goal(**given):
        goal = {name: given.pop(name) for name in ("size", "bpp", "psnr")}
        goal = {name: value for name, value in goal.items() if value is not None}
        by_default = click.get_current_context().get_parameter_source("quality") == ParameterSource.DEFAULT
        if len(goal) + (not by_default) > 1:
            raise click.UsageError("--quality, --target-size, --target-bpp and --target-psnr exclude each other")
        return command(goal=goal, **given)

    for option in reversed(options):
        with_goal = option(with_goal)
    return with_goal
