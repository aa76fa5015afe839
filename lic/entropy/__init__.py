"""Entropy models: one file each, one line in the registry."""

from .dictionary import DictionaryConfig, LocalDictionary
from .entroformer import Entroformer, EntroformerConfig, EntroformerParallelConfig
from .factorized import Factorized, FactorizedConfig
from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .non_local import NonLocal, NonLocalConfig
from .sections import CrossChannelConfig, ParallelConfig, Sections

ENTROPY_MODELS = {
    "factorized": (Factorized, FactorizedConfig),
    "local-dictionary": (LocalDictionary, DictionaryConfig),
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Sections, ParallelConfig),
    "cross-channel": (Sections, CrossChannelConfig),
    "nonlocal": (NonLocal, NonLocalConfig),
    "entroformer": (Entroformer, EntroformerConfig),
    "entroformer-parallel": (Entroformer, EntroformerParallelConfig),
}
