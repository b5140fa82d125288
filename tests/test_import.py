"""The core needs torch, numpy and safetensors; what needs more says which extra installs it."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sapag_fast.data import bundled
from sapag_fast.runtime.extras import _DISTRIBUTIONS, MissingPackageError, needs, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {distribution: name for name, distribution in _DISTRIBUTIONS.items()}
FOR_DEVELOPMENT = {"lint", "test"}
COMMANDS = {"click", "rich"}  # checked once, before the command line is imported


def installed_by(extra: str) -> set[str]:
    """Distributions that an extra installs, those of the extras in it included."""
    names: set[str] = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            names |= set().union(*map(installed_by, requirement.extras))
        else:
            names.add(requirement.name)
    return names


EXTRAS = {name: installed_by(name) for name in set(PROJECT["optional-dependencies"]) - FOR_DEVELOPMENT}
NOT_HERE = {r.name for r in map(Requirement, PROJECT["dependencies"]) if r.marker and not r.marker.evaluate()}
OPTIONAL = sorted(IMPORTED_AS[name] for name in EXTRAS["all"])

BLOCKED = f"""
import sys
for name in {sorted({*OPTIONAL, *NOT_HERE})}:
    sys.modules[name] = None  # "import name" fails as where it is not installed
"""
CORE = """
import torch
import sapag_fast as sf

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
x, y = torch.rand(1, 1, 4, 4), torch.tensor([2])
target = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), tuple(model.parameters()))
"""
RECOVER = """
import contextlib, pathlib

def stop(done, lowest):
    raise KeyboardInterrupt

options = {"steps": 40, "restarts": 2, "exact": "off", "checkpoint": "state.safetensors"}
assert sf.distance(target, target).item() == 0
with contextlib.suppress(KeyboardInterrupt):
    sf.recover(model, target, (1, 4, 4), progress=stop, **options)
assert pathlib.Path("state.safetensors").exists()
found = sf.recover(model, target, (1, 4, 4), **options)
assert found.inputs.shape == (1, 1, 1, 4, 4)
assert sf.profile_attack(model, (1, 4, 4), recoveries=(1,), seconds=0.01, evaluations=1).levels
"""
FEATURES = {
    "rich": ("cli", "sf.recover(model, target, (1, 4, 4), steps=1, progress=True)"),
    "PIL": ("data", "from sapag_fast.data import read_images; read_images('picture.png', (1, 4, 4))"),
    "sklearn": ("data", "from sapag_fast.data import digits; digits(1)"),
    "skimage": ("data", "from sapag_fast.data import faces; faces(1)"),
    "scipy": ("data", "import sapag_fast.metrics"),
    "tokenizers": ("text", "from sapag_fast.text import train_tokenizer; train_tokenizer(['a b'])"),
    "rouge_score": ("text", "from sapag_fast.text import score_text; score_text(y, y)"),
    "triton": ("triton", "sf.distance(target, target, backend='triton')"),
    "matplotlib": ("audit", "import sapag_fast.audit.plots"),
    # Last: the audit's page needs the other packages before it.
    "jinja2": ("audit", "[sys.modules.pop(name) for name in blocked]; import sapag_fast.audit.summary"),
}
ASK = """
import json
messages = {{}}
blocked = [name for name in {optional} if name != "jinja2"]
for package, (_, statement) in {features}.items():
    try:
        exec(statement)
    except Exception as error:
        messages[package] = [type(error).__name__, str(error)]
print(json.dumps(messages))
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)


def test_the_core_needs_none_of_the_extras(tmp_path):
    done = run(BLOCKED + CORE + RECOVER, tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_feature_tells_what_installs_its_package(tmp_path):
    (tmp_path / "picture.png").touch()
    ask = ASK.format(optional=OPTIONAL, features=FEATURES)
    done = run(BLOCKED + CORE + ask, tmp_path)
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    assert {*FEATURES, "click"} == set(OPTIONAL)
    for package, (extra, _) in FEATURES.items():
        kind, message = messages[package]
        assert kind == ("ValueError" if package == "triton" else "MissingPackageError"), message
        assert _DISTRIBUTIONS[package] in message
        assert f'pip install "sapag_fast[{extra}]"' in message


@pytest.mark.parametrize("package", sorted(COMMANDS))
def test_the_command_line_answers_in_one_line(package, tmp_path):
    program = f"""
import runpy, sys
sys.modules["{package}"] = None
runpy.run_module("sapag_fast", run_name="__main__", alter_sys=True)
"""
    done = run(program, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    message = f'commands need {package}, which is not installed: pip install "sapag_fast[cli]"'
    assert done.stderr.splitlines() == [f"sapag-fast: {message}"]


def test_all_has_every_extra():
    assert set(_DISTRIBUTIONS.values()) == EXTRAS["all"] == set().union(*EXTRAS.values())


def test_the_core_stays_small():
    core = {r.name for r in map(Requirement, PROJECT["dependencies"])} - NOT_HERE
    assert core == {"torch", "numpy", "safetensors"}


def guarded_imports(tree: ast.AST, extra: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Imported packages, each with the extra of the `needs` around it; type checks left out."""
    for node in ast.iter_child_nodes(tree):
        inside = extra
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.With):
            call = node.items[0].context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "needs":
                inside = ast.literal_eval(call.args[0])
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0], inside
        yield from guarded_imports(node, inside)


PACKAGE = ROOT / "sapag_fast"


FILES = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("name", [name for name in FILES if name != "runtime/extras.py"])
def test_optional_packages_are_imported_under_their_extra(name):
    file, room = FILES[name], Path(name).parts[0]
    free = {"sapag_fast", "torch", "numpy", "safetensors", *sys.stdlib_module_names}
    if room == "command_line":
        free |= COMMANDS
    if name == "runtime/memory.py":
        free |= NOT_HERE
    for package, extra in guarded_imports(ast.parse(file.read_text())):
        if extra is not None and package != "sapag_fast":
            assert _DISTRIBUTIONS[package] in EXTRAS[extra], f"{package}: extra {extra} does not install it"
        elif room != "integrations":  # these import other people's tools
            assert package in free, f"{package}: imported outside of needs(...)"


def test_needs_tells_a_missing_package(monkeypatch):
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError) as caught, needs("data", "bundled digits"):
        from sklearn.datasets import load_digits  # noqa: F401
    assert str(caught.value) == (
        'bundled digits need scikit-learn, which is not installed: pip install "sapag_fast[data]"'
    )
    assert caught.value.name == "sklearn"


def test_needs_keeps_the_innermost_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(MissingPackageError, match="tables need rich"), needs("audit", "audits"):
        require("cli", "tables", "rich")


def test_needs_passes_other_missing_modules():
    with pytest.raises(ModuleNotFoundError) as caught, needs("data", "bundled digits"):
        import a_module_of_the_user  # noqa: F401
    assert not isinstance(caught.value, MissingPackageError)


@pytest.mark.parametrize("source", ["digits", "faces", "photographs"])
def test_bundled_images_tell_that_pillow_is_missing(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    bundled._photograph.cache_clear()
    with pytest.raises(MissingPackageError, match=r"bundled \w+ need pillow"):
        bundled.SOURCES[source](2, 8)
