"""Flat graphics to train on and to measure with, drawn from random numbers.

Photographs are easy to come by, drawings of known origin are not. Six kinds: pages of text, user interfaces, charts,
line drawings, signs of a few flat shapes, nearly empty pages.
"""

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # by how often they are used in English


class Page:
    """A blank page, a few colours that go together, and what all kinds of drawing need."""

    def __init__(self, rng: random.Random, size: tuple[int, int]):
        self.rng, (self.width, self.height) = rng, size
        dark = rng.random() < 0.25
        self.paper = self._grey(0, 60) if dark else self._grey(225, 255)
        self.ink = self._grey(200, 255) if dark else self._grey(0, 70)
        self.colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(4)]
        self.image = Image.new("RGB", size, self.paper)
        self.draw = ImageDraw.Draw(self.image)

    def _grey(self, low: int, high: int) -> tuple[int, ...]:
        value, tint = self.rng.randint(low, high), self.rng.choice((0, 0, 8))
        return tuple(min(255, max(0, value + self.rng.randint(-tint, tint))) for _ in range(3))

    def spot(self, margin: int = 0) -> tuple[int, int]:
        return self.rng.randint(margin, self.width - margin), self.rng.randint(margin, self.height - margin)

    def box(self) -> tuple[int, int, int, int]:
        (a, b), (c, d) = self.spot(), self.spot()
        return min(a, c), min(b, d), max(a, c) + 8, max(b, d) + 8

    def word(self) -> str:
        letters = (LETTERS[min(int(self.rng.expovariate(0.13)), 25)] for _ in range(self.rng.randint(1, 10)))
        return "".join(letters)

    def write(self, place: tuple[int, int], size: int, words: int, colour=None) -> None:
        text = " ".join(self.word() for _ in range(words))
        self.draw.text(place, text, colour or self.ink, ImageFont.load_default(size))

    def paragraph(self, box: tuple[int, int, int, int], size: int) -> None:
        left, top, right, low = box
        for y in range(top, low - size, round(size * 1.5)):
            self.write((left, y), size, max(1, round((right - left) / (3.2 * size))))

    def rows(self, count: int) -> list[int]:
        return [round(self.height * (k + 0.5) / count) for k in range(count)]


def text(page: Page) -> None:
    size, columns = page.rng.randint(9, 22), page.rng.randint(1, 2)
    page.write((20, 12), size * 2, 3)
    for column in range(columns):
        left = 20 + column * page.width // columns
        page.paragraph((left, 24 + size * 3, left + (page.width - 60) // columns, page.height - 10), size)


def interface(page: Page) -> None:
    side, bar = page.rng.randint(60, 160), page.rng.randint(20, 40)
    page.draw.rectangle((0, 0, side, page.height), page.colours[0])
    page.draw.rectangle((0, 0, page.width, bar), page.colours[1])
    page.write((8, bar // 4), 12, 3, page.paper)
    for y in page.rows(page.rng.randint(5, 12)):
        page.write((8, y), 11, 1, page.paper)
        page.write((side + 20, y), 11, page.rng.randint(1, 5))
        if page.rng.random() < 0.5:
            left = page.width - 110
            page.draw.rounded_rectangle((left, y - 4, left + 90, y + 18), 5, page.rng.choice(page.colours), page.ink)


def chart(page: Page) -> None:
    left, low, count = 50, page.height - 40, page.rng.randint(3, 12)
    page.draw.line((left, 30, left, low, page.width - 20, low), page.ink, 2)
    for y in page.rows(6)[:-1]:
        page.draw.line((left, y, page.width - 20, y), page.colours[3], 1)
        page.draw.text((15, y - 6), str(page.rng.randrange(100)), page.ink, ImageFont.load_default(11))
    step = (page.width - left - 30) / count
    heights = [page.rng.uniform(40, low) for _ in range(count)]
    middles = [left + step * (k + 0.5) for k in range(count)]
    if page.rng.random() < 0.5:
        for x, y in zip(middles, heights, strict=True):
            page.draw.rectangle((x - 0.4 * step, y, x + 0.4 * step, low), page.rng.choice(page.colours[:2]))
    else:
        page.draw.line(list(zip(middles, heights, strict=True)), page.colours[0], page.rng.randint(1, 4))
    page.write((left + 40, 8), 14, 3)


def drawing(page: Page) -> None:
    for _ in range(page.rng.randint(4, 14)):
        kind, width = page.rng.randrange(3), page.rng.randint(1, 3)
        if kind == 0:
            page.draw.line([page.spot() for _ in range(page.rng.randint(2, 6))], page.ink, width)
        elif kind == 1:
            page.draw.ellipse(page.box(), outline=page.ink, width=width)
        else:
            page.draw.arc(page.box(), page.rng.randint(0, 180), page.rng.randint(181, 360), page.ink, width)


def sign(page: Page) -> None:
    for colour in page.colours:
        kind = page.rng.randrange(4)
        if kind == 0:
            page.draw.rectangle(page.box(), colour)
        elif kind == 1:
            page.draw.ellipse(page.box(), colour)
        elif kind == 2:
            page.draw.polygon([page.spot() for _ in range(page.rng.randint(3, 6))], colour)
        else:
            (x, y), radius, corners = page.spot(80), page.rng.randint(20, 120), page.rng.randint(5, 9)
            spikes = [(radius * (1 if k % 2 else 0.45), math.pi * k / corners) for k in range(2 * corners)]
            page.draw.polygon([(x + r * math.sin(angle), y + r * math.cos(angle)) for r, angle in spikes], colour)


def empty(page: Page) -> None:
    page.write(page.spot(100), page.rng.randint(10, 24), page.rng.randint(1, 3))
    if page.rng.random() < 0.5:
        y = page.rng.randrange(page.height)
        page.draw.line((0, y, page.width, y), page.colours[0], 2)


KINDS = (text, interface, chart, drawing, sign, empty)


def draw(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture, of another kind for every seed; size: width and height. What is larger has more in it, or more room."""
    page = Page(random.Random(seed), size)
    KINDS[seed % len(KINDS)](page)
    return page.image


def write(folder: Path, seeds: range, size: tuple[int, int]) -> None:
    """A PNG file for every seed, named after its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        draw(seed, size).save(folder / f"{KINDS[seed % len(KINDS)].__name__}-{seed:05}.png")
