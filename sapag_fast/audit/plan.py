"""Which victims go together: waves that were begun as they were, then the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sapag_fast.audit.groups import Group
from sapag_fast.audit.manifest import Manifest, some
from sapag_fast.audit.wave import Wave
from sapag_fast.files.victims import ListedVictim

__all__ = ["planned"]


def planned(groups: Sequence[Group], manifest: Manifest, finished: Collection[str]) -> list[Wave]:
    """Lay out the waves of a session.

    Waves that were begun come first, with the victims that they were begun with: what has been left out since
    does not move the others. Then those that no session has come to. Victims that were left out and are in a
    group now have waves of their own at the end.

    Raises
    ------
    ValueError
        Where the victims of a wave do not have one input shape, batch size and normalisation any more.
    """
    return [*_begun(groups, manifest, finished), *_new(groups, manifest)]


def _begun(groups: Sequence[Group], manifest: Manifest, finished: Collection[str]) -> Iterator[Wave]:
    found = {victim.name: (victim, group) for group in groups for victim in group.victims}
    for number, names in manifest.waves.items():
        if all(name in finished for name in names):
            continue
        members = [found[name] for name in names if name in found]
        for victim, group in members:
            if group is not members[0][1]:
                raise ValueError(
                    f"gradients of {some([victim.name])}: input shape, batch size or normalisation is not "
                    "that with which this audit was begun; restore the file, or pass --overwrite to begin "
                    "anew"
                )
        if members:
            yield Wave(number, members[0][1], [victim for victim, _ in members])


def _new(groups: Sequence[Group], manifest: Manifest) -> Iterator[Wave]:
    begun = {name for names in manifest.waves.values() for name in names}
    for again in (False, True):
        for group in groups:
            left: list[ListedVictim] = [
                victim
                for victim in group.victims
                if victim.name not in begun and (victim.name in manifest.skipped) == again
            ]
            for at in range(0, len(left), manifest.wave):
                yield Wave(None, group, left[at : at + manifest.wave])
