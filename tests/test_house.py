"""The house keeps its shape: few rooms, short functions, few parameters, the short paths of the documents."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sapag_fast._documented_paths import PATHS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sapag_fast"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
MOST_FOLDERS, MOST_FILES = 18, 6
MOST_LINES, MOST_PARAMETERS = 80, 8
PUBLIC_FACES = {
    "sapag_fast/distances/functional.py: distance",
    "sapag_fast/distances/functional.py: distance_and_gradient",
    "sapag_fast/distances/gradient_distance.py: GradientDistance.__init__",
    "sapag_fast/models/resnet.py: ResNet.__init__",
    "sapag_fast/models/vit.py: ViT.__init__",
    "sapag_fast/profiler/profile.py: profile_attack",
    "sapag_fast/recovery/exact.py: recover_exact",
    "sapag_fast/recovery/recover.py: recover",
    "sapag_fast/recovery/separation.py: separate_equal_labels",
    "sapag_fast/text/recover.py: recover_text",
}
"""Their options are documented one by one."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """All functions below a node, with the names of the classes and functions around them."""
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, Function | ast.ClassDef):
            name = f"{inside}{child.name}."
        if isinstance(child, Function):
            yield name.removesuffix("."), child
        yield from functions(child, name)


def is_triton_kernel(function: Function) -> bool:
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def parameters(function: Function) -> list[str]:
    taken = function.args
    named = [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")]


def limited_functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for name, function in functions(ast.parse(path.read_text())):
            if not is_triton_kernel(function):
                yield f"{path.relative_to(ROOT)}: {name}", function


def test_the_listing_of_the_package_shows_the_idea():
    listed = [path for path in PACKAGE.iterdir() if path.name != "__pycache__" and path.suffix != ".so"]
    folders = sorted(path.name for path in listed if path.is_dir())
    files = sorted(path.name for path in listed if path.is_file())
    assert len(folders) <= MOST_FOLDERS, folders
    assert len(files) <= MOST_FILES, files


def test_functions_are_short():
    lengths = {place: f.end_lineno - f.lineno + 1 for place, f in limited_functions()}
    long = [f"{place}: {lines} lines" for place, lines in lengths.items() if lines > MOST_LINES]
    assert not long, "\n".join(long)


def test_functions_take_few_parameters():
    counts = {
        place: len(parameters(function))
        for place, function in limited_functions()
        if place not in PUBLIC_FACES
    }
    many = [f"{place}: {count} parameters" for place, count in counts.items() if count > MOST_PARAMETERS]
    assert not many, "\n".join(many)


def test_the_public_faces_are_where_the_limits_look_for_them():
    there = set()
    for path in SOURCES:
        names = functions(ast.parse(path.read_text()))
        there |= {f"{path.relative_to(ROOT)}: {name}" for name, _ in names}
    assert there >= PUBLIC_FACES


@pytest.mark.parametrize("short", PATHS)
def test_a_short_path_is_the_real_module(short):
    real = importlib.import_module(f"sapag_fast.{PATHS[short]}")
    assert importlib.import_module(f"sapag_fast.{short}") is real
    assert real.__name__ == real.__spec__.name == f"sapag_fast.{PATHS[short]}"


def test_short_paths_may_be_imported_first():
    program = f"""
import importlib
for short, real in {PATHS}.items():
    module = importlib.import_module("sapag_fast." + short)
    assert module is importlib.import_module("sapag_fast." + real), short
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_room_stands_on_the_staircase():
    """`make lint` holds the imports against it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (staircase,) = [contract for contract in contracts if contract["type"] == "layers"]
    steps = {room for step in staircase["layers"] for room in step.replace("|", ":").split(" : ")}
    rooms = {f"sapag_fast.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {step.strip() for step in steps} == rooms | {"sapag_fast.checks", "kernels"}


def test_test_files_have_names_of_their_own():
    """Without packages among the tests, two files of one name would be one module."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
