"""Our codec as it is measured: warm, with its model loaded, and cold, as processes of their own."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from ..codec import Codec
from ..defaults import EFFORT, TUNE
from .machine import process


def parts(name: str) -> tuple[str, str, str]:
    """MODEL-ENTROPY or MODEL-ENTROPY+TUNE, as evaluations call it -> model, entropy, tune."""
    weights, _, tune = name.partition("+")
    model, _, entropy = weights.partition("-")
    return model, entropy, tune or TUNE


@cache
def warm(name: str, device: str) -> Codec:
    """The codec called `name`, after its first call: what it needs once is done. It stores no picture as it is: models are measured."""
    model, entropy, tune = parts(name)
    codec = Codec(model, entropy, device, tune=tune, store=False)
    codec.decode(codec.encode(Image.new("RGB", (64, 64))))
    return codec


def cold(name: str, picture: Path, device: str, effort: int = EFFORT) -> dict[str, tuple[float, float | None]]:
    """`lic encode` and `lic decode` at the default quality, interpreter, torch and weights included, with as many threads as here.

    -> {"encode": (seconds, peak megabytes, see machine.py), "decode": ...}. The picture comes out as PPM: what writing a
    PNG costs is not ours.
    """
    model, entropy, tune = parts(name)
    options = ["--device", device, "--threads", torch.get_num_threads()]
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder, "a.lic"), Path(folder, "a.ppm")
        encode = ["encode", "--quiet", "--effort", effort, "--model", model, "--entropy", entropy, "--tune", tune, *options, picture, coded]
        return {"encode": process(encode), "decode": process(["decode", *options, coded, decoded])}
