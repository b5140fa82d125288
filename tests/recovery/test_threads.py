"""Searches in several threads at once."""

import threading

import torch
from torch import nn

import sapag_fast as sf


def network() -> nn.Module:
    layers = nn.Flatten(), nn.Linear(16, 12), nn.Sigmoid(), nn.Dropout(0.3), nn.Linear(12, 4)
    return nn.Sequential(*layers)


def test_a_seed_gives_the_same_bits_beside_other_threads() -> None:
    """Dropout draws from the process's generator."""
    torch.manual_seed(0)
    model = network()
    loss = nn.functional.cross_entropy(model(torch.rand(1, 1, 4, 4)), torch.tensor([1]))
    target = [g.detach() for g in torch.autograd.grad(loss, list(model.parameters()))]

    def search(seed: int, model: nn.Module) -> torch.Tensor:
        return sf.recover(model, target, (1, 4, 4), seed=seed, steps=10, restarts=2).inputs

    alone = [search(seed, model) for seed in range(3)]
    found: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: search(seed, model)}))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(found[seed], alone[seed]) for seed in range(3))
