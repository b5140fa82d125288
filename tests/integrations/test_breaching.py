"""The fused objectives against the real breaching package: values, gradients, and its attacks."""

from types import SimpleNamespace

import pytest
import torch
from tool_formulas import TOLERANCE, gradient_pair
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from benchmarks.integrations.breaching_import import import_breaching
from sapag_fast.distances.kind import kinds
from sapag_fast.integrations import breaching as fused
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.models import LeNet, initialise

OWN = (
    "euclidean", "cosine-similarity", "masked-cosine-similarity", "fast-cosine-similarity", "angular", "l1",
    "tag-euclidean",
)  # fmt: skip
PLAIN = SimpleNamespace(mixed_precision=False)
LABELS = torch.tensor([3])

pytestmark = pytest.mark.filterwarnings("ignore")  # hydra's and torch.jit's, at breaching's calls


@pytest.fixture(scope="module")
def breaching():
    try:
        return import_breaching()
    except ImportError as error:
        pytest.skip(f"breaching cannot be imported ({error}); `make test` installs it")


@pytest.fixture
def lookups(breaching):
    """breaching's objectives, and the lookup with the fused ones; as it was afterwards."""
    from breaching.attacks.auxiliaries.objectives import objective_lookup

    own = fused.install()
    yield own, objective_lookup
    objective_lookup.clear()
    objective_lookup.update(own)


def _close(mine, theirs, tolerance=TOLERANCE):
    gap = (
        torch.stack([(a - b).double().square().sum() for a, b in zip(mine, theirs, strict=True)]).sum().sqrt()
    )
    return gap <= tolerance * torch.stack([b.double().square().sum() for b in theirs]).sum().sqrt()


@pytest.mark.parametrize("options", [{}, {"scale": 0.3, "task_regularization": 0.1}])
@pytest.mark.parametrize("name", OWN)
def test_objectives_of_gradients_equal_their_own(lookups, name, options):
    own, ours = lookups
    given = {"type": name, **options, "eps": 1e-3}  # which another of breaching's objectives has
    theirs, mine = own[name](**given), ours[name](**given)
    for wide in (False, True):
        for seed in (0, 1):  # one instance, two targets
            dummy, target = gradient_pair(seed=seed)
            target[0].data[0] = 0  # what is masked
            if wide:
                dummy = [g.detach().double().requires_grad_() for g in dummy]
                target = [g.double() for g in target]
            for gradients in (list, tuple):
                value = mine.gradient_based_loss(gradients(dummy), gradients(target))
                expected = theirs.gradient_based_loss(gradients(dummy), gradients(target))
                assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE)
                slopes = torch.autograd.grad(value, dummy)
                assert _close(slopes, torch.autograd.grad(expected, dummy))
    assert mine.task_regularization == theirs.task_regularization
    assert name in repr(mine)


@pytest.mark.parametrize("scheme", ["linear", "exp", "none"])
def test_tag_weights_layers_as_theirs(lookups, scheme):
    own, ours = lookups
    dummy, target = gradient_pair()
    given = {"type": "tag-euclidean", "tag_scale": 0.7, "scale_scheme": scheme}
    value, expected = (
        lookup["tag-euclidean"](**given).gradient_based_loss(dummy, target) for lookup in (ours, own)
    )
    assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert _close(torch.autograd.grad(value, dummy), torch.autograd.grad(expected, dummy))


@pytest.mark.parametrize("name", ["pearlmutter-loss", "pearlmutter-cosine"])
def test_finite_differences_get_the_same_first_order_gradient(lookups, name):
    own, ours = lookups
    dummy, target = gradient_pair()
    gradients = [g.detach() for g in dummy]
    candidate = torch.zeros(1)
    results = []
    for lookup in (ours, own):
        objective = lookup[name](type=name, scale=0.5, eps=1e-2)
        objective.initialize(F.cross_entropy, PLAIN)
        results.append(objective._compute_objective_and_first_order(candidate, gradients, target))
    (value, slopes), (expected, true) = results
    assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert _close(slopes, true)


