"""Networks with an output for every position: given targets are searched with, nothing is guessed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.recovery.recover import recover

TOKENS = (5, 6)


class LanguageModel(nn.Module):
    """Nine logits for each of five positions, ``[B, 9, 5]``."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 9)

    def forward(self, inputs):
        return self.head(torch.tanh(self.body(inputs))).transpose(1, 2)


def _flattened(output, labels):
    return F.cross_entropy(output.transpose(1, 2).reshape(-1, 9), labels.reshape(-1))


def _problem(loss=F.cross_entropy):
    torch.manual_seed(0)
    model, inputs, labels = LanguageModel(), torch.rand(1, *TOKENS), torch.randint(9, (1, 5))
    labels[0, 2] = -100
    return model, torch.autograd.grad(loss(model(inputs), labels), list(model.parameters())), labels


@pytest.mark.parametrize("loss", [None, "cross-entropy", F.cross_entropy, _flattened])
@pytest.mark.parametrize("restarts", [1, 3])
def test_targets_are_given(loss, restarts):
    model, gradient, labels = _problem()
    found = recover(model, gradient, TOKENS, labels=labels, loss_fn=loss, restarts=restarts, steps=200)
    assert found.distance.item() < 1e-6
    assert torch.equal(found.labels[0], labels)
    assert found.certificate[0].status == "unknown"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("infer", r"labels cannot be inferred: .*found \[1, 9, 5\]; give labels="),
        ("joint", r"labels='joint' needs a model whose output is \[B, classes\]"),
        (torch.zeros(1, 3, dtype=torch.long), r"labels must be classes \[1, 5\] for outputs \[1, 9, 5\]"),
        (torch.full((1, 5), 9), r"labels must lie in 0..8 \(the model's outputs\) or be -100, found 9"),
        (torch.rand(1, 5), r"labels must be probabilities \[1, 9, 5\] as the model's output"),
    ],
)
def test_others_are_refused(labels, words):
    model, gradient, _ = _problem()
    with pytest.raises(ValueError, match=words):
        recover(model, gradient, TOKENS, labels=labels, steps=1)


@pytest.mark.parametrize("restarts", [1, 2])
def test_segmentation(restarts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, 1, 1))
    inputs, labels = torch.rand(2, 1, 8, 8), torch.randint(4, (2, 8, 8))
    gradient = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    options = {"batch_size": 2, "labels": labels, "restarts": restarts, "steps": 60}
    found = recover(model, gradient, (1, 8, 8), **options)
    assert found.distance.item() < 1e-3
    assert torch.equal(found.labels[0], labels)
