"""The package's own distances, whatever other modules have registered when the tests are collected."""

from sapag_fast.distances.kind import find_kind, kinds

NATIVE = [name for name in kinds() if find_kind(name).native is not None]
