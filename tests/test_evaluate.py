"""`lic eval`, `lic compare` and `lic bench` on a small picture: figures that can be checked by hand, resumption, every output."""

import csv
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DATA, TINY
from PIL import Image

from lic import container, locate
from lic.codec import Codec
from lic.errors import LicError, MissingExtra
from lic.evaluate import bench, bits, compare, machine, metrics, neighbours, ours, plots, published, report, rivals, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.open(DATA / "sample.png").crop((0, 60, 192, 252)).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def results(folder, out):
    results = run.evaluate(folder, ["lite-hyperprior"], [20, 50, 80], ["jpeg"], out, effort=0)  # the search decides with floats
    report.write(results, out)
    return results


def test_rows_are_those_of_the_files(folder, out, results):
    row = next(r for r in results["rows"] if r["codec"] == "jpeg" and r["quality"] == 50)
    path = out / "files" / "a-jpeg-50"
    assert row["bytes"] == path.stat().st_size
    original, decoded = (np.asarray(Image.open(p)) for p in (folder / "a.png", path))
    assert row["psnr"] == metrics.psnr(original, decoded)
    assert row["ms_ssim"] == metrics.ms_ssim(original, decoded)
    assert row["bpp"] == 8 * row["bytes"] / (192 * 192)
    assert (out / "files" / "a-lite-hyperprior-50").read_bytes()[1:4] == b"LIC"
    ours = results["curves"]["lite-hyperprior"]
    assert [p["quality"] for p in ours] == [20, 50, 80]
    assert ours[0]["decode_transform_s"] + ours[0]["decode_entropy_s"] <= ours[0]["decode_s"]
    assert results["process"]["lite-hyperprior"]["decode"][0] > 0


def test_what_is_written_and_shown(out, results):
    written = json.loads((out / "results.json").read_text())
    assert written.pop("bd_rates") == report.bd_rates(results)
    at_rates = written.pop("at_rates")
    assert written["rows"] == results["rows"]
    rows, means = (list(csv.DictReader((out / name).read_text().splitlines())) for name in ("images.csv", "means.csv"))
    assert [int(row["bytes"]) for row in rows] == [row["bytes"] for row in results["rows"]]
    assert [row["psnr"] for row in means] == [row["psnr"] for row in rows]  # one image
    text = report.table(results)
    assert (out / "report.txt").read_text() == text + "\n"
    assert re.search(r"lite-hyperprior    against jpeg .* %   \d\d\.\d \.\. \d\d\.\d dB \(common range\)", text)
    jpeg = next(row for row in at_rates if row["codec"] == "jpeg" and row["metric"] == "psnr")
    assert jpeg["0.1 bpp"] is None  # no file was that small
    points = results["curves"]["jpeg"]
    assert max(p["psnr"] for p in points if p["bpp"] < 0.5) < jpeg["0.5 bpp"] < min(p["psnr"] for p in points if p["bpp"] > 0.5)
    assert f"{jpeg['0.5 bpp']:8.2f}" in text
    assert "published" not in text  # those curves belong to other pictures


def test_mean_similarity_becomes_decibels_last():
    """As in the published curves; a mean of decibels would be higher."""
    row = {"codec": "x", "image": "a", "quality": 50.0, "bpp": 1.0}
    (point,) = run.means([row | {"ms_ssim": s, "ms_ssim_db": metrics.decibel(s)} for s in (0.9, 0.99)])
    assert point["ms_ssim"] == pytest.approx(0.945)
    assert point["ms_ssim_db"] == pytest.approx(12.596, abs=0.001)


