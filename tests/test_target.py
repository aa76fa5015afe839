"""A picture in so many bytes or of so many decibels: what is promised holds for what is written, and how many encodings it takes."""

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from lic import target
from lic.codec import Codec
from lic.container import unpack
from lic.errors import LicError
from lic.evaluate.metrics import psnr


class Counting(Codec):
    """How often it has encoded, with what effort."""

    def __init__(self):
        super().__init__(model="tiny", entropy="parallel", device="cpu", weights_folder=TINY)
        self.efforts = []

    def encode(self, picture, quality, effort):
        self.efforts.append(effort)
        return super().encode(picture, quality, effort)


@pytest.fixture
def codec() -> Counting:
    return Counting()


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_a_size_is_kept_and_used(codec, sample, share):
    low, high = (len(codec.encode(sample, quality, 1)) for quality in (0, 100))
    size = round(low + share * (high - low))
    codec.efforts.clear()
    assert 0.98 * size <= len(target.encode(codec, sample, 1, size=size)) <= size
    assert codec.efforts.count(1) <= 4
    assert codec.efforts.count(0) <= 5


def test_bits_per_pixel_are_those_of_the_whole_file(codec, sample):
    with_alpha = sample.copy()
    with_alpha.putalpha(Image.radial_gradient("L").resize(sample.size))
    data = target.encode(codec, with_alpha, 0, bpp=0.8)
    assert unpack(data)[1][0].alpha
    assert 0.98 * 0.8 <= 8 * len(data) / (sample.width * sample.height) <= 0.8


@pytest.mark.parametrize("effort", [0, 1])
def test_decibels_are_those_of_what_is_decoded(codec, sample, effort):
    low, high = (psnr(np.asarray(sample), np.asarray(codec.decode(codec.encode(sample, quality, effort)))) for quality in (0, 100))
    asked = (low + high) / 2
    data = target.encode(codec, sample, effort, psnr=asked)
    assert asked <= psnr(np.asarray(sample), np.asarray(codec.decode(data))) <= asked + 0.1


def test_what_is_stored_is_the_best_of_its_size(codec, drawing):
    stored = codec.encode(drawing, 100, 0)
    for goal in ({"size": len(stored)}, {"size": 10 * len(stored)}, {"psnr": 60}):
        assert target.encode(codec, drawing, 1, **goal) == stored
    with pytest.raises(LicError, match=f"fewest are {len(stored)}"):
        target.encode(codec, drawing, 1, size=len(stored) - 1)


def test_what_no_quality_gives_is_told_with_what_the_nearest_gives(codec, sample):
    smallest = len(codec.encode(sample, 0, 0))
    with pytest.raises(LicError, match=f"fewest are {smallest}"):
        target.encode(codec, sample, 0, size=smallest - 1)
    assert len(target.encode(codec, sample, 0, size=smallest)) == smallest
    with pytest.raises(LicError, match="no quality gives so many dB"):
        target.encode(codec, sample, 0, psnr=70.0)
    for wrong in (float("nan"), float("inf"), 0.0):
        with pytest.raises(LicError, match="nothing to aim at"):
            target.encode(codec, sample, 0, bpp=wrong)
    for goals in ({}, {"size": 3000, "psnr": 30.0}):
        with pytest.raises(LicError, match="one of size, bpp and psnr"):
            target.encode(codec, sample, 0, **goals)


def test_more_than_the_best_takes_is_the_best(codec, sample):
    (header, _) = unpack(target.encode(codec, sample, 0, size=10**7))
    assert header.quality == 100
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    assert len(target.encode(codec, flat, 0, psnr=20.0)) <= len(codec.encode(flat, 100, 0))
