"""Short public paths of modules that lie deeper: ``sapag_fast.recipes`` is ``sapag_fast.search.recipe``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["PATHS", "install"]

PATHS = {
    "cautions": "victim.cautions",
    "certificate": "recovery.certificate",
    "defences": "clients.defences",
    "explicit": "matching.explicit",
    "losses": "victim.losses",
    "metrics": "reports.metrics",
    "recipes": "search.recipe",
    "sums": "distances.sums",
    "surrogate": "victim.surrogate",
    "training": "clients.training",
}
"""By short name. ``sapag_fast.distances`` and the other rooms need none."""
_ROOT = "sapag_fast."


class _ShortPaths(MetaPathFinder, Loader):
    """Imports the real module under its short name: the two names are one module object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_ROOT)
        head, _, rest = name.partition(".")
        if name == fullname or head not in PATHS:
            return None
        real = f"{_ROOT}{PATHS[head]}" + (f".{rest}" if rest else "")
        return ModuleSpec(fullname, self, loader_state=real)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.loader_state)
        # The import system is about to write the short name's spec over the module's own.
        spec.loader_state = (module, module.__spec__)
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None and isinstance(spec.loader_state, tuple):
            module.__spec__ = spec.loader_state[1]


def install() -> None:
    """Make the short paths importable, once for a process."""
    if not any(isinstance(finder, _ShortPaths) for finder in sys.meta_path):
        # First: below ``sapag_fast.explicit`` the ordinary finder would load a file a second time.
        sys.meta_path.insert(0, _ShortPaths())
