"""Entropy models: one file each, one line in the registry."""

from .entroformer import Entroformer, EntroformerConfig, EntroformerParallelConfig
from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .non_local import NonLocal, NonLocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "nonlocal": (NonLocal, NonLocalConfig),
    "entroformer": (Entroformer, EntroformerConfig),
    "entroformer-parallel": (Entroformer, EntroformerParallelConfig),
}
