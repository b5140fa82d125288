"""What tools hand over as gradients: sequences of one length, each fault called by the tool's name of it."""

from types import SimpleNamespace

import pytest
import torch
from tool_formulas import gradient_pair
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.integrations import aijack, dlg, gradattack, lamp, leakpro, plato
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.integrations.inverting_gradients import reconstruction_costs

# Calls by what the tool calls the dummy gradient and the target.
CALLS = {
    "aijack": ("fake_gradients", "received_gradients", aijack.DistanceFunction()),
    "dlg": ("dummy_dy_dx", "original_dy_dx", dlg.gradient_difference),
    "gradattack": ("trial_gradients", "input_gradients", gradattack.GradientMetric()),
    "gradattack, top10": ("trial_gradients", "input_gradients", gradattack.GradientMetric("l2", "top10")),
    "gradattack, given": ("trial_gradients", "input_gradients", gradattack.GradientMetric("l2", [0, 1])),
    "lamp": ("grads2", "grads1", lambda d, t: lamp.grad_dist(t, d, SimpleNamespace(loss="cos"))),
    "leakpro": ("dummy_gradient", "client_gradient", leakpro.GradientCosts("sapag")),
    "leakpro, top 10": (
        "dummy_gradient",
        "client_gradient",
        lambda d, t: leakpro.GradientCosts()(d, t, True),
    ),
    "leakpro, l2": ("dummy_gradient", "client_gradient", leakpro.l2_distance),
    "leakpro, mean l2": ("dummy_gradient", "client_gradient", leakpro.l2_distance_weights),
    "inverting": ("gradients[0]", "input_gradient", lambda d, t: reconstruction_costs([d], t, "sapag")),
    "inverting, first4": (
        "gradients[0]",
        "input_gradient",
        lambda d, t: reconstruction_costs([d], t, "sim", "first4"),
    ),
    "plato": ("gradients[0]", "input_gradient", lambda d, t: plato.reconstruction_costs("l2")([d], t)),
}


@pytest.fixture(params=CALLS.values(), ids=list(CALLS))
def call(request):
    return request.param


def _message(error, name, words):
    """What a call that must fail says, if it begins with the argument's name."""
    assert str(error.value).startswith(f"{name}: {words}"), str(error.value)


def test_one_tensor_is_no_list_of_gradients(call):
    mine, theirs, compared = call
    dummy, target = gradient_pair()
    for one in (torch.randn(1000), torch.randn(len(target), 3), torch.tensor(1.0)):
        with pytest.raises(TypeError) as error:
            compared(one, target)
        _message(error, mine, "expected a sequence of tensors, found one tensor")
        with pytest.raises(TypeError) as error:
            compared(dummy, one)
        _message(error, theirs, "expected a sequence of tensors, found one tensor")
        with pytest.raises(TypeError, match="expected a sequence of tensors, found one tensor"):
            compared(one, one)


def test_of_gradients_by_name_the_values_are_proposed(call):
    _, theirs, compared = call
    dummy, target = gradient_pair()
    named = {str(i): g for i, g in enumerate(target)}
    with pytest.raises(TypeError) as error:
        compared(dummy, named)
    _message(error, theirs, "expected a sequence of tensors, found a dict; its .values() are one")
    assert torch.equal(compared(dummy, named.values()), compared(dummy, target))
    assert torch.equal(compared(tuple(dummy), iter(target)), compared(dummy, target))


def test_lists_of_different_length_are_refused_with_both_counts(call):
    mine, theirs, compared = call
    dummy, target = gradient_pair()
    for cut, kept in (((dummy, target[:4]), (6, 4)), ((dummy[:5], target), (5, 6)), (([], target), (0, 6))):
        with pytest.raises(ValueError, match="gradients as in") as error:
            compared(*cut)
        _message(error, mine, f"expected {kept[1]} gradients as in {theirs}, found {kept[0]}")


def test_entries_that_are_no_tensors_are_named(call):
    mine, theirs, compared = call
    dummy, target = gradient_pair()
    for wrong in ("ab", 3.0, target):
        with pytest.raises(TypeError) as error:
            compared([*dummy[:2], wrong, *dummy[3:]], target)
        _message(error, f"{mine}[2]", "expected a tensor or None, found")
        with pytest.raises(TypeError) as error:
            compared(dummy, [*target[:5], wrong])
        _message(error, f"{theirs}[5]", "expected a tensor or None, found")


def test_gradients_in_place_of_several_lists_of_them():
    dummy, target = gradient_pair()
    with pytest.raises(TypeError, match=r"gradients\[0\]: expected a sequence of tensors, found one tensor"):
        reconstruction_costs(dummy, target)
    with pytest.raises(TypeError, match="gradients: expected a sequence of sequences of tensors"):
        reconstruction_costs(dummy[0], target)
    with pytest.raises(TypeError, match="gradients: expected a sequence of sequences of tensors, found 3"):
        reconstruction_costs(3, target)
    several = (gradient for gradient in (dummy, dummy))
    assert reconstruction_costs(several, target).item() == reconstruction_costs([dummy], target).item()


def test_a_model_whose_target_is_one_tensor():
    model = nn.Linear(5, 4, bias=False)
    with pytest.raises(TypeError, match="target: expected a sequence of tensors, found one tensor"):
        CandidateDistance(
            model,
            F.cross_entropy,
            sf.GradientDistance(),
            torch.randn(4, 5),
            torch.rand(1, 5),
            torch.tensor([1]),
        )
