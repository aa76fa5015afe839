"""`lic compare`: entropy models on the very same integers, as research hardly ever compares them.

All of them code the latents of the same transforms, rounded, without search: that would choose other integers for each.
Bytes are those of the payload, hyper latents included. At the middle quality of the first picture every model also reads
what it wrote, which must be the same integers, and is timed.
"""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .. import coders, container, locate, weights
from ..entropy import base, coding, of_pictures
from ..errors import LicError
from . import ours, report
from .machine import described, timed
from .run import pictures

REPEATS = 3  # of times, the best counts


def available(model: str) -> list[str]:
    """All models of pictures that there are for the transforms `model`, `hyperprior` first."""
    known = [f"{model}-{name}" for name in of_pictures()]
    return sorted(set(known) & set(locate.names()), key=lambda name: (name != f"{model}-hyperprior", known.index(name)))


@torch.no_grad()
def run(folder: Path, names: list[str], qualities: list[float], device: torch.device, out: Path) -> dict:
    """Measure the models called `names` (MODEL-ENTROPY); the first is what the others are held against.

    Returns rows, one for each model: parameters, steps, write_s, read_s, and for each quality q bytes_q, their sum over the
    pictures. They are written to out/compare.csv.
    """
    models = {name: weights.load_models(locate.by_name(name), device) for name in names}
    if len({one.latents_of for one in models.values()}) != 1:
        raise LicError(f"only models of the same transforms can be compared, not {', '.join(names) or 'none'}")
    if any(one.entropy.looks_back for one in models.values()):
        raise LicError("models of sequences have other integers to code than models of pictures")
    qualities, paths = sorted(qualities), pictures(folder)
    middle = paths[0], qualities[len(qualities) // 2]
    rows = {name: {"model": name, "parameters": sum(p.numel() for p in one.entropy.parameters())} for name, one in models.items()}
    with tqdm(total=len(paths) * len(qualities) * len(names), unit="file", disable=None) as bar:
        for path, quality, y_hat, level in _latents(names[0], paths, qualities, device):
            for name, row in rows.items():
                measured = _measure(models[name].entropy, y_hat, level, timing=(path, quality) == middle)
                row[f"bytes_{quality:g}"] = row.get(f"bytes_{quality:g}", 0) + measured.pop("bytes")
                row |= measured
                bar.update()
    machine = described(torch.get_num_threads(), device)
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine, "folder": Path(folder).name, "images": len(paths),
        "qualities": qualities, "rows": list(rows.values()),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    report.write_csv(out / "compare.csv", results["rows"])
    return results


def _latents(name: str, paths: list[Path], qualities: list[float], device: torch.device) -> Iterator[tuple]:
    """-> path, quality, y_hat (1, M, h, w) float64, level (1,) int64."""
    codec = ours.warm(name, device.type)
    for path, quality in itertools.product(paths, qualities):
        header, frames = container.unpack(codec.encode(Image.open(path).convert("RGB"), quality, effort=0))
        ((_, coded),) = codec.read(header, frames)
        yield path, quality, coded.y_hat, torch.tensor([header.level], device=device)


def _measure(entropy: base.EntropyModel, y_hat: Tensor, level: Tensor, timing: bool) -> dict:
    payload, seconds = _write(entropy, y_hat, level)
    if not timing:
        return {"bytes": len(payload)}
    return {
        "bytes": len(payload), "steps": int(entropy.order(*y_hat.shape[2:]).max()) + 1,
        "write_s": min(seconds, *(_write(entropy, y_hat, level)[1] for _ in range(REPEATS - 1))),
        "read_s": min(_read(entropy, payload, y_hat, level) for _ in range(REPEATS)),
    }  # fmt: skip


def _write(entropy: base.EntropyModel, y_hat: Tensor, level: Tensor) -> tuple[bytes, float]:
    def work():
        writer = coders.Writer()
        coding.write(entropy, y_hat, level, writer)
        return writer.bytes()

    payload, (seconds, _) = timed(work)
    return payload, seconds


def _read(entropy: base.EntropyModel, payload: bytes, y_hat: Tensor, level: Tensor) -> float:
    coded, (seconds, _) = timed(lambda: coding.read(entropy, *y_hat.shape[2:], level, coders.Reader(payload)))
    if not torch.equal(coded.y_hat, y_hat):
        raise LicError("a model did not read what it wrote")
    return seconds


def table(results: dict) -> str:
    """As text; bytes of the first model, and what the others need more or less."""
    first, *_ = results["rows"]
    wide = max(len(row["model"]) for row in results["rows"])
    lines = [
        f"{results['folder']}, {results['images']} images, {results['date']}, {results['machine']}",
        f"{'model':{wide}} parameters  steps  write s  read s" + "".join(f"{f'q {q:g}':>11}" for q in results["qualities"]),
    ]
    for row in results["rows"]:
        sizes = [(row[f"bytes_{q:g}"], first[f"bytes_{q:g}"]) for q in results["qualities"]]
        shown = [f"{size:11,d}" if row is first else f"{100 * (size / anchor - 1):+9.2f} %" for size, anchor in sizes]
        figures = f"{row['parameters']:11,d} {row['steps']:6d} {row['write_s']:8.2f} {row['read_s']:7.2f}"
        lines.append(f"{row['model']:{wide}}{figures}{''.join(shown)}")
    return "\n".join(lines)
