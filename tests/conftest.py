"""Fixtures shared by the tests."""

import pytest
from gradient_pairs import Gradients


@pytest.fixture
def gradients() -> type[Gradients]:
    return Gradients
