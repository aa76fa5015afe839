"""What the search may take for distortion: near the metrics it stands for, and what it buys in files."""

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from lic.codec import Codec
from lic.errors import LicError
from lic.evaluate import metrics
from lic.measures import IN_SQUARES, MEASURES, SHARE, Similarity, SquaredError


def tensor(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def pair(sample):
    """A picture and a coarser one, as arrays."""
    picture = np.asarray(sample)
    return picture, picture // 16 * 16 + 8


def test_similarity_is_the_metric_nearly(pair):
    """(1 - MS-SSIM) IN_SQUARES is a squared error: half of that, and half of the real one."""
    x, x_hat = map(tensor, pair)
    lacking = Similarity(x)(x_hat) - (1 - SHARE) * SquaredError(x)(x_hat)
    assert float(SquaredError(x)(x_hat)) == pytest.approx(pair[0].size * 10 ** (metrics.psnr(*pair) / -10), rel=1e-4)
    assert float(lacking) == pytest.approx(SHARE * IN_SQUARES / 255**2 * pair[0].size * (1 - metrics.ms_ssim(*pair)), rel=0.1)
    assert float(Similarity(x)(x)) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("measure_of", MEASURES.values())
def test_errors_of_pieces_add_up_and_pictures_do_not_mix(pair, measure_of):
    x, x_hat = map(tensor, pair)
    whole, half = measure_of(x)(x_hat), x.shape[3] // 32 * 16
    pieces = [measure_of(x[..., part])(x_hat[..., part]) for part in (slice(half), slice(half, None))]
    assert float(sum(pieces)) == pytest.approx(float(whole), rel=0.02)
    both = measure_of(torch.cat((x, x.flip(3))))(torch.cat((x_hat, x.flip(3))))
    assert float(both[0]) == pytest.approx(float(whole), rel=1e-4)
    assert float(both[1]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (33, 70)])
@pytest.mark.parametrize("measure_of", MEASURES.values())
def test_any_size_has_a_gradient(measure_of, size):
    torch.manual_seed(0)
    for x in (torch.rand(1, 3, *size), torch.full((1, 3, *size), 0.5)):
        x_hat = (x + 0.1).requires_grad_()
        measure_of(x)(x_hat).sum().backward()
        assert bool(torch.isfinite(x_hat.grad).all())
        assert bool((x_hat.grad > 0).any())
        assert bool((torch.as_tensor(measure_of(x).bend(4, 8)) > 0).all())


def test_errors_count_where_it_is_flat():
    torch.manual_seed(0)
    x = torch.full((1, 3, 70, 128), 0.5)
    x[..., 64:] = torch.rand(1, 3, 70, 64)
    bend = Similarity(x).bend(8, 8)  # 58 rows of it are padding
    assert bend.shape == (1, 1, 8, 8)
    assert float(bend.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(bend[..., :3].min()) > 2 * float(bend[..., 5:].max())
    flat, busy = x.clone(), x.clone()
    flat[..., 20:40] += 0.05
    busy[..., 90:110] += 0.05
    of_flat, of_busy = (float(Similarity(x)(y)) for y in (flat, busy))
    assert of_flat > of_busy


@pytest.mark.parametrize("model", ["lite", "base"])
def test_tuned_files_are_more_alike_in_structure(sample, model):
    pixels, found = np.asarray(sample), []
    for tune in ("psnr", "ms-ssim"):
        codec = Codec(model, device="cpu", tune=tune)
        for quality in (25, 50):
            data = codec.encode(sample, quality, 1)
            decoded = np.asarray(codec.decode(data))
            found.append((len(data), metrics.psnr(pixels, decoded), metrics.decibel(metrics.ms_ssim(pixels, decoded))))
    for (size, psnr, similarity), (tuned_size, tuned_psnr, tuned_similarity) in zip(found[:2], found[2:], strict=True):
        assert tuned_size < 1.03 * size
        assert tuned_similarity > similarity + 0.2
        assert psnr - 0.8 < tuned_psnr < psnr


def test_unknown_tunes_are_refused_by_name():
    with pytest.raises(LicError, match="cannot tune for 'vmaf'; known: psnr, ms-ssim"):
        Codec("tiny", "hyperprior", weights_folder=TINY, tune="vmaf")


def test_a_tuned_search_of_one_pixel():
    codec = Codec("tiny", "hyperprior", "cpu", TINY, tune="ms-ssim")
    assert codec.decode(codec.encode(Image.new("RGB", (1, 1), "red"), 50, 2)).size == (1, 1)
