"""Weights files: verify, load, save. (locate.py finds them.)

A weights file is a safetensors file called NAME.FINGERPRINT.safetensors. FINGERPRINT is the beginning of
the SHA-256 of its bytes; .lic files carry it. Its metadata says what it is, in one JSON
object called `lic` (safetensors keeps no order among metadata, and the same model must give the same bytes):

    kind        transforms | entropy
    name        key of TRANSFORMS or ENTROPY_MODELS
    config      the fields of the architecture's config
    transforms  (entropy) fingerprint of the transforms whose latents it codes
    self_test   (entropy) checksum of a small known prediction, see `self_test`
    tensors_of  (entropy) fingerprint of the file that has the tensors, if this one has none: a model that is the same as
                before, for transforms whose synthesis alone is another

Transforms are stored in fp16; of an entropy model, what decides bits is stored as integers (int16 where
they fit, or all but a few do: these follow apart, see LARGE), the rest in fp16. An entropy model called A-B codes
the latents of the transforms called A.
"""

import hashlib
import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import exact, locate
from .container import FINGERPRINT_BYTES
from .entropy import ENTROPY_MODELS
from .entropy.base import EntropyModel, all_but_last_step, all_cells
from .entropy.gaussian import table_index
from .errors import BadWeights, LicError, MissingWeights
from .transforms import TRANSFORMS

OLDER = "older"  # subfolder for weights that others have replaced
LARGE = ".large"  # after a tensor's name: its few numbers that int16 cannot hold, (2, n) int32, where they are in the flat tensor and what
SMALL = 1024  # numbers; of what has fewer, nothing is put apart

_REGISTRIES = {"transforms": TRANSFORMS, "entropy": ENTROPY_MODELS}
_DRAWS = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}


class Models(NamedTuple):
    """A pair of transforms and an entropy model trained on their latents, ready to code."""

    transforms: nn.Module
    entropy: EntropyModel
    fingerprint: bytes  # of the entropy weights
    latents_of: str  # fingerprint of the transforms


