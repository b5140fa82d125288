"""From a recovery to what is reported."""

import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.reports.finished import scored


def test_each_victim_as_the_recovery_has_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 3))
    images, labels = torch.rand(2, 1, 1, 4, 4), torch.tensor([[0], [2]])
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), tuple(model.parameters()))
        for x, y in zip(images, labels, strict=True)
    ]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    recovery = sf.recover(model, target, (1, 4, 4), batched=True, steps=20)
    for victim in range(2):
        entry = scored(
            recovery, victim, f"v{victim}", seconds=1.5, truth=images[victim], true_labels=labels[victim]
        )
        assert (entry.name, entry.group, entry.method) == (f"v{victim}", f"v{victim}", "recovered")
        assert torch.equal(entry.inputs, recovery.inputs[victim])
        assert entry.labels.tolist() == labels[victim].tolist()
        assert entry.distance == float(recovery.distance[victim])
        assert entry.seconds == 1.5
        assert entry.status == recovery.status[victim]
        assert entry.certificate["status"] == recovery.certificate[victim].status
        assert list(entry.details) == [
            *("source", "source_reason", "winner", "mode", "mode_reason", "recipe", "scale", "warnings")
        ]
        assert len(entry.scores) == 1
    assert scored(recovery, 0, "v0").scores == ()
