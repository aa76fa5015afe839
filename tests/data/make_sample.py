"""Draws sample.png, a small landscape: smooth sky, sharp edges, texture, fine lines. Run once; the picture is committed."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

W, H = 384, 256
rng = np.random.default_rng(2026)


def octaves(scales):
    """Smooth noise in [0, 1]: sums of upsampled random grids."""
    total = np.zeros((H, W))
    for scale, weight in scales:
        grid = Image.fromarray((rng.random((H // scale + 2, W // scale + 2)) * 255).astype(np.uint8))
        total += weight * np.asarray(grid.resize((W, H), Image.Resampling.BICUBIC)) / 255
    return total / sum(weight for _, weight in scales)


y, x = np.mgrid[0:H, 0:W] / np.array([H, W])[:, None, None]
sky = np.stack([0.95 - 0.55 * (1 - y), 0.70 - 0.15 * (1 - y), 0.55 + 0.35 * (1 - y)], -1)
cloud = np.clip(octaves([(64, 4), (32, 2), (16, 1)]) * 2.4 - 1.1, 0, 1) * (1 - y)
sky += cloud[..., None] * np.array([0.35, 0.3, 0.25])
sun = np.exp(-((x - 0.72) ** 2 * 2.2 + (y - 0.42) ** 2) * 60)
picture = sky + sun[..., None] * np.array([0.6, 0.45, 0.1])
for base, roughness, colour in ((0.55, 0.22, (0.36, 0.42, 0.55)), (0.66, 0.28, (0.20, 0.32, 0.30)), (0.80, 0.2, (0.16, 0.25, 0.10))):
    ridge = base + roughness * (octaves([(96, 3), (32, 1), (8, 0.25)])[0] - 0.5)
    texture = 0.75 + 0.5 * octaves([(16, 1), (4, 1), (2, 1)])
    picture = np.where((y > ridge)[..., None], np.array(colour) * texture[..., None], picture)
image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))

big = image.resize((W * 4, H * 4), Image.Resampling.BICUBIC)
draw = ImageDraw.Draw(big)
draw.rectangle((280, 640, 520, 860), fill=(188, 74, 52))
draw.polygon([(250, 650), (400, 530), (550, 650)], fill=(74, 46, 40))
draw.rectangle((320, 700, 380, 760), fill=(250, 226, 140), outline=(40, 30, 30), width=6)
draw.rectangle((430, 720, 490, 860), fill=(60, 50, 70))
for i in range(24):
    draw.line((700 + 30 * i, 1024, 760 + 26 * i, 800 + 10 * (i % 5)), fill=(40 + 6 * i, 90, 30), width=5)
draw.ellipse((960, 120, 1100, 200), outline=(70, 40, 90), width=4)
image = big.resize((W, H), Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(1, 40))
grain = rng.normal(0, 2.0, (H, W, 1))
image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
image.save(Path(__file__).with_name("sample.png"), optimize=True)
