"""The distance and the attack need nothing beyond torch and numpy: GPU machines without a network have no
more.
"""

import subprocess
import sys

PROGRAM = """
import builtins

imports = builtins.__import__

def without(name, *rest):
    if name.partition(".")[0] in {absent}:
        raise ModuleNotFoundError(name)
    return imports(name, *rest)

builtins.__import__ = without
import torch
import sapag_fast as sf

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
x, y = torch.rand(1, 1, 4, 4), torch.tensor([2])
target = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), tuple(model.parameters()))
assert sf.distance(target, target).item() == 0
found = sf.recover(model, target, (1, 4, 4), steps=3, restarts=2)
assert found.inputs.shape == (1, 1, 1, 4, 4)
"""


def test_the_optional_packages_are_optional():
    absent = {"click", "jinja2", "matplotlib", "PIL", "psutil", "rich", "safetensors", "skimage", "sklearn"}
    program = PROGRAM.replace("{absent}", repr(absent | {"scipy"}))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
