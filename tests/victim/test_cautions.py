"""What a victim's mode hides: which modules are named, and that nothing else is touched."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.recovery.recover import recover
from sapag_fast.victim.cautions import CautionWarning, find_cautions
from sapag_fast.victim.model import VictimModel

SHAPE = (2, 8)


class Function(nn.Module):
    """Dropout by a function, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 20), nn.Linear(20, 10)

    def forward(self, inputs):
        return self.last(F.dropout(self.first(inputs), 0.3, self.training))


class Noise(nn.Module):
    def forward(self, inputs):
        return inputs + 0.1 * torch.randn_like(inputs) if self.training else inputs


class DropPath(nn.Module):
    """As others write it."""

    def forward(self, inputs):
        return (
            inputs * (torch.rand(len(inputs), *[1] * (inputs.dim() - 1)) > 0.5) if self.training else inputs
        )


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.other = nn.Linear(16, 10), nn.Dropout(0.5)

    def forward(self, inputs):
        return self.body(inputs.flatten(1))


class Twice(nn.Module):
    """One dropout at two places, and a tuple on the way."""

    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.LSTM(16, 12, num_layers=2, dropout=0.2, batch_first=True), nn.Dropout(0.2)
        self.head = nn.Linear(12, 10)

    def forward(self, inputs):
        hidden, _ = self.body(self.drop(inputs)[:, None])
        return self.head(self.drop(hidden[:, -1]))


def _flat(*parts):
    return nn.Sequential(nn.Flatten(), *parts)


CASES = {
    "none": (_flat(nn.Linear(16, 10)), {}),
    "dropout": (_flat(nn.Dropout(0.3), nn.Linear(16, 10)), {"dropout-active": ["1"]}),
    "dropout that hardly drops": (_flat(nn.Dropout(1e-6), nn.Linear(16, 10)), {"dropout-active": ["1"]}),
    "dropout of nothing": (_flat(nn.Dropout(0.0), nn.Linear(16, 10)), {}),
    "dropout in evaluation mode": (_flat(nn.Dropout(0.3), nn.Linear(16, 10)).eval(), {}),
    "dropout that is not called": (Unused(), {}),
    "alpha": (_flat(nn.Linear(16, 10), nn.AlphaDropout(0.3)), {"dropout-active": ["2"]}),
    "of channels": (nn.Sequential(nn.Dropout1d(0.5), *_flat(nn.Linear(16, 10))), {"dropout-active": ["0"]}),
    "by a function": (_flat(Function()), {"randomness": ["1"]}),
    "by the model itself": (nn.Sequential(nn.Flatten(), *Function().children()), {}),
    "noise": (_flat(Noise(), nn.Linear(16, 10)), {"randomness": ["1"]}),
    "one's own": (_flat(DropPath(), nn.Linear(16, 10)), {"dropout-active": ["1"]}),
    "leaky": (_flat(nn.Linear(16, 10), nn.RReLU()), {"randomness": ["2"]}),
    "both": (
        _flat(Noise(), nn.Dropout(0.1), nn.Linear(16, 10)),
        {"dropout-active": ["2"], "randomness": ["1"]},
    ),
    "recurrent": (Twice(), {"dropout-active": ["body", "drop"]}),
    "attention": (
        nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True), *_flat(nn.Linear(16, 10))
        ),
        {"dropout-active": ["0.self_attn", "0.dropout", "0.dropout1", "0.dropout2"]},
    ),
    "BatchNorm": (_flat(nn.BatchNorm1d(16), nn.Linear(16, 10)), {"batchnorm-training": ["1"]}),
    "BatchNorm in evaluation mode": (_flat(nn.BatchNorm1d(16), nn.Linear(16, 10)).eval(), {}),
    "BatchNorm without running statistics": (
        _flat(nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 10)).eval(),
        {"batchnorm-training": ["1"]},
    ),
    "LayerNorm": (_flat(nn.LayerNorm(16), nn.Linear(16, 10)), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_modules_are_named(case):
    model, expected = CASES[case]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    cautions = find_cautions(
        VictimModel(model), torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    )
    assert {caution.kind: list(caution.modules) for caution in cautions} == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for caution in cautions:
        assert all(name in caution.message for name in caution.modules)


def test_the_model_itself_and_many_modules():
    (caution,) = find_cautions(VictimModel(Function()), torch.rand(3, 16))
    assert caution.modules == ("",)
    assert "in the model itself" in caution.message
    parts = [part for _ in range(6) for part in (nn.Linear(16, 16), nn.Dropout(0.1))]
    (caution,) = find_cautions(VictimModel(_flat(*parts)), torch.rand(3, *SHAPE))
    assert len(caution.modules) == 6
    assert "2, 4, 6, 8 and 2 more" in caution.message


def test_a_model_that_bears_no_trial_is_judged_by_its_modules():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _flat(nn.Dropout(0.5), nn.Linear(16, 10))

        def forward(self, inputs):
            if inputs.any():
                raise ValueError("zeros only")
            return self.net(inputs)

    (caution,) = find_cautions(VictimModel(Fixed()), torch.rand(3, *SHAPE))
    assert caution.modules == ("net.1",)


def test_recover_warns_once_and_keeps_them():
    model = CASES["dropout"][0]
    gradient = [torch.rand_like(p) for p in model.parameters()]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", CautionWarning)
        found = recover(model, gradient, SHAPE, labels=[3], steps=1, averaged_batches=4, bounds=None)
    assert [caution.message for caution in found.warnings] == [str(warning.message) for warning in seen]
    assert [caution.kind for caution in found.warnings] == ["dropout-active", "averaged-batches"]
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recover(model.eval(), gradient, SHAPE, labels=[3], steps=1, bounds=None).warnings == ()
    model.train()
