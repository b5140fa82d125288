"""The fused path sets itself up on a model in use: it leaves no trace, and goes the tool's own way."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

import sapag_fast as sf
from sapag_fast.integrations.breaching_base import Objective
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.integrations.untouched import untouched, written_buffer

LABELS = torch.tensor([1, 2])


class _Counting(nn.Module):
    """Counts its evaluations in a buffer that its output depends on, in whatever mode."""

    def __init__(self, replaced=False):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.replaced = replaced

    def forward(self, inputs):
        if self.replaced:
            self.count = self.count + 1
        else:
            self.count += 1
        return inputs * (1 + 0.1 * self.count)


def _mlp(*middle, width=32):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, width), *middle, nn.Sigmoid(), nn.Linear(width, 5))


NETWORKS = {
    "plain": _mlp,
    "dropout": lambda: _mlp(nn.Dropout(0.3)),
    "two dropouts": lambda: nn.Sequential(nn.Dropout(0.1), _mlp(nn.AlphaDropout(0.2))),
    "dropout, explicit": lambda: nn.Sequential(_mlp(nn.Dropout(0.3), width=20_000)),
    "random relu": lambda: _mlp(nn.RReLU()),
    "spectral norm": lambda: nn.Sequential(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(48, 32)), nn.Sigmoid(), nn.Linear(32, 5)
    ),
    "spectral norm by hooks": lambda: nn.Sequential(
        nn.Flatten(), spectral_norm(nn.Linear(48, 32)), nn.Sigmoid(), nn.Linear(32, 5)
    ),
    "batchnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 5)
    ),
    "counting": lambda: _mlp(_Counting()),
    "counting anew": lambda: _mlp(_Counting(replaced=True)),
}


class _Theirs(nn.Module):
    """What `Objective` needs of breaching's ``GradientLoss``."""

    local_hyperparams = None
    cfg_impl = SimpleNamespace(mixed_precision=False)
    loss_fn = staticmethod(F.cross_entropy)

    def forward(self, model, gradient_data, candidate, labels):
        loss = F.cross_entropy(model(candidate), labels)
        gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return self.gradient_based_loss(gradient, gradient_data), loss.detach()


class _Own(Objective, _Theirs):
    def make(self, count):
        return sf.GradientDistance("sapag")


def _victim(name, training):
    torch.manual_seed(0)
    model = NETWORKS[name]().train(training)
    inputs = torch.rand(2, 3, 4, 4)
    target = torch.autograd.grad(F.cross_entropy(model(inputs), LABELS), list(model.parameters()))
    return model, [g.detach() for g in target], torch.rand(2, 3, 4, 4)


def _state(model):
    return {
        "buffers": [(n, id(b), b.clone()) for n, b in model.named_buffers()],
        "parameters": [(id(p), p._version, p.grad, p.requires_grad) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
        "switches": (torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled()),
    }


def _same(before, after):
    assert all(
        a[:2] == b[:2] and torch.equal(a[2], b[2])
        for a, b in zip(before["buffers"], after["buffers"], strict=True)
    )
    assert torch.equal(before["random"], after["random"])
    assert [before[k] for k in ("parameters", "modes", "switches")] == [
        after[k] for k in ("parameters", "modes", "switches")
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_setting_it_up_leaves_all_as_found(name, training):
    model, target, start = _victim(name, training)
    before = _state(model)
    writes = "counting" in name or ("spectral" in name and training)
    with pytest.raises(ValueError, match="found that it writes to") if writes else contextlib.nullcontext():
        CandidateDistance(model, F.cross_entropy, sf.GradientDistance(), target, start, LABELS)
    _same(before, _state(model))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loop_goes_the_way_of_the_tool_s_own(name, training):
    """Random masks, power iterations and counts are those of a loop without us: 1e-2 apart before."""
    model, target, start = _victim(name, training)
    objective, own = _Own(type="sapag"), _Own(type="sapag")
    own.distance_only = True
    found = []
    state = copy.deepcopy(model.state_dict())
    for part in (objective, own):
        model.load_state_dict(state)
        torch.manual_seed(3)
        candidate = start.clone().requires_grad_()
        slopes = []
        for _ in range(4):
            value, _ = part(model, target, candidate, LABELS)
            (slope,) = torch.autograd.grad(value, candidate)
            slopes.append(slope)
            with torch.no_grad():
                candidate.sub_(0.01 * slope / slope.norm())
        found.append((candidate.detach(), torch.stack(slopes), torch.get_rng_state()))
        if "batchnorm" not in name:
            found[-1] += (torch.cat([b.flatten() for b in [*model.buffers(), torch.zeros(1)]]),)
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine.double(), theirs.double(), rtol=1e-3, atol=1e-6)
    assert torch.equal(found[0][2], found[1][2])


def test_which_buffer_is_written_to():
    model, _, start = _victim("counting", False)
    with untouched(model, start.device):
        assert written_buffer(model, start) == "2.count"
        assert model[2].count == 2
    assert model[2].count == 1
    batchnorm, _, start = _victim("batchnorm", True)
    assert written_buffer(batchnorm, start) is None
    spectral, _, start = _victim("spectral norm", True)
    assert "_u" in written_buffer(spectral, start)
    assert written_buffer(spectral.eval(), start) is None


def test_many_queries_keep_what_is_known_of_each():
    """Over 64 queries, all of it was thrown away at each pass."""
    model, target, start = _victim("plain", False)
    targets = [[g.clone() for g in target] for _ in range(70)]
    objective = _Own(type="sapag")
    passes = []
    for _ in range(2):
        for gradient in targets:
            objective(model, gradient, start.clone().requires_grad_(), LABELS)
        passes.append([id(part) for part in objective.candidates.values()])
    assert len(passes[0]) == 70
    assert passes[0] == passes[1]
