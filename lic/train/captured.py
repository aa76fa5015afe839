"""A training step as one CUDA graph: its two thousand small kernels start by themselves, not one by one from Python.

What is captured must do the same at every step, whatever the numbers: no waits for the device, no shapes that depend on values.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 4  # calls before the capture: libraries choose their kernels, compilers compile


class Captured:
    """A function of a tuple of tensors on a GPU that returns a dict of tensors, for each set of shapes captured once and then replayed."""

    def __init__(self, function: Callable[[tuple[Tensor, ...]], dict[str, Tensor]]):
        self.function = function
        self.stream = torch.cuda.Stream()
        self.calls: Counter = Counter()
        self.graphs: dict[tuple, tuple] = {}

    def __call__(self, batch: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        """What is returned is overwritten by the next call. The function gets those of the batch that are not None."""
        batch = tuple(x for x in batch if x is not None)
        shapes = tuple(x.shape for x in batch)
        self.calls[shapes] += 1
        if self.calls[shapes] <= WARM_UP:
            return self._eagerly(batch)
        if shapes not in self.graphs:
            self.graphs[shapes] = self._capture(batch)
        graph, inputs, outputs = self.graphs[shapes]
        for own, x in zip(inputs, batch, strict=True):
            own.copy_(x)
        graph.replay()
        return outputs

    def _eagerly(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _capture(self, batch: tuple[Tensor, ...]) -> tuple:
        inputs = tuple(x.clone() for x in batch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            outputs = self.function(inputs)
        return graph, inputs, {key: value.detach() for key, value in outputs.items()}
