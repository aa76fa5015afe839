"""The training loop: a time budget, an annealed learning rate, an average of the weights, one checkpoint file."""

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .workers import Workers

EMA = 0.999  # decay of the averaged weights, which are what is validated and exported
LAST_PART = 0.8  # from this share of the budget on, crops have the side `last_crop`
GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly over 0 .. 1, after any number of steps


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a reader finds the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    os.replace(aside, path)


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, torch.Generator], tuple[Tensor, dict]],
    validate: Callable[[nn.Module], dict],
    pictures,
    checkpoint: Path,
    *,
    config: dict,
    minutes: float,
    batch: int,
    crop: int,
    last_crop: int,
    learning_rate: float,
    enlarge: float = 1.0,
    bfloat16: bool | None = None,
    save_every: float = 120.0,
    seed: int = 0,
) -> nn.Module:
    """Train the parameters of `model` that require a gradient; returns the model with averaged weights.

    Resumes from `checkpoint` if it exists. The learning rate falls linearly to zero at `minutes` of
    training time, resumed time included; a larger budget on resuming raises it again accordingly.
    Crops of side `last_crop` come half as many to a batch if larger than `crop`: fewer borders, annealed.
    enlarge: every second crop is a piece of it enlarged by up to so much.
    bfloat16: run the convolutions of the transforms in it; None means on a GPU.
    `batch` is what every process takes, if there are several (workers.py).
    `config` goes into the checkpoint untouched: it must suffice to rebuild the model.
    """
    workers, device = Workers(), next(model.parameters()).device
    bfloat16 = device.type == "cuda" if bfloat16 is None else bfloat16
    model.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, betas=(0.9, 0.99), fused=True)
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    generator = torch.Generator(device).manual_seed((seed + step) * workers.count + workers.rank)
    torch.manual_seed(generator.initial_seed())  # the noise

    def snapshot() -> dict:
        parts = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        return parts | {"step": step, "seconds": seconds, "config": config}

    bar = tqdm(total=round(minutes * 60), initial=round(seconds), unit="s", disable=None if workers.first else True, smoothing=0)
    last_save, running = seconds, {}
    workers.meet(model, 0)  # all start alike
    while seconds < minutes * 60:
        begin = time.perf_counter()
        progress = seconds / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1 - progress, (step + 1) / 200)
        late = progress >= LAST_PART and last_crop > crop
        x = pictures.crops(max(batch // 2, 1) if late else batch, last_crop if late else crop, generator)
        x = enlarged(x, 1 + (enlarge - 1) * (step * GOLDEN % 1)) if enlarge > 1 else x
        x = x.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            value, metrics = loss(model, x, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # then it skips the step, without a wait for the device to tell
        optimizer.step()
        with torch.no_grad():
            decay = min(EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
        if step % 20 == 0 or not running:  # reading a metric waits for the device
            metrics |= {"loss": value.detach(), "norm": norm}
            running = {k: 0.9 * running.get(k, float(v)) + 0.1 * float(v) for k, v in metrics.items()}
            bar.set_postfix(step=step, **{k: f"{v:.3f}" for k, v in running.items()}, refresh=False)
        seconds += workers.meet(model, step, time.perf_counter() - begin)
        bar.update(round(seconds) - bar.n)
        if workers.first and seconds - last_save > save_every:
            last_save = seconds
            save(checkpoint, snapshot())
            tqdm.write(describe(step, seconds, running, validate(average)))
    bar.close()
    if workers.first:
        save(checkpoint, snapshot())
        print(describe(step, seconds, running, validate(average)), flush=True)
    return average


def enlarged(x: Tensor, factor: float) -> Tensor:
    """Crops (B, C, H, H) in [0, 1], every second one replaced by its first corner, `factor` times as large.

    Photographs to train on are often small and full of detail; those that people take are not.
    """
    side = round(x.shape[2] / factor)
    x[::2] = F.interpolate(x[::2, :, :side, :side], size=x.shape[2:], mode="bicubic").clamp(0, 1)
    return x


def describe(step: int, seconds: float, running: dict, judged: dict) -> str:
    """One line of progress: time, steps, running metrics, held-out loss and (bpp, dB) points."""
    points = " ".join(f"{bpp:.3f}/{dB:.2f}" for bpp, dB in judged["points"])
    metrics = " ".join(f"{k} {v:.3f}" for k, v in running.items())
    return f"{seconds / 60:6.1f} min, step {step}: {metrics} | held out: loss {judged['loss']:.4f}, bpp/dB {points}"
