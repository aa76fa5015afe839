"""Entropy models: one file each, one line in the registry."""

from .entroformer import Entroformer, EntroformerConfig, EntroformerParallelConfig
from .global_reference import GlobalReference, GlobalReferenceConfig
from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "global-reference": (GlobalReference, GlobalReferenceConfig),
    "entroformer": (Entroformer, EntroformerConfig),
    "entroformer-parallel": (Entroformer, EntroformerParallelConfig),
}
