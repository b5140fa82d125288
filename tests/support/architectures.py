"""The GPUs that the machine-code gates compile for: one in `make test`, the others in `make test-all`."""

import pytest

ARCHITECTURES = ["90", *(pytest.param(arch, marks=pytest.mark.long) for arch in ("80", "100"))]
