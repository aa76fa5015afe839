"""`lic eval`: every picture of a folder through real files, by our models and by codecs that Pillow has."""

import io
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features
from tqdm import tqdm

from .. import __version__, files
from ..codec import Codec
from ..errors import LicError
from . import metrics

RIVALS = {  # Pillow's format, options without the quality, qualities
    "jpeg": ("JPEG", {"subsampling": 0, "optimize": True}, (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93, 95)),
    "jpeg420": ("JPEG", {"subsampling": 2, "optimize": True}, (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93, 95)),
    "webp": ("WEBP", {"method": 6}, (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95)),
    "avif": ("AVIF", {"subsampling": "4:4:4", "speed": 4}, (10, 20, 30, 40, 50, 60, 70, 80, 90)),
}


def _rival(name: str):
    """-> encode(image, quality) -> bytes, decode(bytes) -> image, for a codec of Pillow's."""
    format, options, _ = RIVALS[name]

    def encode(picture, quality):
        out = io.BytesIO()
        picture.save(out, format, quality=int(quality), **options)
        return out.getvalue()

    return encode, lambda data: Image.open(io.BytesIO(data)).convert("RGB")


def _measure(encode, decode, picture: Image.Image, quality: float, path: Path) -> dict:
    """One picture to a file on disk and back."""
    start = time.perf_counter()
    data = encode(picture, quality)
    middle = time.perf_counter()
    files.write(path, data)
    size = path.stat().st_size
    restart = time.perf_counter()
    decoded = np.asarray(decode(path.read_bytes()))
    seconds = middle - start, time.perf_counter() - restart
    W, H = picture.size
    dB = metrics.psnr(np.asarray(picture), decoded)
    return {"bytes": size, "bpp": 8 * size / (W * H), "psnr": dB, "encode_s": seconds[0], "decode_s": seconds[1]}


def evaluate(folder: Path, models: list[str], qualities: list[float], against: list[str], out: Path, device: str) -> dict:
    """Measure and write out/results.json: per image and mean, for every codec and quality. Returns its content."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in {".png", ".ppm", ".bmp", ".tif", ".tiff"})
    if not paths:
        raise LicError(f"{folder}: no lossless images (PNG, PPM, BMP, TIFF)")
    unknown = set(against) - set(RIVALS)
    if unknown or ("avif" in against and not features.check("avif")):
        raise LicError(f"cannot compare with {', '.join(sorted(unknown)) or 'avif: this Pillow has no AVIF'}")
    codecs = {name: (*_codec_of(name, device), qualities) for name in models}
    codecs |= {name: (*_rival(name), RIVALS[name][2]) for name in against}
    (out / "files").mkdir(parents=True, exist_ok=True)
    rows = []
    bar = tqdm(total=len(paths) * sum(len(q) for *_, q in codecs.values()), unit="file", disable=None)
    for name, (encode, decode, steps) in codecs.items():
        for quality in steps:
            for path in paths:
                picture = Image.open(path).convert("RGB")
                row = _measure(encode, decode, picture, quality, out / "files" / f"{path.stem}-{name}-{quality:g}")
                rows.append({"codec": name, "quality": quality, "image": path.name} | row)
                bar.update()
    bar.close()
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "lic": __version__, "torch": torch.__version__, "images": len(paths),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "curves": {name: _means([row for row in rows if row["codec"] == name]) for name in codecs}, "rows": rows,
    }  # fmt: skip
    files.write(out / "results.json", json.dumps(results, indent=1).encode())
    return results


def _codec_of(name: str, device: str):
    model, _, entropy = name.partition("-")
    codec = Codec(model, entropy, device)
    codec.decode(codec.encode(Image.new("RGB", (64, 64)), 50))  # load now: a measured time is a warm one
    return codec.encode, codec.decode


def _means(rows: list[dict]) -> list[dict]:
    """Per quality, the mean over images of each measure."""
    points = []
    for quality in sorted({row["quality"] for row in rows}):
        these = [row for row in rows if row["quality"] == quality]
        keys = ("bytes", "bpp", "psnr", "encode_s", "decode_s")
        points.append({"quality": quality} | {key: float(np.mean([row[key] for row in these])) for key in keys})
    return points


def table(results: dict) -> str:
    """The means and every BD-rate of our models against the rivals, as text."""
    lines = [f"{results['images']} images, {results['date']}, {results['machine']}; seconds are warm, PSNR is RGB on 8-bit output"]
    curves = results["curves"]
    for name, points in curves.items():
        lines.append(f"\n{name:16} quality     bytes  bits/pixel  PSNR dB  encode s  decode s")
        lines += [
            f"{'':16} {p['quality']:7g} {p['bytes']:9.0f} {p['bpp']:11.4f} {p['psnr']:8.2f} {p['encode_s']:9.3f} {p['decode_s']:9.3f}"
            for p in points
        ]
    lines.append("\nBD-rate, % bits at equal PSNR (range of PSNR compared); negative: fewer bits than the anchor")
    for name in curves:
        for anchor in curves:
            if name in RIVALS or anchor == name:
                continue
            pair = [[(p["bpp"], p["psnr"]) for p in curves[c]] for c in (anchor, name)]
            if min(map(len, pair)) >= 3:
                for what, rates in (("all common", (0.0, float("inf"))), ("0.15 .. 1.2 bpp", (0.15, 1.2))):
                    rate, low, high = metrics.bd_rate(*pair, rates)
                    lines.append(f"{name:16} against {anchor:16} {rate:+7.2f} %   {low:.1f} .. {high:.1f} dB ({what})")
    return "\n".join(lines)
