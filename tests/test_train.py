"""The training commands on a handful of pictures: the loss falls, a stopped run resumes, an export codes real files."""

import json
import re

import numpy as np
import pytest
import torch
from command import lic
from conftest import DATA, TINY
from PIL import Image

from lic import annealing, coders, exact, locate, search, weights
from lic import transforms as networks
from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS, base, coding, of_pictures
from lic.entropy.hyperprior import Hyperprior
from lic.entropy.side import Sizes
from lic.errors import BadWeights, LicError
from lic.measures import SquaredError
from lic.train import data, export, latents, linear_start, loop, loss, scales, stages
from lic.train.latents import Pool
from lic.transforms import PatchTransforms, TransformsConfig, lambda_of

SMALL = '{"width": 16, "latents": 16, "analysis": [1, 1], "synthesis": [1, 1], "anchors": 3}'
SMALL_ENTROPY = '{"width": 8, "z_channels": 4, "side": 8}'
SMALL_CONFIGS = {  # of models that want another one
    "factorized": {}, "local-dictionary": {"entries": 5, "own": 2},
    "parallel": json.loads(SMALL_ENTROPY) | {"sections": [1, 1, 2]},
    "global-parallel": json.loads(SMALL_ENTROPY) | {"sections": [1, 1, 2], "attention": 2, "token": 16, "heads": 2},
    "cross-channel": json.loads(SMALL_ENTROPY) | {"sections": [1, 1, 2]},
    "spatiotemporal": json.loads(SMALL_ENTROPY) | {"sections": [1, 1, 2], "attention": 1, "token": 16, "heads": 2},
}  # fmt: skip


def held_out_losses(output: bytes) -> list[float]:
    return [float(value) for value in re.findall(rb"held out: loss ([0-9.]+)", output)]


