"""What a model takes over from others: from several files, neighbours at their places, a larger one from a smaller one."""

import json
from dataclasses import asdict

import pytest
import torch
from conftest import TINY
from test_train import SMALL, SMALL_CONFIGS, SMALL_ENTROPY

from lic import locate, weights
from lic.entropy import base, coding
from lic.entropy.sections import GlobalParallelConfig, ParallelConfig, Sections, SpatiotemporalConfig
from lic.train import adopt, export, scales, stages
from lic.train.latents import Pool


@pytest.fixture(autouse=True)
def few_crops(monkeypatch):
    """How good the linear start is does not matter here."""
    monkeypatch.setattr(stages, "FIT_CROPS", 64)


def test_training_goes_on_from_several_files(folder, tmp_path):
    """Checkpoints and weights files; of what several have, the last one's is taken."""
    device, options = torch.device("cpu"), {"batch": 2, "crop": 64, "last_crop": 64, "learning_rate": 1e-3}
    both = options | {"name": "patch", "config": json.loads(SMALL), "entropy": "parallel", "entropy_config": SMALL_CONFIGS["parallel"]}
    for name, seed in (("a.pt", 0), ("b.pt", 1)):
        stages.train_transforms(folder, tmp_path / name, device, **both, minutes=0.005, seed=seed)
    _, entropy = export.export(tmp_path / "b.pt", "small", tmp_path)
    stages.train_transforms(folder, tmp_path / "c.pt", device, **both, minutes=0, start=[tmp_path / "a.pt", entropy])
    a, b, c = (scales.folded(torch.load(tmp_path / name, weights_only=True)["average"]) for name in ("a.pt", "b.pt", "c.pt"))
    for key in c:  # fp16, or integers of 2^-14, or of 2^-10
        wanted = a if key.startswith("transforms.") else b
        assert torch.allclose(c[key], wanted[key], rtol=1e-3, atol=2.0**-11), key
    assert any(not torch.allclose(a[key], b[key], rtol=1e-2, atol=2.0**-10) for key in c)


@torch.no_grad()
def test_sections_take_over_neighbours_at_their_places(searched, tmp_path):
    transforms, _ = weights.load(locate.by_name("tiny", (TINY,)))
    common = Pool(searched["pictures"], torch.device("cpu"), batch=2), tmp_path / "p.pt", transforms
    with torch.enable_grad():
        stages.train_entropy(*common, name="parallel", config=SMALL_CONFIGS["parallel"], minutes=0.005, learning_rate=1e-3)
    exported = export.export(tmp_path / "p.pt", "tiny", tmp_path)
    config = {"latents": 24, "anchors": transforms.config.anchors} | SMALL_CONFIGS["parallel"]
    for start in ([tmp_path / "p.pt"], exported):
        model, own = (Sections(ParallelConfig(**config | {"inside": inside})) for inside in ("checkerboard", "wavefront"))
        for grown in (model, own):
            adopt.adopt(torch.nn.ModuleDict({"entropy": grown}), adopt.parameters(start, grown))
        for k, begin in enumerate(own.neighbours):
            size = 2 * (own.first[k + 1] - own.first[k])
            mine, theirs = (m.sections[k].context.weight for m in (own, model))
            assert torch.equal(mine[:, :begin], theirs[:, :begin])
            for tap, columns in zip(own.taps[k], mine[:, begin:].split(size, 1), strict=True):
                here = model.taps[k].index(tap) if tap in model.taps[k] else None
                expected = torch.zeros_like(columns) if here is None else theirs[:, begin + here * size :][:, :size]
                assert torch.equal(columns, expected), (k, tap)
            assert bool(mine[:, begin:].any())
        alone, others = (Sections(ParallelConfig(**config | other)) for other in ({"inside": "none"}, {"sections": [1, 2, 1]}))
        found, as_is, elsewhere = (adopt.parameters(start, to) for to in (alone, model, others))
        for k, begin in enumerate(alone.neighbours):
            key = f"entropy.sections.{k}.context.weight"
            assert torch.equal(found[key], as_is[key][:, :begin])
            assert torch.equal(elsewhere[key], as_is[key])  # where sections are others nothing has a place


