"""The codec: encode() and decode(), side by side, and the same for sequences of frames.

    image ─ samples ─ analysis ─► y ─ round, search ─► y_hat ─ entropy model + range coder ─► payload ─► file
    image ◄ samples ◄ synthesis ◄ y_dec ◄ centroid ◄── y_hat ◄ entropy model + range coder ◄ payload ◄ file

Analysis and synthesis are float (the latter in bfloat16 where that is quicker): what the encoder decided is in the file, and
pixels may differ by a level between machines. Between y_hat and payload there are only integers (y_hat may be half-way between two, see
trellis.py): the same on every machine.

A frame of a sequence is coded like a picture, by an entropy model that also knows y_hat of the frame before. A picture
that is no photograph may be stored as it is instead, as a lossless image file (stored.py).
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import coders, container, image, locate, search, stored, trellis, weights
from .container import LEVELS, STRIDE, Frame, Header
from .defaults import EFFORT, ENTROPY, GOP, MODEL, QUALITY, TEMPORAL, TUNE
from .entropy import base, coding
from .errors import BadWeights, Corrupt, LicError, MissingWeights, Unsupported
from .image import Samples
from .measures import MEASURES
from .transforms import roughly

STRANGE = 4.0  # bits per latent, of which there are as many as pixels: photographs need up to 3, at quality 100
PLAIN = "hyperprior"
STORED = 1.25  # times the bytes of the learned code: what that loses is mostly worth more, by the lambda of training (weights/README.md)


class Codec:
    """Encodes and decodes images, keeping the models it has used in memory.

    model, entropy, temporal: names of the weights to encode with, temporal that of the entropy model for predicted frames;
    a file names the ones to decode with.
    device: "auto" (a GPU if there is one), "cpu", "cuda"; it does not change the symbols of a file.
    weights_folder: where to look for weights before the package's own. max_pixels: refuse larger images.
    keep: the metadata that files of pictures hold, "exif", "xmp" or both.
    progress: what iterates over the blocks of a search, tqdm for example.
    tune: what the search goes by, "psnr" or "ms-ssim"; decoding is the same.
    convert: make 8-bit RGB of what cannot be kept otherwise, see image.to_samples.
    store: whether a picture is stored as it is where that takes hardly more bytes.
    seconds: how long the last call spent on each stage: load, transform, search, entropy.
    """

    def __init__(
        self,
        model: str = MODEL,
        entropy: str = ENTROPY,
        device: str = "auto",
        weights_folder: Path | None = None,
        max_pixels: int = container.MAX_PIXELS,
        temporal: str = TEMPORAL,
        keep: Collection[str] = (),
        progress: search.Progress = iter,
        tune: str = TUNE,
        convert: bool = False,
        store: bool = True,
    ):
        self.model, self.name, self.temporal_name = model, f"{model}-{entropy}", f"{model}-{temporal}"
        self.device = weights.device_of(device)
        self.folders = ((Path(weights_folder),) if weights_folder else ()) + locate.FOLDERS
        self.max_pixels = max_pixels
        if strange := set(keep) - set(container.METADATA):
            raise LicError(f"keep: no metadata are called {sorted(strange)[0]!r}")
        if tune not in MEASURES:
            raise LicError(f"cannot tune for {tune!r}; known: {', '.join(MEASURES)}")
        self.keep, self.progress, self.tune, self.convert, self.store = frozenset(keep), progress, tune, convert, store
        self.seconds: dict[str, float] = {}

    @property
    def path(self) -> Path:
        """The entropy weights that it encodes with."""
        return locate.by_name(self.name, self.folders)

    @torch.inference_mode(False)  # whatever the caller is in: the search needs gradients
    @torch.no_grad()
    def encode(self, picture: Image.Image, quality: float = QUALITY, effort: int = EFFORT) -> bytes:
        """A Pillow image -> the bytes of a .lic file.

        quality: 0 (smallest) .. 100 (best). effort: 0 .. 9, how long to look for better integers (see search.py).
        """
        self.seconds = {}
        rgb, alpha, profile, *metadata = self._samples(picture)
        height, width, _ = rgb.shape
        level = _level(quality)
        models = self._load(self.path)
        rounded = self._analysis(models, rgb, level)
        colours = stored.pack_colours(rgb, alpha) if self.store else None
        if colours and len(colours) <= STORED * len(self._code(models, *rounded, level, 0)[0].payload):
            header = Header(width, height, None, LEVELS, profile, None, *metadata)
            return container.pack(header, [Frame(0, colours, alpha=stored.pack_alpha(alpha))])
        frame, _ = self._code(models, *rounded, level, effort)
        if 8 * len(frame.payload) > STRANGE * rounded[1].numel():
            models, frame = self._tamed(models, frame, rounded, level, effort)
        header = Header(width, height, models.fingerprint, level, profile, None, *metadata)
        return container.pack(header, [replace(frame, alpha=stored.pack_alpha(alpha))])

    @torch.no_grad()
    def decode(self, data: bytes, number: int | None = None) -> Image.Image:
        """The bytes of a .lic file -> a Pillow image. Raises LicError, and nothing else, for any bad input.

        number: which frame of a sequence, from 1 on. What it depends on, back to an intra frame, is read along.
        """
        self.seconds = {}
        header, frames = container.unpack(data)
        if not header.weights and number in (None, 1):
            return self._stored(header, *frames)
        if number is None and len(frames) > 1:
            raise LicError(f"a sequence of {len(frames)} frames: ask for one of them, or decode it into a folder")
        number = 1 if number is None else number
        if not 1 <= number <= len(frames):
            raise LicError(f"there is no frame {number}: the file has {len(frames)}")
        start = max(k for k in range(number) if not frames[k].predicted)
        models, latents = deque(self.read(header, frames[start:number]), maxlen=1).pop()
        return self._decode_frame(header, frames[number - 1], models, latents)

    @torch.inference_mode(False)  # whatever the caller is in: the search needs gradients
    @torch.no_grad()
    def encode_sequence(self, pictures: Iterable[Image.Image], quality: float = QUALITY, effort: int = EFFORT, gop: int = GOP) -> bytes:
        """Pillow images of one size, taken one at a time -> the bytes of a .lic file.

        Each frame is predicted from the one before or coded by itself (intra), whichever is smaller; the first and
        every gop-th after an intra frame is intra. Kept are info["duration"] of each, milliseconds, and with these
        info["loop"] of the first, how often all is shown, 0 without end.
        """
        self.seconds = {}
        level = _level(quality)
        if gop < 1:
            raise LicError(f"gop must be 1 or more, not {gop}")
        if self.keep:
            raise Unsupported("metadata are kept of pictures only, not of sequences")
        intra, temporal = self._load(self.path), self._load(locate.by_name(self.temporal_name, self.folders))
        _check_pair(intra, temporal)
        header, frames, y_hat, since_intra = None, [], None, 0
        for number, picture in enumerate(pictures, 1):
            try:
                rgb, alpha, profile, *_ = self._samples(picture)
            except LicError as error:
                raise type(error)(f"frame {number}: {error}") from error
            height, width, _ = rgb.shape
            duration, plays = image.clock(picture)
            header = header or Header(width, height, intra.fingerprint, level, profile, temporal.fingerprint, plays=plays)
            if (width, height) != (header.width, header.height):
                raise LicError(f"frame {number}: {width}x{height} pixels, but the first frame has {header.width}x{header.height}")
            if profile != header.profile:
                raise LicError(f"frame {number}: another ICC profile than the first frame's")
            rounded = self._analysis(intra, rgb, level)
            coded = [self._code(intra, *rounded, level, effort)]
            if frames and since_intra < gop:
                coded.append(self._code(temporal, *rounded, level, effort, y_hat))
            frame, y_hat = min(coded, key=lambda one: len(one[0].payload))
            frames.append(replace(frame, duration=duration, alpha=stored.pack_alpha(alpha)))
            since_intra = since_intra + 1 if frame.predicted else 1
        if header is None:
            raise LicError("a sequence needs at least one frame")
        if not any(frame.duration for frame in frames):
            header = replace(header, plays=None)
        return container.pack(header, frames)

    @torch.no_grad()
    def decode_sequence(self, data: bytes) -> Iterator[Image.Image]:
        """The bytes of a .lic file -> all its frames, one at a time; a picture has one.

        What is known of time is in their info, as encode_sequence takes it.
        """
        self.seconds = {}
        header, frames = container.unpack(data)
        if not header.weights:
            yield self._stored(header, *frames)
            return
        for frame, (models, latents) in zip(frames, self.read(header, frames), strict=True):
            decoded = self._decode_frame(header, frame, models, latents)
            decoded.info |= {} if header.plays is None else {"duration": frame.duration, "loop": header.plays}
            yield decoded

    @torch.no_grad()
    def read(self, header: Header, frames: list[Frame]) -> Iterator[tuple[weights.Models, coding.Decoded]]:
        """The first half of decoding: the latents of frames, checked, and the models they belong to.

        The first of `frames` must be an intra frame.
        """
        container.check_size(header.width, header.height, self.max_pixels)
        intra = temporal = self._load(locate.by_fingerprint(header.weights.hex(), self.folders))
        if header.predicted_by:
            temporal = self._load(locate.by_fingerprint(header.predicted_by.hex(), self.folders))
            _check_pair(intra, temporal)
        h, w = (-(-side // STRIDE) * (STRIDE // 16) for side in (header.height, header.width))
        level, y_hat = self._levels(header.level), None
        for frame in frames:
            models = temporal if frame.predicted else intra
            with self._timed("entropy"):
                reader = coders.Reader(frame.payload)
                if frame.dependent and not models.entropy.dependent:
                    raise Corrupt("damaged: its entropy model cannot code dependently quantised latents")
                latents = coding.read(models.entropy, h, w, level, reader, y_hat if frame.predicted else None, frame.dependent)
                reader.finish()
            y_hat = latents.y_hat
            if _checksum(y_hat, frame.dependent) != frame.symbols:
                raise Corrupt("the decoded latents do not match their checksum: damaged, or decoded differently on this machine")
            yield models, latents

    def _analysis(self, models: weights.Models, rgb: np.ndarray, level: int) -> tuple[Tensor, Tensor]:
        """rgb: (H, W, 3) uint8 -> x (1, 3, H, W) in [0, 1], and its rounded latents (1, M, h, w)."""
        with self._timed("transform"):
            x = torch.from_numpy(rgb.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255
            padded = _pad(x).contiguous(memory_format=torch.channels_last)
            y = models.transforms.analysis(padded, self._levels(level))
            return x, torch.round(y).clamp(-base.Y_LIMIT, base.Y_LIMIT)

    def _code(
        self, models: weights.Models, x: Tensor, y_hat: Tensor, level: int, effort: int, previous: Tensor | None = None
    ) -> tuple[Frame, Tensor]:
        """What _analysis gave, and y_hat of the frame to predict from, if any -> a frame, and its y_hat (1, M, h, w)."""
        if effort not in range(10):
            raise LicError(f"effort must be one of 0 .. 9, not {effort}")
        with self._timed("search"):
            y_hat, z_hat, dependent = search.refine(models, x, y_hat, self._levels(level), effort, previous, self.progress, self.tune)
            z_hat = None if z_hat is None else z_hat.long()
        with self._timed("entropy"):
            writer = coders.Writer()
            coding.write(models.entropy, y_hat, self._levels(level), writer, previous, z_hat, dependent)
        return Frame(_checksum(y_hat, dependent), writer.bytes(), previous is not None, dependent=dependent), y_hat

    def _tamed(
        self, models: weights.Models, frame: Frame, rounded: tuple[Tensor, Tensor], level: int, effort: int
    ) -> tuple[weights.Models, Frame]:
        """The smallest frame without search, or without context: of pictures like none in training these can know better."""
        tried = [(models, frame)]
        if effort:
            tried.append((models, self._code(models, *rounded, level, 0)[0]))
        with suppress(MissingWeights):
            plain = self._load(locate.by_name(f"{self.model}-{PLAIN}", self.folders))
            if plain.latents_of == models.latents_of:
                tried.append((plain, self._code(plain, *rounded, level, effort)[0]))
        return min(tried, key=lambda one: len(one[1].payload))

    def _decode_frame(self, header: Header, frame: Frame, models: weights.Models, latents: coding.Decoded) -> Image.Image:
        with self._timed("transform"):
            parts = zip(*(x.split(16, 1) for x in (latents.y_hat, *latents.table)), strict=True)  # what is computed on the way is large
            y_dec = torch.cat([trellis.centroid(y_hat, table, frame.dependent) for y_hat, *table in parts], 1)
            with roughly(self.device.type):
                x_hat = models.transforms.synthesis(y_dec.contiguous(memory_format=torch.channels_last), self._levels(header.level))
            x_hat = x_hat[0, :, : header.height, : header.width].clamp_(0, 1).mul_(255).round_().byte()
        return self._assembled(header, frame, x_hat.permute(1, 2, 0).cpu().numpy())

    def _stored(self, header: Header, frame: Frame) -> Image.Image:
        """A picture that is in the file as it is."""
        container.check_size(header.width, header.height, self.max_pixels)
        return self._assembled(header, frame, stored.unpack_colours(frame.payload, header.width, header.height))

    @staticmethod
    def _assembled(header: Header, frame: Frame, rgb: np.ndarray) -> Image.Image:
        alpha = None if frame.alpha is None else stored.unpack_alpha(frame.alpha, header.width, header.height)
        return image.from_samples(Samples(rgb, alpha, header.profile, header.exif, header.xmp))

    def _samples(self, picture: Image.Image) -> Samples:
        container.check_size(*picture.size, self.max_pixels)
        return image.to_samples(picture, self.convert)._replace(**dict.fromkeys(set(container.METADATA) - self.keep))

    def _levels(self, level: int) -> Tensor:
        return torch.tensor([level], device=self.device)

    def _load(self, path: Path) -> weights.Models:
        with self._timed("load"):
            return weights.load_models(path, self.device)

    @contextmanager
    def _timed(self, stage: str):
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run on after the call that starts them
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _check_pair(intra: weights.Models, temporal: weights.Models) -> None:
    if intra.latents_of != temporal.latents_of:
        raise BadWeights("the weights for intra frames and for predicted ones are of different transforms")


def _level(quality: float) -> int:
    if not 0 <= quality <= 100:  # a NaN fails too
        raise LicError(f"quality must be between 0 and 100, not {quality:g}")
    return round(quality * LEVELS / 100)


def _pad(x: Tensor) -> Tensor:
    """Repeat the last row and column up to multiples of STRIDE: (1, 3, H, W)."""
    H, W = x.shape[2:]
    return F.pad(x, (0, -W % STRIDE, 0, -H % STRIDE), mode="replicate")


def _checksum(y_hat: Tensor, dependent: bool) -> int:
    """y_hat: (1, M, h, w), integers or if dependent multiples of a half."""
    return container.checksum_of(np.ascontiguousarray((y_hat * (1 + dependent)).long().cpu().numpy().astype("<i2")).tobytes())
