"""Files that were written to since earlier sessions: results that are damaged, gradients that are others."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.manifest import Manifest, some
from sapag_fast.files.fault import guarded
from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.files.victims import ListedVictim
from sapag_fast.runtime.streams import shown, tell

__all__ = ["compare_written", "finished_before"]


def finished_before(folder: AuditFolder, victims: Iterable[ListedVictim]) -> set[str]:
    """Names of the victims that have a result; of a damaged one is said that its victim is searched anew.

    Parameters
    ----------
    folder : AuditFolder
        Open.
    victims : iterable of ListedVictim

    Raises
    ------
    ValueError
        Where a folder stands in a result's place: nothing could be written there.
    """
    finished = set()
    for victim in victims:
        shape = (victim.batch_size, *victim.input_shape) if victim.fault is None else None
        if folder.has(victim.name, shape):
            finished.add(victim.name)
        elif folder.result_path(victim.name).is_dir():
            path = folder.result_path(victim.name)
            raise ValueError(f"file {shown(path)}: expected a result, found a folder; move it away")
        elif damage := folder.damage(victim.name, shape):
            tell(f"the result of {shown(victim.name)} does not count, its victim is searched anew: {damage}")
    return finished


def compare_written(
    folder: AuditFolder, manifest: Manifest, model: nn.Module, finished: Iterable[ListedVictim]
) -> None:
    """Read the files that may be others now, and compare their gradients with those that were searched.

    Parameters
    ----------
    folder : AuditFolder
        Open.
    manifest : Manifest
        Of the files as they are now.
    model : nn.Module
    finished : iterable of ListedVictim
        Those that have a result. One whose file cannot be read keeps it, and that is said.

    Raises
    ------
    ValueError
        Where a file holds another gradient.
    """
    known = {victim.name: victim.state for victim in folder.manifest.victims}
    written = [victim for victim in finished if victim.state not in ("", known[victim.name])]
    faults: dict[str, str] = {}
    same, others = [], []
    for victim in written:
        result = folder.read(victim.name)
        searched = None if result is None else result.details.get("gradient_sha256")
        with guarded(victim.name, faults):
            gradient = [tensor for tensor in victim.gradient(model) if tensor is not None]
            if fingerprint((), gradient) != searched:
                others.append(victim.name)
            elif victim.fault is not None:
                raise ValueError(victim.fault)
            else:
                same.append(victim.name)
    for name, reason in faults.items():
        tell(f"kept the result of {shown(name)}, whose file has changed and cannot be read: {shown(reason)}")
    if others:
        raise ValueError(
            f"gradients of {some(others)}: not those with which their results were found; restore them, or "
            "pass --overwrite to begin anew"
        )
    folder.note_files(manifest, same)
