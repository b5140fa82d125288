"""Models as clients have them are searched as what is inside, or refused with what to pass instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sapag_fast.profiler import profile_attack
from sapag_fast.recovery.recover import recover
from sapag_fast.victim.cautions import CautionWarning
from sapag_fast.victim.searchable import searchable

SHAPE, LABEL = (1, 6, 6), torch.tensor([2])
INPUT = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))


def _net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Sigmoid()),
        nn.Linear(20, 12),
        nn.Sigmoid(),
        nn.Linear(12, 4),
    )


def _gradient(model, inputs=INPUT):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(F.cross_entropy(model(inputs), LABEL), parameters)


def _found(model, target, **options):
    return recover(model, target, SHAPE, **{"restarts": 2, "steps": 40, **options})


BARE = _found(_net(), _gradient(_net()))


def _compiled_in_place(net):
    net[1].compile()
    return net


def _inner_parallel(net):
    net[0] = nn.DataParallel(net[0])
    return net


def _inner_compiled(net):
    net[0] = nn.DataParallel(torch.compile(net[0]))
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda net: nn.DataParallel(torch.compile(net)),
        _inner_parallel,
        _inner_compiled,
        _compiled_in_place,
    ],
)
def test_wrappers_give_the_bare_model_s_bits(wrap):
    model = wrap(_net())
    parts = [type(module) for module in model.modules()]
    found = _found(model, _gradient(_net()))
    assert torch.equal(found.inputs, BARE.inputs)
    assert torch.equal(found.distance, BARE.distance)
    assert [type(module) for module in model.modules()] == parts


def test_distributed_wrappers_are_looked_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(_net())
        assert torch.equal(_found(model, _gradient(_net())).inputs, BARE.inputs)
    finally:
        torch.distributed.destroy_process_group()


def test_plain_models_stay_themselves():
    model = _net()
    assert searchable(model).model is model
    assert searchable(nn.DataParallel(model)).model is model


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_searched_in_float32(kind):
    model = _net().to(kind)
    target = _gradient(model, INPUT.to(kind))
    with pytest.warns(CautionWarning, match=f"weights are {kind}.*model.float"):
        found = _found(model, target, steps=150)
    assert found.inputs.dtype == torch.float32
    assert F.mse_loss(found.inputs[0], INPUT) < 1e-2
    assert [caution.kind for caution in found.warnings] == ["low-precision"]
    assert found.warnings[0].modules == ("0.1", "1", "3")
    assert found.certificate[0].status == "unknown"
    assert {p.dtype for p in model.parameters()} == {kind}


def test_a_model_of_two_precisions():
    model = _net()
    model[3].bfloat16()
    with pytest.warns(CautionWarning, match=r"weights are torch.bfloat16 \(3\)"):
        found = _found(model, _gradient(_net()), steps=150)
    assert F.mse_loss(found.inputs[0], INPUT) < 1e-2


def test_a_target_in_half_precision_is_warned_of():
    with pytest.warns(CautionWarning, match="the gradient came as bfloat16"):
        found = _found(_net(), [g.bfloat16() for g in _gradient(_net())])
    assert [caution.kind for caution in found.warnings] == ["low-precision"]


def test_float64_stays_without_a_word(recwarn):
    model = _net().double()
    assert _found(model, _gradient(model, INPUT.double())).inputs.dtype == torch.float64
    assert not [w for w in recwarn if issubclass(w.category, CautionWarning)]


class Table(nn.Module):
    """Scales its pixels by rows of an embedding."""

    def __init__(self, sparse, functional=False):
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.last = nn.Embedding(36, 4, sparse=sparse), nn.Linear(144, 4)
        self.functional = functional

    def forward(self, inputs):
        places = torch.arange(36).expand(len(inputs), 36)
        rows = F.embedding(places, self.rows.weight, sparse=True) if self.functional else self.rows(places)
        return self.last((inputs.flatten(1)[..., None] * rows).flatten(1).tanh())


def test_sparse_embeddings():
    dense, sparse = Table(sparse=False), Table(sparse=True)
    target = _gradient(sparse)
    assert target[0].layout is torch.sparse_coo
    found = _found(sparse, target)
    assert torch.equal(found.inputs, _found(dense, _gradient(dense)).inputs)
    assert sparse.rows.sparse
    with pytest.raises(ValueError, match=r"model: the gradient of an embedding comes sparse.*sparse=False"):
        _found(Table(sparse=False, functional=True), _gradient(dense), restarts=1)


class Checkpointed(nn.Module):
    """Keeps the activations of its first part, or computes them anew."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.net, self.use_reentrant = _net(), use_reentrant

    def forward(self, inputs):
        inner = checkpoint(self.net[0], inputs, use_reentrant=self.use_reentrant)
        return self.net[3](self.net[2](self.net[1](inner)))


@pytest.mark.parametrize("restarts", [1, 2])
def test_reentrant_checkpoints_are_named(restarts):
    target = _gradient(_net())
    assert torch.allclose(_found(Checkpointed(use_reentrant=False), target).inputs, BARE.inputs, atol=1e-3)
    with pytest.raises(ValueError, match=r"model: it checkpoints .*use_reentrant=False"):
        _found(Checkpointed(use_reentrant=True), target, restarts=restarts)
    with pytest.raises(ValueError, match=r"model: it checkpoints .*use_reentrant=False"):
        profile_attack(Checkpointed(use_reentrant=True), SHAPE, recoveries=1, evaluations=1, seconds=0.1)


def _sharded():
    kind = type("FullyShardedDataParallel", (nn.Sequential,), {})
    return kind(_net())


def _quantised():
    net = _net()
    part = torch.ao.quantization.quantize_dynamic(nn.Sequential(net[1]), {nn.Linear}, dtype=torch.qint8)
    net[1] = part[0]
    return net


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(_net()), "a scripted module .*pass the nn.Module that it was made from"),
        (lambda: torch.jit.trace(_net(), INPUT), "a scripted module .*pass the nn.Module"),
        (lambda: nn.Sequential(torch.jit.script(_net())), r"a scripted module \(0\)"),
        (_quantised, r"a quantised module \(1\) of kind Linear.*before it was quantised"),
        (_sharded, "a sharded module .*full state_dict"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "a lazy layer: run the network once first"),
    ],
)
def test_what_cannot_be_searched_is_named(make, words):
    with pytest.raises(ValueError, match=f"model.*{words}"):
        _found(make(), _gradient(_net()))
