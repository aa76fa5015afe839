"""Options that several commands share."""

from pathlib import Path

import click

from . import container
from .defaults import EFFORT

effort_option = click.option("-e", "--effort", type=click.IntRange(0, 9), default=EFFORT, show_default=True,
                             help="Time spent on smaller files; 0 is quickest.")  # fmt: skip
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", envvar="LIC_DEVICE",
                             show_default=True, help="Where to compute; files do not depend on it.")  # fmt: skip
threads_option = click.option("--threads", type=click.IntRange(1), envvar="LIC_THREADS", help="CPU threads [default: all].")
pixels_option = click.option("--max-pixels", type=click.IntRange(1), default=container.MAX_PIXELS, show_default=True,
                             help="Refuse larger images.")  # fmt: skip
weights_option = click.option("--weights", "weights_folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
                              help="Folder of further weights files.")  # fmt: skip
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
