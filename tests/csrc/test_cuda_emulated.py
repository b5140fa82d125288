"""The CUDA kernels' own source on the host: random tables of gradients under random schedules and sanitizers.

tests/csrc/emulation/run_tables.cpp says what is checked of each table; here is how many, and built for what.
"""

import gzip
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from emulation.toolchain import EMULATION, JOBS, ROOT, Toolchain, execute, missing

# Every .cu file but the one that asks the CUDA runtime about devices, and the planner.
CUDA = ROOT / "csrc" / "cuda"
SOURCES = [
    *sorted(p for p in CUDA.glob("*.cu") if p.name != "device.cu"),
    *sorted(CUDA.glob("*.cpp")),
    EMULATION / "run_tables.cpp",
]
COVERAGE = 160


def amounts(short: int, long: int) -> pytest.MarkDecorator:
    """Tables of a quick run, and of the one that `make test-all` adds."""
    return pytest.mark.parametrize("tables", [short, pytest.param(long, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    return Toolchain(tmp_path_factory.mktemp("cuda_emulated"))


def build(toolchain: Toolchain, mode: str) -> Path:
    reason = missing(mode)
    if reason:
        pytest.skip(reason)
    return toolchain.program("run_tables", SOURCES, mode)


def run_tables(program: Path, tables: int, *options: str, parts: int = JOBS) -> dict[str, int]:
    """Runs that many tables, in several processes at a time, and returns what they counted."""
    share = -(-tables // parts)
    with ThreadPoolExecutor(JOBS) as pool:
        outcomes = list(
            pool.map(lambda i: execute(program, i * share, share, *options, timeout=600), range(parts))
        )
    total: dict[str, int] = {}
    for outcome in outcomes:
        assert outcome.code == 0, outcome.output[-6000:]
        for name, number in re.findall(r", ([a-z ]+) (\d+)", outcome.output.splitlines()[-1]):
            total[name] = total.get(name, 0) + int(number)
    return total


@amounts(400, 2000)
def test_tables_agree_with_float64(toolchain, tables):
    counts = run_tables(build(toolchain, "plain"), tables, parts=4 * JOBS)
    assert counts["tables"] >= tables
    # Every tier often, and the rarer paths at all.
    assert min(counts[tier] for tier in ("block", "cluster", "grid", "pass", "packed")) >= tables // 10
    assert counts["uncached"] >= tables // 4
    rarer = ("grid in halves", "large table", "repeated", "taken back")
    assert min(counts[path] for path in rarer) >= tables // 100


@amounts(48, 240)
def test_tables_under_address_and_undefined_behaviour_sanitizers(toolchain, tables):
    counts = run_tables(build(toolchain, "address"), tables)
    assert min(counts[tier] for tier in ("block", "cluster", "grid", "pass", "packed")) >= tables // 12


@amounts(64, 160)
def test_small_tables_have_no_races(toolchain, tables):
    counts = run_tables(build(toolchain, "thread"), tables, "small")
    assert min(counts[tier] for tier in ("block", "cluster", "grid", "pass", "packed")) >= tables // 32


def unreachable(path: Path, number: int) -> bool:
    """No run gets to a return that only ends a switch over all cases, or a brace where exceptions unwind."""
    before, line = (text.strip() for text in path.read_text().splitlines()[number - 2 : number])
    return line == "}" or (before == "}" and re.fullmatch(r'return (0|"");', line) is not None)


def uncovered(folder: Path) -> dict[str, list[int]]:
    """Lines of csrc/cuda that no instance of the code around them ran, by file."""
    lines: dict[tuple[str, int], bool] = {}
    for data in folder.glob("*.gcda"):
        done = subprocess.run(
            [shutil.which("gcov"), "--json-format", "--stdout", str(data)],
            capture_output=True,
            check=True,
            cwd=folder,
        )
        report = gzip.decompress(done.stdout) if done.stdout[:2] == b"\x1f\x8b" else done.stdout
        for file in json.loads(report)["files"]:
            path = Path(file["file"])
            if path.parent.resolve() != CUDA:
                continue
            for line in file["lines"]:
                key = (path.name, line["line_number"])
                lines[key] = lines.get(key, False) or line["count"] > 0
    assert len({name for name, _ in lines}) >= len(SOURCES) - 1
    missed: dict[str, list[int]] = {}
    for (name, number), ran in sorted(lines.items()):
        if not ran and not unreachable(CUDA / name, number):
            missed.setdefault(name, []).append(number)
    return missed


@pytest.mark.long
def test_tables_reach_every_line(toolchain):
    program = build(toolchain, "coverage")
    run_tables(program, COVERAGE)
    run_tables(program, COVERAGE // 4, "verbose", parts=1)
    assert uncovered(program.parent) == {}
