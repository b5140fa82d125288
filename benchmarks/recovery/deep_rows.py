"""The deep networks that `deep_networks` measures, and the figures of earlier searches to stand beside.

The figures are PSNRs of two victims in dB: with the recipe as it was when distances had no scale (*before*),
and with the distance times 0.3 / its value at noise, set by hand (*scaled*). `bar` is what the victims have
to reach: two dB below the figure where scaling by hand brought the pictures out, the figure before elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import nn

from sapag_fast.models import ResNet, initialise, make_model

__all__ = ["ROWS", "Row"]

SIDE = 32
Figures = tuple[float, float]

_ALLOWED = 2.0
_WIDTH = 24
_UNSEEN = (10.4, 13.5)
"""What a picture of grey comes to, about."""


@dataclass(frozen=True)
class Row:
    """A network, what earlier searches of its two victims came to, and what is asked.

    Attributes
    ----------
    name : str
    make : callable
        Makes the network, in the mode in which the client ran it.
    before, scaled, bar : pair of float or None
    others : bool
        The median of the other victims has to reach the lower of the two bars as well.
    share : bool
        Counts among the networks of which nine tenths of the victims are to be recovered.
    floor : bool
        float32 holds too few of the gradient's digits, and a caution has to say so.
    search : mapping
        Options of the search in place of the recipe's: what others' distances come to.
    hours : bool
        Measured only where it is asked for by name.
    """

    name: str
    make: Callable[[], nn.Module]
    before: Figures | None = None
    scaled: Figures | None = None
    bar: Figures | None = None
    others: bool = False
    share: bool = False
    floor: bool = False
    search: Mapping[str, Any] = field(default_factory=dict)
    hours: bool = False


def vgg(layers: int, activation: type[nn.Module], initialisation: str) -> nn.Module:
    """3x3 convolutions of one width, the third and the fifth of stride 2, and a linear layer."""
    modules: list[nn.Module] = []
    inner, side = 3, SIDE
    for layer in range(layers):
        stride = 2 if layer in (2, 4) else 1
        modules += [nn.Conv2d(inner, _WIDTH, 3, stride, 1), activation()]
        inner, side = _WIDTH, -(-side // stride)
    network = nn.Sequential(*modules, nn.Flatten(), nn.Linear(inner * side**2, 10))
    return initialise(network, initialisation, seed=0).eval()


def resnet(activation: str, stride: int, pool: int, initialisation: str, mode: str) -> nn.Module:
    """Widths 16-32-64, three blocks each, every stage after the first of this stride."""
    network = ResNet(activation=activation, strides=(1, stride, stride), head=pool)
    return initialise(network, initialisation, seed=0).train(mode == "train")


def _vgg_rows() -> list[Row]:
    published: dict[tuple[int, str], tuple[Figures, Figures]] = {
        (6, "default"): ((26.4, 26.2), (34.4, 31.8)),
        (8, "default"): (_UNSEEN, (43.6, 43.7)),
        (10, "default"): (_UNSEEN, (41.1, 40.6)),
        (10, "xavier"): (_UNSEEN, (45.2, 42.0)),
        (14, "xavier"): (_UNSEEN, (26.0, 25.1)),
    }
    asked = set(product((6, 10, 16), ("default", "uniform", "xavier", "kaiming")))
    rows = []
    for layers, initialisation in sorted(asked | set(published)):
        before, scaled = published.get((layers, initialisation), (None, None))
        rows.append(
            Row(
                f"vgg-sigmoid-{layers}-{initialisation}",
                lambda n=layers, i=initialisation: vgg(n, nn.Sigmoid, i),
                before,
                scaled,
                scaled and (scaled[0] - _ALLOWED, scaled[1] - _ALLOWED),
                others=scaled is not None,
                share=(layers, initialisation) in asked,
            )
        )
    for name, double in (("vgg-sigmoid-14-default", False), ("vgg-sigmoid-14-default-float64", True)):
        rows.append(
            Row(
                name,
                lambda d=double: vgg(14, nn.Sigmoid, "default").to(torch.float64 if d else torch.float32),
                None if double else _UNSEEN,
                None if double else (8.6, 9.9),
                (20.0, 20.0) if double else None,
                others=double,
                floor=not double,
            )
        )
    for layers, initialisation in sorted(asked):
        make = lambda n=layers, i=initialisation: vgg(n, nn.Tanh, i)  # noqa: E731
        rows.append(Row(f"vgg-tanh-{layers}-{initialisation}", make, share=True))
    return rows


def _resnet_rows() -> list[Row]:
    grey = (11.0, 15.5)
    # Before, scaled, bar, and whether the others' median has to reach it as well.
    published: dict[tuple[str, int, int, str, str], tuple[Figures, Figures, Figures, bool]] = {
        ("sigmoid", 1, 4, "default", "eval"): (grey, (28.4, 29.5), (26.4, 27.5), True),
        ("sigmoid", 2, 8, "default", "eval"): (grey, (14.4, 20.6), (14.4, 20.6), False),
        ("sigmoid", 1, 4, "uniform", "eval"): ((26.7, 26.9), (26.8, 26.9), (26.7, 26.9), False),
        ("sigmoid", 2, 8, "uniform", "eval"): ((28.4, 27.1), (28.9, 28.7), (28.9, 28.7), False),
        # The second victim comes out at a tenth of that scale alone.
        ("sigmoid", 1, 4, "default", "train"): ((23.8, 15.3), (43.7, 25.9), (41.7, 23.9), True),
        ("sigmoid", 1, 4, "uniform", "train"): ((24.0, 15.4), (37.6, 25.7), (35.6, 23.7), True),
        ("relu", 1, 4, "default", "eval"): ((22.2, 26.2), (23.7, 26.4), (22.2, 26.2), False),
        ("relu", 2, 8, "default", "eval"): ((11.7, 17.8), (13.4, 18.9), (11.7, 17.8), False),
        ("relu", 2, 4, "default", "train"): ((10.9, 15.1), (10.9, 15.1), (10.9, 15.1), False),
    }
    smooth = product(("sigmoid",), (1, 2), (4, 8), ("default", "uniform", "xavier"), ("eval", "train"))
    forms = dict.fromkeys([*(form for form in smooth if form[2] == 4 * form[1]), *published])
    rows = []
    for form in forms:
        activation, stride, pool, initialisation, mode = form
        before, scaled, bar, others = published.get(form, (None, None, None, False))
        name = f"resnet-{activation}-s{stride}-p{pool}-{initialisation}-{mode}"
        rows.append(Row(name, lambda f=form: resnet(*f), before, scaled, bar, others=others))
    return rows


def _vit_rows() -> list[Row]:
    """With arithmetic, and searched; by what is classified, which of the figures of before is not known."""
    published = {2: ((30.1, 33.0), (29.8, 33.1)), 6: ((30.2, 32.4), (30.1, 33.2))}
    ways: dict[str, Mapping[str, Any]] = {"": {}, "-searched": {"exact": "off"}}
    pools = {"": "class", "-mean": "mean"}
    return [
        Row(
            f"vit-gelu-{layers}-default{pool}{way}",
            lambda n=layers, p=pools[pool]: make_model("vit", layers=n, pool=p).eval(),
            before,
            scaled,
            before,
            search=ways[way],
        )
        for layers, (before, scaled) in published.items()
        for pool in pools
        for way in ways
    ]


def _flat_rows() -> list[Row]:
    """The re-implementation's ResNet-18 at half its widths: with the recipe, and with others' distances."""
    distances = {"": {}, "-dlg": {"distance": "l2"}, "-cosine": {"distance": "cosine"}} | {
        "-global": {"distance": "sapag-global"}
    }
    return [
        Row(
            f"resnet18-flat-{initialisation}-{mode}{suffix}",
            lambda i=initialisation, m=mode: make_model(
                "resnet18-flat", activation="sigmoid", initialisation=i, widths=(32, 64, 128, 256)
            ).train(m == "train"),
            search=search,
            hours=True,
        )
        for initialisation, mode in product(("uniform", "default"), ("eval", "train"))
        for suffix, search in distances.items()
    ]


ROWS: dict[str, Row] = {row.name: row for row in (*_vgg_rows(), *_resnet_rows(), *_vit_rows(), *_flat_rows())}
"""By name."""
