"""What a model that is to be trained takes over from checkpoints and weights files."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import exact, weights
from ..entropy import ENTROPY_MODELS
from ..entropy.base import EntropyModel
from ..entropy.sections import Sections
from ..errors import BadWeights
from . import scales
from .loop import load

HIDDEN = re.compile(r"transforms\.|entropy\.sections\.\d+\.(context|hidden)\.|entropy\.attention\.\d+\.correction\.")  # outputs may be more


def parameters(files: Sequence[Path], entropy: EntropyModel | None) -> dict[str, Tensor]:
    """What is in checkpoints of any stage and weights files, by name, "transforms." or "entropy." first; the last one's, if in several.

    Parameters of an entropy model are as `entropy` wants them: what looks at neighbours looks at the same ones.
    """
    found = {}
    for file in files:
        there, other = _read(file)
        if isinstance(entropy, Sections) and isinstance(other, Sections):
            there |= _at_their_places(entropy, other, there)
        found |= there
    return found


def _read(file: Path) -> tuple[dict[str, Tensor], EntropyModel | None]:
    """All parameters in a file, and the model that those of an entropy model are from (its numbers may be others)."""
    if file.suffix == ".safetensors":
        model, meta = weights.load(file)
        if meta["kind"] == "transforms":
            return _named("transforms", model.state_dict()), None
        return _named("entropy", exact.thaw(model).state_dict()), model
    average, config = averaged(file)
    if "entropy" not in config:
        return average, None
    name, fields = config["entropy"]
    model, config_class = ENTROPY_MODELS[name]
    return average if "transforms" in config else _named("entropy", average), model(config_class(**fields))


def averaged(checkpoint: Path) -> tuple[dict[str, Tensor], dict]:
    """The averaged parameters in a checkpoint of any stage, and what it says of its models."""
    state = load(checkpoint)
    config = state.get("config", {})
    if len({"transforms", "latents_of", "entropy"} & set(config)) != 2:
        raise BadWeights(f"{checkpoint}: not a checkpoint of this program")
    return scales.folded(state["average"]), config


def _named(part: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{key}": value for key, value in state.items()}


def _at_their_places(own: Sections, other: Sections, there: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first layers of the other's sections with the columns of neighbours where `own` has these, zero for those it alone has."""
    moved = {}
    if (own.first, own.neighbours) != (other.first, other.neighbours):  # other sections
        return moved
    for k, (section, begin) in enumerate(zip(own.sections, own.neighbours, strict=True)):
        key, size = f"entropy.sections.{k}.context.weight", 2 * (own.first[k + 1] - own.first[k])
        theirs = there[key]
        mine = moved[key] = theirs.new_zeros(len(theirs), section.context.weight.shape[1])
        before = begin  # columns before those of neighbours: first of latents, then of differences
        for _ in range(1 + (own.looks_back and other.looks_back)):
            (head, *places, mine), (other_head, *columns, theirs) = (
                matrix.split([before, *[size] * len(model.taps[k]), matrix.shape[1] - before - size * len(model.taps[k])], 1)
                for matrix, model in ((mine, own), (theirs, other))
            )
            head.copy_(other_head)
            known = dict(zip(other.taps[k], columns, strict=True))
            for tap, place in zip(own.taps[k], places, strict=True):
                if tap in known:
                    place.copy_(known[tap])
            before = 2 * own.first[k + 1]
    return moved


@torch.no_grad()
def adopt(model: nn.Module, there: dict[str, Tensor]) -> None:
    """Copy parameters of equal name; a larger one takes the other's first inputs, at its centre if a kernel, and is zero elsewhere.

    Layers of HIDDEN may have further outputs, too, which stay as they are. So a grown model starts as the same function, if
    what it has in addition starts without effect.
    """
    for key, own in model.state_dict().items():
        other = there.get(key)
        if other is None or other.ndim != own.ndim or (len(other) != len(own) and not HIDDEN.match(key)):
            continue
        if all(mine >= yours for mine, yours in zip(own.shape, other.shape, strict=True)):
            place = own[: len(other)]
            if own.ndim > 1:
                place = place.zero_()[:, : other.shape[1]]
            for dim in range(2, own.ndim):
                place = place.narrow(dim, (own.shape[dim] - other.shape[dim]) // 2, other.shape[dim])
            place.copy_(other)
