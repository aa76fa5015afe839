"""`lic eval`: every picture of a folder through real files, by our models and by other codecs.

Each measurement is a row, appended to OUT/rows.jsonl as soon as it is made; a run that was stopped goes on after the
last one. Rows count only for the weights, library versions, program, machine, pixels and file they were measured with.
Two runs made the same files if the fingerprints in their reports are the same.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import __version__, files, locate
from ..defaults import EFFORT, TUNE, TUNES
from ..errors import LicError
from ..weights import fingerprint_of
from . import bits, metrics, neighbours, ours, published, rivals
from .machine import described, timed

LOSSLESS = {".png", ".ppm", ".bmp", ".tif", ".tiff"}


class Task(NamedTuple):
    """One file to make and to measure."""

    codec: str
    quality: float
    image: Path
    path: Path  # of the file
    effort: int
    device: str
    depends: dict[str, str]  # fields of the row: what it was measured with


def evaluate(
    folder: Path, models: list[str], qualities: list[float], against: list[str], out: Path, *,
    effort: int = EFFORT, device: str = "cpu", jobs: int = 1, with_bits: bool = False, with_compressai: bool = False,
) -> dict:  # fmt: skip
    """Measure; returns what report.py tells: rows, their means by codec and quality, times of whole processes.

    Raises LicError, before anything is measured, for what cannot be measured here.
    """
    paths = pictures(folder)
    if with_compressai:
        neighbours.zoo()
    codecs = {name: (_identity(name, effort, device), qualities) for name in models}
    codecs |= {name: (rivals.version(name), rivals.get(name).qualities) for name in against}
    if not codecs:
        raise LicError("nothing to measure: no models and no other codecs")
    machine = f"{described(torch.get_num_threads(), device)}, {jobs} jobs"
    images = {path: fingerprint_of(path.read_bytes()) for path in paths}
    measured_by = _program(*(Path(module.__file__) for module in (metrics, ours, rivals)), Path(__file__))
    (out / "files").mkdir(parents=True, exist_ok=True)
    tasks = [
        Task(name, float(quality), path, out / "files" / f"{path.stem}-{name}-{quality:g}", effort, device,
             {"identity": identity, "machine": machine, "image_fingerprint": image, "measured_by": measured_by})
        for name, (identity, steps) in codecs.items() for quality in steps for path, image in images.items()
    ]  # fmt: skip
    rows = _rows(tasks, out / "rows.jsonl", jobs)
    by_codec = {name: [row for row in rows if row["codec"] == name] for name in codecs}
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "folder": Path(folder).name, "images": len(paths),
        "kodak": published.is_kodak(np.asarray(Image.open(path).convert("RGB")) for path in paths),
        "machine": machine, "lic": __version__, "torch": torch.__version__, "models": models,
        "identity": {name: identity for name, (identity, _) in codecs.items()},
        "fingerprints": {name: fingerprint_of("".join(row["fingerprint"] for row in these).encode()) for name, these in by_codec.items()},
        "curves": {name: means(these) for name, these in by_codec.items()},
        "process": {name: _whole_process(name, paths[0], device, effort) for name in models},
        "rows": rows,
    }  # fmt: skip
    if with_bits:
        middle = float(sorted(qualities)[len(qualities) // 2])
        at = [task for task in tasks if task.quality == middle and task.codec in models]
        results["bits"] = {name: {f"{middle:g}": []} for name in models}
        for task in tqdm(at, "bits", disable=None):
            account = bits.account(ours.warm(task.codec, device), task.path.read_bytes())
            results["bits"][task.codec][f"{middle:g}"].append(account)
    if with_compressai:
        picture = Image.open(paths[0]).convert("RGB")
        results["compressai"] = neighbours.times(picture, [ours.warm(name, device) for name in models])
    return results


def pictures(folder: Path) -> list[Path]:
    """The lossless images of a folder, sorted."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in LOSSLESS)
    if not paths:
        raise LicError(f"{folder}: no lossless images (PNG, PPM, BMP, TIFF)")
    if len({path.stem for path in paths}) < len(paths):
        raise LicError(f"{folder}: two images differ in their suffix only; their files would get the same name")
    return paths


def _identity(name: str, effort: int, device: str) -> str:
    """What a measurement of one of our models depends on: its weights, and the program, by content."""
    package = Path(__file__).parent.parent
    program = f"lic {__version__} {_program(*package.glob('*.py'), *package.glob('entropy/*.py'))} torch {torch.__version__}"
    model, entropy, tune = ours.parts(name)
    if tune not in TUNES:
        raise LicError(f"{name}: cannot tune for {tune!r}; known: {', '.join(TUNES)}")
    if tune != TUNE and not effort:
        raise LicError(f"{name}: without effort nothing is tuned")
    return f"{locate.by_name(f'{model}-{entropy}').name} {program} effort {effort} {device} {tune}"


