"""`entroformer`, `entroformer-parallel`: top-k self-attention over known latents (Qian et al. 2022, section 3).

    z_hat ─ h_s ─► features ────────────┬────────────────────────────────────────┬─ linear ─► mean, scale
    y_hat ─ known neighbours ─ context ─┴─ layer ─► hidden ─┬──────────── + ─────┘
                                                            └─ token ─ blocks ─┘
    known cells:                          token + y_hat ─ the same blocks ─► keys, values

Every cell has two tokens that pass through the same blocks: one that knows its latents, made when they are known, which
others attend to, and one that does not, which predicts. Which cells they see follows from the order:

    entroformer            wavefront: all cells of smaller col + 3 row; as many steps as `local`
    entroformer-parallel   checkerboard: black cells by the hyperprior, white ones see all black ones (section 3.3); 2 steps

Differences from the paper: there a cell is predicted by the token of the cell before it, here by a token of its own with a
strict mask, which allows wavefronts; the token starts from `local`'s neighbours rather than from nothing, so that training
can start from a `local` model and measures what attention adds; no layer normalisation; attention sees a bounded window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exact import ExactLinear, add, leaky, log_size
from . import base, orders
from .attention import Block
from .base import EntropyModel, Head
from .side import Hyper, Side, Sizes


@dataclass(frozen=True)
class EntroformerConfig(Sizes):
    """Sizes of an `Entroformer`, and its switches."""

    reach: int = 2  # of the neighbours
    context: int = 256  # features of the neighbours
    hidden: int = 384
    order: str = "wavefront"  # key of ORDERS
    blocks: int = 2  # 0: without attention
    token: int = 192
    heads: int = 6
    ratio: int = 2  # of the layers in the blocks
    top: int = 32  # keys per cell and head; 0: all
    diamond: int = 3  # reach of relative positions; 0: only here or elsewhere
    window: int = 16  # side of the windows that attention sees, in positions


@dataclass(frozen=True)
class EntroformerParallelConfig(EntroformerConfig):
    """The same with another default."""

    order: str = "checkerboard"


class Entroformer(EntropyModel):
    """One group."""

    def __init__(self, config: EntroformerConfig):
        super().__init__()
        self.config, self.latents = config, config.latents
        self.steps, _ = orders.by_name(config.order)
        self.hyper = Hyper(config)
        self.taps = orders.known_taps(self.steps(8, 8), config.reach)
        self.context = ExactLinear(len(self.taps) * config.latents, config.context)
        self.hidden = ExactLinear(config.context + config.side, config.hidden)
        self.head = Head(config.side + config.hidden, config.latents, config.anchors)
        self.token = ExactLinear(config.hidden, config.token)
        self.value = ExactLinear(2 * config.latents, config.token)
        sizes = config.token, config.heads, config.ratio, config.diamond, config.window
        self.blocks = torch.nn.ModuleList(Block(*sizes) for _ in range(config.blocks))
        self.correction = ExactLinear(config.token, config.hidden)
        torch.nn.init.normal_(self.correction.weight, std=0.1 * config.token**-0.5)

    def order(self, h: int, w: int) -> Tensor:
        return self.steps(h, w)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        features, hidden = self._local(side, y_hat, at)
        token, steps, top = self.token(hidden), self.steps(*y_hat.shape[2:]), self._top(at.device)
        for block, known in zip(self.blocks, self._memory(side), strict=True):
            token = block(token, at, known, steps, False, *top)
        if len(self.blocks):
            hidden = add(hidden, self.correction(token))
        return self.head(torch.cat((features, hidden), -1), side.level)

    def remember(self, side: Side, y_hat: Tensor, at: Tensor) -> None:
        """Keys and values of the cells `at` for every block: rows of side.memory[number of the block]."""
        y = y_hat.flatten(2)[:, :, at].transpose(1, 2)
        hidden = torch.cat([self._local(side, y_hat, part)[1] for part in orders.split(at, base.CHUNK)], 1)
        token = add(self.token(hidden), self.value(torch.cat((y, log_size(y)), -1)))
        steps, top = self.steps(*y_hat.shape[2:]), self._top(at.device)
        for k, block in enumerate(self.blocks):
            memory = side.keep(k, at, block.known(token))
            if block is not self.blocks[-1]:
                token = block(token, at, memory, steps, True, *top)

    def _memory(self, side: Side) -> list[Tensor]:
        """One (B, h w, 2 token) per block."""
        return [side.kept(k, 2 * self.config.token) for k in range(len(self.blocks))]

    def _top(self, device: torch.device) -> tuple[int, Tensor | None]:
        """Keys per row, and in training a random number around that: the blocks must not count on it (section 3.1)."""
        top = self.config.top
        if not (self.training and top):
            return top, None
        return 2 * top, torch.randint(max(top // 2, 1), 2 * top + 1, (1,), device=device)

    def _local(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """What the hyperprior and the neighbours say: features (B, n, side) and hidden (B, n, hidden)."""
        order = None if self.config.order == "wavefront" else self.steps(*y_hat.shape[2:])  # wavefronts know all their taps
        context = leaky(self.context(orders.gather(y_hat, at, self.taps, order)))
        features = side.rows(at)
        return features, leaky(self.hidden(torch.cat((context, features), -1)))
