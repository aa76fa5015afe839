"""The synthesis learns by itself, on latents that stay as they are."""

import shutil

import numpy as np
import pytest
import torch
from conftest import DATA, TINY
from PIL import Image

from lic import container, locate, weights
from lic.codec import Codec
from lic.errors import LicError, MissingWeights
from lic.train import export, loop, loss, stages
from lic.train.latents import DecodedPool


def test_train_synthesis_on_frozen_latents(searched, tmp_path):
    """Only what decodes moves; exported, the entropy models of the same latents go with it."""
    before, folder = tmp_path / "before", tmp_path / "w"
    for copy in (before, folder):
        shutil.copytree(TINY, copy)
    transforms, meta = weights.load(locate.by_name("tiny", (TINY,)))
    pool = DecodedPool(searched["pictures"], torch.device("cpu"), batch=4)
    options = {"name": meta["name"], "config": {}, "learning_rate": 5e-5}
    stages.train_synthesis(pool, tmp_path / "s.pt", transforms, minutes=0.02, **options)
    written = export.export(tmp_path / "s.pt", "tiny", folder)
    assert sorted(map(locate.name_of, written)) == sorted(map(locate.name_of, before.glob("*.safetensors")))
    assert all(path.stat().st_size < 1000 for path in written[1:])  # the rest of it is in older files

    old, new = (weights.load(locate.by_name("tiny", (where,)))[0] for where in (before, folder))
    same = {key.split(".")[0] for key, value in old.state_dict().items() if torch.equal(value, new.state_dict()[key])}
    assert same == {"embed", "merge", "analysis_gain", "analysis_fine", "analysis_coarse", "latent_gain"}
    then, now = (loss.validate_decoded(model, {"loss": pool.held_out("found")})["loss"] for model in (old, new))
    assert now < then

    picture = Image.open(DATA / "sample.png")
    codecs = [Codec("tiny", "parallel", weights_folder=where) for where in (before, folder)]
    datas = [codec.encode(picture, 50, effort=0) for codec in codecs]
    old_tile, new_tile = (container.unpack(data)[1][0] for data in datas)
    assert old_tile == new_tile  # the same latents, for another synthesis
    pictures = [np.asarray(codec.decode(data)) for codec, data in zip(codecs, datas, strict=True)]
    assert not np.array_equal(*pictures)
    with pytest.raises(MissingWeights):
        Codec("tiny", "parallel", weights_folder=before).decode(datas[1])


def test_a_synthesis_may_grow(searched, tmp_path):
    transforms, meta = weights.load(locate.by_name("tiny", (TINY,)))
    pool = DecodedPool(searched["pictures"], torch.device("cpu"), batch=2)
    one, two = transforms.config.synthesis
    options = {"name": meta["name"], "minutes": 0.0, "learning_rate": 1e-3}
    stages.train_synthesis(pool, tmp_path / "s.pt", transforms, config={"synthesis": [one + 1, two]}, **options)
    export.export(tmp_path / "s.pt", "larger", tmp_path)
    larger, _ = weights.load(locate.by_name("larger", (tmp_path,)))
    assert len(larger.synthesis_fine) == one + 1
    y, level = torch.randn(1, transforms.config.latents, 4, 4), torch.tensor([1000])
    assert torch.allclose(larger.synthesis(y, level), transforms.synthesis(y, level), atol=1e-3)
    transforms.embed.bias.add_(1)
    transforms.pixels.bias.add_(0.25)
    other = weights.save(transforms, tmp_path, "other", "transforms", meta["name"], meta["config"])
    transforms, _ = weights.load(locate.by_name("tiny", (TINY,)))
    stages.train_synthesis(pool, tmp_path / "o.pt", transforms, config={}, start=[other], **options)
    started = loop.load(tmp_path / "o.pt")["average"]
    assert torch.equal(started["transforms.embed.bias"], transforms.embed.bias)  # what makes the latents is never another's
    assert torch.allclose(started["transforms.pixels.bias"], transforms.pixels.bias + 0.25, atol=1e-3)
    with pytest.raises(LicError, match="only the synthesis"):
        stages.train_synthesis(pool, tmp_path / "l.pt", transforms, config={"latents": 32}, **options)