def test_a_second_run_goes_on_where_the_first_was(folder, out, results, monkeypatch):
    monkeypatch.setattr(run, "_whole_process", lambda *_: None)  # slow, and tested above
    log = out / "rows.jsonl"
    whole = log.read_text()
    lines = whole.splitlines(keepends=True)
    log.write_text("".join(lines[:4]) + lines[4][:20])  # stopped while writing the fifth row
    again = run.evaluate(folder, ["lite-hyperprior"], [20, 50, 80], ["jpeg"], out, effort=0)
    after = log.read_text().splitlines(keepends=True)
    assert after[:4] == lines[:4]
    assert len(after) == len(lines)
    assert again["fingerprints"] == results["fingerprints"]
    assert [(r["quality"], r["bytes"], r["psnr"]) for r in again["rows"]] == [
        (r["quality"], r["bytes"], r["psnr"]) for r in results["rows"]
    ]


def test_rows_whose_file_is_gone_or_another_are_measured_again(folder, tmp_path):
    first = run.evaluate(folder, [], [], ["jpeg"], tmp_path)
    path, gone = (tmp_path / "files" / f"a-jpeg-{quality}" for quality in (50, 70))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    gone.unlink()
    again = run.evaluate(folder, [], [], ["jpeg"], tmp_path)
    assert path.read_bytes() == data
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(first["rows"]) + 2
    assert again["fingerprints"] == first["fingerprints"]


def test_rows_of_another_way_to_measure_are_measured_again(folder, tmp_path, monkeypatch):
    first = run.evaluate(folder, [], [], ["jpeg"], tmp_path)
    other = tmp_path / "metrics.py"
    other.write_bytes(Path(metrics.__file__).read_bytes() + b"# changed")
    monkeypatch.setattr(metrics, "__file__", str(other))
    run.evaluate(folder, [], [], ["jpeg"], tmp_path)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2 * len(first["rows"])


def test_another_picture_of_the_same_name_is_measured_anew(folder, out, results, tmp_path):
    Image.open(folder / "a.png").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png")
    log = out / "rows.jsonl"
    before = len(log.read_text().splitlines())
    run.evaluate(tmp_path, [], [], ["jpeg"], out)
    assert len(log.read_text().splitlines()) == before + len(rivals.RIVALS["jpeg"].qualities)


def test_jobs_measure_the_same(folder, tmp_path, results, monkeypatch):
    monkeypatch.setattr(run, "_whole_process", lambda *_: None)
    several = run.evaluate(folder, ["lite-hyperprior"], [20, 50, 80], ["jpeg"], tmp_path, jobs=2, effort=0)
    assert several["fingerprints"]["jpeg"] == results["fingerprints"]["jpeg"]
    for key, rel in (("bytes", 1e-3), ("psnr", 1e-4)):  # other threads, other last bits: a latent half-way may be rounded otherwise
        assert [row[key] for row in several["rows"]] == pytest.approx([row[key] for row in results["rows"]], rel=rel)


def test_tuned_models_are_measured_by_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_whole_process", lambda *_: None)
    plain, tuned = (
        run.evaluate(folder, [name], [20], [], tmp_path, effort=1)["rows"][0] for name in ("lite-hyperprior", "lite-hyperprior+ms-ssim")
    )
    assert tuned["codec"] == "lite-hyperprior+ms-ssim"
    assert tuned["ms_ssim"] > plain["ms_ssim"]
    assert tuned["psnr"] < plain["psnr"]
    assert (tmp_path / "files" / "a-lite-hyperprior+ms-ssim-20").stat().st_size == tuned["bytes"]


def test_whole_processes_are_tuned_too(folder, monkeypatch):
    """What is measured cold is what is measured warm."""
    asked = []
    monkeypatch.setattr(ours, "process", lambda args: asked.append(args))
    ours.cold("lite-hyperprior+ms-ssim", folder / "a.png", "cpu")
    assert asked[0][asked[0].index("--tune") + 1] == "ms-ssim"
    assert asked[0][asked[0].index("--entropy") + 1] == "hyperprior"


