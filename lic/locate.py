"""Where weights files are: NAME.FINGERPRINT.safetensors in the folders below, of each name the current one. No torch here."""

import re
from pathlib import Path

from .errors import MissingWeights

_PACKAGE = Path(__file__).resolve().parent
FOLDERS = (_PACKAGE / "_weights", _PACKAGE.parent / "weights")  # of an installed package, of a checkout


def _find(pattern: str, what: str, folders: tuple[Path, ...]) -> Path:
    for folder in folders:  # the first one that has any
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise MissingWeights(f"no weights {what} in {' or '.join(map(str, folders))}")


def names(folders: tuple[Path, ...] = FOLDERS) -> list[str]:
    """What all current weights are called."""
    return sorted({name_of(path) for folder in folders for path in folder.glob("*.safetensors")})


def by_name(name: str, folders: tuple[Path, ...] = FOLDERS) -> Path:
    """The current weights called `name`."""
    if not re.fullmatch(r"[\w-]+", name):
        raise MissingWeights(f"{name!r} is no name of weights: letters, digits, - and _")
    try:
        return _find(f"{name}.*.safetensors", f"called {name}", folders)
    except MissingWeights as error:
        _, _, entropy = name.partition("-")
        models = [model for model, _, other in (there.partition("-") for there in names(folders)) if entropy and other == entropy]
        if models:
            raise MissingWeights(f"{error}; there are some for --model {' or '.join(models)}") from error
        raise


def by_fingerprint(fingerprint: str, folders: tuple[Path, ...] = FOLDERS) -> Path:
    """The weights of that fingerprint (hexadecimal), searched in subfolders too: those hold older weights."""
    return _find(f"**/*.{fingerprint}.safetensors", f"with fingerprint {fingerprint}, which the file needs,", folders)


def name_of(path: Path) -> str:
    """lite-local.1a2b3c4d.safetensors -> lite-local"""
    return path.name.split(".")[0]


def fingerprint_of(path: Path) -> str:
    """lite-local.1a2b3c4d.safetensors -> 1a2b3c4d"""
    return path.name.split(".")[-2]
