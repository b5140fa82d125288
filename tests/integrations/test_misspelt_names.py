"""Names that tools and users give: their descendants' too, and none misspelt is taken for a default."""

from types import SimpleNamespace

import pytest
import torch
from tool_formulas import gradient_pair

import sapag_fast as sf
from sapag_fast.distances import kinds
from sapag_fast.integrations import aijack, breaching_objectives, dlg, gradattack, lamp, leakpro, plato
from sapag_fast.integrations.inverting_gradients import reconstruction_costs

DUMMY, TARGET = gradient_pair()


def test_descendants_call_the_same_cost_by_another_name():
    for scheme in ("equal", "linear", "exp"):
        for indices in ("def", "top10", [3, 1, 0]):
            same = [reconstruction_costs([DUMMY], TARGET, n, indices, scheme) for n in ("sim", "sim_cmpr0")]
            assert torch.equal(*same)
    pair = [plato.reconstruction_costs(n)([DUMMY], TARGET) for n in ("sim", "sim_cmpr0")]
    assert torch.equal(*pair)


def _refused(words, call, error=ValueError):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    message = message.partition(", found")[0]
    assert not any(private in message for private in ("tensor-", "weighted-", "fixed-norm", "least-norm"))


def test_misspelt_weights_are_refused():
    known = ("weights", "equal", "linear", "exp")
    for wrong in ("liner", "none", "", "Equal"):
        _refused(known, lambda wrong=wrong: reconstruction_costs([DUMMY], TARGET, "sim", weights=wrong))
        _refused(known, lambda wrong=wrong: plato.reconstruction_costs("sim", wrong))


def test_misspelt_costs_and_kinds_are_refused():
    for wrong in ("sims", "cosine-similarity", "tensor-cosines", "least-norm-cosines"):
        for call in (
            lambda wrong=wrong: reconstruction_costs([DUMMY], TARGET, wrong),
            lambda wrong=wrong: plato.reconstruction_costs(wrong),
            lambda wrong=wrong: dlg.gradient_difference(DUMMY, TARGET, wrong),
            lambda wrong=wrong: gradattack.GradientMetric(wrong),
            lambda wrong=wrong: aijack.DistanceFunction(wrong),
            lambda wrong=wrong: leakpro.GradientCosts(wrong),
            lambda wrong=wrong: lamp.grad_dist(TARGET, DUMMY, SimpleNamespace(loss=wrong)),
            lambda wrong=wrong: type("Loss", (leakpro.FusedMatching,), {"kind": wrong}),
        ):
            _refused(kinds(), call)


def test_misspelt_choices_of_gradients_are_refused_at_once():
    for wrong in ("top11", "firs4", ""):
        _refused(("indices", "top10", "first4"), lambda wrong=wrong: gradattack.GradientMetric("l2", wrong))
        _refused(
            ("indices", "topk-2"), lambda wrong=wrong: reconstruction_costs([DUMMY], TARGET, "l2", wrong)
        )


def test_misspelt_options_are_refused():
    for make in (
        lambda: dlg.gradient_difference(DUMMY, TARGET, "sapag", bandwith=2.0),
        lambda: gradattack.GradientMetric("sapag", bandwith=2.0),
        lambda: aijack.DistanceFunction("sapag", bandwith=2.0),
        lambda: leakpro.GradientCosts("sapag", bandwith=2.0),
    ):
        _refused(("bandwith: expected an option", "bandwidth", "merge_bias"), make, TypeError)


def test_a_tag_factor_that_is_none_is_named():
    args = SimpleNamespace(loss="tag", tag_factor=None)
    with pytest.raises(TypeError, match=r"args\.tag_factor must be a number, found NoneType"):
        lamp.grad_dist(TARGET, DUMMY, args)


def test_objectives_for_breaching_refuse_unknown_options():
    for part in (breaching_objectives.Cosine, breaching_objectives.Euclidean, breaching_objectives.Tag):
        _refused(
            ("objective.scal: expected one of", "scale", "task_regularization"),
            lambda part=part: part(type="cosine-similarity", scal=2.0),
        )
    own = breaching_objectives.OwnKind
    _refused(("objective.bandwith: expected one of", "bandwidth"), lambda: own(type="sapag", bandwith=2.0))
    _refused(("objective.bandwidth", "'l2' takes none"), lambda: own(type="l2", bandwidth=2.0))
    _refused(("objective.bandwidth: expected one of",), lambda: breaching_objectives.Cosine(bandwidth=2.0))
    schemes = ("objective.scale_scheme", "linear", "exp", "equal")
    _refused(schemes, lambda: breaching_objectives.Tag(scale_scheme="liner"))
    for scheme in ("linear", "exp", "equal", "none"):
        breaching_objectives.Tag(scale_scheme=scheme)
    # A configuration whose type alone is changed keeps what breaching's other objectives take.
    kept = own(type="sapag", scale=2.0, tag_scale=0.1, scale_scheme="linear", task_regularization=0.0)
    value = kept.gradient_based_loss(DUMMY, TARGET)
    assert value.item() == pytest.approx(2 * sf.distance(DUMMY, TARGET).item(), rel=1e-6)


def test_objectives_for_breaching_take_the_distance_s_options():
    given = {"bandwidth": 3.0, "merge_bias": False, "layer_weights": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    objective = breaching_objectives.OwnKind(type="sapag", **given)
    assert torch.equal(objective.gradient_based_loss(DUMMY, TARGET), sf.distance(DUMMY, TARGET, **given))
