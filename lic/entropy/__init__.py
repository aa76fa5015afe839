"""Entropy models: one file each, one line in the registry."""

from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
}
