"""Checkpoint -> weights files."""

import dataclasses
from pathlib import Path

from torch import Tensor

from .. import exact, locate, weights
from ..entropy import ENTROPY_MODELS
from ..transforms import TRANSFORMS
from . import adopt


def export(checkpoint: Path, name: str, folder: Path) -> list[Path]:
    """Write the averaged weights of a checkpoint of any stage to `folder`; returns the files written.

    A transforms checkpoint gives NAME and NAME-hyperprior, an entropy checkpoint NAME-ENTROPY, one of a synthesis NAME and
    again all NAME-ENTROPY in `folder` that code the same latents, whose numbers stay as they are.
    """
    average, config = adopt.averaged(checkpoint)
    if "transforms" not in config:
        return [_entropy(average, config["entropy"], name, folder, config["latents_of"])]
    architecture, fields = config["transforms"]
    model, config_class = TRANSFORMS[architecture]
    transforms = model(config_class(**fields))
    transforms.load_state_dict(_part(average, "transforms."))
    path = weights.save(transforms, folder, name, "transforms", architecture, dataclasses.asdict(transforms.config))
    latents_of = locate.fingerprint_of(path)
    if "entropy" in config:
        return [path, _entropy(_part(average, "entropy."), config["entropy"], name, folder, latents_of)]
    return [path, *_again(name, folder, config["latents_of"], latents_of)]


def _entropy(average: dict[str, Tensor], model: tuple[str, dict], name: str, folder: Path, latents_of: str) -> Path:
    architecture, fields = model
    model, config_class = ENTROPY_MODELS[architecture]
    entropy = model(config_class(**fields)).eval()
    entropy.load_state_dict(average)
    exact.freeze(entropy)
    return weights.save(entropy, folder, f"{name}-{architecture}", "entropy", architecture, dataclasses.asdict(entropy.config), latents_of)


def _again(name: str, folder: Path, before: str, now: str) -> list[Path]:
    """The entropy models of the transforms `before`, as those of the transforms `now`, which make the same latents."""
    written = []
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        _, meta = weights.load(path)
        if meta["transforms"] == before:
            written.append(weights.save_again(path, now))
    return written


def _part(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