def test_train_resume_export_code(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--batch", "2", "--crop", "64", "--last-crop", "128", "--threads", "1", "--learning-rate", "0.0001")
    small = ("--config", SMALL, "--entropy-config", SMALL_ENTROPY)
    first = held_out_losses(lic("train", "transforms", folder, "--out", "t.pt", "--minutes", "0.001", *small, *options).stdout)
    steps = torch.load("t.pt", weights_only=True)["step"]
    second = held_out_losses(lic("train", "transforms", folder, "--out", "t.pt", "--minutes", "0.12", *small, *options).stdout)
    assert torch.load("t.pt", weights_only=True)["step"] > steps > 0
    assert second[-1] < first[-1]
    exported = lic("train", "export", "t.pt", "--name", "small", "--folder", "w").stdout.decode().split()
    assert [name.split(".")[0] for name in exported] == ["w/small", "w/small-hyperprior"]
    picture = Image.open(DATA / "sample.png")
    codec = Codec("small", "hyperprior", weights_folder=tmp_path / "w")
    assert codec.decode(codec.encode(picture, 50)).size == picture.size


def test_train_entropy_on_frozen_latents(searched, tmp_path, entropy_name):
    """As a library call, with the tiny transforms; every registered model can be trained and exported."""
    path = locate.by_name("tiny", (TINY,))
    transforms, _ = weights.load(path)
    pools = {name: Pool(folder, torch.device("cpu"), batch=2) for name, folder in searched.items()}
    model = ENTROPY_MODELS[entropy_name][0]
    kind, other = ("pictures", "pairs") if entropy_name in of_pictures() else ("pairs", "pictures")
    if not model.dependent:
        with pytest.raises(LicError, match="wants integers"):
            stages.train_entropy(pools[kind], tmp_path / "n.pt", transforms, name=entropy_name, config={}, minutes=0, learning_rate=0)
        kind = "integers"
    checkpoint = tmp_path / "e.pt"
    config = SMALL_CONFIGS.get(entropy_name, json.loads(SMALL_ENTROPY))
    options = {"minutes": 0.02, "learning_rate": 1e-3}
    stages.train_entropy(pools[kind], checkpoint, transforms, name=entropy_name, config=config, **options)
    if kind == "pairs":
        with pytest.raises(LicError, match="fresh crops are of single pictures"):
            stages.train_entropy(pools[kind], tmp_path / "f.pt", transforms, name=entropy_name, config=config, fresh=tmp_path, **options)
    with pytest.raises(LicError, match="wants latents of"):
        stages.train_entropy(pools[other], checkpoint, transforms, name=entropy_name, config=config, **options)
    written = export.export(checkpoint, "tiny", tmp_path / "w")
    assert [locate.name_of(p) for p in written] == [f"tiny-{entropy_name}"]
    again = tmp_path / "again.pt"
    common = {"name": entropy_name, "config": config, "start": [checkpoint]}
    stages.train_entropy(pools[kind], again, transforms, **common, **options | {"learning_rate": 0.0})
    adopted, original = (torch.load(p, weights_only=True)["average"] for p in (again, checkpoint))
    assert all(torch.equal(adopted[key], original[key]) for key in original)
    model, meta = weights.load(written[0])
    assert meta["transforms"] == locate.fingerprint_of(path)
    assert model.latents == 24


def test_train_latents_and_entropy_by_command(folder, tmp_path):
    threads, few = ("--threads", "1"), ("--count", "8", "--crop", "64")
    lic("train", "latents", folder, "--model", "lite", "--entropy", "hyperprior", "--out", tmp_path / "l", *few, *threads)
    common = ("train", "entropy", "hyperprior", tmp_path / "l", "--minutes", "0.03", "--batch", "2", *threads)
    start = ("--start", locate.by_name("lite-hyperprior"), "--learning-rate", "1e-5")
    trained = held_out_losses(lic(*common, "--out", tmp_path / "t.pt", *start).stdout)
    raw = held_out_losses(lic(*common, "--out", tmp_path / "r.pt").stdout)
    assert trained[-1] < 0.95 * raw[-1]  # of a few steps from nothing
    rough = held_out_losses(lic(*common, "--out", tmp_path / "b.pt", *start, "--bfloat16").stdout)
    assert rough[-1] == pytest.approx(trained[-1], rel=0.03)  # after as many seconds, not steps
    fresh = ("--fresh", folder, "--enlarge", "2")
    assert held_out_losses(lic(*common, "--out", tmp_path / "f.pt", *start, *fresh).stdout)
    assert b"nothing to start from" in lic(*common, "--out", tmp_path / "g.pt", *fresh, code=1).stderr
    assert b"--enlarge is for the crops of --fresh" in lic(*common, "--out", tmp_path / "g.pt", *fresh[2:], code=2).stderr
    synthesis = lic("train", "synthesis", tmp_path / "l", "--out", tmp_path / "y.pt", "--minutes", "0.01", "--batch", "2", *threads)
    assert held_out_losses(synthesis.stdout)
    again = lic("train", "synthesis", folder, "--out", tmp_path / "y.pt", "--minutes", "1", code=1)
    assert b"not a folder of `lic train latents`" in again.stderr
    wrong = lic("train", "entropy", "spatiotemporal", tmp_path / "l", "--minutes", "1", "--out", tmp_path / "s.pt", code=1)
    assert b"wants latents of pairs of frames" in wrong.stderr
    unknown = lic("train", "entropy", "nonsense", tmp_path / "l", "--minutes", "1", "--out", tmp_path / "n.pt", code=1)
    assert b"unknown model 'nonsense'" in unknown.stderr


@torch.no_grad()
def test_blocks_train_in_units_of_their_features():
    torch.manual_seed(0)
    config = TransformsConfig(**json.loads(SMALL) | {"analysis": (2, 1)})
    transforms = PatchTransforms(config)
    transforms.embed.weight.mul_(torch.logspace(-2, 0, config.width)[:, None, None, None])  # features unlike each other
    busy, idle = transforms.analysis_fine
    torch.nn.init.normal_(busy.mix.weight, std=1e-3)
    x, level = torch.rand(6, 3, 64, 64), torch.tensor([0, 1000, 2000, 3000, 4000, 4096])
    y = transforms.analysis(x, level)

    scales.attach(transforms)
    learned = idle.depthwise.parametrizations.weight.original.clone()
    scales.measure(transforms, x)
    assert torch.allclose(transforms.analysis(x, level), y, rtol=1e-3, atol=1e-5)  # nothing has changed
    assert torch.equal(idle.depthwise.parametrizations.weight.original, learned)  # but what blocks see that do nothing yet
    assert float(busy.mix.parametrizations.weight.original.std()) > 0.1
    met = []
    for block in (busy, idle):
        block.register_forward_hook(lambda block, inputs, output: met.append(inputs[0].std((0, 2, 3))))
    transforms.analysis(x, level)
    for block, size in zip((busy, idle), met, strict=True):
        assert float(size.max() / size.min()) > 20
        assert torch.allclose(block.depthwise.parametrizations.weight[0].scale.flatten() * size, torch.ones(config.width), rtol=0.2)

    plain = PatchTransforms(config)
    plain.load_state_dict(scales.folded(transforms.state_dict()))
    assert torch.equal(plain.analysis(x, level), transforms.analysis(x, level))


def test_bfloat16_is_close_and_keeps_the_linear_paths_in_float32():
    torch.manual_seed(0)
    transforms = PatchTransforms(TransformsConfig(**json.loads(SMALL)))
    for module in transforms.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([0, 4096])
    with torch.no_grad():
        y = transforms.analysis(x, level)
        with torch.autocast("cpu", torch.bfloat16):
            rough, x_hat = transforms.analysis(x, level), transforms.synthesis(y, level)
        assert rough.dtype == x_hat.dtype == torch.float32
        assert 0 < float((rough - y).abs().max() / y.abs().max()) < 0.02
        for block in (*transforms.analysis_fine, *transforms.analysis_coarse):
            block.mix.weight.zero_()
        y = transforms.analysis(x, level)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(transforms.analysis(x, level), y)


@pytest.fixture
def frozen_stage(sample):
    """Tiny transforms, an entropy model on their latents, pictures and levels."""
    transforms, entropy = (weights.load(locate.by_name(name, (TINY,)))[0] for name in ("tiny", "tiny-hyperprior"))  # its own: it thaws them
    x = torch.from_numpy(np.asarray(sample.crop((0, 64, 128, 192))).copy()).permute(2, 0, 1).float() / 255
    return transforms, exact.thaw(entropy).requires_grad_(), torch.stack([x, x.flip(2)]), torch.tensor([1000, 3000])


def true_cost(transforms, coded, x, level):
    """Bits and error of the pictures, through the synthesis and by the search's price, in bits of a picture; (B,)."""
    error = (transforms.synthesis(coded.y_dec, level) - x).square().sum((1, 2, 3))
    return coded.bits + coded.z_bits + annealing.WORTH * lambda_of(transforms.config, level) * 255**2 / 3 * error


def test_latents_of_training_are_worth_more_than_rounded_ones(frozen_stage):
    """Those of the search, multiples of a half where they are wide; where latents stood in between lies on the way."""
    transforms, entropy, x, _ = frozen_stage
    models, level = weights.load_models(locate.by_name("tiny-hyperprior", (TINY,)), torch.device("cpu")), torch.tensor([2000, 3000])
    for one, at in zip(x.split(1), level.split(1), strict=True):
        record = latents._search(models, one, at, 1, True)
        y_hat = record.twice / 2
        rounded = y_hat + record.rounded
        assert torch.equal(rounded, transforms.analysis(one, at).round())
        assert 0.001 < float(((y_hat - rounded).abs() > 0.5).float().mean()) < 0.2
        assert 0.5 <= float((y_hat - rounded).abs().max()) <= 3
        assert bool(record.dependent)
        assert 0 < float((y_hat != y_hat.round()).float().mean()) < 0.6
        assert bool((2 * record.between != (2 * record.between).round()).any())
        with torch.no_grad():
            better, plain = (
                true_cost(transforms, base.expected_rate(entropy, y, at, dependent=torch.tensor([half])), one, at)
                for y, half in ((y_hat, True), (rounded, False))
            )
        assert float(better) < float(plain)


@torch.no_grad()
def test_training_counts_the_bits_of_dependent_quantisation(frozen_stage, monkeypatch):
    transforms, entropy, x, _ = frozen_stage
    models = weights.load_models(locate.by_name("tiny-hyperprior", (TINY,)), torch.device("cpu"))
    for level in (torch.tensor([2000]), torch.tensor([4000])):
        found = search.find(models, x[:1], transforms.analysis(x[:1], level).round(), level, 1, True)
        y_hat, counted = found.y_hat.float(), coders.Estimator()
        coding.write(models.entropy, y_hat, level, counted, None, found.z_hat.long(), found.dependent)
        monkeypatch.setattr(entropy, "analysis", lambda *given, z=found.z_hat: z)
        coded, as_integers = (base.expected_rate(entropy, y_hat, level, dependent=torch.tensor([half])) for half in (True, False))
        assert float(coded.bits + coded.z_bits) == pytest.approx(counted.bits, rel=0.005)
        off, further = (float((rate.y_dec - found.y_dec).square().mean()) for rate in (coded, as_integers))
        assert off < 0.5 * further


def test_frozen_latents_are_decoded_as_the_synthesis_wants_them(frozen_stage, monkeypatch):
    """The second stage follows the true distortion, whatever the analysis put within the bins."""
    monkeypatch.setattr(networks, "_rough", lambda kind: False)  # to the last digits
    transforms, entropy, x, level = frozen_stage
    y = transforms.analysis(x, level).round()
    undecided = annealing.Undecided(transforms, entropy, SquaredError(x), y, level, None, dependent=False)
    with torch.no_grad():
        undecided.anneal(1)
        slope = undecided.weigh().slope
    parameters = list(entropy.parameters())

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, allow_unused=True) if g is not None])

    judged, _ = loss.latent_rate_distortion(
        transforms.config, entropy, loss.Latents(level, y, undecided.y_dec, slope, torch.zeros(2, dtype=torch.bool))
    )
    weight = (lambda_of(transforms.config, level) / 0.01) ** -0.45 / (x.shape[2] * x.shape[3])
    wanted = gradient((weight * true_cost(transforms, base.expected_rate(entropy, y, level), x, level)).mean())
    assert torch.allclose(gradient(judged.mean()), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_what_is_to_be_kept_stays(searched, tmp_path):
    transforms, _ = weights.load(locate.by_name("tiny", (TINY,)))
    pool = Pool(searched["pictures"], torch.device("cpu"), 2)
    common = {"name": "hyperprior", "config": json.loads(SMALL_ENTROPY), "learning_rate": 1e-3}
    stages.train_entropy(pool, tmp_path / "a.pt", transforms, minutes=0.0, **common)
    stages.train_entropy(pool, tmp_path / "b.pt", transforms, minutes=0.05, start=[tmp_path / "a.pt"], keep=("hyper.h_a",), **common)
    before, after = (torch.load(tmp_path / name, weights_only=True)["average"] for name in ("a.pt", "b.pt"))
    same = {key for key in before if torch.equal(before[key], after[key])}  # where all of z is 0, that of up1, too
    assert {key for key in before if key.startswith("hyper.h_a")} <= same
    assert not {"head.linear.weight", "hyper.mix2.bias"} & same


def test_fresh_crops_are_rounded_latents_and_all_keep_their_centroids(searched, folder):
    pool, (transforms, _) = Pool(searched["pictures"], torch.device("cpu"), batch=2), weights.load(locate.by_name("tiny", (TINY,)))
    entropy = exact.thaw(weights.load(locate.by_name("tiny-parallel", (TINY,)))[0])
    pictures, _ = data.load(folder, torch.device("cpu"))
    batches, generator = latents.WithFresh(pool, pictures, 2.0, transforms, entropy), torch.Generator().manual_seed(1)
    first, second = (loss.Latents(*batches.draw(step, 0.0, generator)) for step in range(2))
    assert first.y.shape == (4, *pool.crops[0].twice.shape)
    assert first.previous is None
    assert set(first.level[:2].tolist()) <= {int(crop.level) for crop in pool.crops}
    assert torch.equal(first.y[2:], first.y[2:].round())
    assert not torch.equal(first.y[2:], second.y[2:])
    distortion = loss.latent_rate_distortion(transforms.config, entropy, first)[1]["distortion"]
    assert float(distortion.abs().max()) < 1e-9
    with torch.no_grad():
        entropy.head.linear.weight.add_(0.1)  # the model learns, and where crops are to decode to does not follow it
    distortion = loss.latent_rate_distortion(transforms.config, entropy, first)[1]["distortion"]
    assert float(distortion.min()) > 1e-6


def test_a_share_that_is_rounded_up_draws_the_last_crop(searched, monkeypatch):
    pool = Pool(searched["pictures"], torch.device("cpu"), 4)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 1 - 2**-24))
    assert pool.draw(0, 0.0, torch.Generator()).level[-1] == pool.crops[-1].level


