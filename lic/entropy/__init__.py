"""Entropy models: one file each, one line in the registry."""

from .factorized import Factorized, FactorizedConfig
from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections

ENTROPY_MODELS = {
    "factorized": (Factorized, FactorizedConfig),
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
}
