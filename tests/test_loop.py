"""The training loop: checkpoints, bad batches, several processes, and what a GPU's graphs ask of a step."""

import subprocess
import sys

import pytest
import torch
from test_train import SMALL_CONFIGS
from torch._subclasses.fake_tensor import FakeTensorMode

from lic.entropy import ENTROPY_MODELS, base
from lic.train import loop


def test_what_a_gpu_began_goes_on_without_one(tmp_path):
    """Its optimiser has a learning rate in a tensor, and says that it may be captured."""
    model = torch.nn.Conv2d(3, 1, 1)

    class Numbers:
        def draw(self, step, progress, generator):
            return torch.rand(2, 3, 8, 8, generator=generator)

    def train(minutes):
        checkpoint, judge = tmp_path / "c.pt", lambda model: {"loss": 0.0}
        loop.fit(
            model, lambda m, x: (m(x).square().mean(), {}), judge, Numbers(), checkpoint, config={}, minutes=minutes, learning_rate=1e-2
        )
        return torch.load(checkpoint, weights_only=True)

    state = train(0.001)
    (group,) = state["optimizer"]["param_groups"]
    group |= {"lr": torch.tensor(group["lr"]), "capturable": True}
    loop.save(tmp_path / "c.pt", state)
    after = train(0.003)
    assert after["step"] > state["step"]
    (group,) = after["optimizer"]["param_groups"]
    assert isinstance(group["lr"], float)
    assert not group["capturable"]


def test_a_bad_batch_changes_nothing(tmp_path):
    model, good = torch.nn.Conv2d(3, 1, 1), []

    class Numbers:
        def draw(self, step, progress, generator):
            return torch.rand(2, 3, 8, 8, generator=generator)

    def loss(model, x):
        good.append({key: value.clone() for key, value in model.state_dict().items()})
        return model(x).square().mean() * (1.0 if len(good) < 3 else float("nan")), {}

    loop.fit(model, loss, lambda model: {"loss": 0.0}, Numbers(), tmp_path / "c.pt", config={}, minutes=0.003, learning_rate=1e-2)
    assert len(good) > 4
    assert not torch.equal(good[1]["weight"], good[2]["weight"])
    assert all(torch.equal(good[2][key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ENTROPY_MODELS)
def test_a_captured_step_waits_for_no_value(name):
    """Tensors without values can do no more than a CUDA graph can. What follows from positions is kept from the first step on."""
    model_class, config_class = ENTROPY_MODELS[name]
    model = model_class(config_class(**{"latents": 24} | SMALL_CONFIGS.get(name, {}))).train()
    y, level = torch.randn(2, 24, 8, 12).mul(2).round(), torch.tensor([100, 3000])
    base.predict_real(model, y, level)

    def step():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            z, parameters = base.predict_real(model, mode.from_tensor(y), mode.from_tensor(level))
            (z.sum() + sum(x.sum() for x in parameters)).backward()

    if name == "local-dictionary":  # which looks at how many different values there are
        assert not model.capturable
        with pytest.raises(RuntimeError):
            step()
    else:
        step()


TWO_WORKERS = """
import sys, torch
from pathlib import Path
from lic.train import loop, workers

class Numbers:  # of each process's own
    def draw(self, step, progress, generator):
        return torch.rand(2, 3, 8, 8, generator=generator)

def loss(model, x):
    seen.append(float(x.mean()))
    return (model(x) - 1).square().mean(), {}

torch.manual_seed(workers.Workers().rank)  # so that they do not start alike
model, seen = torch.nn.Conv2d(3, 1, 1), []
loop.fit(model, loss, lambda model: {"loss": 0.0}, Numbers(), Path("c.pt"), config={}, minutes=0.01, learning_rate=1e-2)
torch.save((len(seen), seen[0], model.state_dict()), f"{workers.Workers().rank}.pt")
"""


def test_two_processes_train_one_model(tmp_path):
    (tmp_path / "two.py").write_text(TWO_WORKERS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "two.py"]
    done = subprocess.run(torchrun, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (steps, crop, model), (other_steps, other_crop, other) = (torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in (0, 1))
    assert steps == other_steps > 1
    assert crop != other_crop
    assert all(torch.equal(model[key], other[key]) for key in model)
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    assert saved["step"] == steps
    assert all(torch.equal(model[key], saved["model"][key]) for key in model)
