"""`lic eval` on a small picture: real files, sizes and PSNR that can be checked by hand, a table with every curve."""

import json

import numpy as np
import pytest
from conftest import DATA
from PIL import Image

from lic.errors import LicError
from lic.evaluate import metrics, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.open(DATA / "sample.png").crop((0, 60, 192, 188)).save(folder / "a.png")
    return folder


def test_results_are_those_of_the_files(folder, tmp_path):
    results = run.evaluate(folder, ["lite-hyperprior"], [20, 50, 80], ["jpeg"], tmp_path, "cpu")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    row = next(r for r in results["rows"] if r["codec"] == "jpeg" and r["quality"] == 50)
    path = tmp_path / "files" / "a-jpeg-50"
    assert row["bytes"] == path.stat().st_size
    original = np.asarray(Image.open(folder / "a.png"))
    assert row["psnr"] == metrics.psnr(original, np.asarray(Image.open(path)))
    assert row["bpp"] == 8 * row["bytes"] / (192 * 128)
    assert (tmp_path / "files" / "a-lite-hyperprior-50").read_bytes()[1:4] == b"LIC"
    text = run.table(results)
    assert "lite-hyperprior  against jpeg" in text
    assert [p["quality"] for p in results["curves"]["lite-hyperprior"]] == [20, 50, 80]


def test_unusable_requests(folder, tmp_path):
    with pytest.raises(LicError, match="no lossless images"):
        run.evaluate(tmp_path, [], [], [], tmp_path, "cpu")
    with pytest.raises(LicError, match="nonsense"):
        run.evaluate(folder, [], [], ["nonsense"], tmp_path, "cpu")
