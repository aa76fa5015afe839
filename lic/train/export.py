"""Checkpoint -> weights files."""

import dataclasses
from pathlib import Path

from .. import exact, locate, weights
from ..entropy import ENTROPY_MODELS
from ..transforms import TRANSFORMS
from . import adopt


def export(checkpoint: Path, name: str, folder: Path) -> list[Path]:
    """Write the averaged weights of a checkpoint of either stage to `folder`; returns the files written.

    A transforms checkpoint gives NAME and NAME-hyperprior, an entropy checkpoint NAME-ENTROPY.
    """
    average, config = adopt.averaged(checkpoint)
    written = []
    if "transforms" in config:
        architecture, fields = config["transforms"]
        model, config_class = TRANSFORMS[architecture]
        transforms = model(config_class(**fields))
        transforms.load_state_dict(_part(average, "transforms."))
        written.append(weights.save(transforms, folder, name, "transforms", architecture, dataclasses.asdict(transforms.config)))
        latents_of = locate.fingerprint_of(written[0])
        average = _part(average, "entropy.")
    else:
        latents_of = config["latents_of"]
    architecture, fields = config["entropy"]
    model, config_class = ENTROPY_MODELS[architecture]
    entropy = model(config_class(**fields)).eval()
    entropy.load_state_dict(average)
    exact.freeze(entropy)
    called = f"{name}-{architecture}"
    return [*written, weights.save(entropy, folder, called, "entropy", architecture, dataclasses.asdict(entropy.config), latents_of)]


def _part(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
