"""The user's own model file, ``file.py:function``.

This one file is executed, by design; every other input is only read.
"""

import importlib.util
import sys

from torch import nn

from sapag_fast.files.regular import regular_file


def load_model(reference: str) -> nn.Module:
    """Import FILE.py of ``FILE.py:FUNCTION`` and return FUNCTION(), a ``torch.nn.Module`` with parameters.

    The file may import its neighbours.

    Raises
    ------
    ValueError
        Naming the file, for everything that goes wrong in it.
    """
    name, separator, function = reference.rpartition(":")
    if not separator or not name.endswith(".py") or not function.isidentifier():
        raise ValueError(f"model {reference!r}: expected FILE.py:FUNCTION")
    path = regular_file(name, "model file")
    spec = importlib.util.spec_from_file_location("sapag_fast_user_model", path.resolve())
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up by name
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise ValueError(f"holds no function {function!r}")
        model = getattr(module, function)()
    except (Exception, SystemExit) as error:
        where = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"model file {path}: {where}{error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model file {path}: {function}() returned a {type(model).__name__}, not a torch.nn.Module"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(
            f"model file {path}: {function}() has no parameters, so there is no gradient to match"
        )
    return model
