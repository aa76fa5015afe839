"""Writes missing golden files: one .lic and its decoded picture per entropy model, with the tiny weights.

Files of existing models are never written again: that they decode to the same picture is what they are for.
"""

from pathlib import Path

from PIL import Image

from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS

DATA = Path(__file__).parent
picture = Image.open(DATA / "sample.png").crop((60, 90, 187, 190))
for name in ENTROPY_MODELS:
    if (DATA / f"golden-{name}.lic").exists():
        continue
    codec = Codec("tiny", name, "cpu", DATA / "weights")
    data = codec.encode(picture, 70)
    (DATA / f"golden-{name}.lic").write_bytes(data)
    codec.decode(data).save(DATA / f"golden-{name}.png")