def test_plots(results, tmp_path):
    if find_spec("matplotlib") is None:
        with pytest.raises(MissingExtra, match="matplotlib"):
            plots.draw(results, tmp_path)
        return
    paths = [*plots.draw(results, tmp_path), tmp_path / "cost.png"]
    states = ("encode_cold", "encode_warm", "decode_cold", "decode_warm")
    row = {"megapixels": 1, **dict.fromkeys(states, 2), **{f"{state}_mb": None for state in states}}
    plots.cost({"model": "lite", "date": "today", "machine": "this", "rows": [row]}, paths[-1])
    for path in paths:
        with Image.open(path) as plot:
            assert plot.width > 300


def test_published_curves_are_shown_for_kodak_only(folder, results):
    assert not published.is_kodak([np.asarray(Image.open(folder / "a.png"))])
    curves = published.curves()
    vtm = [(bpp, dB) for bpp, dB, _ in curves["vtm"]["points"]]
    names = {"dcae": -17.0, "bpg-444": 22.0, "hpcm-large": -20.0}  # as recomputed by others from the same points
    for name, percent in names.items():
        rate, *_ = metrics.bd_rate(vtm, [(bpp, dB) for bpp, dB, _ in curves[name]["points"]])
        assert rate == pytest.approx(percent, abs=0.1)
    assert all(curve["source"] for curve in curves.values())
    kodak = results | {"kodak": True}
    assert "VVC (VTM-9.1) (published)" in report.curves(kodak)
    assert any(row["codec"] == "HPCM-L (published)" for row in report.at_rates(kodak))


@pytest.mark.parametrize("name", rivals.available())
def test_rivals_get_better_with_bytes(name, sample):
    rival = rivals.get(name)
    points = []
    for quality in (rival.qualities[0], rival.qualities[-1]):
        data = rival.encode(sample, quality)
        points.append((len(data), metrics.psnr(np.asarray(sample), np.asarray(rival.decode(data)))))
    assert points[0][0] < points[1][0]
    assert points[0][1] < points[1][1]


def test_the_account_of_bits_adds_up(tiny, sample):
    account = bits.account(tiny, tiny.encode(sample, 60))
    assert account["header"] + account["payload"] == account["file"]
    assert account["header"] <= 8 * 24
    promised = account["hyper"] + account["latents"]
    assert abs(account["payload"] - promised) <= 0.01 * promised + 8 * 64
    assert sum(account["channels"]) == pytest.approx(account["latents"])
    assert sum(account["steps"]) == pytest.approx(account["latents"])
    text = bits.table("tiny", 60, [account])
    assert "real over promised" in text


def test_bench_measures_whole_processes(tmp_path):
    results = bench.run("lite-hyperprior", [0.01, 0.02], "cpu", tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text()) == results
    rows = list(csv.DictReader((tmp_path / "bench.csv").read_text().splitlines()))
    assert [int(row["bytes"]) for row in rows] == [row["bytes"] for row in results["rows"]]
    small, large = results["rows"]
    assert small["megapixels"] == pytest.approx(0.01, rel=0.1)
    assert 0 < small["decode_warm"] < small["decode_cold"]
    assert large["bytes"] > small["bytes"]
    text = bench.table(results)
    assert "megapixels" in text
    assert "0.01" in text


