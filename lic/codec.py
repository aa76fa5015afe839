"""The codec: encode() and decode(), side by side.

    image ─ samples ─ analysis ─► y ─ round, search ─► y_hat ─ entropy model + range coder ─► payload ─► file
    image ◄ samples ◄ synthesis ◄ y_dec ◄ centroid ◄── y_hat ◄ entropy model + range coder ◄ payload ◄ file

Analysis and synthesis are float: what the encoder decided is in the file, and pixels may differ by a
level between machines. Between y_hat and payload there are only integers: the same on every machine.
"""

import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import coders, container, image, locate, search, weights
from .container import LEVELS, Header
from .entropy import base, gaussian
from .errors import Corrupt, LicError
from .transforms import STRIDE

QUALITY = 50.0  # default
EFFORT = 1  # default
MODEL, ENTROPY = "lite", "parallel"  # default weights: transforms and entropy model


class Codec:
    """Encodes and decodes images, keeping the models it has used in memory.

    model, entropy: names of the weights to encode with; a file names the ones to decode with.
    device: "auto" (a GPU if there is one), "cpu", "cuda"; it does not change the symbols of a file.
    weights_folder: where to look for weights before the package's own. max_pixels: refuse larger images.
    seconds: how long the last call spent on each stage: load, transform, search, entropy.
    """

    def __init__(
        self,
        model: str = MODEL,
        entropy: str = ENTROPY,
        device: str = "auto",
        weights_folder: Path | None = None,
        max_pixels: int = container.MAX_PIXELS,
    ):
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise LicError("no CUDA device is available here; use --device cpu")
        self.name = f"{model}-{entropy}"
        self.device = torch.device(device)
        self.folders = ((Path(weights_folder),) if weights_folder else ()) + locate.FOLDERS
        self.max_pixels = max_pixels
        self.seconds: dict[str, float] = {}

    @property
    def path(self) -> Path:
        """The entropy weights that it encodes with."""
        return locate.by_name(self.name, self.folders)

    @torch.no_grad()
    def encode(self, picture: Image.Image, quality: float = QUALITY, effort: int = EFFORT) -> bytes:
        """A Pillow image -> the bytes of a .lic file.

        quality: 0 (smallest) .. 100 (best). effort: 0 .. 9, how long to look for better integers (see search.py).
        """
        self.seconds = {}
        container.check_size(*picture.size, self.max_pixels)
        samples, profile = image.to_samples(picture)
        level = _level(quality)
        with self._timed("load"):
            models = weights.load_models(self.path, self.device)

        with self._timed("transform"):
            levels = torch.tensor([level], device=self.device)
            x = _pad(torch.from_numpy(samples.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255)
            y = models.transforms.analysis(x.contiguous(memory_format=torch.channels_last), levels)
            y_hat = torch.round(y).clamp(-base.Y_LIMIT, base.Y_LIMIT)
        with self._timed("search"):

            def predict(y_hat):
                return gaussian.from_index(*base.predict_all(models.entropy, y_hat.long(), levels)[1])

            y_hat = search.refine(predict, models.transforms, x, y_hat, levels, _rounds(effort), samples.shape[:2]).long()
        with self._timed("entropy"):
            writer = coders.Writer()
            base.write(models.entropy, y_hat, levels, writer)

        height, width, _ = samples.shape
        header = Header(width, height, models.fingerprint, level, _checksum(y_hat), profile)
        return container.pack(header, writer.bytes())

    @torch.no_grad()
    def decode(self, data: bytes) -> Image.Image:
        """The bytes of a .lic file -> a Pillow image. Raises LicError, and nothing else, for any bad input."""
        header, models, latents = self.read(data)

        with self._timed("transform"):
            levels = torch.tensor([header.level], device=self.device)
            y_dec = gaussian.centroid(latents.y_hat.float(), *gaussian.from_index(*latents.table))
            x_hat = models.transforms.synthesis(y_dec.contiguous(memory_format=torch.channels_last), levels)
            x_hat = x_hat[0, :, : header.height, : header.width].clamp(0, 1).mul(255).round().byte()
        return image.from_samples(x_hat.permute(1, 2, 0).cpu().numpy(), header.profile)

    @torch.no_grad()
    def read(self, data: bytes) -> tuple[Header, weights.Models, base.Decoded]:
        """The first half of `decode`: the latents in the bytes of a .lic file, checked, and the models they belong to."""
        self.seconds = {}
        header, payload = container.unpack(data)
        container.check_size(header.width, header.height, self.max_pixels)
        with self._timed("load"):
            models = weights.load_models(locate.by_fingerprint(header.weights.hex(), self.folders), self.device)

        with self._timed("entropy"):
            h, w = (-(-side // STRIDE) * (STRIDE // 16) for side in (header.height, header.width))
            reader = coders.Reader(payload)
            latents = base.read(models.entropy, h, w, torch.tensor([header.level], device=self.device), reader)
            reader.finish()
        if _checksum(latents.y_hat) != header.symbols:
            raise Corrupt("the decoded latents do not match their checksum: damaged, or decoded differently on this machine")
        return header, models, latents

    @contextmanager
    def _timed(self, stage: str):
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run on after the call that starts them
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _level(quality: float) -> int:
    if not 0 <= quality <= 100:  # a NaN fails too
        raise LicError(f"quality must be between 0 and 100, not {quality:g}")
    return round(quality * LEVELS / 100)


def _rounds(effort: int) -> int:
    if effort not in range(10):
        raise LicError(f"effort must be one of 0 .. 9, not {effort}")
    return search.ROUNDS * effort


def _pad(x: Tensor) -> Tensor:
    """Repeat the last row and column up to multiples of STRIDE: (1, 3, H, W)."""
    H, W = x.shape[2:]
    return F.pad(x, (0, -W % STRIDE, 0, -H % STRIDE), mode="replicate")


def _checksum(y_hat: Tensor) -> int:
    """y_hat: (1, M, h, w) int64."""
    return container.checksum_of(np.ascontiguousarray(y_hat.cpu().numpy().astype("<i2")).tobytes())
