"""Several processes that train one model: each by itself for some steps, then all go on from the mean of their parameters.

`torchrun --nproc-per-node 2 -m -- lic train …` starts two. On two cores they make 1.3 to 1.7 times the steps of one process
with two threads, whose operations are too small to share, as they do not wait for each other at every step.
"""

import os

import torch
from torch import distributed, nn

TOGETHER = 16  # steps from one meeting to the next


class Workers:
    """This process among those that torchrun started, or alone."""

    def __init__(self):
        if "WORLD_SIZE" in os.environ and not distributed.is_initialized():
            distributed.init_process_group()
        self.rank, self.count = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        self.seconds = 0.0  # since the last meeting

    @property
    def first(self) -> bool:
        """True for the one that judges, saves and reports, and whose clock counts."""
        return self.rank == 0

    def meet(self, model: nn.Module, step: int, seconds: float = 0.0) -> float:
        """After every step, that took so many seconds; returns how far the common clock moves, only at meetings not by 0."""
        self.seconds += seconds
        if step % TOGETHER and self.count > 1:
            return 0.0
        passed, self.seconds = self.seconds, 0.0
        return passed if self.count == 1 else self._average(model, passed)

    @torch.no_grad()
    def _average(self, model: nn.Module, passed: float) -> float:
        parameters = list(model.parameters())
        clock = parameters[0].new_tensor([passed * self.count * self.first])
        flat = torch.cat([p.flatten() for p in parameters] + [clock])
        distributed.all_reduce(flat)
        flat /= self.count
        *means, clock = flat.split([p.numel() for p in parameters] + [1])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.copy_(mean.view(parameter.shape))
        return float(clock)
