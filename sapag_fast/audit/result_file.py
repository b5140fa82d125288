"""The file of one victim's result, and whether it is still what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sapag_fast.audit.result import Result
from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.files.output import finite_json
from sapag_fast.files.tensors import opened_safetensors, read_tensors, write_tensors

__all__ = ["name_in", "read_result", "write_result"]

_DETAILS = "sapag_fast"
"""All of a result is in one metadata entry: safetensors writes several in an order that varies."""

_SHA256 = "sha256"
"""The detail that holds the SHA-256 of the tensors and of all other details."""

_WITHOUT_SHA256 = {
    *("name", "certificate", "distance", "evaluations", "status", "gradient_sha256"),
    *("mode", "recipe", "restarts", "seed", "winner", "label_source", "label_reason", "warnings"),
}
"""All details of results that have none."""


def write_result(path: Path, name: str, result: Result) -> None:
    """Write the result of the victim of that name, at once or not at all."""
    details = finite_json({"name": name, **result.details})
    own = Result(result.inputs, result.labels, result.history, details)
    words = _in_words({**details, _SHA256: _sha256(own)})
    write_tensors(path, own.tensors, {_DETAILS: words})


def read_result(path: Path, name: str, shape: Sequence[int] | None = None) -> Result:
    """Read the result of the victim of that name.

    Parameters
    ----------
    path : Path
    name : str
    shape : sequence of int, optional
        ``(B, *input_shape)``, to which the inputs of a result without a SHA-256 are held.

    Raises
    ------
    ValueError
        Where it is damaged: by its SHA-256, and by the types and shapes of its parts.
    """
    tensors, metadata = read_tensors(path, "result")
    try:
        details = json.loads(metadata[_DETAILS])
        if not Result.has_all_parts(tensors, details) or details["name"] != name:
            raise ValueError("not this victim's result")
        sha256 = details.pop(_SHA256, None)
        result = Result(**tensors, details=details)
        if sha256 is None:
            _check_without_sha256(result, shape)
        else:
            result.check()
            if sha256 != _sha256(result):
                raise ValueError("not what was written (its SHA-256 is another)")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"result file {path.name}: damaged: {error}") from None
    return result


def name_in(path: Path) -> str | None:
    """The victim of which a file is the result, whole or damaged, by what is in it."""
    try:
        with opened_safetensors(path, "result") as opened:
            details = json.loads(opened.metadata()[_DETAILS])
            is_result = Result.has_all_parts(opened.keys(), details)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return details["name"] if is_result and isinstance(details["name"], str) else None


def _check_without_sha256(result: Result, shape: Sequence[int] | None) -> None:
    result.check(shape)
    if unknown := result.details.keys() - _WITHOUT_SHA256:
        raise ValueError(f"unknown details {', '.join(sorted(unknown))}")
    if result.details["status"] != "non-finite" and not result.inputs.isfinite().all():
        raise ValueError("its inputs: not finite")


def _sha256(result: Result) -> str:
    return fingerprint((_in_words(result.details),), result.tensors.values())


def _in_words(details: Mapping[str, Any]) -> str:
    return json.dumps(details, sort_keys=True, allow_nan=False)
