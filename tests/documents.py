"""The tables of README.md and weights/README.md say what weights/measured says; `make tables` fills them in.

Of a table that is known by its first heading, the cells that hold measured figures are written anew; all others stay.
"""

import csv
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "README.md", ROOT / "weights/README.md"
ANCHORS = {  # what rows of the table of BD-rates are called -> in bd_rates.csv
    "JPEG 4:4:4": "jpeg", "JPEG 4:2:0": "jpeg420", "WebP": "webp", "JPEG XL": "jxl", "AVIF": "avif", "AV1": "AV1 (published)",
    "bmshj2018-hyperprior": "bmshj2018-hyperprior (published)", "BPG": "BPG 4:4:4 (published)", "VVC": "VVC (VTM-9.1) (published)",
}  # fmt: skip
CODECS = {"lic": "base-global-parallel", "AVIF": "avif", "WebP": "webp", "JPEG XL": "jxl", "JPEG 4:2:0": "jpeg420"}
BANDS = [(metric, band) for metric in ("psnr", "ms_ssim_db") for band in ("common range", "0.15 .. 1.2 bpp")]


def measured(name: str) -> list[dict]:
    """The rows of weights/measured/NAME.csv."""
    return list(csv.DictReader((ROOT / f"weights/measured/{name}.csv").read_text().splitlines()))


def percent(value: float) -> str:
    """One decimal and a sign, the minus as typesetters want it."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def changes(row: dict, anchor: dict) -> str:
    """Bytes against the anchor's at the three qualities of compare.csv."""
    sizes = [f"bytes_{quality}" for quality in (20, 50, 80)]
    return " / ".join(percent(100 * (int(row[size]) / int(anchor[size]) - 1)) for size in sizes) + " %"


def at_rates(heading: list[str], cells: list[str]) -> list[str]:
    """`| bits per pixel | lic | AVIF | ...`: PSNR of mean curves at equal rate."""
    found = {row["codec"]: row[f"{float(cells[0]):g} bpp"] for row in measured("at_rates") if row["metric"] == "psnr"}
    values = [found[CODECS[name]] for name in heading[1:]]
    return [cells[0], *(f"{float(value):.1f}" if value else "\N{EN DASH}" for value in values)]


def qualities(heading: list[str], cells: list[str]) -> list[str]:
    """`| quality | 0 | 15 | ...`: the means of the default model."""
    key, digits = {"bits": ("bpp", 3), "PSNR": ("psnr", 2), "MS-SSIM": ("ms_ssim_db", 2)}[re.search(r"bits|PSNR|MS-SSIM", cells[0])[0]]
    found = {float(row["quality"]): row[key] for row in measured("means") if row["codec"] == CODECS["lic"]}
    return [cells[0], *(f"{float(found[float(quality)]):.{digits}f}" for quality in heading[1:])]


def bd_rates(heading: list[str], cells: list[str], table: str = "bd_rates") -> list[str]:
    """`| against | PSNR | 0.15-1.2 bpp | ...`."""
    (anchor,) = (anchor for name, anchor in ANCHORS.items() if re.match(rf"{name}\b", cells[0]))
    found = {(row["metric"], row["band"]): row["bd_rate"] for row in measured(table) if row["anchor"] == anchor}
    return [cells[0], *(f"{percent(float(found[column]))} %" for column in BANDS)]


def systems(heading: list[str], cells: list[str]) -> list[str]:
    """`| model | after | parameters | steps | bits ... | write, read | ...`: entropy models on the same latents."""
    rows = {row["model"].removeprefix("base-"): row for row in measured("compare")}
    row = rows[re.match("`(.*?)`", cells[0])[1]]
    bits = changes(row, rows["hyperprior"]) if row is not rows["hyperprior"] else "0"
    if "dictionary" in cells[0]:
        bits += f", that is {changes(row, rows['factorized'])} against `factorized`"
    millions, seconds = int(row["parameters"]) / 1e6, [float(row[key]) for key in ("write_s", "read_s")]
    size = f"{millions:.1f} M" if millions >= 0.95 else f"{millions:.2f} M"
    return [*cells[:2], size, row["steps"], bits, "{:.2f}, {:.2f} s".format(*seconds), *cells[6:]]


TABLES: dict[str, Callable[[list[str], list[str]], list[str]]] = {
    "bits per pixel": at_rates, "quality": qualities, "against": bd_rates, "model": systems,
    "with `--tune ms-ssim`, against": partial(bd_rates, table="ms-ssim/bd_rates"),
}  # fmt: skip


def filled(text: str) -> str:
    """A document with the figures of weights/measured in its tables."""
    lines, heading = [], None
    for line in text.splitlines(keepends=True):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            heading = None
        elif heading is None:
            heading = cells
        elif heading[0] in TABLES and not line.startswith("|---"):
            cells = TABLES[heading[0]](heading, cells)
            line = f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|\n"
        lines.append(line)
    return "".join(lines)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
