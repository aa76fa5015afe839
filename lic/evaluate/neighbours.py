"""CompressAI's models beside ours: seconds of compress and decompress on one picture, same threads, same run.

Its architectures are timed with random weights, which cost the same arithmetic: nothing is downloaded. The
package is an optional extra and nothing else here needs it.
"""

from functools import partial

import numpy as np
import torch
from PIL import Image

from ..codec import Codec
from ..errors import MissingExtra
from .machine import timed

ARCHITECTURES = ("mbt2018-mean", "mbt2018", "cheng2020-anchor")
QUALITY = 4  # of CompressAI's 1..8 (1..6): the smaller of their two sizes, but for cheng2020
REPEATS = 2


def zoo() -> dict:
    """CompressAI's architectures by name; raises MissingExtra if it is not installed."""
    try:
        from compressai.zoo import image_models
    except ImportError as error:
        raise MissingExtra("the comparison needs CompressAI: pip install 'lic[compressai]'") from error
    return image_models


@torch.no_grad()
def times(picture: Image.Image, models: list[Codec]) -> dict[str, tuple[float, float]]:
    """-> {name: (encode seconds, decode seconds)}, the best of REPEATS, models loaded; CompressAI's are on the CPU."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, -x.shape[3] % 64, 0, -x.shape[2] % 64), mode="replicate")
    found = {}
    for codec in models:
        data = codec.encode(picture)
        found[codec.name] = _best(partial(codec.encode, picture)), _best(partial(codec.decode, data))
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        net = zoo()[name](quality=QUALITY, metric="mse", pretrained=False).eval()
        net.update(force=True)
        coded = net.compress(x)
        found[f"CompressAI {name}"] = _best(partial(net.compress, x)), _best(partial(net.decompress, coded["strings"], coded["shape"]))
    return found


def _best(work) -> float:
    return min(timed(work)[1][0] for _ in range(REPEATS))


def table(found: dict[str, tuple[float, float]]) -> str:
    lines = ["", f"{'first image, models loaded, same threads':40} encode s  decode s"]
    return "\n".join(lines + [f"{name:40} {encode:8.2f} {decode:9.2f}" for name, (encode, decode) in found.items()])
