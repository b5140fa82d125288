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


def test_every_tool_has_a_module():
    tools = {"aijack", "breaching", "dlg", "gradattack", "inverting_gradients", "lamp", "leakpro", "plato"}
    assert tools <= set(MODULES)


def test_importable_without_the_tools():
    program = PROGRAM.replace("{absent}", repr(TOOLS)).replace("{names}", repr(MODULES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "refused"
