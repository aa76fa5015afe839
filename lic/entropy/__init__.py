"""Entropy models: one file each, one line in the registry."""

from .dictionary import DictionaryConfig, LocalDictionary
from .entroformer import Entroformer, EntroformerConfig, EntroformerParallelConfig
from .factorized import Factorized, FactorizedConfig
from .global_reference import GlobalReference, GlobalReferenceConfig
from .hyperprior import Hyperprior
from .local import Local, LocalConfig
from .non_local import NonLocal, NonLocalConfig
from .sections import CrossChannelConfig, GlobalParallelConfig, ParallelConfig, Sections, SpatiotemporalConfig
from .side import Sizes

ENTROPY_MODELS = {
    "factorized": (Factorized, FactorizedConfig),
    "local-dictionary": (LocalDictionary, DictionaryConfig),
    "hyperprior": (Hyperprior, Sizes),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "global-parallel": (Sections, GlobalParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "nonlocal": (NonLocal, NonLocalConfig),
    "global-reference": (GlobalReference, GlobalReferenceConfig),
    "entroformer": (Entroformer, EntroformerConfig),
    "entroformer-parallel": (Entroformer, EntroformerParallelConfig),
    "spatiotemporal": (Sections, SpatiotemporalConfig),
}


def of_pictures() -> list[str]:
    """The names of those that do not look back at the frame before."""
    return [name for name, (_, config) in ENTROPY_MODELS.items() if getattr(config, "previous", "unseen") == "unseen"]
