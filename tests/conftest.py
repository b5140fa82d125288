"""Fixtures shared by the tests."""

import pytest
from gradient_pairs import Gradients

from sapag_fast.distances import kind


@pytest.fixture
def gradients() -> type[Gradients]:
    return Gradients


@pytest.fixture(autouse=True)
def _own_table_of_distances(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(kind, "_KINDS", dict(kind._KINDS))
