"""Where the bits of a file go: header, hyper latents, latents by channel group and by coding step; promised and real."""

import numpy as np
import torch

from .. import coders, container
from ..codec import Codec
from ..entropy import base

CHANNEL_GROUPS = 8


@torch.no_grad()
def account(codec: Codec, data: bytes) -> dict:
    """Of the .lic file `data`, all figures in bits.

    file, header, payload: as on disk. hyper, latents: what the coder's tables promise; channels: latents by eighths of the
    channels, strongest first; steps: latents by step of the entropy model's order.
    """
    header, (frame,) = container.unpack(data)
    ((models, coded),) = codec.read(header, [frame])
    h, w = coded.y_hat.shape[2:]
    estimator = coders.Estimator()
    level = torch.tensor([header.level], device=codec.device)
    models.entropy.hyper.code(level, coded.z_hat.shape, estimator, coded.z_hat)
    per_latent = coders.bits([x.flatten(0, 3) for x in coded.table], coded.y_hat.flatten()).reshape(coded.y_hat.shape)[0]
    by_cell = base.to_rows(torch.from_numpy(per_latent)[None], models.entropy.groups)[0].sum(1).numpy()
    steps = np.bincount(models.entropy.order(h, w).flatten().numpy(), by_cell)
    latents = float(per_latent.sum())
    return {
        "file": 8 * len(data), "header": 8 * (len(data) - len(frame.payload)), "payload": 8 * len(frame.payload),
        "hyper": estimator.bits, "latents": latents,
        "channels": [float(part.sum()) for part in np.array_split(per_latent, CHANNEL_GROUPS)], "steps": steps.tolist(),
    }  # fmt: skip


def table(name: str, quality: float, accounts: list[dict]) -> str:
    """Means over pictures, as text."""
    mean = {key: np.mean([account[key] for account in accounts], axis=0) for key in accounts[0] if key != "steps"}

    def share(value):
        return f"{value / 8:10.1f} bytes {100 * value / mean['file']:6.2f} %"

    lines = [f"{name} at quality {quality:g}, mean of {len(accounts)} pictures"]
    lines += [f"  {key:28} {share(mean[key])}" for key in ("file", "header", "payload", "hyper", "latents")]
    size = [f"channels, eighth {i + 1}" for i in range(CHANNEL_GROUPS)]
    lines += [f"    {what:26} {share(value)}" for what, value in zip(size, mean["channels"], strict=True)]
    lines += _steps([np.array(account["steps"]) for account in accounts], share)
    promised = mean["hyper"] + mean["latents"]
    lines.append(f"  {'real over promised payload':28} {100 * (mean['payload'] / promised - 1):+.3f} %")
    return "\n".join(lines)


def _steps(steps: list[np.ndarray], share) -> list[str]:
    """One line a step if they are few, else by quarters of the walk: pictures may differ in their number."""
    parts = len(steps[0]) if len({len(s) for s in steps}) == 1 and len(steps[0]) <= 16 else 4
    sums = np.mean([[part.sum() for part in np.array_split(s, parts)] for s in steps], axis=0)
    what = "step" if parts != 4 else "quarter of the steps,"
    return [f"    {f'{what} {i + 1}':26} {share(value)}" for i, value in enumerate(sums)]
