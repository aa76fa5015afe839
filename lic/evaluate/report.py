"""What an evaluation says: a table for the terminal, JSON and CSV files, BD-rates against everything in it."""

import csv
import io
import itertools
import json
import math
from pathlib import Path

from .. import files
from . import bits, metrics, neighbours, published

BANDS = {"common range": (0.0, float("inf")), "0.15 .. 1.2 bpp": (0.15, 1.2)}  # where ours spends that many bits per pixel
RATES = (0.1, 0.15, 0.25, 0.5, 1.0, 1.5)  # bits per pixel at which curves are read off
METRICS = {"psnr": "RGB PSNR, dB", "ms_ssim_db": "MS-SSIM, dB"}


def curves(results: dict) -> dict[str, list[dict]]:
    """Measured curves, and published ones where the pictures are Kodak's; the latter are called "NAME (published)"."""
    found = dict(results["curves"])
    if results["kodak"]:
        for curve in published.curves().values():
            found[f"{curve['label']} (published)"] = [
                {"bpp": bpp, "psnr": psnr, "ms_ssim_db": metrics.decibel(similarity)} for bpp, psnr, similarity in curve["points"]
            ]
    return found


def bd_rate(anchor: list[dict], points: list[dict], metric: str, rates=(0.0, float("inf"))) -> tuple[float, float, float] | None:
    """metrics.bd_rate of two curves (percent, low dB, high dB); None if one has fewer than three points or they do not overlap."""
    pair = [[(p["bpp"], p[metric]) for p in curve if p[metric] is not None] for curve in (anchor, points)]
    if min(map(len, pair)) < 3:
        return None
    found = metrics.bd_rate(*pair, rates)
    return None if math.isnan(found[0]) else found


def bd_rates(results: dict) -> list[dict]:
    """Every model of ours against every other curve, in both metrics and all bands; those without overlap are left out."""
    every, found = curves(results), []
    for name in results["models"]:
        for anchor, metric, band in itertools.product(every, METRICS, BANDS):
            if anchor != name and (rate := bd_rate(every[anchor], every[name], metric, BANDS[band])):
                row = {"codec": name, "anchor": anchor, "metric": metric, "band": band}
                found.append(row | dict(zip(("bd_rate", "low", "high"), rate, strict=True)))
    return found


def at_rates(results: dict) -> list[dict]:
    """Every curve's dB at RATES, in both metrics; None beyond its ends."""
    found = []
    for metric, (name, points) in itertools.product(METRICS, curves(results).items()):
        curve = [(p["bpp"], p[metric]) for p in points if p[metric] is not None]
        if len(curve) >= 3:
            found.append({"codec": name, "metric": metric} | {f"{bpp:g} bpp": metrics.at_rate(curve, bpp) for bpp in RATES})
    return found


def table(results: dict) -> str:
    """All of it as text."""
    lines = [
        f"{results['folder']}: {results['images']} images, {results['date']}, {results['machine']}",
        "Measured: means over images; bytes on disk, RGB PSNR of the 8-bit output, seconds with the model loaded.",
    ]
    for name, points in results["curves"].items():
        lines.append(f"\n{name:18} {results['identity'][name]}; files {results['fingerprints'][name]}")
        lines.append(f"{'quality':>10}     bytes  bits/pixel  PSNR dB  MS-SSIM      dB  encode s  decode s  peak MB")
        lines += [
            f"{p['quality']:10g} {p['bytes']:9.0f} {p['bpp']:11.4f} {p['psnr']:8.2f} {or_dash(p['ms_ssim'], 8, 4)}"
            f" {or_dash(p['ms_ssim_db'], 7, 2)} {p['encode_s']:9.3f} {p['decode_s']:9.3f} {or_dash(p.get('peak_mb'), 8, 0)}"
            for p in points
        ]
        if name in results["models"]:
            lines += _stages(name, points[len(points) // 2], results["process"][name])
    lines += _at_rates(at_rates(results))
    lines.append("\nBD-rate: bits at equal quality beyond the anchor's, over the range of quality compared; negative: fewer")
    for row in bd_rates(results):
        unit = "dB" if row["metric"] == "psnr" else "dB of MS-SSIM"
        lines.append(
            f"{row['codec']:18} against {row['anchor']:32} {row['bd_rate']:+7.2f} %"
            f"   {row['low']:.1f} .. {row['high']:.1f} {unit} ({row['band']})"
        )
    for name, by_quality in results.get("bits", {}).items():
        lines += ["", *(bits.table(name, float(quality), accounts) for quality, accounts in by_quality.items())]
    if "compressai" in results:
        lines.append(neighbours.table(results["compressai"]))
    return "\n".join(lines)


def _at_rates(rows: list[dict]) -> list[str]:
    lines = []
    for metric, label in METRICS.items():
        of_metric = [row for row in rows if row["metric"] == metric]
        if of_metric:
            lines.append(f"\n{f'{label}, at bits per pixel':36}" + "".join(f"{bpp:8g}" for bpp in RATES))
            lines += [f"{row['codec']:36}" + "".join(or_dash(row[f"{bpp:g} bpp"], 8, 2) for bpp in RATES) for row in of_metric]
    return lines


def or_dash(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _stages(name: str, point: dict, process: dict) -> list[str]:
    parts = {
        way: [f"{key.split('_')[1]} {value:.3f} s" for key, value in point.items() if key.startswith(f"{way}_") and key.count("_") == 2]
        for way in ("encode", "decode")
    }
    seconds = "; ".join(f"{way}: {', '.join(stages)}" for way, stages in parts.items())
    whole = "; ".join(f"{way} {s:.2f} s, {or_dash(mb, 0, 0)} MB" for way, (s, mb) in process.items())
    return [f"{'':10} at quality {point['quality']:g}: {seconds}", f"{'':10} whole process, first image: {whole}"]


def write(results: dict, out: Path) -> None:
    """out/report.txt (the table), results.json, and CSV: images, means over them, bd_rates and at_rates."""
    rates = {"bd_rates": bd_rates(results), "at_rates": at_rates(results)}
    files.write(out / "report.txt", (table(results) + "\n").encode())
    files.write(out / "results.json", json.dumps(results | rates, indent=1).encode())
    means = [{"codec": name} | point for name, points in results["curves"].items() for point in points]
    for name, rows in {"images": results["rows"], "means": means, **rates}.items():
        write_csv(out / f"{name}.csv", rows)


def write_csv(path: Path, rows: list[dict]) -> None:
    """A column for every key that any row has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, text.getvalue().encode())
