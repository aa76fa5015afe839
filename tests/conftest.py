"""Shared fixtures: tiny trained weights that never change, so files made with them must decode forever."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lic import locate, weights
from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS
from lic.train import latents

DATA = Path(__file__).parent / "data"
TINY = DATA / "weights"


class Largest(TorchDispatchMode):
    """While it is entered, how many bytes the largest tensor takes that any operation of torch returns."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


def alike(a, b) -> bool:
    """True if two pictures, or arrays of pixels, are at most one level apart: what is promised of two decodings of one file."""
    a, b = (np.asarray(x).astype(int) for x in (a, b))
    return a.shape == b.shape and int(np.abs(a - b).max()) <= 1


@pytest.fixture(scope="session")
def sample() -> Image.Image:
    return Image.open(DATA / "sample.png").convert("RGB")


@pytest.fixture(scope="session", params=sorted(ENTROPY_MODELS))
def entropy_name(request) -> str:
    """Every registered entropy model: a new one is tested by being there."""
    return request.param


@pytest.fixture(scope="session")
def tiny(entropy_name) -> Codec:
    return Codec(model="tiny", entropy=entropy_name, device="cpu", weights_folder=TINY, store=False)


@pytest.fixture(scope="session")
def model(entropy_name):
    """A frozen (exact) tiny entropy model."""
    return weights.load_models(locate.by_name(f"tiny-{entropy_name}", (TINY,)), torch.device("cpu")).entropy


@pytest.fixture(scope="session")
def drawing() -> Image.Image:
    """Of few colours, as a screenshot or a chart."""
    rgb = np.full((120, 150, 3), 250, np.uint8)
    rgb[20:70, 10:40] = 200, 30, 60
    rgb[::7, 60::5] = 0
    return Image.fromarray(rgb)


@pytest.fixture(scope="session")
def noise_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    picture = Image.open(DATA / "sample.png")
    for i in range(6):
        picture.crop((30 * i, 10 * i, 30 * i + 160, 10 * i + 140)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def searched(folder, tmp_path_factory) -> dict[str, Path]:
    """Folders of latents of the tiny transforms to train entropy models with: of pictures, all integers, and of pairs of frames."""
    folders = {}
    for name, entropy in (("pictures", "parallel"), ("integers", "hyperprior"), ("pairs", "spatiotemporal")):
        models = weights.load_models(locate.by_name(f"tiny-{entropy}", (TINY,)), torch.device("cpu"))
        options = {"pairs": name == "pairs", "integers": name == "integers", "count": 12, "crop": 64, "enlarge": 1.5, "seed": 3}
        latents.write(folder, folders.setdefault(name, tmp_path_factory.mktemp(name)), models, **options)
    return folders
