"""Each integration is importable where its tool is not installed."""

import pkgutil
import subprocess
import sys

from sapag_fast import integrations

MODULES = [module.name for module in pkgutil.iter_modules(integrations.__path__)]
TOOLS = {"breaching", "inversefed", "gradattack", "leakpro", "aijack", "plato", "hydra", "torchvision"}
PROGRAM = """
import builtins, importlib
imports = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.partition(".")[0] in {absent}:
        raise ModuleNotFoundError(name)
    return imports(name, globals, locals, fromlist, level)

builtins.__import__ = without
for name in {names}:
    importlib.import_module("sapag_fast.integrations." + name)
from sapag_fast.integrations import breaching
try:
    breaching.install()
except ImportError:
    print("refused")
"""
HELPERS = """
import importlib, torch
from sapag_fast.distances import kinds
before = kinds()
for name in {names}:
    importlib.import_module("sapag_fast.integrations." + name)
from sapag_fast.integrations import kept
pair = [torch.ones(3), torch.ones(2)], [torch.zeros(3), torch.ones(2)]
for make in (kept.tensor_cosines, kept.weighted_cosine, kept.tensor_norms):
    assert make((1.0, 0.5))(*pair).shape == ()
    assert make((1.0, 0.5)) is make([1.0, 0.5])  # kept
kept.fixed_norm_cosine()(*pair)
assert kept.fixed_norm_cosine().copy().kind is kept.fixed_norm_cosine().kind
assert kinds() == before, kinds()
"""


def test_every_tool_has_a_module():
    tools = {"aijack", "breaching", "dlg", "gradattack", "inverting_gradients", "lamp", "leakpro", "plato"}
    assert tools <= set(MODULES)


def test_importable_without_the_tools():
    program = PROGRAM.replace("{absent}", repr(TOOLS)).replace("{names}", repr(MODULES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "refused"


def test_helper_distances_stay_out_of_the_public_table():
    program = HELPERS.replace("{names}", repr(MODULES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
