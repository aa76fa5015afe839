"""Entropy models: one file each, one line in the registry."""

from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections
from .spatiotemporal import Spatiotemporal, SpatiotemporalConfig

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "spatiotemporal": (Spatiotemporal, SpatiotemporalConfig),
}
