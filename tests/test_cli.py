"""The installed command, in processes of its own: round trips, pipes, exit codes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import LIC, lic
from conftest import DATA, TINY, alike
from PIL import Image

SAMPLE = DATA / "sample.png"
SMALLER = DATA / "golden-local.png"
GOLDEN = DATA / "golden-local.lic"
TINY_OPTIONS = ("--model", "tiny", "--weights", str(TINY))


def pixels(data: bytes | Path) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data), dtype=int)


def test_round_trip_in_other_processes_threads_and_instruction_sets(tmp_path):
    """Symbols are equal wherever a file is decoded (decode checks them); pixels differ by a level at most."""
    without_onednn = tmp_path / "site"
    without_onednn.mkdir()
    (without_onednn / "sitecustomize.py").write_text("import torch\ntorch.backends.mkldnn.set_flags(False)\n")
    settings = {
        "plain": {},
        "one thread": {"LIC_THREADS": "1"},
        "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
        "no oneDNN": {"PYTHONPATH": str(without_onednn)},
    }
    Image.open(SAMPLE).crop((100, 20, 300, 190)).save(tmp_path / "x.png")
    encode = "encode", "--quiet", "-q", "70", tmp_path / "x.png"
    coded = [tmp_path / f"{name}.lic" for name in settings]
    for out, environment in zip(coded, settings.values(), strict=True):
        lic(*encode, out, **environment)
    lic(*encode, tmp_path / "again.lic")
    assert (tmp_path / "again.lic").read_bytes() == coded[0].read_bytes()
    for name, environment in settings.items():
        lic("decode", *coded, "-O", tmp_path / name, **environment)
    for out in coded:
        first, *others = (pixels(tmp_path / name / f"{out.stem}.png") for name in settings)
        assert first.shape == (170, 200, 3)
        assert all(alike(first, other) for other in others)


def test_files_and_pipes_give_the_same_bytes(tmp_path):
    source = SAMPLE.read_bytes()
    out = tmp_path / "x.lic"
    lic("encode", *TINY_OPTIONS, "--effort", "0", SAMPLE, out)  # the search decides with floats, which may differ between processes
    assert lic("encode", *TINY_OPTIONS, "--effort", "0", "-", "-", stdin=source).stdout == out.read_bytes()
    lic("decode", "--weights", TINY, out, tmp_path / "x.png")
    piped = lic("decode", "--weights", TINY, "-", "-", stdin=out.read_bytes()).stdout
    assert alike(pixels(piped), pixels(tmp_path / "x.png"))
    assert lic("verify", "--weights", TINY, "-", stdin=out.read_bytes()).stdout == b""


def test_many_files_each_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "a.png")
    Image.open(SAMPLE).crop((0, 0, 64, 80)).save("b.jpg")
    Path("bad.png").write_bytes(b"no picture")
    encode = ("encode", *TINY_OPTIONS, "-e", "0", "--quiet", "-O", "new/out")
    assert b"bad.png: not an image" in lic(*encode, "a.png", "bad.png", "b.jpg", code=1).stderr
    assert sorted(path.name for path in Path("new/out").iterdir()) == ["a.lic", "b.lic"]
    before = Path("new/out/b.lic").read_bytes()
    assert b"b.lic is there already" in lic(*encode, "-q", "90", "b.jpg", code=1).stderr
    lic(*encode, "-q", "90", "-n", "b.jpg")
    assert Path("new/out/b.lic").read_bytes() == before
    lic(*encode, "-q", "90", "-f", "b.jpg")
    assert Path("new/out/b.lic").read_bytes() != before
    lic("encode", *TINY_OPTIONS, "-e", "0", "--quiet", "b.jpg", "b.jpg", "new/out/film.lic")
    lic("decode", "--weights", TINY, "-O", "back", "--format", "ppm", *Path("new/out").iterdir())
    assert sorted(str(path) for path in Path("back").rglob("*.ppm")) == [
        "back/a.ppm", "back/b.ppm", "back/film/0001.ppm", "back/film/0002.ppm",
    ]  # fmt: skip
    for wrong in (("a.png", "new/a.jpg"), ("-",)):
        lic(*encode, *wrong, code=2)
    lic("decode", "new/out/a.lic", "new/out/b.lic", "x.png", code=2)
    lic("encode", *TINY_OPTIONS, "-e", "0", "-f", "a.png", "bad.png")  # a name that is no .lic file's, by force
    assert Path("bad.png").read_bytes().startswith(b"\x8aLIC")


def test_a_shell_pipeline():
    command = f"{LIC} encode {' '.join(TINY_OPTIONS)} - - < {SAMPLE} 2>/dev/null | {LIC} decode --weights {TINY} - - | head -c 8"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == b"\x89PNG\r\n\x1a\n"
    assert done.stderr == b""


def test_info_needs_no_weights_and_no_decoding():
    facts = json.loads(lic("info", "--json", GOLDEN).stdout)
    size = GOLDEN.stat().st_size
    assert facts["width"] == 127
    assert facts["height"] == 100
    assert facts["bytes"] == size
    assert facts["quality"] == 70
    assert facts["weights_name"] is None
    assert facts["payload_bytes"] == size - 22 + 2  # both sides below 128: two varints are shorter
    text = lic("info", "-", stdin=GOLDEN.read_bytes()).stdout.decode()
    assert "127" in text
    assert "not installed" in text


def test_what_is_stored_says_so(tmp_path, drawing):
    drawing.save(tmp_path / "a.png")
    told = lic("encode", *TINY_OPTIONS, tmp_path / "a.png", tmp_path / "a.lic").stderr.decode()
    assert "150x120, stored without loss, " in told
    facts = json.loads(lic("info", "--json", tmp_path / "a.lic").stdout)
    assert (facts["lossless"], facts["quality"]) == (True, 100)
    assert "weights" not in facts
    assert json.loads(lic("info", "--json", GOLDEN).stdout)["lossless"] is False
    lic("verify", tmp_path / "a.lic")
    lic("decode", tmp_path / "a.lic", tmp_path / "b.png")  # without the weights that it was encoded with
    with Image.open(tmp_path / "b.png") as decoded:
        assert decoded.tobytes() == drawing.tobytes()


def test_what_has_more_bits_is_converted_if_asked_for(tmp_path):
    Image.fromarray(np.full((40, 50), 40000, np.uint16)).save(tmp_path / "a.png")
    refused = lic("encode", *TINY_OPTIONS, tmp_path / "a.png", tmp_path / "a.lic", code=1).stderr.decode()
    assert "16-bit samples" in refused
    assert "see --convert" in refused
    lic("encode", *TINY_OPTIONS, "--convert", tmp_path / "a.png", tmp_path / "a.lic")
    lic("decode", tmp_path / "a.lic", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as decoded:
        assert decoded.getpixel((9, 9)) == (156, 156, 156)


def test_metadata_travel_if_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.open(SMALLER).save(tmp_path / "x.jpg", exif=exif, xmp=b"<x/>")
    for keep in ("none", "all", "exif"):
        lic("encode", *TINY_OPTIONS, "-e", "0", "--keep", keep, tmp_path / "x.jpg", tmp_path / "x.lic")
        facts = json.loads(lic("info", "--json", tmp_path / "x.lic").stdout)
        assert [facts["exif_bytes"] > 0, facts["xmp_bytes"]] == [keep != "none", 4 if keep == "all" else 0]
        lic("decode", "--weights", TINY, tmp_path / "x.lic", tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert dict(picture.getexif()) == ({} if keep == "none" else dict(exif))
            assert picture.info.get("xmp") == (b"<x/>" if keep == "all" else None)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("decode", SAMPLE, "x.png"), "not a .lic file"),
        (("decode", "gone.lic", "x.png"), "gone.lic: No such file"),
        (("encode", "gone.png", "x.lic"), "gone.png: No such file"),
        (("encode", GOLDEN, "x.lic"), "not an image"),
        (("encode", "--entropy", "nonsense", SAMPLE, "x.lic"), "no weights called base-nonsense"),
        (("encode", "--max-pixels", "1000", SAMPLE, "x.lic"), "more than 1000 pixels"),
        (("encode", *TINY_OPTIONS, SAMPLE, "gone/x.lic"), "gone"),
        (("decode", "--weights", TINY, GOLDEN, "gone/x.png"), "gone"),
        (("decode", GOLDEN, "x.png"), "no weights with fingerprint"),
        (("info", SAMPLE), "not a .lic file"),
        (("verify", SAMPLE), "not a .lic file"),
        (("info", "."), "directory"),
        (("encode", "-q", "nan", SAMPLE, "x.lic"), "quality must be"),
        (("encode", "--device", "cuda", *TINY_OPTIONS, SAMPLE, "x.lic"), "CUDA"),
        (("compare", DATA, "--device", "cuda", "--out", "out"), "CUDA"),
        (("encode", "--model", "weights/base", SAMPLE, "x.lic"), "no name of weights"),
        (("train", "export", SAMPLE, "--name", "x"), "sample.png: not a"),
        (("encode", *TINY_OPTIONS, "-e", "0", SAMPLE, SMALLER, "x.lic"), f"{SMALLER}: frame 2"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in lic(*args, code=1).stderr.decode()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        (), ("nonsense",), ("encode",), ("encode", SAMPLE), ("encode", "-q", "101", SAMPLE, "x.lic"),
        ("encode", "-q", "good", SAMPLE, "x.lic"), ("decode", GOLDEN, "x.jpg"), ("decode", GOLDEN, "x"),
        ("decode", "--nonsense", GOLDEN, "x.png"), ("encode", "--tune", "vmaf", SAMPLE, "x.lic"),
        ("encode", "-e", "0", "--tune", "ms-ssim", SAMPLE, "x.lic"),
        ("encode", SAMPLE, SAMPLE), ("train", "transforms", ".", "--out", "c.pt", "--minutes", "1", "--crop", "100"),
        ("train", "transforms", ".", "--out", "c.pt", "--minutes", "1", "--config", "["),
        ("train", "transforms", ".", "--out", "c.pt", "--minutes", "1", "--config", "[]"),
        ("eval", ".", "--qualities", "10,101"), ("eval", ".", "--qualities", ""), ("bench", "--sizes", "1,x"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lic(*args, code=2)
    assert list(tmp_path.iterdir()) == []


def test_encode_replaces_no_other_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "a.png")
    Image.open(SAMPLE).save("b.pgm", "PPM")
    shutil.copy(SAMPLE, "no suffix")
    for last in ("b.pgm", "no suffix"):
        before = Path(last).read_bytes()
        assert last in lic("encode", *TINY_OPTIONS, "a.png", last, code=2).stderr.decode()
        assert Path(last).read_bytes() == before
    Path("empty").touch()  # of mktemp, say
    for target in ("empty", "empty"):
        lic("encode", *TINY_OPTIONS, "-e", "0", "a.png", target)
    Path("empty").chmod(0o400)
    if not os.access("empty", os.W_OK):  # to root everything is writable
        assert "read-only" in lic("encode", *TINY_OPTIONS, "a.png", "empty", code=1).stderr.decode()


def test_tuned_files_are_other_files_and_decode(tmp_path):
    out = [tmp_path / f"{tune}.lic" for tune in ("psnr", "ms-ssim")]
    for path in out:
        lic("encode", *TINY_OPTIONS, "-q", "30", "--tune", path.stem, SAMPLE, path)
    lic("decode", "--weights", TINY, *out, "-O", tmp_path)
    assert not np.array_equal(*(pixels(path.with_suffix(".png")) for path in out))


def test_a_target_in_place_of_a_quality(tmp_path):
    out = tmp_path / "x.lic"
    assert b", quality " in lic("encode", *TINY_OPTIONS, "-e", "0", "--target-size", "3000", SAMPLE, out).stderr
    assert 2940 <= out.stat().st_size <= 3000
    for wrong in (["-q", "50"], ["--target-bpp", "1"]):
        assert b"exclude each other" in lic("encode", *TINY_OPTIONS, "--target-size", "3000", *wrong, SAMPLE, out, code=2).stderr
    lic("encode", *TINY_OPTIONS, "--target-psnr", "0", SAMPLE, out, code=2)
    assert b"nothing to aim at" in lic("encode", *TINY_OPTIONS, "--target-psnr", "nan", SAMPLE, out, code=1).stderr
    assert b"a sequence" in lic("encode", *TINY_OPTIONS, "--target-bpp", "1", SAMPLE, SAMPLE, out, code=1).stderr
    assert b"fewest are" in lic("encode", *TINY_OPTIONS, "-e", "0", "--target-size", "9", SAMPLE, out, code=1).stderr
    assert 2940 <= out.stat().st_size <= 3000  # still there


def test_output_is_replaced_whole_and_keeps_its_mode(tmp_path):
    out, link = tmp_path / "x.png", tmp_path / "link.png"
    out.write_bytes(b"old")
    out.chmod(0o640)
    link.symlink_to(out)
    lic("decode", "--weights", TINY, GOLDEN, link)
    assert link.is_symlink()
    assert out.stat().st_mode & 0o777 == 0o640
    assert pixels(out).shape == (100, 127, 3)
    damaged = tmp_path / "damaged.lic"
    damaged.write_bytes(GOLDEN.read_bytes()[:-1])
    before = out.read_bytes()
    lic("decode", "--weights", TINY, damaged, out, code=1)
    assert out.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"x.png", "link.png", "damaged.lic"}


def test_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, tmp_path / "-odd name.png")
    lic("encode", *TINY_OPTIONS, "--", "-odd name.png", b"\xff.lic".decode(errors="surrogateescape"))
    assert Path(os.fsdecode(b"\xff.lic")).exists()
