"""`lic bench`: what encoding and decoding cost over the size of the picture, as ratios to a reference of the same run.

Cold: a whole process, interpreter, torch and weights included. Warm: the same call with the model loaded. The
reference is the time Pillow takes to compress one fixed megapixel to PNG, measured before every size: machines
differ and are noisy, ratios less so.
"""

import io
import json
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import files
from . import ours, report
from .machine import described, release, timed

ASPECT = 1.5


def picture(megapixels: float, seed: int = 0) -> Image.Image:
    """Something like a photograph: smooth shapes, edges and noise of all sizes."""
    height = round((megapixels * 1e6 / ASPECT) ** 0.5)
    width = round(height * ASPECT)
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 11):
        shape = max(2, height >> octave), max(2, width >> octave), 3
        layer = Image.fromarray((255 * rng.random(shape, np.float32)).astype(np.uint8))
        total += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), np.float32) * 1.6 ** (octave - 10)
    total += 12 * (total[..., :1] > np.median(total[..., :1]))
    low, high = total.min(), total.max()
    return Image.fromarray(((total - low) * (255 / (high - low))).astype(np.uint8))


def reference() -> float:
    """Seconds of the fixed reference, the best of three."""
    fixed = picture(1.0, seed=1)
    return min(timed(lambda: fixed.save(io.BytesIO(), "PNG", compress_level=6))[1][0] for _ in range(3))


def run(model: str, sizes: list[float], device: str, out: Path) -> dict:
    """Measure; the results are written to out/bench.json and out/bench.csv after every size: large ones take long.

    Of every row: encode_cold, encode_warm, decode_cold and decode_warm are times over the reference's, the same names with
    _mb peak memory of the process, in megabytes.
    """
    codec = ours.warm(model, device)
    machine = described(torch.get_num_threads(), device)
    results = {"model": model, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine, "rows": []}
    out.mkdir(parents=True, exist_ok=True)
    for size in tqdm(sizes, "sizes", disable=None):
        image, unit = picture(size), reference()
        with tempfile.TemporaryDirectory() as folder:
            image.save(source := Path(folder, "a.ppm"))
            cold = ours.cold(model, source, device)
        release()
        data, encoding = timed(partial(codec.encode, image))
        release()
        _, decoding = timed(partial(codec.decode, data))
        row = {"megapixels": image.width * image.height / 1e6, "bytes": len(data), "reference_s": unit}
        for way, pair in (("encode", (cold["encode"], encoding)), ("decode", (cold["decode"], decoding))):
            for state, (seconds, peak) in zip(("cold", "warm"), pair, strict=True):
                row |= {f"{way}_{state}": seconds / unit, f"{way}_{state}_mb": peak}
        results["rows"].append(row)
        files.write(out / "bench.json", json.dumps(results, indent=1).encode())
        report.write_csv(out / "bench.csv", results["rows"])
    return results


def table(results: dict) -> str:
    lines = [
        f"{results['model']}, {results['date']}, {results['machine']}",
        "Times over the reference's (Pillow, 1 megapixel to PNG, same run); cold: a whole process; warm: the model loaded",
        "megapixels  encode cold  warm  decode cold  warm   MB: encode cold  warm  decode cold  warm   reference s",
    ]
    for row in results["rows"]:
        times = f"{row['encode_cold']:13.1f} {row['encode_warm']:5.1f} {row['decode_cold']:12.1f} {row['decode_warm']:5.1f}"
        widths = {"encode_cold": 17, "encode_warm": 5, "decode_cold": 12, "decode_warm": 5}
        memory = " ".join(report.or_dash(row[f"{key}_mb"], width, 0) for key, width in widths.items())
        lines.append(f"{row['megapixels']:10.2f}{times} {memory} {row['reference_s']:13.3f}")
    return "\n".join(lines)