def _program(*files: Path) -> str:
    return fingerprint_of(b"".join(path.read_bytes() for path in sorted(files)))


def _rows(tasks: list[Task], log: Path, jobs: int) -> list[dict]:
    """The rows of the tasks, in their order: out of the log as far as they are there, the others measured and appended to it."""
    wanted = {(task.codec, task.quality, task.image.name): task for task in tasks}
    done = {}
    for row in _logged(log):
        key = row["codec"], row["quality"], row["image"]
        if key in wanted and _holds(row, wanted[key]):
            done[key] = row
    missing = [task for key, task in wanted.items() if key not in done]
    with tqdm(total=len(wanted), initial=len(done), unit="file", disable=None) as bar, log.open("a") as lines:
        for row in _measured(missing, jobs):
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            done[row["codec"], row["quality"], row["image"]] = row
            bar.update()
    return [done[key] for key in wanted]


def _logged(log: Path) -> list[dict]:
    """Rows of earlier runs. A last line that was cut short does not count and is cut off, so that rows can be appended."""
    if not log.exists():
        return []
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        files.write(log, whole.encode())
    return [json.loads(line) for line in whole.splitlines()]


def _holds(row: dict, task: Task) -> bool:
    """Would measuring again give this row, and is its file still there?"""
    same = task.depends.items() <= row.items()
    return same and task.path.exists() and fingerprint_of(task.path.read_bytes()) == row["fingerprint"]


def _measured(tasks: list[Task], jobs: int) -> Iterator[dict]:
    if jobs == 1:
        yield from map(_measure, tasks)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        yield from pool.map(_measure, tasks)


def _measure(task: Task) -> dict:
    """A picture to a file on disk and back."""
    picture = Image.open(task.image).convert("RGB")
    pixels = np.asarray(picture)
    is_ours = task.codec not in rivals.RIVALS
    codec = ours.warm(task.codec, task.device) if is_ours else rivals.get(task.codec)
    options = (task.quality, task.effort) if is_ours else (task.quality,)
    data, encoding = timed(lambda: codec.encode(picture, *options))
    parts = {f"encode_{stage}_s": s for stage, s in codec.seconds.items()} if is_ours else {}
    files.write(task.path, data)
    decoded, decoding = timed(lambda: codec.decode(task.path.read_bytes()))
    parts |= {f"decode_{stage}_s": s for stage, s in codec.seconds.items()} if is_ours else {}
    decoded, size = np.asarray(decoded), task.path.stat().st_size
    similarity = metrics.ms_ssim(pixels, decoded)
    if is_ours and None not in (peaks := (encoding[1], decoding[1])):  # of others it would be that of our own libraries
        parts["peak_mb"] = max(peaks)
    return {
        "codec": task.codec, "quality": task.quality, "image": task.image.name,
        "bytes": size, "bpp": 8 * size / (picture.width * picture.height),
        "psnr": metrics.psnr(pixels, decoded), "ms_ssim": similarity, "ms_ssim_db": metrics.decibel(similarity),
        "encode_s": encoding[0], "decode_s": decoding[0], **parts,
        "fingerprint": fingerprint_of(data),  # not a CRC: of a .lic file, which ends in its own, that is always the same
        **task.depends,
    }  # fmt: skip


def means(rows: list[dict]) -> list[dict]:
    """Per quality, the mean over images of every measure (MS-SSIM in dB: that of the mean similarity, as in published curves)."""
    points = []
    for quality in sorted({row["quality"] for row in rows}):
        these = [row for row in rows if row["quality"] == quality]
        mean = {}
        for key in dict.fromkeys(key for row in these for key, value in row.items() if not isinstance(value, str)):
            values = [row[key] for row in these if row[key] is not None]
            mean[key] = float(np.mean(values)) if values else None
        points.append(mean | {"ms_ssim_db": metrics.decibel(mean["ms_ssim"])})
    return sorted(points, key=lambda point: point["bpp"])


def _whole_process(name: str, picture: Path, device: str, effort: int) -> dict:
    """ours.cold, the better of two runs."""
    runs = [ours.cold(name, picture, device, effort) for _ in range(2)]
    return {way: min(run[way] for run in runs) for way in ("encode", "decode")}