def test_latents_in_files_are_those_of_the_search(searched, folder):
    pool = Pool(searched["pictures"], torch.device("cpu"), batch=4)
    assert sorted(path.name for path in searched["pictures"].iterdir()) == ["3-0000.pt", latents.HELD_OUT]
    assert 8 <= len(pool.crops) <= 16  # two batches, but for those where it fails: tiny networks help little at low qualities
    transforms, _ = weights.load(locate.by_fingerprint(pool.fingerprint, (TINY,)))
    _, held_out = data.load(folder, torch.device("cpu"))
    x = held_out.centres(64)
    states = {state: list(pool.held_out(state)) for state in latents.STATES}
    level, rounded = (torch.cat([getattr(part, field) for part in states["rounded"]]) for field in ("level", "y"))
    assert [level.tolist().count(value) for value in loss.VALIDATION_LEVELS[-2:]] == 2 * [len(x)]
    assert torch.equal(rounded[-len(x) :], transforms.analysis(x, level[-len(x) :]).round())
    found, between = (torch.cat([part.y for part in states[state]]) for state in ("found", "between"))
    assert torch.equal(2 * found, (2 * found).round())
    assert not torch.equal(found, found.round())
    assert torch.equal(torch.cat([part.dependent for part in states["rounded"]]), torch.zeros(len(level), dtype=torch.bool))
    assert torch.equal(torch.cat([part.dependent for part in states["between"]])[-6:], torch.ones(6, dtype=torch.bool))
    assert 0.001 < float((found != rounded).float().mean()) < 0.5
    assert float((found - between).abs().mean()) < float((rounded - between).abs().mean())
    moved = found != rounded  # and had been on their way there
    assert float((((between - rounded) * (found - rounded))[moved] > 0).float().mean()) > 0.9

    generator = torch.Generator().manual_seed(0)
    drawn = [pool.draw(step, 0.0, generator) for step in range(50)]
    assert all((part.level.diff() >= 0).all() and part.level[-1] - part.level[0] > 2048 for part in drawn)  # of all qualities
    kinds = torch.cat([(2 * part.y == (2 * part.y).round()).flatten(1).all(1) for part in drawn]).float().mean()
    assert 0.6 < float(kinds) < 0.95  # most are found or rounded, some between


