"""Plots of an evaluation, PNG. The only importer of matplotlib, which is an optional extra: text and CSV do without."""

import io
from pathlib import Path

from .. import files
from ..errors import MissingExtra
from . import report


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("plots need matplotlib: pip install 'lic[eval]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path) -> Path:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    files.write(path, out.getvalue())
    _pyplot().close(figure)
    return path


def draw(results: dict, out: Path) -> list[Path]:
    """Rate against distortion in both metrics, and decode time against BD-rate: the paths written."""
    every = report.curves(results)
    paths = [_rate_distortion(results, every, metric, out / f"rd_{metric.removesuffix('_db')}.png") for metric in report.METRICS]
    return [*paths, _times(results, out / "decode_time.png")]


def _rate_distortion(results: dict, every: dict[str, list[dict]], metric: str, path: Path) -> Path:
    figure, axes = _pyplot().subplots(figsize=(8, 6))
    published = [name for name in every if name not in results["curves"]]
    for name, points in every.items():
        points = [(p["bpp"], p[metric]) for p in points if p[metric] is not None]
        if not points:
            continue
        if name in published:
            style = {"linestyle": ":", "color": f"C{published.index(name)}"}
        else:  # thick: ours
            style = {"marker": "o", "markersize": 3, "linewidth": 2.5 if name in results["models"] else 1.2}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    title = f"{_title(results)}; dotted: published by others" if published else _title(results)
    axes.set(xscale="log", xlabel="bits per pixel", ylabel=report.METRICS[metric], xlim=(0.05, 2.5), title=title)
    axes.set_xticks(ticks := [0.05, 0.1, 0.2, 0.5, 1, 2], map(str, ticks))
    ours = [p[metric] for name in results["models"] for p in every[name] if p[metric] is not None]
    if ours:
        axes.set_ylim(min(ours) - 1, max(ours) + 2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, path)


def _times(results: dict, path: Path) -> Path:
    """Mean warm decode seconds of a codec against its BD-rate to the first classical codec of the evaluation."""
    figure, axes = _pyplot().subplots(figsize=(8, 6))
    measured = results["curves"]
    anchor = next((name for name in measured if name not in results["models"]), next(iter(measured)))
    for name, points in measured.items():
        percent, low, high = report.bd_rate(measured[anchor], points, "psnr") or (float("nan"),) * 3
        seconds = sum(p["decode_s"] for p in points) / len(points)
        axes.scatter(seconds, percent, color="C3" if name in results["models"] else "C0")
        axes.annotate(
            f"{name}\n{low:.1f} .. {high:.1f} dB", (seconds, percent), xytext=(6, 0), textcoords="offset points", fontsize=8, va="center"
        )
    axes.set(xscale="log", xlabel="decode, seconds per image (model loaded)", title=f"{_title(results)}\n{results['machine']}",
             ylabel=f"BD-rate against {anchor}, % (RGB PSNR, over the range named)")  # fmt: skip
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.2, 0.1)
    axes.grid(alpha=0.3)
    return _save(figure, path)


def cost(results: dict, path: Path) -> None:
    """Times over the reference's and memory against megapixels, of bench.py's results."""
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    rows = results["rows"]
    size = [row["megapixels"] for row in rows]
    for axes, suffix in ((left, ""), (right, "_mb")):
        for way, colour in (("encode", "C0"), ("decode", "C3")):
            for state, style in (("cold", "--"), ("warm", "-")):
                values = [row[f"{way}_{state}{suffix}"] for row in rows]
                if None not in values:
                    axes.plot(size, values, style, color=colour, marker="o", markersize=3, label=f"{way}, {state}")
    left.set_ylabel("time over that of 1 megapixel to PNG, same run")
    right.set_ylabel("peak memory of the process, MB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="megapixels")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(subs=(1, 2, 5))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.suptitle(f"{results['model']}, {results['date']}, {results['machine']}", fontsize=10)
    _save(figure, path)


def _title(results: dict) -> str:
    return f"{results['images']} images of {results['folder']}, {results['date']}"
