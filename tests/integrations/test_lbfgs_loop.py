"""DLG's own loop: L-BFGS of rate 1, a picture and its label without a box, from noise."""

import pytest
import torch
from torch.nn import functional as F

from sapag_fast.data import digits
from sapag_fast.integrations.dlg import gradient_difference
from sapag_fast.models import make_model

SETTINGS = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12, "tolerance_change": 1e-15}


def _error(kind, settings, steps=25):
    """Mean square error of one digit, of a LeNet with its default weights."""
    images, labels = digits(1)
    model = make_model("lenet", channels=1, image_size=28)
    parameters = list(model.parameters())
    target = [g.detach() for g in torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)]
    torch.manual_seed(0)
    picture, label = torch.randn_like(images).requires_grad_(), torch.randn(1, 10).requires_grad_()
    optimizer = torch.optim.LBFGS([picture, label], **settings)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(picture), label.softmax(-1))
        dummy = torch.autograd.grad(loss, parameters, create_graph=True)
        difference = gradient_difference(dummy, target, kind)
        difference.backward()
        return difference

    for _ in range(steps):
        optimizer.step(closure)
    return F.mse_loss(picture.detach(), images).item()


@pytest.mark.parametrize("kind", ["sapag"])
def test_with_the_documented_settings_it_recovers(kind):
    """Without them the same loop goes astray: the kernel is flat far from the target."""
    assert _error(kind, SETTINGS) < 1e-3
    assert _error(kind, {}, steps=8) > 1