class _Undrawn(TorchFunctionMode):
    """A context where parameters are not drawn at random, as they come from a file: to draw takes longer than to read."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function in _DRAWS else function(*args, **(kwargs or {}))


def device_of(name: str) -> torch.device:
    """auto (a GPU if there is one), cpu or cuda -> what torch calls it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise LicError("no CUDA device is available here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fingerprint_of(data: bytes) -> str:
    """The part of the SHA-256 that names a file: hexadecimal."""
    return hashlib.sha256(data).hexdigest()[: 2 * FINGERPRINT_BYTES]


def load(path: Path) -> tuple[nn.Module, dict]:
    """A weights file -> its model (entropy models in the exact face, proven) and its metadata."""
    try:
        meta, tensors = _read(path)
        if "tensors_of" in meta:
            tensors = _read(locate.by_fingerprint(meta["tensors_of"], (path.parent, *locate.FOLDERS)))[1]
        architecture, config = _REGISTRIES[meta["kind"]][meta["name"]]
        with _Undrawn():
            model = architecture(config(**meta["config"]))
        model.requires_grad_(False).eval()
        if meta["kind"] == "entropy":
            exact.freeze(model)  # gives the parameters their exact dtype; the values follow
        model.load_state_dict(tensors)  # copies convert fp16 and int16 to each parameter's own dtype
    except OSError as error:
        raise MissingWeights(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise BadWeights(f"{path.name}: {str(error).splitlines()[0]}") from error
    if meta["kind"] == "entropy":
        exact.prove(model)
        if self_test(model) != meta["self_test"]:
            raise BadWeights(f"{path.name}: the self-test gives other numbers on this machine")
    return model, meta


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Metadata and tensors of a file, if it is what its name says."""
    data = path.read_bytes()
    if fingerprint_of(data) != locate.fingerprint_of(path):
        raise BadWeights(f"{path.name}: contents do not match the fingerprint in the name")
    with safe_open(path, "pt") as file:
        tensors = _whole({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118, not a dict
        return json.loads((file.metadata() or {})["lic"]), tensors


@cache
@torch.inference_mode(False)  # the first caller must not decide what later ones can do with them
def load_models(path: Path, device: torch.device) -> Models:
    """Entropy weights -> models on `device`, with the transforms they belong to (searched beside them)."""
    entropy, meta = load(path)
    if meta["kind"] != "entropy":
        raise BadWeights(f"{path.name}: these are weights of transforms, not of an entropy model")
    transforms = _load_transforms(locate.by_fingerprint(meta["transforms"], (path.parent, *locate.FOLDERS)), device)
    entropy.to(device)
    if device.type != "cpu" and self_test(entropy) != meta["self_test"]:
        raise BadWeights(f"{path.name}: the self-test gives other numbers on {device}; use --device cpu")
    return Models(transforms, entropy, bytes.fromhex(locate.fingerprint_of(path)), meta["transforms"])


@cache
@torch.inference_mode(False)
def _load_transforms(path: Path, device: torch.device) -> nn.Module:
    """One object in memory for all entropy models of the same transforms."""
    return load(path)[0].to(device, memory_format=torch.channels_last)


def save(model: nn.Module, folder: Path, called: str, kind: str, name: str, config: dict, transforms: str = "") -> Path:
    """Write a weights file; an entropy model must be in its exact face. Returns its path.

    Others of that name go to a subfolder: files made with them still decode, but the name is the new one's.
    """
    meta = {"kind": kind, "name": name, "config": config}
    if kind == "entropy":
        exact.prove(model)
    tensors = {}
    for key, value in model.state_dict().items():
        tensors |= _compact(key, value)
    if kind == "entropy":
        model.load_state_dict(_whole(tensors))  # the self-test must see what a reader of the file sees
        meta |= {"transforms": transforms, "self_test": self_test(model)}
    return _write(folder, called, meta, tensors)


def save_again(path: Path, transforms: str) -> Path:
    """Write the entropy model of a weights file as that of other transforms, which make the same latents, beside it. Returns its path."""
    meta, _ = _read(path)
    meta = {"tensors_of": locate.fingerprint_of(path)} | meta | {"transforms": transforms}
    return _write(path.parent, locate.name_of(path), meta, {})


def _write(folder: Path, called: str, meta: dict, tensors: dict[str, Tensor]) -> Path:
    data = to_safetensors(tensors, {"lic": json.dumps(meta, sort_keys=True)})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{called}.{fingerprint_of(data)}.safetensors"
    path.write_bytes(data)
    for old in set(folder.glob(f"{called}.*.safetensors")) - {path}:
        (folder / OLDER).mkdir(exist_ok=True)
        old.replace(folder / OLDER / old.name)
    return path


def _compact(key: str, x: Tensor) -> dict[str, Tensor]:
    """A parameter as it is stored, by name."""
    if not exact.is_exact(x):
        return {key: x.to(torch.float16).contiguous()}
    if bool((x.abs() > torch.iinfo(torch.int32).max).any()):
        raise BadWeights("a parameter is too large for 32 bits")
    flat = x.flatten()
    large = torch.nonzero(flat.abs() > torch.iinfo(torch.int16).max)[:, 0]
    if len(large) and (len(flat) < SMALL or 4 * len(large) >= len(flat)):
        return {key: x.to(torch.int32).contiguous()}
    stored = {key: flat.index_fill(0, large, 0).view_as(x).to(torch.int16)}
    if len(large):
        stored[key + LARGE] = torch.stack((large, flat[large].long())).to(torch.int32)
    return stored


def _whole(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What _compact made of all parameters -> themselves, but for their dtypes."""
    tensors = {key: x for key, x in stored.items() if not key.endswith(LARGE)}
    for key in stored.keys() - tensors.keys():
        places, values = stored[key]
        x = tensors[key.removesuffix(LARGE)]
        tensors[key.removesuffix(LARGE)] = x.int().flatten().index_copy(0, places.long(), values).view_as(x)
    return tensors


@torch.inference_mode()
def self_test(model: EntropyModel) -> str:
    """Checksum of the tables that a frozen model chooses for a small known input: integers, the same everywhere."""
    device = next(model.parameters()).device
    h, w, level = 8, 8, torch.tensor([2085], device=device)
    M, z_size = model.latents, (1, *model.hyper.size(h, w))
    z_hat = torch.arange(math.prod(z_size), device=device).reshape(z_size) * 37 % 11 - 5
    y_hat = torch.arange(M * h * w, device=device).reshape(1, M, h, w) * 61 % 23 - 11
    side = model.side(exact.to_fixed(z_hat), level, exact.to_fixed(y_hat.flip(1)))
    model.remember(side, exact.to_fixed(y_hat), all_but_last_step(model, h, w, device))
    chosen = [
        *table_index(*model.predict(side, exact.to_fixed(y_hat), all_cells(model.groups * h * w, device))),
        *table_index(*model.hyper.parameters_of_z(level, z_size)),
    ]
    return f"{zlib.crc32(b''.join(x.cpu().contiguous().numpy().astype('<i8').tobytes() for x in chosen)):08x}"
