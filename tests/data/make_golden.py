"""Writes missing golden files: a .lic and its decoded picture per entropy model, with the tiny weights, one with latents between
integers for every model that can, a sequence of such, and a stored picture.

Files of existing models are never written again: that they decode to the same picture is what they are for.
"""

from pathlib import Path

from PIL import Image, ImageDraw

from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS, of_pictures

DATA = Path(__file__).parent
picture = Image.open(DATA / "sample.png").crop((60, 90, 187, 190))
for name in ENTROPY_MODELS:
    if (DATA / f"golden-{name}.lic").exists():
        continue
    codec = Codec("tiny", name, "cpu", DATA / "weights")
    data = codec.encode(picture, 70, effort=0)
    (DATA / f"golden-{name}.lic").write_bytes(data)
    codec.decode(data).save(DATA / f"golden-{name}.png")

for name in (name for name in of_pictures() if ENTROPY_MODELS[name][0].dependent):
    if (DATA / f"golden-dependent-{name}.lic").exists():
        continue
    codec = Codec("tiny", name, "cpu", DATA / "weights")
    data = codec.encode(picture, 70)
    (DATA / f"golden-dependent-{name}.lic").write_bytes(data)
    codec.decode(data).save(DATA / f"golden-dependent-{name}.png")

if not (DATA / "golden-dependent-sequence.lic").exists():
    codec = Codec("tiny", "hyperprior", "cpu", DATA / "weights")
    data = codec.encode_sequence([picture, Image.open(DATA / "sample.png").crop((61, 90, 188, 190))], 70)
    (DATA / "golden-dependent-sequence.lic").write_bytes(data)
    codec.decode(data, 2).save(DATA / "golden-dependent-sequence.png")

if not (DATA / "golden-stored.lic").exists():
    drawing = Image.new("RGBA", (90, 70), "ivory")
    ImageDraw.Draw(drawing).ellipse((20, 10, 70, 60), "teal", "black", 3)
    drawing.putalpha(Image.linear_gradient("L").resize(drawing.size).point(lambda opacity: min(opacity + 40, 255)))
    (DATA / "golden-stored.lic").write_bytes(Codec("tiny", "hyperprior", "cpu", DATA / "weights").encode(drawing))
    drawing.save(DATA / "golden-stored.png")
