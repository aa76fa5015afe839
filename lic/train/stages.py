"""The stages: transforms jointly with an entropy model, then any entropy model on frozen latents, and the synthesis on the same."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..entropy import ENTROPY_MODELS
from ..errors import LicError
from ..transforms import TRANSFORMS
from . import adopt, data, linear_start, loss, scales
from .latents import BETWEEN, FOUND, ROUNDED, DecodedPool, Pool, WithFresh
from .loop import fit, load

FIT_CROPS, FIT_SIZE = 1024, 128  # what the linear start is fitted to
START_CROPS = 128  # of the same size, what the scales of blocks start from
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
    start: Sequence[Path] = (),
    batch: int,
    crop: int,
    last_crop: int,
    enlarge: float = 1.0,
    recolour: bool = False,
    also: Path | None = None,
    **options,
) -> None:
    """Train the transforms `name` and the model `entropy` on the images of `folder`; see data.py and loop.fit for the options.

    `start`: checkpoints of either stage, and weights files; what their models have in common with these starts from there (adopt.py).
    """
    transforms = _build(TRANSFORMS, name, config)
    M = transforms.config.latents
    model = _build(ENTROPY_MODELS, entropy, {"latents": M, "anchors": transforms.config.anchors} | entropy_config)
    pictures, held_out = data.load(folder, device, also)
    both = nn.ModuleDict({"transforms": transforms, "entropy": model}).to(device)
    if not checkpoint.exists():
        linear_start.initialise(transforms, model, pictures.crops(FIT_CROPS, FIT_SIZE, torch.Generator().manual_seed(1)))
        adopt.adopt(both, adopt.parameters(start, model))
    scales.attach(transforms)
    if not checkpoint.exists():
        scales.measure(transforms, pictures.crops(START_CROPS, FIT_SIZE, torch.Generator().manual_seed(1)))
    validation = held_out.centres(VALIDATION_SIZE)

    fit(
        both,
        lambda m, batch: loss.rate_distortion(m["transforms"], m["entropy"], *batch),
        lambda m: loss.validate(m["transforms"], m["entropy"], validation),
        data.Crops(pictures, batch, crop, last_crop, enlarge, recolour), checkpoint,
        config={"transforms": [name, dataclasses.asdict(transforms.config)],
                "entropy": [entropy, dataclasses.asdict(model.config)]}, captured=model.capturable, **options,
    )  # fmt: skip


def train_entropy(
    pool: Pool,
    checkpoint: Path,
    transforms: nn.Module,
    *,
    name: str,
    config: dict,
    start: Sequence[Path] = (),
    keep: tuple[str, ...] = (),
    fresh: Path | None = None,
    enlarge: float = 1.0,
    bfloat16: bool = False,
    **options,
) -> None:
    """Train the entropy model `name` on the latents of `pool`, those of frozen `transforms`; see loop.fit for the options.

    `start`: checkpoints of either stage, and weights files; what their entropy models have in common with this one starts from
    there (adopt.py). `keep`: parameters whose names begin with one of these stay as they start. `fresh`: a folder of images,
    of which every batch has as many crops again, every second one enlarged by up to `enlarge`; what has been learned of
    distortion stays (latents.WithFresh).
    """
    M = transforms.config.latents
    entropy = _build(ENTROPY_MODELS, name, {"latents": M, "anchors": transforms.config.anchors} | config).to(pool.device)
    if entropy.looks_back != (pool.crops[0].previous.numel() > 0):
        raise LicError(f"{name} wants latents of {'pairs of frames' if entropy.looks_back else 'single pictures'}")
    if pool.dependent and not entropy.dependent:
        raise LicError(f"{name} wants integers: latents of `lic train latents --integers`")
    if not checkpoint.exists():
        linear_start.start_entropy(entropy, pool)
        there = adopt.parameters(start, entropy)
        adopt.adopt(nn.ModuleDict({"entropy": entropy}), there)
        if getattr(entropy, "temporal", None) and "entropy.temporal.picture.weight" not in there:  # a model of pictures knows no motion
            linear_start.initialise_motion(transforms, entropy, pool)

    batches = pool
    if fresh:
        if entropy.looks_back:
            raise LicError(f"{name} wants pairs of frames, and fresh crops are of single pictures")
        if not (start or checkpoint.exists()):
            raise LicError("fresh crops are for models that have learned already, and there is nothing to start from")
        if checkpoint.exists():
            entropy.load_state_dict(load(checkpoint, pool.device)["average"])
        batches = WithFresh(pool, data.load(fresh, pool.device)[0], enlarge, transforms, entropy)
    for key, parameter in entropy.named_parameters():
        parameter.requires_grad_(not key.startswith(keep))

    def batch_loss(model, latents):
        losses, parts = loss.latent_rate_distortion(transforms.config, model, loss.Latents(*latents))
        return losses.mean(), {key: value.mean() for key, value in parts.items()}

    def judged(model):
        states = {"loss": FOUND, ROUNDED: ROUNDED, BETWEEN: BETWEEN}
        return loss.validate_latents(transforms.config, model, {name: pool.held_out(state) for name, state in states.items()})

    fit(
        entropy, batch_loss, judged, batches, checkpoint,
        config={"latents_of": pool.fingerprint, "entropy": [name, dataclasses.asdict(entropy.config)]}, bfloat16=bfloat16,
        captured=entropy.capturable, **options,
    )  # fmt: skip


def train_synthesis(
    pool: DecodedPool,
    checkpoint: Path,
    transforms: nn.Module,
    *,
    name: str,
    config: dict,
    start: Sequence[Path] = (),
    **options,
) -> None:
    """Train the synthesis of `transforms` (of that `name` in TRANSFORMS) on what it gets of the latents of `pool`, which stay as they are.

    `config`: of the synthesis, where it shall be larger. `start`: as in train_transforms, but for the synthesis only.
    """
    if set(config) - {"synthesis"}:
        raise LicError("only the synthesis may change: the latents are the analysis's")
    model = _build(TRANSFORMS, name, dataclasses.asdict(transforms.config) | config)
    both = nn.ModuleDict({"transforms": model}).to(pool.device)
    if not checkpoint.exists():
        own = tuple(f"transforms.{word}" for word in model.decoder)
        theirs = {key: value for key, value in adopt.parameters(start, None).items() if key.startswith(own)}
        adopt.adopt(both, nn.ModuleDict({"transforms": transforms}).state_dict() | theirs)
    scales.attach(model)
    if not checkpoint.exists():
        scales.measure(model, pool.pixels(START_CROPS, FIT_SIZE))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith(model.decoder))

    fit(
        both,
        lambda m, batch: loss.decoded_distortion(m["transforms"], loss.Decoded(*batch)),
        lambda m: loss.validate_decoded(m["transforms"], {"loss": pool.held_out(FOUND), ROUNDED: pool.held_out(ROUNDED)}),
        pool, checkpoint,
        config={"transforms": [name, dataclasses.asdict(model.config)], "latents_of": pool.fingerprint}, captured=True, **options,
    )  # fmt: skip
