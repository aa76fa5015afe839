"""Plots of an evaluation, PNG. The only importer of matplotlib, which is an optional extra: text and CSV do without."""

import io
from pathlib import Path

from .. import files
from ..errors import MissingExtra
from . import metrics, report


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("plots need matplotlib: pip install 'lic[eval]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path) -> None:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    files.write(path, out.getvalue())
    _pyplot().close(figure)


def draw(results: dict, out: Path) -> list[Path]:
    """Rate against distortion in both metrics, and decode time against BD-rate: the paths written."""
    plt = _pyplot()
    written = []
    every = report.curves(results)
    for metric, label in report.METRICS.items():
        figure, axes = plt.subplots(figsize=(8, 6))
        for name, points in every.items():
            points = [(p["bpp"], p[metric]) for p in points if p.get(metric) is not None]
            if points:
                ours, measured = name in results["models"], name in results["curves"]
                axes.plot(*zip(*points, strict=True), label=name, linewidth=2.5 if ours else 1.2, zorder=3 if ours else 2,
                          linestyle="-" if measured else ":", marker="o" if measured else None, markersize=3)  # fmt: skip
        axes.set(xscale="log", xlabel="bits per pixel", ylabel=label, xlim=(0.05, 2.5), title=_title(results))
        axes.set_xticks(ticks := [0.05, 0.1, 0.2, 0.5, 1, 2], map(str, ticks))
        ours = [p[metric] for name in results["models"] for p in every[name] if p[metric] is not None]
        if ours:
            axes.set_ylim(min(ours) - 1, max(ours) + 2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
        _save(figure, path := out / f"rd_{metric.removesuffix('_db')}.png")
        written.append(path)
    written.append(_times(results, out / "decode_time.png"))
    return written


def _times(results: dict, path: Path) -> Path:
    """Mean warm decode seconds of a codec against its BD-rate to the first classical codec of the evaluation."""
    figure, axes = _pyplot().subplots(figsize=(7, 5))
    measured = results["curves"]
    anchor = next((name for name in measured if name not in results["models"]), next(iter(measured)))
    for name, points in measured.items():
        pair = [[(p["bpp"], p["psnr"]) for p in measured[c]] for c in (anchor, name)]
        rate = 0.0 if name == anchor else metrics.bd_rate(*pair)[0] if min(map(len, pair)) > 2 else float("nan")
        seconds = sum(p["decode_s"] for p in points) / len(points)
        axes.scatter(seconds, rate, color="C3" if name in results["models"] else "C0")
        axes.annotate(name, (seconds, rate), xytext=(5, 4), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="decode, seconds per image (model loaded)", ylabel=f"BD-rate against {anchor}, %", title=_title(results))
    axes.grid(alpha=0.3)
    _save(figure, path)
    return path


def cost(results: dict, path: Path) -> None:
    """Times over the reference's and memory against megapixels, of bench.py's results."""
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(11, 4.5))
    rows = results["rows"]
    size = [row["megapixels"] for row in rows]
    for axes, suffix in ((left, ""), (right, "_mb")):
        for way, colour in (("encode", "C0"), ("decode", "C3")):
            for state, style in (("cold", "--"), ("warm", "-")):
                values = [row[f"{way}_{state}{suffix}"] for row in rows]
                if None not in values:
                    axes.plot(size, values, style, color=colour, marker="o", markersize=3, label=f"{way}, {state}")
    left.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="time, in PNG megapixels (see lic/evaluate/bench.py)")
    right.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="peak memory of the process, MB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.suptitle(f"{results['model']}, {results['date']}, {results['machine']}", fontsize=10)
    _save(figure, path)


def _title(results: dict) -> str:
    title = f"{results['images']} images of {results['folder']}, {results['date']}"
    return f"{title}; dotted: published by others" if results["kodak"] else title