@pytest.mark.parametrize("width", [192, 224])
def test_linear_start_is_a_working_codec(folder, width):
    torch.manual_seed(0)
    pictures, held_out = data.load(folder, torch.device("cpu"))
    transforms = PatchTransforms(TransformsConfig(width=width, latents=256))
    entropy = Hyperprior(Sizes())
    linear_start.initialise(transforms, entropy, pictures.crops(64, 128, torch.Generator().manual_seed(0)))
    x = held_out.centres(128)
    level = torch.full((len(x),), 4096)
    entropy.eval()
    with torch.no_grad():
        y = transforms.analysis(x, level)
        exact = transforms.synthesis(y, level)
    assert float((exact - x).square().mean()) < 0.002  # 256 of 768 components
    low, high = (loss.validate(transforms, entropy, x)["bpp/dB"][i] for i in (0, -1))
    assert low[0] < high[0]
    assert low[1] < high[1]


def test_levels_cover_the_range_and_lambda_is_geometric():
    levels = data.draw_levels(8, torch.Generator().manual_seed(0))
    assert sorted((levels * 8 // 4097).tolist()) == list(range(8))
    config = TransformsConfig()
    lam = lambda_of(config, torch.tensor([0.0, 2048.0, 4096.0]))
    assert torch.allclose(lam, torch.tensor([config.lambda_low, (config.lambda_low * config.lambda_high) ** 0.5, config.lambda_high]))


def test_bad_training_input(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert b"found 0 images" in lic("train", "transforms", tmp_path / "empty", "--out", tmp_path / "c.pt", "--minutes", "1", code=1).stderr
    bad_config = ("--config", '{"colour": 1}')
    assert b"colour" in lic("train", "transforms", folder, "--out", tmp_path / "c.pt", "--minutes", "1", *bad_config, code=1).stderr
    assert b"not a folder of" in lic("train", "entropy", "local", folder, "--out", tmp_path / "c.pt", "--minutes", "1", code=1).stderr
    assert (
        b"unknown model"
        in lic("train", "transforms", folder, "--entropy", "x", "--out", tmp_path / "c.pt", "--minutes", "1", code=1).stderr
    )
    loop.save(tmp_path / "x.pt", {"average": {}, "config": {}})
    with pytest.raises(BadWeights):
        export.export(tmp_path / "x.pt", "x", tmp_path)
    with pytest.raises(LicError):
        data.load(tmp_path, torch.device("cpu"))
