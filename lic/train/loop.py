"""The training loop: a time budget, an annealed learning rate, an average of the weights, one checkpoint file."""

import copy
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import BadWeights
from ..transforms import Block
from .captured import Captured
from .workers import Workers

EMA = 0.999  # decay of the averaged weights, which are what is validated and exported


class Batches(Protocol):
    """Where batches come from."""

    def draw(self, step: int, progress: float, generator: torch.Generator) -> tuple:
        """Of that step, after that share of the budget."""


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a reader finds the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")  # other processes may be at it, too
    torch.save(state, aside)
    os.replace(aside, path)


def load(path: Path, device: torch.device | str = "cpu", **options) -> dict:
    """What save() has written; options: those of torch.load."""
    try:
        state = torch.load(path, map_location=device, weights_only=True, **options)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # torch's own words are about security
        raise BadWeights(f"{path}: not a file of this program's training, or damaged") from error
    return state if isinstance(state, dict) else {}


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, tuple], tuple[Tensor, dict]],
    validate: Callable[[nn.Module], dict],
    batches: Batches,
    checkpoint: Path,
    *,
    config: dict,
    minutes: float,
    learning_rate: float,
    bfloat16: bool | None = None,
    save_every: float = 120.0,
    seed: int = 0,
    captured: bool = False,
) -> nn.Module:
    """Train the parameters of `model` that require a gradient; returns the model with averaged weights.

    Resumes from `checkpoint` if it exists. The learning rate falls linearly to zero at `minutes` of
    training time, resumed time included; a larger budget on resuming raises it again accordingly.
    loss: of what a batch is, to be minimised, and metrics to report. validate: what a model is judged by, "loss" first.
    bfloat16: run the convolutions of the transforms in it; None means on a GPU.
    captured: on a GPU, replay steps as a graph (captured.py).
    If there are several processes, every one draws batches of its own (workers.py).
    `config` goes into the checkpoint untouched: it must suffice to rebuild the model.
    """
    workers, device = Workers(), next(model.parameters()).device
    bfloat16 = device.type == "cuda" if bfloat16 is None else bfloat16
    model.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    on_gpu = device.type == "cuda"
    rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate  # what is captured reads it at every step
    optimizer = torch.optim.Adam(trained, lr=rate, betas=(0.9, 0.99), fused=True, capturable=on_gpu)
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = load(checkpoint, device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        optimizer.param_groups[0].update(lr=rate, capturable=on_gpu)  # it may have begun on another kind of machine
        step, seconds = state["step"], state["seconds"]
    generator = torch.Generator(device).manual_seed((seed + step) * workers.count + workers.rank)
    torch.manual_seed(generator.initial_seed())  # the noise

    def snapshot() -> dict:
        parts = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        return parts | {"step": step, "seconds": seconds, "config": config}

    def one_step(batch: tuple) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=not on_gpu):
            value, metrics = loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # then it skips the step, without a wait for the device to tell
        optimizer.step()
        return metrics | {"loss": value.detach(), "norm": norm}

    if on_gpu:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        compiled = torch.compile(Block.function, dynamic=False)  # once for all blocks of the same shapes
        for block in (module for module in model.modules() if isinstance(module, Block)):
            block.function = compiled
    if on_gpu and captured:
        one_step = Captured(one_step)

    bar = tqdm(total=round(minutes * 60), initial=round(seconds), unit="s", disable=None if workers.first else True, smoothing=0)
    last_save, running = seconds, {}
    workers.meet(model, 0)  # all start alike
    while seconds < minutes * 60:
        begin = time.perf_counter()
        progress = seconds / (minutes * 60)
        for group in optimizer.param_groups:
            now = learning_rate * min(1 - progress, (step + 1) / 200)
            group["lr"] = group["lr"].fill_(now) if on_gpu else now
        metrics = one_step(batches.draw(step, progress, generator))
        with torch.no_grad():
            decay = min(EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
        if step % 20 == 0 or not running:  # reading a metric waits for the device
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


def describe(step: int, seconds: float, running: dict, judged: dict) -> str:
    """One line of progress: time, steps, running metrics, and what validate() says of held-out pictures."""
    metrics = " ".join(f"{k} {v:.3f}" for k, v in running.items())
    return f"{seconds / 60:6.1f} min, step {step}: {metrics} | held out: " + ", ".join(f"{k} {_in_words(v)}" for k, v in judged.items())


def _in_words(value: float | list[tuple[float, ...]]) -> str:
    return f"{value:.4f}" if isinstance(value, float) else " ".join("/".join(f"{v:.3f}" for v in point) for point in value)
