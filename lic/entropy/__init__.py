"""Entropy models: one file each, one line in the registry."""

from .hyperprior import Hyperprior, HyperpriorConfig
from .local import Local, LocalConfig
from .parallel import Parallel, ParallelConfig

ENTROPY_MODELS = {
    "hyperprior": (Hyperprior, HyperpriorConfig),
    "local": (Local, LocalConfig),
    "parallel": (Parallel, ParallelConfig),
}
