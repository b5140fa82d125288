"""The CUDA planner, through its dry run: plain host code, the same with and without a GPU."""

import re
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sapag_fast  # noqa: F401 (registers the operator)

UNIT_BYTES = 2048
CHUNK_UNITS = 4
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
SMALL, LARGE = 4096, 32764


@dataclass
class Part:
    layer: int
    units: int
    first: int
    packed: bool
    tensors: list[int]


@dataclass
class Launch:
    tier: str
    ctas: int
    threads: int
    cluster: int
    shared: int
    held: int
    parameters: int
    wave: int = 0
    groups: int = 1
    parts: list[Part] = field(default_factory=list)


def plan(
    sizes, layer_of, layers, recoveries, scalar="float32", sms=132, shared=232448, cluster=8, arch=90
) -> tuple[list[Launch], str]:
    text = torch.ops.sapag_fast.plan(sizes, layer_of, layers, recoveries, scalar, sms, shared, cluster, arch)
    launches: list[Launch] = []
    for line in text.splitlines():
        head = re.match(
            r"launch \d+: (\w+) tier, (\d+) CTAs x (\d+) threads, cluster (\d+), shared (\d+) bytes, "
            r"held (\d+) units, parameters (\d+) bytes(?:, waves of (\d+) chunks in (\d+) groups)?$",
            line,
        )
        part = re.match(r"  layer (\d+): units (\d+) from (\d+)( packed)?, tensors((?: \d+)*)$", line)
        if head:
            launches.append(Launch(head[1], *(int(x) if x else 1 for x in head.groups()[1:])))
        elif part:
            tensors = [int(x) for x in part[5].split()]
            launches[-1].parts.append(Part(int(part[1]), int(part[2]), int(part[3]), bool(part[4]), tensors))
    return launches, text


@st.composite
def cases(draw):
    scalar = draw(st.sampled_from(sorted(BYTES)))
    unit = UNIT_BYTES // BYTES[scalar]
    size = st.one_of(
        st.integers(0, 3),
        st.integers(0, 4 * unit),
        st.builds(lambda n, d: max(0, n * unit + d), st.integers(0, 200), st.integers(-1, 1)),
        st.integers(0, 40_000_000),
        st.integers(0, 3_000_000_000),
    )
    layers = draw(st.integers(1, 12))
    count = draw(st.sampled_from([1, 3, 12, 60, 400]))
    sizes = draw(st.lists(size, min_size=1, max_size=count))
    layer_of = draw(st.lists(st.integers(0, layers - 1), min_size=len(sizes), max_size=len(sizes)))
    device = {
        "sms": draw(st.integers(1, 160)),
        "shared": draw(st.sampled_from([0, 5000, 49152, 101376, 166912, 232448])),
        "cluster": draw(st.sampled_from([1, 2, 4, 8, 16])),
        "arch": draw(st.sampled_from([80, 90, 100])),
    }
    return sizes, layer_of, layers, draw(st.sampled_from([1, 2, 9, 64, 1000])), scalar, device


