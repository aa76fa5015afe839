"""`lic bench`: what encoding and decoding cost over the size of the picture, as ratios to a reference of the same run.

Cold: a whole process, interpreter, torch and weights included. Warm: the same call with the model loaded. The
reference is the time Pillow takes to compress one fixed megapixel to PNG, measured before every size: machines
differ and are noisy, ratios less so.
"""

import io
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import files
from ..codec import Codec
from .machine import process, processor

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
    return min(_seconds(lambda: fixed.save(io.BytesIO(), "PNG", compress_level=6)) for _ in range(3))


def run(codec: Codec, sizes: list[float], options: list[str], out: Path) -> dict:
    """Measure and write out/bench.json; options: further arguments of the commands (--device, --threads)."""
    rows = []
    model, _, entropy = codec.name.partition("-")
    codec.decode(codec.encode(picture(0.01)))
    with tempfile.TemporaryDirectory() as folder:
        source, coded, decoded = (Path(folder, n) for n in ("a.ppm", "a.lic", "b.ppm"))
        encode = ["encode", "--quiet", "--model", model, "--entropy", entropy, *options, source, coded]
        for size in tqdm(sizes, "sizes", disable=None):
            image = picture(size)
            image.save(source)
            unit = reference()
            encode_cold, encode_mb = process(encode)
            decode_cold, decode_mb = process(["decode", *options, coded, decoded])
            data = coded.read_bytes()
            rows.append({
                "megapixels": image.width * image.height / 1e6, "bytes": len(data), "reference_s": unit,
                "encode_cold": encode_cold / unit, "encode_warm": _seconds(lambda i=image: codec.encode(i)) / unit,
                "decode_cold": decode_cold / unit, "decode_warm": _seconds(lambda d=data: codec.decode(d)) / unit,
                "encode_mb": encode_mb, "decode_mb": decode_mb,
            })  # fmt: skip
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{processor()}, {torch.get_num_threads()} threads, {codec.device.type}"
    results = {"model": codec.name, "date": date, "machine": machine, "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    files.write(out / "bench.json", json.dumps(results, indent=1).encode())
    return results


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(results: dict) -> str:
    lines = [
        f"{results['model']}, {results['date']}, {results['machine']}",
        "Times over the reference's (Pillow, 1 megapixel to PNG, same run); peak memory of a whole process",
        "megapixels  encode cold   warm  decode cold   warm  encode MB  decode MB  reference s",
    ]
    lines += [
        f"{r['megapixels']:10.2f} {r['encode_cold']:12.1f} {r['encode_warm']:6.1f} {r['decode_cold']:12.1f} {r['decode_warm']:6.1f}"
        f" {r['encode_mb']:10.0f} {r['decode_mb']:10.0f} {r['reference_s']:12.3f}"
        for r in results["rows"]
    ]
    return "\n".join(lines)
