"""The two stages: transforms jointly with an entropy model, then any entropy model on frozen latents."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from .. import exact, weights
from ..entropy import ENTROPY_MODELS
from ..errors import LicError
from ..transforms import TRANSFORMS
from . import data, linear_start, loss, scales
from .loop import fit
from .pairs import Pairs

FIT_CROPS, FIT_SIZE = 1024, 128  # what the linear start is fitted to
START_CROPS = 128  # of the same size, what an entropy model and the scales of blocks start from
VALIDATION_SIZE = 256


def _build(registry: dict, name: str, config: dict) -> nn.Module:
    if name not in registry:
        raise LicError(f"unknown model {name!r}; known: {', '.join(sorted(registry))}")
    model, config_class = registry[name]
    try:
        return model(config_class(**config))
    except TypeError as error:
        raise LicError(f"config of {name}: {error}") from error


def train_transforms(
    folder: Path,
    checkpoint: Path,
    device: torch.device,
    *,
    name: str,
    config: dict,
    entropy: str = "hyperprior",
    entropy_config: dict,
    start: Path | None = None,
    entropy_start: Path | None = None,
    **options,
) -> None:
    """Train the transforms `name` and the model `entropy` on the images of `folder`; see loop.fit for the options.

    `start`: a checkpoint of this stage, or a weights file; what its models have in common with these starts from there (_adopt).
    `entropy_start`: a checkpoint of either stage, or a weights file, for `entropy`.
    """
    transforms = _build(TRANSFORMS, name, config)
    M = transforms.config.latents
    model = _build(ENTROPY_MODELS, entropy, {"latents": M, "anchors": transforms.config.anchors} | entropy_config)
    pictures, held_out = data.load(folder, device)
    both = nn.ModuleDict({"transforms": transforms, "entropy": model}).to(device)
    if not checkpoint.exists():
        linear_start.initialise(transforms, model, pictures.crops(FIT_CROPS, FIT_SIZE, torch.Generator().manual_seed(1)))
        if start:
            _adopt(both, _averages(start))
        if entropy_start:
            _adopt(model, _entropy_averages(entropy_start))
    scales.attach(transforms)
    if not checkpoint.exists():
        scales.measure(transforms, pictures.crops(START_CROPS, FIT_SIZE, torch.Generator().manual_seed(1)))
    validation = held_out.centres(VALIDATION_SIZE)

    def batch_loss(model, x, generator):
        levels = loss.draw_levels(len(x), generator).to(device)
        return loss.rate_distortion(model["transforms"], model["entropy"], x, levels)

    fit(
        both, batch_loss, lambda m: loss.validate(m["transforms"], m["entropy"], validation), pictures, checkpoint,
        config={"transforms": [name, dataclasses.asdict(transforms.config)],
                "entropy": [entropy, dataclasses.asdict(model.config)]}, **options,
    )  # fmt: skip


def train_entropy(
    folder: Path,
    checkpoint: Path,
    transforms: nn.Module,
    fingerprint: str,
    *,
    name: str,
    config: dict,
    start: Path | None = None,
    **options,
) -> None:
    """Train the entropy model `name` on the latents of frozen `transforms` (of that fingerprint).

    `start`: a checkpoint of either stage, or a weights file; what its entropy model has in common with this one starts from
    there (_adopt).
    """
    device = next(transforms.parameters()).device
    M = transforms.config.latents
    entropy = _build(ENTROPY_MODELS, name, {"latents": M, "anchors": transforms.config.anchors} | config).to(device)
    pictures, held_out = data.load(folder, device)
    transforms.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if not checkpoint.exists():
        linear_start.start_entropy(transforms, entropy, pictures.crops(START_CROPS, FIT_SIZE, torch.Generator().manual_seed(1)))
        there = _entropy_averages(start) if start else {}
        _adopt(entropy, there)
        if "picture.weight" in entropy.state_dict().keys() - there.keys():  # motion, of which a model of pictures knows nothing
            linear_start.initialise_motion(transforms, entropy, pictures.crops(128, FIT_SIZE, torch.Generator().manual_seed(1)))
    if entropy.looks_back:
        pictures, held_out = Pairs(pictures), Pairs(held_out)
    validation = held_out.centres(VALIDATION_SIZE)

    def batch_loss(model, x, generator):
        return loss.latent_rate_distortion(transforms, model, x, loss.draw_levels(len(x), generator).to(device))

    fit(
        entropy, batch_loss, lambda m: loss.validate(transforms, m, validation), pictures, checkpoint,
        config={"latents_of": fingerprint, "entropy": [name, dataclasses.asdict(entropy.config)]}, **options,
    )  # fmt: skip


def _averages(start: Path) -> dict:
    """The parameters in a checkpoint of either stage or in a weights file."""
    if start.suffix != ".safetensors":
        return scales.folded(torch.load(start, map_location="cpu", weights_only=True)["average"])
    model, meta = weights.load(start)
    if meta["kind"] == "entropy":
        return exact.thaw(model).state_dict()
    return {f"transforms.{key}": value for key, value in model.state_dict().items()}


def _entropy_averages(start: Path) -> dict:
    """Those of the entropy model there."""
    return {key.removeprefix("entropy."): value for key, value in _averages(start).items()}


@torch.no_grad()
def _adopt(model: nn.Module, there: dict) -> None:
    """Copy parameters of equal name; a larger one takes the other's first inputs, at its centre if a kernel, and is zero elsewhere.

    So a grown model starts as the same function, if what it has in addition starts without effect.
    """
    for key, own in model.state_dict().items():
        other = there.get(key)
        if other is None or other.ndim != own.ndim or len(other) != len(own):
            continue
        if all(mine >= yours for mine, yours in zip(own.shape, other.shape, strict=True)):
            place = own.zero_()[:, : other.shape[1]] if own.ndim > 1 else own
            for dim in range(2, own.ndim):
                place = place.narrow(dim, (own.shape[dim] - other.shape[dim]) // 2, other.shape[dim])
            place.copy_(other)