def test_models_are_compared_on_the_same_latents(folder, tmp_path):
    names = ["lite-hyperprior", "lite-parallel"]
    results = compare.run(folder, names, [80, 20, 50], torch.device("cpu"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    assert [{key: str(value) for key, value in row.items()} for row in results["rows"]] == rows
    picture = Image.open(folder / "a.png")
    for name, row in zip(names, results["rows"], strict=True):
        data = Codec("lite", name.removeprefix("lite-")).encode(picture, 20, effort=0)
        assert row["bytes_20"] == len(container.unpack(data)[1][0].payload)  # rounded latents do not depend on the model
        assert row["bytes_20"] < row["bytes_50"] < row["bytes_80"]
    assert [row["steps"] for row in results["rows"]] == [1, 12]
    last = compare.table(results).splitlines()[-1]
    assert f"{100 * (results['rows'][1]['bytes_80'] / results['rows'][0]['bytes_80'] - 1):+.2f} %" in last
    for bad in (["lite-hyperprior", "lite-spatiotemporal"], []):
        with pytest.raises(LicError, match="models"):
            compare.run(folder, bad, [50], torch.device("cpu"), tmp_path)


def test_all_models_of_pictures_are_compared_unless_told_otherwise():
    names = compare.available("lite")
    assert names[0] == "lite-hyperprior"
    assert set(names) == {name for name in locate.names() if name.startswith("lite-")} - {"lite-spatiotemporal"}
    assert compare.available("none") == []


def test_a_process_is_measured_by_itself():
    _, peak = machine.process(["--version"])
    assert peak is None or 5 < peak < 100  # this process, with torch, is larger
    with pytest.raises(LicError, match=r"lic info gone\.lic failed with exit code 1"):
        machine.process(["info", "gone.lic"])


def test_pictures_too_small_for_ms_ssim(tmp_path):
    Image.open(DATA / "sample.png").crop((0, 0, 100, 90)).save(tmp_path / "small.png")
    results = run.evaluate(tmp_path, [], [], ["jpeg"], tmp_path / "out")
    assert all(row["ms_ssim"] is None for row in results["rows"])
    report.write(results, tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "results.json").read_text()
    assert " - " in report.table(results)


def test_unusable_requests(folder, tmp_path):
    with pytest.raises(LicError, match="no lossless images"):
        run.evaluate(tmp_path, [], [], [], tmp_path)
    with pytest.raises(LicError, match="nonsense"):
        run.evaluate(folder, [], [], ["nonsense"], tmp_path)
    with pytest.raises(LicError, match="nothing to measure"):
        run.evaluate(folder, [], [], [], tmp_path)
    for name, what in {"lite-hyperprior+vmaf": "cannot tune for 'vmaf'", "lite-hyperprior+ms-ssim": "without effort"}.items():
        with pytest.raises(LicError, match=what):
            run.evaluate(folder, [name], [50], [], tmp_path, effort=0)
    Image.open(folder / "a.png").save(tmp_path / "a.png")
    Image.open(folder / "a.png").save(tmp_path / "a.bmp")
    with pytest.raises(LicError, match="suffix"):
        run.evaluate(tmp_path, [], [], [], tmp_path)
    if find_spec("compressai") is None:
        with pytest.raises(MissingExtra, match="compressai"):
            run.evaluate(folder, [], [], ["jpeg"], tmp_path / "out", with_compressai=True)
        assert not (tmp_path / "out").exists()  # told before anything is measured


class StandIn(torch.nn.Module):
    """CompressAI's interface, as far as it is used: the package itself is seldom installed."""

    def __init__(self, quality, metric, pretrained):
        super().__init__()
        assert not pretrained

    def update(self, force):
        self.ready = force

    def compress(self, x):
        assert self.ready
        assert x.shape == (1, 3, 64, 128)
        return {"strings": [[b"y"], [b"z"]], "shape": (1, 2)}

    def decompress(self, strings, shape):
        assert (strings, shape) == ([[b"y"], [b"z"]], (1, 2))


def test_times_of_compressai(monkeypatch):
    zoo = SimpleNamespace(image_models=dict.fromkeys(neighbours.ARCHITECTURES, StandIn))
    monkeypatch.setitem(sys.modules, "compressai", SimpleNamespace(zoo=zoo))
    monkeypatch.setitem(sys.modules, "compressai.zoo", zoo)
    found = neighbours.times(Image.new("RGB", (65, 64)), [Codec("tiny", "hyperprior", "cpu", TINY)])
    assert list(found) == ["tiny-hyperprior", *(f"CompressAI {name}" for name in neighbours.ARCHITECTURES)]
    assert all(seconds > 0 for pair in found.values() for seconds in pair)
    assert "CompressAI mbt2018 " in neighbours.table(found)
