"""Entropy models: one file each, one line in the registry."""

from .entroformer import Entroformer, EntroformerConfig, EntroformerParallelConfig
from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "entroformer": (Entroformer, EntroformerConfig),
    "entroformer-parallel": (Entroformer, EntroformerParallelConfig),
}
