"""What is trained on: crops, drawn graphics, pairs of frames."""

import numpy as np
import torch
from command import lic
from PIL import Image

from lic.train import data, graphics, pairs


def test_crops_are_pieces_of_the_pictures(folder):
    pictures, held_out = data.load(folder, torch.device("cpu"))
    assert len(pictures.start) + len(held_out.start) == 6
    originals = {np.asarray(Image.open(p)).tobytes() for p in folder.iterdir()}
    whole = pictures.pixels[pictures.start[1] : pictures.start[2]].numpy()
    assert whole.tobytes() in originals
    generator = torch.Generator().manual_seed(0)
    crops = pictures.crops(50, 32, generator)
    assert crops.shape == (50, 3, 32, 32)
    grey = (pictures.pixels.float() / 255).unique(dim=0)
    assert bool((crops[0].flatten(1).T[:, None] == grey).all(-1).any(1).all())
    tall = pictures.crops(2, 150, generator)  # beyond the height: the last row repeats
    assert tall.shape == (2, 3, 150, 150)


def test_every_second_crop_is_enlarged():
    x = torch.rand(5, 3, 64, 64)
    x[:, :, :, :] = x.cumsum(2) / 64  # smooth
    y = data.enlarged(x.clone(), 1 + 1 / (data.GOLDEN % 1), 1)  # by 2
    assert torch.equal(y[1::2], x[1::2])
    back = torch.nn.functional.avg_pool2d(y[::2], 2)
    assert float((back - x[::2, :, :32, :32]).abs().mean()) < 0.1 * float(x.std())
    assert y.shape == x.shape
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    assert torch.equal(data.enlarged(x.clone(), 1.0, 1), x)


def test_every_fourth_crop_has_other_colours(folder):
    pictures = data.load(folder, torch.device("cpu"))[0]
    draws = []
    for recolour in (False, True):
        crops = data.Crops(pictures, 8, 64, 64, recolour=recolour)
        draws.append(crops.draw(0, 0.0, torch.Generator().manual_seed(3))[0])
    other = [bool((a != b).any()) for a, b in zip(*draws, strict=True)]
    assert other == 2 * [False, True, False, False]
    assert 0 <= float(draws[1].min()) <= float(draws[1].max()) <= 1


def test_further_pictures_are_never_held_out(folder, tmp_path):
    Image.new("RGB", (70, 80), (1, 2, 3)).save(tmp_path / "0.png")  # first of all by name
    (pictures, held_out), (more, same) = (data.load(folder, torch.device("cpu"), also) for also in (None, tmp_path))
    assert torch.equal(held_out.pixels, same.pixels)
    assert torch.equal(more.pixels[: len(pictures.pixels)], pictures.pixels)
    assert len(more.pixels) == len(pictures.pixels) + 70 * 80


def test_graphics_are_flat_and_depend_on_their_seed_only(tmp_path):
    assert lic("train", "graphics", tmp_path, "--count", "12", "--seed", "30", "--size", "400", "300").returncode == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(
        f"{kind}-{seed:05}.png" for seed, kind in enumerate(2 * ["text", "interface", "chart", "drawing", "sign", "empty"], 30)
    )
    for name in names:
        picture = Image.open(tmp_path / name)
        again = graphics.draw(int(name[-9:-4]), (400, 300))
        assert picture.size == (400, 300)
        assert picture.tobytes() == again.tobytes()
        pixels = np.asarray(picture).astype(np.int32)
        same = (np.diff(pixels, axis=1) == 0).all(-1).mean(), (np.diff(pixels, axis=0) == 0).all(-1).mean()
        assert min(same) > 0.7, name  # flat, but
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1, name  # not empty
    assert len({(tmp_path / name).read_bytes() for name in names}) == 12


def test_pairs_are_neighbouring_frames(folder):
    pictures, held_out = data.load(folder, torch.device("cpu"))
    x = pairs.Pairs(pictures).crops(60, 64, torch.Generator().manual_seed(0))
    assert x.shape == (60, 6, 64, 64)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert torch.equal(x, pairs.Pairs(pictures).crops(60, 64, torch.Generator().manual_seed(0)))
    assert not torch.equal(x, pairs.Pairs(pictures).crops(60, 64, torch.Generator().manual_seed(1)))
    first, second = x.chunk(2, 1)
    change, contrast = (first - second).abs().mean((1, 2, 3)), first.std((1, 2, 3))
    assert int((change == 0).sum()) >= 2  # some stand still
    assert int((change > 0.5 * contrast).sum()) >= 5  # some are strangers
    assert float((change / contrast).median()) < 0.5  # most are not
    assert pairs.Pairs(held_out).centres(64).shape == (len(held_out.start), 6, 64, 64)


def test_motion_is_what_it_says():
    x = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    still, right, down = [0.0, 0, 0, 0], [0.0, 0, 5, 0], [0.0, 0, 0, -7]
    moved = pairs._move(x, torch.tensor([still, right, down]), 32)
    for k, (row, col) in enumerate([(32, 32), (32, 37), (25, 32)]):
        assert torch.allclose(moved[k], x[k, :, row : row + 32, col : col + 32], atol=1e-4)
    ramp = torch.arange(96.0).expand(1, 3, 96, 96)
    zoomed = pairs._move(ramp, torch.tensor([[0.25, 0, 0, 0]]), 32)
    assert torch.allclose(zoomed[0, 0, 0].diff(), torch.full((31,), 1.25), atol=0.1)
