"""Packages that only some features need: the message of a missing one names the extra that installs it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

__all__ = ["MissingPackageError", "needs", "require"]

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "click": "click",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "rouge_score": "rouge-score",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tokenizers": "tokenizers",
    "triton": "triton",
}
"""The name under which an optional package is installed, by the name under which it is imported."""


class MissingPackageError(ModuleNotFoundError):
    """A feature was used whose package is not installed."""


@contextlib.contextmanager
def needs(extra: str, feature: str) -> Iterator[None]:
    """Around the imports of optional packages: a missing one is told with what installs it.

    Parameters
    ----------
    extra : str
        The extra of pyproject.toml that has all packages imported here.
    feature : str
        What needs them, the subject of the message's sentence, in the plural: ``progress bars``.

    Raises
    ------
    MissingPackageError
        If an optional package is not installed. Other errors of the imports pass as they are.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _DISTRIBUTIONS:
            raise
        raise MissingPackageError(
            f"{feature} need {_DISTRIBUTIONS[package]}, which is not installed: "
            f'pip install "sapag_fast[{extra}]"',
            name=package,
        ) from None


def require(extra: str, feature: str, *packages: str) -> None:
    """Import the packages, as `needs` does with those imported inside it."""
    with needs(extra, feature):
        for package in packages:
            importlib.import_module(package)
