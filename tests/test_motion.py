"""Motion between frames: the encoder finds it, both faces follow it alike, and nothing outside the picture is read."""

import pytest
import torch
import torch.nn.functional as F

from lic.entropy import motion
from lic.exact import FRACTION


@pytest.fixture(scope="module")
def field():
    """A smooth random picture, larger than what is cut out of it."""
    noise = torch.randn(1, 3, 200, 300, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 5, 1, 2)


def cut(field, row, col):
    return field[:, :, 36 + row : 164 + row, 36 + col : 228 + col]


@pytest.mark.parametrize("shift", [(0, 0), (0, 7), (-12, 3), (31, -30)])
def test_search_finds_where_blocks_come_from(field, shift):
    found = motion.search(cut(field, *shift), cut(field, 0, 0), 0.01)
    assert found.shape == (1, 2, 2, 3)
    inside = found[0, :, int(shift[0] < 0), 1]  # a block whose origin lies inside the earlier frame
    assert inside.tolist() == [motion.UNITS * d for d in shift]


def test_search_finds_half_pixels(field):
    halfway = (cut(field, 0, 4) + cut(field, 0, 5)) / 2
    found = motion.search(halfway, cut(field, 0, 0), 0.01)[0, :, :, 1]
    assert found[0].tolist() == [0, 0]
    assert found[1].tolist() == [9, 9]


def test_flat_or_unmoved_blocks_have_no_motion(field):
    flat = torch.zeros(1, 3, 64, 64)
    assert not bool(motion.search(flat, flat, 0.01).any())
    assert not bool(motion.search(cut(field, 0, 0), cut(field, 0, 0), 0.01).any())


def test_follow_moves_patches():
    picture = torch.arange(3 * 32 * 48.0).view(1, 3, 32, 48)
    vectors = torch.zeros(1, 2, 2, 3)
    assert torch.equal(motion.follow(picture, vectors), F.pixel_unshuffle(picture, 16))
    vectors[0, :, 0, 1] = torch.tensor([4, -6])
    moved = F.pixel_shuffle(motion.follow(picture, vectors), 16)
    assert torch.equal(moved[:, :, :16, 16:32], picture[:, :, 2:18, 13:29])
    assert torch.equal(moved[:, :, 16:], picture[:, :, 16:])
    vectors[0, :, 0, 1] = torch.tensor([1, 3])
    moved = F.pixel_shuffle(motion.follow(picture, vectors), 16)
    mean = (picture[:, :, :16, 17:33] + picture[:, :, 1:17, 17:33] + picture[:, :, :16, 18:34] + picture[:, :, 1:17, 18:34]) / 4
    assert torch.equal(moved[:, :, :16, 16:32], mean)


def test_follow_stays_inside_whatever_the_vectors():
    picture = torch.arange(3 * 16 * 16.0).view(1, 3, 16, 16)
    for far in (10**5, -(10**5)):
        corner = picture[:, :, -1, -1] if far > 0 else picture[:, :, 0, 0]
        patches = F.pixel_shuffle(motion.follow(picture, torch.full((1, 2, 1, 1), float(far))), 16)
        assert torch.equal(patches, corner[:, :, None, None].expand_as(patches))


def test_both_faces_follow_alike():
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(-(2**20), 2**20, (1, 3, 64, 96), generator=generator).double()
    vectors = torch.randint(-40, 40, (1, 2, 4, 6), generator=generator).double()
    exact = motion.follow(picture, vectors * 2.0**FRACTION)
    real = motion.follow(picture.float(), vectors.float())
    assert bool((exact == torch.floor(exact)).all())
    assert bool(((real - exact) >= 0).all())
    assert bool(((real - exact) < 1).all())
