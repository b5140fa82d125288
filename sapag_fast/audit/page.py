"""An audit's page, ``summary.html``: one file that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sapag_fast.reports.finished import Finished
from sapag_fast.reports.metrics import CLAIMED_SUCCESS_MEANS, SUCCESS_PSNR
from sapag_fast.reports.pictures import is_image, to_picture
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.streams import shown

with needs("audit", "audits"):
    import jinja2

__all__ = ["Gallery", "page", "spelled_settings"]

_MOST_PICTURES = 24_000_000  # characters of the page
_SIDE = 84  # about, in pixels, of a picture
_TEMPLATES = Path(__file__).with_name("templates")
_NOT_GIVEN = {
    "weights": "none: the model's own",
    "input_shape": "as the gradient files say",
    "batch_size": "as the gradient files say",
    "truth": "not given",
    "mean": "as the gradient files say",
    "std": "as the gradient files say",
    "bounds": "none",
    "stop_distance": "none",
    "label_smoothing": "none",
    "class_weights": "none",
    "pos_weight": "none",
    "averaged_batches": "as the gradient files say",
    "max_memory": "what is free",
    "bandwidth": "the distance's own",
}
"""What an option or a recipe's field comes to where it has no value."""

Line = Mapping[str, Any]
Pictures = list[tuple[str, "str | None"]]
"""Addresses of each image and of the true one."""


class Gallery:
    """Pictures of the victims that leak most, as many as a page bears, whatever the order they come in."""

    def __init__(self) -> None:
        self._kept: list[tuple[tuple[float, ...], int, str, Pictures, int]] = []
        self._size = self._count = 0

    def add(self, line: Line, entry: Finished) -> None:
        """Take a victim's pictures, unless all there are leak more and there is no room."""
        rank = _leak(line)
        full = self._size >= _MOST_PICTURES
        if not is_image(entry.inputs.shape[1:]) or (full and rank <= self._kept[0][0]):
            return
        pictures = _pictures(entry)
        size = sum(len(address or "") for pair in pictures for address in pair)
        self._count += 1
        heapq.heappush(self._kept, (rank, -self._count, line["name"], pictures, size))
        self._size += size
        while self._size > _MOST_PICTURES and len(self._kept) > 1:
            self._size -= heapq.heappop(self._kept)[-1]

    def pictures(self) -> dict[str, Pictures]:
        """Give them by the victim's name."""
        return {name: pictures for _, _, name, pictures, _ in self._kept}


def page(
    content: Mapping[str, Any], lines: Sequence[Line], curves: Sequence[np.ndarray], gallery: Gallery
) -> str:
    """Write the page.

    Parameters
    ----------
    content : mapping
        The content of ``summary.json``.
    lines : sequence of mapping
        Every finished victim's line in the table.
    curves : sequence of array
        Their distances along the search.
    gallery : Gallery
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    environment.filters |= {"figure": _figure, "spelled": _spelled}
    script = (_TEMPLATES / "summary.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pictures = gallery.pictures()
    return environment.get_template("summary.html").render(
        content=content,
        plots=_plots(lines, curves),
        settings=spelled_settings(content["settings"], content["recipes"], content["at_once"]),
        recipes=content["recipes"],
        leaks=[
            (line, pictures.get(line["name"], ()), _leaks(line))
            for line in sorted(lines, key=_leak, reverse=True)
        ],
        pictured=len(pictures),
        truth=any("psnr" in line for line in lines),
        script=script,
        digest=digest,
        certified_means=CLAIMED_SUCCESS_MEANS,
    )


def spelled_settings(
    settings: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]], at_once: Mapping[str, int]
) -> dict[str, str]:
    """Spell out the options, and what those that were not given came to.

    Parameters
    ----------
    settings : mapping
        As the user gave them.
    recipes : mapping
        By group of victims what their recipe came to.
    at_once : mapping
        By group of victims how many searches ran at once.
    """
    spelled = {}
    for name, value in settings.items():
        text = _spelled(value, name)
        if name == "recipe" and recipes:
            names = _different(recipe["name"] for recipe in recipes.values())
            text = text if names == text else f"{text}: {names}"
        elif name == "at_once" and value is None:
            text = f"{_different(at_once.values()) or 'none yet'} (what memory bears)"
        elif value is None and name not in _NOT_GIVEN:
            found = _different(_spelled(recipe[name], name) for recipe in recipes.values() if name in recipe)
            text = f"{found} (of the recipe)" if found else "not known: no victim could be read"
        spelled[name] = text
    return spelled


def _different(values: Any) -> str:
    return " or ".join(dict.fromkeys(map(str, values)))


def _spelled(value: Any, name: str = "") -> str:
    """A setting's value in words, not as Python writes it."""
    if value is None or (name in _NOT_GIVEN and isinstance(value, list | tuple) and not value):
        return _NOT_GIVEN.get(name, "none")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "max_memory":
        return f"{value:,} bytes"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_spelled(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ("x" if name == "input_shape" else ", ").join(map(_spelled, value)) or "none"
    return str(value)


def _leak(line: Line) -> tuple[float, ...]:
    """Rank a victim by what it gives away: how close the recovery is, else how close it must be."""
    psnr, distance = line.get("psnr", math.nan), line["distance"]
    return (
        -math.inf if math.isnan(psnr) else psnr,
        line["certificate"] == "certified",
        -math.inf if math.isnan(distance) else -distance,
    )


def _leaks(line: Line) -> bool:
    return line["recovered"] if "recovered" in line else line["certificate"] == "certified"


def _plots(lines: Sequence[Line], curves: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    if not lines:
        return []
    from sapag_fast.audit import plots  # matplotlib takes a second

    along = ("Distance along the search", _address(plots.curves(curves)))
    known = [line for line in lines if "psnr" in line]
    if not known:
        distances = [line["distance"] for line in lines]
        return [("Distance, sorted", _address(plots.ranked(distances, "distance", None))), along]
    psnr = [line["psnr"] for line in known]
    scatter = plots.scatter([line["distance"] for line in known], psnr, SUCCESS_PSNR)
    return [
        ("PSNR, sorted", _address(plots.ranked(psnr, "PSNR (dB)", SUCCESS_PSNR))),
        along,
        ("PSNR against distance", _address(scatter)),
    ]


def _pictures(entry: Finished) -> Pictures:
    true = [None] * len(entry.inputs) if entry.truth is None else [entry.truth[i] for i in entry.order]
    return [
        (_address(_png(ours)), None if other is None else _address(_png(other)))
        for ours, other in zip(entry.inputs, true, strict=True)
    ]


def _png(image: Tensor) -> bytes:
    picture = to_picture(image)
    factor = _SIDE / max(picture.size)
    if factor < 1:
        picture = picture.resize(
            (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figure(value: object) -> str:
    """A number as the page shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