def columns(model, k) -> dict[tuple, torch.Tensor]:
    """Of the first layer of section k, called by what they are for."""
    names = [("before", i) for i in range(model.neighbours[k])]
    for kind in ("latents", "differences")[: 1 + model.looks_back]:
        if kind == "differences":
            names += [("between", i) for i in range(2 * model.first[k + 1])]
        names += [(kind, tap, i) for tap in model.taps[k] for i in range(2 * (model.first[k + 1] - model.first[k]))]
    return dict(zip(names, model.sections[k].context.weight.T, strict=True))


@torch.no_grad()
def test_a_model_of_sequences_starts_from_one_of_pictures_and_from_its_like(tmp_path):
    torch.manual_seed(0)
    config = {"latents": 24, "anchors": 3, "sections": [1, 2], "attention": 1, "hidden": 16} | json.loads(SMALL_ENTROPY)
    last, *others = Sections(GlobalParallelConfig(**config)), "quarters", "wavefront", "checkerboard"
    for inside in others:
        torch.save(
            {"average": last.state_dict(), "config": {"latents_of": "", "entropy": [
                "spatiotemporal" if last.looks_back else "global-parallel", asdict(last.config)]}},
            tmp_path / "e.pt",
        )  # fmt: skip
        own = Sections(SpatiotemporalConfig(**config | {"inside": ["eighths", inside]}))
        adopt.adopt(torch.nn.ModuleDict({"entropy": own}), adopt.parameters([tmp_path / "e.pt"], own))
        for k in range(2):
            there = columns(last, k)
            for name, column in columns(own, k).items():
                assert torch.equal(column, there.get(name, torch.zeros_like(column))), (inside, k, name)
        last = own


@torch.no_grad()
def test_before_it_has_seen_any_a_model_of_sequences_knows_what_one_of_pictures_does(tmp_path):
    torch.manual_seed(0)
    config = {"latents": 24, "anchors": 3, "sections": [1, 2], "hidden": 16} | json.loads(SMALL_ENTROPY)
    pictures, sequences = Sections(GlobalParallelConfig(**config)), Sections(SpatiotemporalConfig(**config))
    path = tmp_path / "e.pt"
    torch.save(
        {"average": pictures.state_dict(), "config": {"latents_of": "", "entropy": ["global-parallel", asdict(pictures.config)]}}, path
    )
    adopt.adopt(torch.nn.ModuleDict({"entropy": sequences}), adopt.parameters([path], sequences))
    y, level, z_hat = 3 * torch.randn(2, 24, 8, 12).round(), torch.tensor([0, 4000]), torch.randn(2, 4, 2, 3).round()
    found, expected = (base.parameters_of(model, z_hat, y, level, torch.zeros_like(y)) for model in (sequences, pictures))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_wider_transforms_start_as_the_same_function(tmp_path, folder):
    small = json.loads(SMALL)
    options = {"minutes": 0.005, "batch": 2, "crop": 64, "last_crop": 64, "learning_rate": 1e-2, "name": "patch", "entropy": "parallel"}
    device, entropy = torch.device("cpu"), SMALL_CONFIGS["parallel"] | {"hidden": 12}
    with torch.enable_grad():
        stages.train_transforms(folder, tmp_path / "a.pt", device, config=small, entropy_config=entropy, **options)
        wider = small | {"width": 24, "analysis": [2, 1], "synthesis": [1, 2]}
        stages.train_transforms(folder, tmp_path / "b.pt", device, config=wider, entropy_config=entropy | {"hidden": 20},
                                start=[tmp_path / "a.pt"], **options | {"minutes": 0})  # fmt: skip
    pairs = []
    for name in ("a.pt", "b.pt"):
        export.export(tmp_path / name, name[0], tmp_path)
        pairs.append(weights.load_models(locate.by_name(f"{name[0]}-parallel", (tmp_path,)), device))
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([1000, 4096])
    (own, other), y = [one.transforms for one in pairs], pairs[0].transforms.analysis(x, level)
    assert own.config.width < other.config.width
    assert torch.allclose(other.analysis(x, level), y, rtol=1e-2, atol=1e-2)  # both were written in fp16
    assert torch.allclose(other.synthesis(y.round(), level), own.synthesis(y.round(), level), rtol=1e-2, atol=1e-2)
    tables = [coding.predict_all(one.entropy, y.round().long()[:1], level[:1])[1] for one in pairs]
    assert all(int((a - b).abs().max()) <= 1 for a, b in zip(*tables, strict=True))
