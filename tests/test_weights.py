import json
import shutil

import pytest
import torch
from conftest import TINY
from safetensors import safe_open
from safetensors.torch import save

from lic import locate, weights
from lic.errors import BadWeights, MissingWeights


def rewritten(path, folder, change):
    """A copy of a weights file with its tensors or metadata changed and the name made to fit."""
    with safe_open(path, "pt") as file:
        meta, tensors = json.loads(file.metadata()["lic"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(meta, tensors)
    data = save(tensors, {"lic": json.dumps(meta, sort_keys=True)})
    copy = folder / f"{locate.name_of(path)}.{weights.fingerprint_of(data)}.safetensors"
    copy.write_bytes(data)
    return copy


def entropy_file(entropy_name):
    return locate.by_name(f"tiny-{entropy_name}", (TINY,))


def decisive(tensors) -> str:
    """A tensor of the exact face that every prediction depends on."""
    return next(key for key in ("head.linear.weight", "levels.values", "hyper.levels.values") if key in tensors)


def test_few_large_numbers_do_not_make_a_file_larger(tmp_path):
    model, meta = weights.load(entropy_file("local"))
    sizes = []
    for large in (0, -(2**15), 70_000):
        with torch.no_grad():
            model.head.linear.weight[0, 1] = large
        path = weights.save(model, tmp_path, "a-b", "entropy", meta["name"], meta["config"], meta["transforms"])
        again, _ = weights.load(path)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
        sizes.append(path.stat().st_size)
    assert max(sizes) < min(sizes) + 200


def test_load_gives_the_exact_face(entropy_name):
    model, meta = weights.load(entropy_file(entropy_name))
    assert meta["kind"] == "entropy"
    assert model.state_dict()[decisive(model.state_dict())].dtype == torch.float64
    assert weights.self_test(model) == meta["self_test"]


def test_to_load_draws_no_random_numbers(entropy_name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    weights.load(entropy_file(entropy_name))
    assert torch.equal(torch.get_rng_state(), before)


def test_save_is_reproducible(entropy_name, tmp_path):
    """Of what the file says, not of the config as it is today, which may have grown."""
    path = entropy_file(entropy_name)
    model, meta = weights.load(path)
    again = weights.save(model, tmp_path, f"tiny-{entropy_name}", "entropy", entropy_name, meta["config"], meta["transforms"])
    assert again.name == path.name
    assert again.read_bytes() == path.read_bytes()


def test_a_name_is_that_of_the_last_weights_saved_and_others_still_decode(tmp_path):
    model, meta = weights.load(entropy_file("hyperprior"))
    for shift in range(4):
        with torch.no_grad():
            model.head.linear.bias += shift
        path = weights.save(model, tmp_path, "mine-hyperprior", "entropy", "hyperprior", meta["config"], meta["transforms"])
        assert locate.by_name("mine-hyperprior", (tmp_path,)) == path
    weights.save(model, tmp_path, "mine-hyperprior", "entropy", "hyperprior", meta["config"], meta["transforms"])
    assert locate.by_name("mine-hyperprior", (tmp_path,)) == path
    older = sorted((tmp_path / weights.OLDER).iterdir())
    assert len(older) == 3
    assert locate.by_fingerprint(locate.fingerprint_of(older[0]), (tmp_path,)) == older[0]


def test_what_does_not_fit_32_bits_is_not_saved(tmp_path):
    model, meta = weights.load(entropy_file("hyperprior"))
    with torch.no_grad():
        model.head.linear.bias[0] = 2**31
    with pytest.raises(BadWeights, match="32 bits"):
        weights.save(model, tmp_path, "mine-hyperprior", "entropy", "hyperprior", meta["config"], meta["transforms"])


def test_missing_names_what_is_missing():
    with pytest.raises(MissingWeights, match="called nothing-here"):
        locate.by_name("nothing-here")
    with pytest.raises(MissingWeights, match=r"called nothing-local in .*; there are some for --model tiny$"):
        locate.by_name("nothing-local", (TINY,))
    with pytest.raises(MissingWeights, match="deadbeef"):
        locate.by_fingerprint("deadbeef")
    with pytest.raises(MissingWeights, match="cannot read"):
        weights.load(TINY / "gone.00000000.safetensors")


def test_the_folder_named_first_comes_first(tmp_path):
    """Wherever it sorts among the others."""
    path = entropy_file("local")
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
        shutil.copy(path, tmp_path / name)
        found = tmp_path / name / path.name
        assert locate.by_name("tiny-local", (tmp_path / name, TINY)) == found
        assert locate.by_fingerprint(locate.fingerprint_of(path), (tmp_path / name, TINY)) == found
        assert locate.by_name("tiny-local", (TINY, tmp_path / name)) == path


def test_altered_file_is_refused(entropy_name, tmp_path):
    path = entropy_file(entropy_name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / path.name).write_bytes(data)
    with pytest.raises(BadWeights, match="fingerprint"):
        weights.load(tmp_path / path.name)


def test_other_numbers_in_the_self_test_are_refused(entropy_name, tmp_path):
    def change(meta, tensors):
        tensors[decisive(tensors)] += 999

    with pytest.raises(BadWeights, match="self-test"):
        weights.load(rewritten(entropy_file(entropy_name), tmp_path, change))


def test_overflowing_weights_are_refused(entropy_name, tmp_path):
    def change(meta, tensors):
        tensors[decisive(tensors)] = tensors[decisive(tensors)].double() * 0 + 2.0**30

    with pytest.raises(BadWeights, match=r"2\^53|in range"):
        weights.load(rewritten(entropy_file(entropy_name), tmp_path, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda meta, tensors: meta.update(name="unheard-of"),
        lambda meta, tensors: meta.update(config=[1]),
        lambda meta, tensors: meta.update(config={"colour": 3}),
        lambda meta, tensors: meta.pop("kind"),
        lambda meta, tensors: tensors.pop("head.linear.weight"),
        lambda meta, tensors: tensors.update({"head.linear.weight": torch.zeros(3)}),
    ],
)
def test_files_that_do_not_fit_their_architecture(change, tmp_path):
    with pytest.raises(BadWeights):
        weights.load(rewritten(entropy_file("local"), tmp_path, change))


def test_not_safetensors_at_all(tmp_path):
    path = tmp_path / f"x.{weights.fingerprint_of(b'hello')}.safetensors"
    path.write_bytes(b"hello")
    with pytest.raises(BadWeights):
        weights.load(path)


def test_transforms_are_found_beside_their_entropy_model_and_are_no_entropy_model(tmp_path):
    path = entropy_file("local")
    shutil.copy(path, tmp_path)
    with pytest.raises(MissingWeights):
        weights.load_models(tmp_path / path.name, torch.device("cpu"))
    with pytest.raises(BadWeights, match="not of an entropy model"):
        weights.load_models(locate.by_name("tiny", (TINY,)), torch.device("cpu"))


def test_shipped_weights_load():
    names = locate.names()
    assert {"lite", "lite-hyperprior", "lite-parallel", "lite-spatiotemporal"} <= set(names)
    for name in names:
        weights.load(locate.by_name(name))


def test_a_model_for_another_synthesis_takes_no_room(tmp_path):
    """Its file has no tensors of its own: those are in the one that it replaces, wherever that is by then; without that it says so."""
    for name in ("tiny", "tiny-hyperprior"):
        shutil.copy(locate.by_name(name, (TINY,)), tmp_path)
    first = locate.by_name("tiny-hyperprior", (tmp_path,))
    transforms, meta = weights.load(locate.by_name("tiny", (tmp_path,)))
    before = meta["name"], meta["config"]
    for _ in range(2):
        with torch.no_grad():
            transforms.pixels.bias += 0.01
        other = weights.save(transforms, tmp_path, "tiny", "transforms", *before)
        again = weights.save_again(locate.by_name("tiny-hyperprior", (tmp_path,)), locate.fingerprint_of(other))
        assert again.stat().st_size < 1000
        assert locate.by_name("tiny-hyperprior", (tmp_path,)) == again
        models, old = (weights.load_models(path, torch.device("cpu")) for path in (again, tmp_path / weights.OLDER / first.name))
        assert models.latents_of == locate.fingerprint_of(other)
        assert all(torch.equal(a, b) for a, b in zip(models.entropy.parameters(), old.entropy.parameters(), strict=True))
        assert weights.self_test(models.entropy) == weights.self_test(old.entropy)
    (tmp_path / weights.OLDER / first.name).unlink()
    with pytest.raises(MissingWeights, match=locate.fingerprint_of(first)):
        weights.load(again)