@settings(max_examples=300, deadline=None)
@given(cases())
def test_each_segment_is_planned_once_and_limits_are_kept(case):
    sizes, layer_of, layers, recoveries, scalar, device = case
    unit = UNIT_BYTES // BYTES[scalar]
    launches, text = plan(sizes, layer_of, layers, recoveries, scalar, **device)

    # Every tensor with elements is in one place, with its layer; a layer is in one tier.
    places = [(t, part.layer) for launch in launches for part in launch.parts for t in part.tensors]
    assert sorted(places) == sorted((i, layer_of[i]) for i, n in enumerate(sizes) if n)
    tiers = {}
    for launch in launches:
        for part in launch.parts:
            assert tiers.setdefault(part.layer, launch.tier) == launch.tier
            if launch.tier != "pass":
                assert part.first == 0
    # Every layer without elements has its share written, too: packed, where D's parts are worked out.
    assert set(tiers) == set(range(layers)), text

    for launch in launches:
        assert launch.parameters <= LARGE
        assert launch.shared <= device["shared"]
        assert 32 <= launch.threads <= 1024
        assert launch.threads % 32 == 0
        for part in launch.parts:
            filled = sum(-(-sizes[t] // unit) for t in part.tensors)
            assert part.units == filled
            assert part.first % CHUNK_UNITS == 0
        check_shape(launch, recoveries, device)


def check_shape(launch: Launch, recoveries: int, device: dict) -> None:
    chunks = [-(-part.units // CHUNK_UNITS) for part in launch.parts]
    if launch.tier == "block":
        packed = [part for part in launch.parts if part.packed]
        alone = [part for part in launch.parts if not part.packed]
        assert launch.parts == alone + packed
        assert all(part.units <= launch.held for part in alone)
        assert all(part.units <= 2 * CHUNK_UNITS for part in packed)
        warps = launch.threads // 32
        assert launch.ctas == recoveries * len(alone) + -(-recoveries * len(packed) // warps)
    elif launch.tier == "cluster":
        assert device["arch"] >= 90
        assert 2 <= launch.cluster <= device["cluster"]
        assert launch.ctas == recoveries * len(launch.parts) * launch.cluster
    elif launch.tier == "grid":
        members = launch.ctas // launch.groups
        assert launch.ctas == 2 * device["sms"]
        assert max(chunks) <= launch.wave
        assert launch.held <= -(-launch.wave // members) * CHUNK_UNITS
        # Two CTAs an SM, or a cooperative launch fails.
        assert 2 * (launch.shared + 1024) <= device["shared"] + 1024
    else:
        assert launch.shared == 0


def test_a_small_net_is_one_launch():
    sizes = [900, 12, 3600, 12, 3600, 12, 7680, 10]
    launches, _ = plan(sizes, [0, 0, 1, 1, 2, 2, 3, 3], 4, 1)
    assert [launch.tier for launch in launches] == ["block"]
    assert launches[0].parameters <= SMALL


def test_many_small_segments_are_packed():
    launches, _ = plan([4000], [0], 1, 4)
    assert not launches[0].parts[0].packed
    launches, _ = plan([4000], [0], 1, 100_000)
    assert launches[0].parts[0].packed
    assert launches[0].ctas == 100_000 // (launches[0].threads // 32)


@pytest.mark.parametrize(
    ("size", "arch", "tier"),
    [
        (0, 90, "block"),
        (1, 90, "block"),
        (12_288, 90, "block"),
        (12_289, 90, "cluster"),
        (12_289, 80, "grid"),
        (147_456, 90, "cluster"),
        (2_359_296, 90, "grid"),
        (6_000_000, 90, "grid"),
        (100_000_000, 90, "pass"),
    ],
)
def test_size_decides_the_tier(size, arch, tier):
    launches, text = plan([size], [0], 1, 8, arch=arch)
    assert [launch.tier for launch in launches] == [tier], text


def test_waves_that_follow_each_other_alternate_between_two_groups():
    assert plan([2_000_000], [0], 1, 1)[0][0].groups == 1
    assert plan([2_000_000], [0], 1, 16)[0][0].groups == 2


def test_a_layer_of_many_tensors_goes_on_in_the_next_launch():
    sizes = [5] * 700
    launches, _ = plan(sizes, [0] * 700, 1, 3)
    assert [launch.tier for launch in launches] == ["pass"] * 3
    ends = [part.first + part.units for launch in launches for part in launch.parts]
    starts = [part.first for launch in launches for part in launch.parts]
    assert starts[0] == 0
    assert all(0 <= start - end < CHUNK_UNITS for start, end in zip(starts[1:], ends[:-1], strict=True))


def test_a_layer_that_fits_a_launch_is_not_cut():
    launches, text = plan([100_000_000, *[5] * 700], [0, *[1] * 200, *[2] * 200, *[3] * 300], 4, 1)
    parts = [part.layer for launch in launches if launch.tier == "pass" for part in launch.parts]
    assert parts == [0, 3, 3], text


def test_a_longer_list_takes_the_larger_table():
    assert plan([5] * 20, list(range(20)), 20, 1)[0][0].parameters <= SMALL
    assert SMALL < plan([5] * 100, list(range(100)), 100, 1)[0][0].parameters <= LARGE


@pytest.mark.parametrize(
    ("sizes", "recoveries", "scalar", "known", "shared"),
    [
        ([1000, 300_000], 1, "float32", 12.0, None),
        ([1000, 300_000], 4, "float32", 12.0, 13.0),
        ([1000, 300_000], 2, "bfloat16", 6.0, 7.0),
        ([400_000_000], 2, "float32", 20.0, 22.0),
        ([200_000_000, *[1_000_000] * 200], 1, "float32", 16.0, None),
        ([0], 4, "float32", None, None),
    ],
)
def test_bytes_of_device_memory(sizes, recoveries, scalar, known, shared):
    _, text = plan(sizes, list(range(len(sizes))), len(sizes), recoveries, scalar)
    found = re.search(
        r"^device memory: ([\d.]+) bytes an element, [^;\n]*(?:; ([\d.]+) where .*)?$", text, re.MULTILINE
    )
    assert (found is None) == (known is None), text
    if found:
        assert [float(x) if x else None for x in found.groups()] == [known, shared]


def test_errors():
    with pytest.raises(ValueError, match="layer 3 of 2"):
        plan([5], [3], 2, 1)
    with pytest.raises(ValueError, match="scalar"):
        plan([5], [0], 1, 1, "int8")
    with pytest.raises(ValueError, match="sizes: found -1"):
        plan([-1], [0], 1, 1)
    with pytest.raises(ValueError, match="more units"):
        plan([2**50], [0], 1, 1)