def test_every_kind_joins_the_lookup(lookups):
    own, ours = lookups
    dummy, target = gradient_pair()
    for kind in kinds():
        if kind in own:  # l1, which breaching halves
            continue
        value = ours[kind](type=kind, scale=2.0).gradient_based_loss(dummy, target)
        assert value.item() == pytest.approx(2 * sf.distance(dummy, target, kind).item(), rel=1e-6)
    wide = ours["sapag"](type="sapag", bandwidth=3.0, merge_bias=False).gradient_based_loss(dummy, target)
    assert torch.equal(wide, sf.distance(dummy, target, bandwidth=3.0, merge_bias=False))


def _victim(model, images=1):
    torch.manual_seed(0)
    truth, labels = torch.rand(images, 3, 16, 16), LABELS.expand(images)
    target = torch.autograd.grad(F.cross_entropy(model(truth), labels), tuple(model.parameters()))
    return truth, labels, list(target)


def _lenet():
    return initialise(LeNet(channels=3, image_size=16), "kaiming")


def _wide_mlp():
    """Large enough for explicit mode to serve one recovery alone."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(768, 1200),
        nn.Sigmoid(),
        nn.Linear(1200, 300),
        nn.Sigmoid(),
        nn.Linear(300, 10),
    )


def _evaluated(objective, model, target, labels, images=1):
    """Objective, task loss and the gradient toward the candidate, as breaching's closure asks for them."""
    objective.initialize(nn.CrossEntropyLoss(), PLAIN)
    candidate = torch.rand(images, 3, 16, 16, generator=torch.Generator().manual_seed(5)).requires_grad_()
    value, task_loss = objective(model, target, candidate, labels)
    total = 0
    total += value
    total += candidate.square().mean()  # a regulariser, in place
    total.backward(inputs=candidate, create_graph=False)
    return total, task_loss, candidate.grad


@pytest.mark.parametrize("make", [_lenet, _wide_mlp])
@pytest.mark.parametrize("name", OWN)
def test_evaluations_equal_their_own(lookups, name, make):
    own, ours = lookups
    model = make()
    _, labels, target = _victim(model)
    objective = ours[name](type=name, scale=0.7)
    total, task_loss, slope = _evaluated(objective, model, target, labels)
    expected, their_loss, true = _evaluated(own[name](type=name, scale=0.7), model, target, labels)
    assert total.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert task_loss.item() == pytest.approx(their_loss.item(), rel=TOLERANCE)
    assert not task_loss.requires_grad
    assert _close([slope], [true], 1e-4)  # theirs is float32 twice through the network
    assert all(p.grad is None for p in model.parameters())
    again = _evaluated(objective, model, target, labels)
    assert torch.equal(again[2], slope)
    modes = [direct.matching.mode for direct in objective.candidates.values()]
    if make is _wide_mlp and name in ("euclidean", "cosine-similarity"):
        assert modes == ["explicit"]
    elif name != "masked-cosine-similarity":  # where something is masked, the graph serves
        assert modes == ["single"] or make is _wide_mlp


