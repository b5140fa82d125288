"""Random networks: explicit mode is what one recovery after the other gives."""

import hypothesis.strategies as st
import torch
from explicit_cases import CLASSES, gradients, make_problem
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.one_by_one import SequentialMatching

ACTIVATIONS = (torch.tanh, F.gelu, F.softplus, F.silu, lambda x: F.elu(x * 1, inplace=True))
RESTARTS = 2


class Net(nn.Module):
    """Steps drawn at random over ``[B, channels, 6, 6]``, then a linear head."""

    def __init__(self, steps: list[tuple]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList()
        channels, side = 2, 6
        self.plan: list[tuple] = []
        for kind, *drawn in steps:
            if kind == "conv":
                width, kernel, stride, dilation, groups = drawn
                if dilation * (kernel - 1) >= side + 2:
                    dilation = 1
                groups = groups if channels % groups == 0 and width % groups == 0 else 1
                layer = nn.Conv2d(channels, width, kernel, stride, 1, dilation, groups)
                side = (side + 2 - dilation * (kernel - 1) - 1) // stride + 1
                channels = width
            elif kind == "again":
                layer = nn.Conv2d(channels, channels, 3, padding=1)
            elif kind == "norm":
                (which,) = drawn
                layer = {
                    "batch": nn.BatchNorm2d(channels),
                    "frozen": nn.BatchNorm2d(channels).eval(),
                    "group": nn.GroupNorm(1, channels),
                    "layer": nn.LayerNorm([channels, side, side]),
                }[which]
            elif kind == "linear":
                layer = nn.Linear(side, side)
            else:
                layer = None
            if layer is not None:
                self.layers.append(layer)
            self.plan.append((kind, drawn, len(self.layers) - 1))
        self.head = nn.Linear(channels * side * side, CLASSES)

    def train(self, mode: bool = True) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> Tensor:
        for kind, drawn, index in self.plan:
            if kind == "functional":
                x = ACTIVATIONS[drawn[0]](x)
            elif kind == "mix":
                x = x + F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)
            else:
                x = self.layers[index](x)
                if kind == "again":
                    x = torch.tanh(self.layers[index](torch.tanh(x)))
        return self.head(torch.tanh(x).flatten(1))


CONVOLUTIONS = st.tuples(
    st.just("conv"),
    st.sampled_from((2, 3, 4)),
    st.sampled_from((1, 2, 3)),
    st.sampled_from((1, 2)),
    st.sampled_from((1, 2)),
    st.sampled_from((1, 2)),
)
STEPS = st.one_of(
    CONVOLUTIONS,
    st.tuples(st.just("norm"), st.sampled_from(("batch", "frozen", "group", "layer"))),
    st.tuples(st.just("functional"), st.integers(0, len(ACTIVATIONS) - 1)),
    st.just(("linear",)),
    st.just(("again",)),
    st.just(("mix",)),
)


@settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=6),
    batch=st.sampled_from((1, 2, 3)),
    victims=st.sampled_from((1, 2)),
    way=st.sampled_from(("materialised", "ghost", "low-rank")),
    kind=st.sampled_from(("sapag", "l2", "cosine")),
)
def test_random_architectures(steps, batch, victims, way, kind):
    torch.manual_seed(len(steps) + batch)
    model = Net(steps).double()
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(victims, batch, 2, 6, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (victims, batch), generator=g)
    problem = make_problem(model, gradients(model, truth, labels), restarts=RESTARTS, kind=kind)
    inputs = torch.rand(victims * RESTARTS, batch, 2, 6, 6, generator=g, dtype=torch.float64)
    labels = labels.repeat_interleave(RESTARTS, 0)
    found = ExplicitMatching(problem, ways=way).value_and_gradient(inputs, labels)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-7, atol=1e-12)
    error = (found[1] - expected[1]).norm() / expected[1].norm()
    assert error <= 1e-6
