"""Parts of a picture as image files of their own."""

import numpy as np
import pytest
from PIL import Image
from test_image import RGB, saved

from lic import stored
from lic.errors import Corrupt


@pytest.mark.parametrize("alpha", [RGB[..., 0], 255 * (RGB[..., 0] > 99).astype(np.uint8), np.zeros((1, 1), np.uint8)])
def test_alpha_in_bytes_and_back(alpha):
    h, w = alpha.shape
    data = stored.pack_alpha(alpha)
    assert np.array_equal(stored.unpack_alpha(data, w, h), alpha)
    wrong = [data[: len(data) // 2], b""]
    for mode, size, format in (("RGBA", (w, h), "PNG"), ("L", (w, h), "BMP"), ("L", (w, 9), "PNG")):
        wrong.append(saved(Image.new(mode, size), format))
    for bad in wrong:
        with pytest.raises(Corrupt, match="alpha channel"):
            stored.unpack_alpha(bad, w, h)


def test_colours_in_bytes_and_back(drawing, sample, monkeypatch):
    rgb = np.asarray(drawing)
    h, w, _ = rgb.shape
    data = stored.pack_colours(rgb, None)
    assert len(data) < 200
    assert np.array_equal(stored.unpack_colours(data, w, h), rgb)
    alpha = np.zeros((h, w), np.uint8)
    alpha[:60] = 1
    seen = stored.unpack_colours(stored.pack_colours(rgb, alpha), w, h)
    assert np.array_equal(seen[:60], rgb[:60])
    assert not seen[60:].any()
    wrong = [saved(drawing, "BMP"), saved(drawing.convert("L"), "PNG"), saved(drawing.crop((0, 0, 9, h)), "PNG")]
    for bad in (data[: len(data) // 2], b"", *wrong):
        with pytest.raises(Corrupt, match="colours"):
            stored.unpack_colours(bad, w, h)
    monkeypatch.setattr(stored, "_packed", None)  # of a photograph that is not even tried
    assert stored.pack_colours(np.asarray(sample), None) is None
