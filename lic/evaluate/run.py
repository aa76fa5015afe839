"""`lic eval`: every picture of a folder through real files, by our models and by other codecs.

Each measurement is a row, appended to OUT/rows.jsonl as soon as it is made; a run that was stopped goes on after the
last one. Rows count only for the weights, library versions, program and pixels they were measured with.
"""

import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import __version__, files, locate
from ..codec import Codec
from ..defaults import EFFORT, QUALITY
from ..errors import LicError
from . import bits, metrics, published, rivals
from .machine import process, processor, timed

LOSSLESS = {".png", ".ppm", ".bmp", ".tif", ".tiff"}


class Task(NamedTuple):
    """One codec on one picture, at some qualities."""

    codec: str
    image: Path
    qualities: tuple[float, ...]
    identity: str
    out: Path
    device: str
    effort: int


def evaluate(
    folder: Path, models: list[str], qualities: list[float], against: list[str], out: Path, *,
    effort: int = EFFORT, device: str = "cpu", threads: int | None = None, jobs: int = 1, with_bits: bool = False,
) -> dict:  # fmt: skip
    """Measure; returns what report.py tells: rows, their means by codec and quality, times of whole processes."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in LOSSLESS)
    if not paths:
        raise LicError(f"{folder}: no lossless images (PNG, PPM, BMP, TIFF)")
    if len({path.stem for path in paths}) < len(paths):
        raise LicError(f"{folder}: two images differ in their suffix only; their files would get the same name")
    codecs = {name: (_identity(name, effort, device), tuple(qualities)) for name in models}
    codecs |= {name: (rivals.version(name), rivals.get(name).qualities) for name in against}
    (out / "files").mkdir(parents=True, exist_ok=True)
    log = out / "rows.jsonl"
    wanted = {(name, float(q), path.name): identity for name, (identity, steps) in codecs.items() for q in steps for path in paths}
    crcs = {path.name: zlib.crc32(path.read_bytes()) for path in paths}
    done = {}
    for row in _logged(log):
        key = row["codec"], row["quality"], row["image"]
        if wanted.get(key) == row["identity"] and crcs[row["image"]] == row["image_crc"]:
            done[key] = row
    tasks = [
        Task(name, path, tuple(q for q in steps if (name, q, path.name) not in done), identity, out, device, effort)
        for name, (identity, steps) in codecs.items() for path in paths
    ]  # fmt: skip
    bar = tqdm(total=len(wanted), initial=len(done), unit="file", disable=None)
    with log.open("a") as lines:
        for row in _rows([task for task in tasks if task.qualities], jobs, threads):
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            done[row["codec"], row["quality"], row["image"]] = row
            bar.update()
    bar.close()
    rows = [done[key] for key in wanted]
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "folder": Path(folder).name, "images": len(paths),
        "kodak": published.is_kodak(np.asarray(Image.open(path).convert("RGB")) for path in paths),
        "machine": f"{processor()}, {threads or torch.get_num_threads()} threads, {jobs} jobs, {device}",
        "lic": __version__, "torch": torch.__version__, "models": models,
        "identity": {name: identity for name, (identity, _) in codecs.items()},
        "curves": {name: _means([row for row in rows if row["codec"] == name]) for name in codecs},
        "process": {name: _whole_process(name, paths[0], effort, device, threads) for name in models},
        "rows": rows,
    }  # fmt: skip
    if with_bits:
        pictures = [Image.open(path).convert("RGB") for path in paths]
        middle = sorted(qualities)[len(qualities) // 2]
        results["bits"] = {}
        for name in models:
            bar = tqdm(pictures, "bits", disable=None)
            results["bits"][name] = {f"{middle:g}": [bits.account(_model(name, device), picture, middle, effort) for picture in bar]}
    return results


def _logged(path: Path) -> Iterator[dict]:
    """Rows of earlier runs; a last line that was cut short does not count."""
    if path.exists():
        text = path.read_text()
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
        if text and not text.endswith("\n"):
            files.write(path, text[: text.rfind("\n") + 1].encode())


def _rows(tasks: list[Task], jobs: int, threads: int | None) -> Iterator[dict]:
    if threads:
        torch.set_num_threads(threads)
    if jobs == 1:
        for task in tasks:
            yield from _measure(task)
        return
    each = threads or max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (each,)) as pool:
        for rows in pool.map(_measured, tasks):
            yield from rows


def _measured(task: Task) -> list[dict]:
    return list(_measure(task))


def _measure(task: Task) -> Iterable[dict]:
    """One picture to files on disk and back."""
    picture = Image.open(task.image).convert("RGB")
    pixels = np.asarray(picture)
    H, W, _ = pixels.shape
    ours = task.codec not in rivals.RIVALS
    codec = _model(task.codec, task.device) if ours else rivals.get(task.codec)
    for quality in task.qualities:
        path = task.out / "files" / f"{task.image.stem}-{task.codec}-{quality:g}"
        options = (quality, task.effort) if ours else (quality,)
        data, encoding = timed(lambda o=options: codec.encode(picture, *o))
        parts = {f"encode_{stage}_s": s for stage, s in codec.seconds.items()} if ours else {}
        files.write(path, data)
        decoded, decoding = timed(lambda p=path: codec.decode(p.read_bytes()))
        parts |= {f"decode_{stage}_s": s for stage, s in codec.seconds.items()} if ours else {}
        decoded, size = np.asarray(decoded), path.stat().st_size
        similarity = metrics.ms_ssim(pixels, decoded)
        yield {
            "codec": task.codec, "quality": float(quality), "image": task.image.name, "bytes": size, "bpp": 8 * size / (W * H),
            "psnr": metrics.psnr(pixels, decoded), "ms_ssim": similarity, "ms_ssim_db": metrics.decibel(similarity),
            "encode_s": encoding[0], "decode_s": decoding[0], **parts, "encode_mb": encoding[1], "decode_mb": decoding[1],
            "identity": task.identity, "image_crc": zlib.crc32(task.image.read_bytes()),
        }  # fmt: skip


@cache
def _model(name: str, device: str) -> Codec:
    model, _, entropy = name.partition("-")
    codec = Codec(model, entropy, device)
    codec.decode(codec.encode(Image.new("RGB", (64, 64)), 50))  # load now: a measured time is a warm one
    return codec


def _identity(name: str, effort: int, device: str) -> str:
    """What a measurement of one of our models depends on: its weights, and the program, by content."""
    package = Path(__file__).parent.parent
    source = b"".join(p.read_bytes() for p in sorted((*package.glob("*.py"), *package.glob("entropy/*.py"))))
    return f"{locate.by_name(name).name} lic {__version__} {zlib.crc32(source):08x} effort {effort} {device}"


def _whole_process(name: str, path: Path, effort: int, device: str, threads: int | None) -> dict:
    """Seconds and peak memory of `lic encode` and `lic decode` as processes of their own, the better of two runs."""
    model, _, entropy = name.partition("-")
    options = ["--device", device, *(["--threads", str(threads)] if threads else [])]
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder, "a.lic"), Path(folder, "a.png")
        encode = [
            "encode",
            "--quiet",
            "-q",
            str(QUALITY),
            "-e",
            str(effort),
            "--model",
            model,
            "--entropy",
            entropy,
            *options,
            path,
            coded,
        ]
        return {"encode": min(process(encode) for _ in "12"), "decode": min(process(["decode", *options, coded, decoded]) for _ in "12")}


def first_picture_and_models(folder: Path, models: list[str], device: str) -> tuple[Image.Image, list[Codec]]:
    """For neighbours.times."""
    path = min(p for p in Path(folder).iterdir() if p.suffix.lower() in LOSSLESS)
    return Image.open(path).convert("RGB"), [_model(name, device) for name in models]


def _means(rows: list[dict]) -> list[dict]:
    """Per quality, the mean over images of every measure (MS-SSIM in dB: the mean of decibels, as published)."""
    points = []
    for quality in sorted({row["quality"] for row in rows}):
        these = [row for row in rows if row["quality"] == quality]
        mean = {}
        for key in dict.fromkeys(key for row in these for key, value in row.items() if not isinstance(value, str)):
            values = [row[key] for row in these if row[key] is not None]
            mean[key] = float(np.mean(values)) if values else None
        points.append({key: value for key, value in mean.items() if key != "image_crc"})
    return sorted(points, key=lambda point: point["bpp"])