def test_what_needs_the_graph_gets_it(lookups):
    """Labels that are searched too, a weighted task loss, and features read by hooks."""
    own, ours = lookups
    model = _lenet()
    _, _, target = _victim(model)
    soft = torch.randn(1, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    slopes = []
    for lookup in (ours, own):
        objective = lookup["cosine-similarity"](type="cosine-similarity")
        objective.initialize(nn.CrossEntropyLoss(), PLAIN)
        candidate = torch.full((1, 3, 16, 16), 0.3).requires_grad_()
        value, _ = objective(model, target, candidate, soft.softmax(-1))
        slopes.append(torch.autograd.grad(value, [candidate, soft]))
    assert _close(*slopes, 1e-4)

    read = []
    handle = model.fc.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    objective = ours["sapag"](type="sapag")
    _, _, slope = _evaluated(objective, model, target, LABELS)
    assert read[0].requires_grad
    assert not objective.candidates
    handle.remove()
    assert _close([_evaluated(objective, model, target, LABELS)[2]], [slope], 1e-4)
    assert len(objective.candidates) == 1

    weighted = [
        _evaluated(lookup["l1"](type="l1", task_regularization=0.2), model, target, LABELS)[2]
        for lookup in (ours, own)
    ]
    assert _close(weighted[:1], weighted[1:], 1e-4)


def test_another_model_or_target_is_noticed(lookups):
    _, ours = lookups
    first, second = _lenet(), initialise(LeNet(channels=3, image_size=16), "kaiming", seed=7)
    _, labels, target = _victim(first)
    objective = ours["sapag"](type="sapag")
    values = [_evaluated(objective, model, target, labels)[0].item() for model in (first, second, first)]
    assert values[0] == values[2] != values[1]
    fresh = _evaluated(ours["sapag"](type="sapag"), second, target, labels)[0].item()
    assert values[1] == fresh
    target[0].mul_(3)
    assert _evaluated(objective, second, target, labels)[0].item() == pytest.approx(
        _evaluated(ours["sapag"](type="sapag"), second, target, labels)[0].item(), rel=1e-6
    )


def test_a_target_that_does_not_fit_is_named():
    model = _lenet()
    _, labels, target = _victim(model)
    with pytest.raises(ValueError, match="expected one gradient for each of 8 trainable parameters, found 7"):
        CandidateDistance(
            model, F.cross_entropy, sf.GradientDistance(), target[:-1], torch.rand(1, 3, 16, 16), labels
        )


def _set_option(cfg, part, option, setting):
    """What ``+part.option=setting`` does on breaching's command line."""
    from omegaconf import open_dict

    with open_dict(cfg):
        cfg[part][option] = setting


def _attack(breaching, objective, *, queries=1, trials=1, steps=4, local=None, added=(), **optim):
    """breaching's own optimisation attack on LeNets, with the configuration of Inverting Gradients."""
    from breaching.attacks import prepare_attack

    cfg = breaching.get_attack_config("invertinggradients")
    cfg.objective.type = objective
    cfg.restarts.num_trials = trials
    cfg.optim.max_iterations = steps
    for name, setting in optim.items():
        cfg.optim[name] = setting
    for name, setting in dict(added).items():
        part, _, option = name.partition(".")
        _set_option(cfg, part, option, setting)
    model = _lenet()
    meta = SimpleNamespace(shape=[3, 16, 16], mean=[0.5] * 3, std=[0.25] * 3, modality="vision")
    payload, shared = [], []
    for query in range(queries):
        network = initialise(LeNet(channels=3, image_size=16), "kaiming", seed=query)
        _, labels, target = _victim(network, 2 if local else 1)
        if local:
            before = [p.detach().clone() for p in network.parameters()]
            truth = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
            optimizer = torch.optim.SGD(network.parameters(), lr=local["lr"])
            for step in range(local["steps"]):
                optimizer.zero_grad()
                F.cross_entropy(network(truth), local["labels"][step]).backward()
                optimizer.step()
            after = [p.detach() for p in network.parameters()]
            target = [a - b for a, b in zip(after, before, strict=True)]
            parameters = before
        else:
            parameters = [p.detach() for p in network.parameters()]
        payload.append({"parameters": parameters, "buffers": [], "metadata": meta})
        known = {"num_data_points": len(labels), "labels": labels, "local_hyperparams": local}
        shared.append({"gradients": target, "buffers": [], "metadata": known})
    attacker = prepare_attack(model, nn.CrossEntropyLoss(), cfg)
    torch.manual_seed(3)
    found, stats = attacker.reconstruct(payload, shared, {})
    return found["data"], [stats[f"Trial_{trial}_Val"] for trial in range(trials)], attacker


@pytest.mark.parametrize("name", OWN)
def test_their_attack_goes_the_same_way(breaching, lookups, name, capsys):
    own, lookup = lookups
    # By gradient descent: Adam's first step is a sign, of rounding errors where the gradient is zero.
    settings = {"queries": 2, "trials": 2, "signed": None, "optimizer": "gd", "step_size": 0.01}
    _, mine, attacker = _attack(breaching, name, **settings)
    assert "fused" in repr(attacker)
    lookup.update(own)
    _, theirs, _ = _attack(breaching, name, **settings)
    assert len(mine[0]) == 4
    assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
    assert mine[1] == pytest.approx(theirs[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["sapag", "sapag-global", "layer-cosine"])
@pytest.mark.parametrize("optimizer", ["adam", "L-BFGS"])
def test_their_attack_runs_with_our_kinds(breaching, lookups, kind, optimizer):
    found, values, _ = _attack(breaching, kind, steps=6, optimizer=optimizer, signed=None)
    assert found.shape == (1, 3, 16, 16)
    assert found.isfinite().all()
    assert values[0][-1] < values[0][0]


@pytest.mark.parametrize("name", ["euclidean", "cosine-similarity", "sapag"])
def test_local_steps(breaching, lookups, name):
    """FedAvg: breaching unrolls the client's steps, and both lists are differences of parameters."""
    own, lookup = lookups
    labels = [torch.tensor([3, 5])] * 2
    local = {"steps": 2, "data_per_step": 2, "lr": 0.1, "labels": labels}
    settings = {"local": local, "signed": None, "optimizer": "gd", "step_size": 0.01}
    _, mine, _ = _attack(breaching, name, **settings)
    assert all(torch.isfinite(torch.tensor(value)) for value in mine[0])
    if name in own:
        lookup.update(own)
        _, theirs, _ = _attack(breaching, name, **settings)
        assert mine[0] == pytest.approx(theirs[0], rel=1e-4)


def test_uninstalling_gives_the_lookup_back_however_often_it_was_installed(breaching):
    from breaching.attacks.auxiliaries.objectives import objective_lookup

    plain = dict(objective_lookup)
    assert not any(part.__module__.startswith("sapag_fast") for part in plain.values())
    fused.uninstall()
    assert objective_lookup == plain
    for times in (1, 2, 3):
        for _ in range(times):
            assert fused.install() == plain
        assert objective_lookup["euclidean"].__module__.startswith("sapag_fast")
        fused.uninstall()
        assert objective_lookup == plain
    # The other way, by what it returned; and what others put there stays.
    fused.install()
    own = fused.install()
    objective_lookup.clear()
    objective_lookup.update(own)
    assert objective_lookup == plain
    fused.install()
    objective_lookup["another"] = object
    fused.install()
    fused.uninstall()
    assert objective_lookup == plain | {"another": object}
    del objective_lookup["another"]


def test_their_configuration_takes_our_options(breaching, lookups):
    """``+objective.bandwidth=`` on the command line; unknown ones are refused before the attack."""
    found = []
    for options in ({}, {"bandwidth": 0.1}, {"layers": list(range(8)), "backend": "cpu"}):
        cfg_options = {f"objective.{name}": value for name, value in options.items()}
        found.append(_attack(breaching, "sapag", signed=None, added=cfg_options)[1])
    assert found[0] != found[1] != found[2] != found[0]
    with pytest.raises(ValueError, match=r"objective\.bandwith: expected one of type, .*bandwidth"):
        _attack(breaching, "sapag", added={"objective.bandwith": 1.0})
    with pytest.raises(ValueError, match=r"objective\.bandwidth: expected one of type, scale, task_reg"):
        _attack(breaching, "cosine-similarity", added={"objective.bandwidth": 1.0})


@pytest.mark.parametrize("scoring", ["euclidean", "cosine-similarity"])
def test_restarts_are_scored_by_their_own(breaching, lookups, scoring):
    found, values, _ = _attack(breaching, "sapag", trials=2, signed=None, added={"restarts.scoring": scoring})
    assert len(values) == 2
    assert found.isfinite().all()


def test_installing_twice_and_taking_it_back(breaching):
    from breaching.attacks.auxiliaries.objectives import objective_lookup

    before = fused.install(distance_only=True)
    assert "sapag" not in before
    assert objective_lookup["sapag"].distance_only
    fused.install()
    assert not objective_lookup["sapag"].distance_only
    assert not objective_lookup["l1"].distance_only
    objective_lookup.clear()
    objective_lookup.update(before)
    assert "sapag" not in objective_lookup
    assert objective_lookup["euclidean"].__module__.startswith("breaching")
