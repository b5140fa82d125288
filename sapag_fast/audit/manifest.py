"""What decides the bits of an audit's results, kept in ``audit.json`` before the first of them is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sapag_fast.files.output import finite_json
from sapag_fast.runtime.streams import shown

__all__ = ["Manifest", "ManifestVictim"]


@dataclass(frozen=True)
class ManifestVictim:
    """A victim as the manifest knows it.

    Attributes
    ----------
    name : str
    file : str
        Name of its gradient file, without the folder.
    row : int or None
        Its row in a file of many.
    bytes : int
        Size of the file.
    """

    name: str
    file: str
    row: int | None
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What has to be the same in every session of an audit, and what sessions have found out.

    Attributes
    ----------
    settings : mapping
        Options of the search, as JSON holds them.
    model : mapping
        SHA-256 of its ``weights`` and ``modules``.
    victims : sequence of ManifestVictim
        All of them, in order.
    versions : mapping
        Of the package, of torch, of the device, of the certificates' thresholds.
    threads, wave : int
        Threads, and the most victims that are searched together; chosen by the first session.
    at_once : mapping
        Searches at once, by group of victims.
    waves : mapping
        By number of a wave that was begun, the SHA-256 of its victims' gradients by name, in order.
    skipped : mapping
        Why a victim is left out, by name.

    Raises
    ------
    ValueError
        For numbers of threads or victims that make no sense.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, str]
    victims: Sequence[ManifestVictim]
    versions: Mapping[str, Any]
    threads: int
    wave: int
    at_once: Mapping[str, int] = field(default_factory=dict)
    waves: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("threads", "wave"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, found {value!r}")
        # As a later session will read them, so that the two compare.
        object.__setattr__(self, "settings", finite_json(self.settings))
        object.__setattr__(self, "versions", finite_json(self.versions))

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``audit.json``."""
        content = {part.name: getattr(self, part.name) for part in fields(self)}
        content["victims"] = [asdict(victim) for victim in self.victims]
        content["waves"] = {
            str(number): [list(member) for member in members.items()]
            for number, members in self.waves.items()
        }
        return content

    @classmethod
    def from_json(cls, content: Any) -> Manifest:
        """Take the content of ``audit.json``.

        Raises
        ------
        ValueError
            Where a part is missing, unknown or of another form.
        """
        try:
            return cls(
                **{
                    **content,
                    "victims": tuple(ManifestVictim(**victim) for victim in content["victims"]),
                    "waves": {int(number): dict(members) for number, members in content["waves"].items()},
                }
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no audit's manifest: {error}") from None

    def differences(self, other: Manifest) -> list[str]:
        """In what an audit that is there (this one) differs from another, in words.

        What sessions choose or find out does not count.
        """
        differences = []
        for part in ("settings", "versions"):
            before, after = getattr(self, part), getattr(other, part)
            differences += [
                f"{part} {key} was {before.get(key)}, is {after.get(key)}"
                for key in sorted({*before, *after})
                if before.get(key) != after.get(key)
            ]
        differences += [
            f"the model's {key} differ" for key in other.model if self.model.get(key) != other.model[key]
        ]
        before, after = ({victim.name: victim for victim in part.victims} for part in (self, other))
        if gone := [name for name in before if name not in after]:
            differences.append(f"victims {_some(gone)} are missing")
        if added := [name for name in after if name not in before]:
            differences.append(f"victims {_some(added)} are new")
        changed = [name for name in before if name in after and before[name] != after[name]]
        if changed:
            differences.append(f"the gradient files of victims {_some(changed)} have changed")
        if not differences and list(before) != list(after):
            differences.append("the victims come in another order")
        return differences

    def with_skipped(self, faults: Mapping[str, str]) -> Manifest:
        """Leave out these victims, by name, for these reasons."""
        return replace(self, skipped={**self.skipped, **faults})

    def with_at_once(self, group: str, count: int) -> Manifest:
        """Let so many searches of the group run at once."""
        return replace(self, at_once={**self.at_once, group: count})

    def with_wave(self, number: int, gradients: Mapping[str, str]) -> Manifest:
        """Have a wave consist of these victims, with the SHA-256 of their gradients.

        The position in the wave decides a victim's random numbers.

        Raises
        ------
        ValueError
            When the wave was begun with others.
        """
        known = self.waves.get(number)
        if known is None:
            return replace(self, waves={**self.waves, number: dict(gradients)})
        if list(known.items()) != list(gradients.items()):
            changed = [name for name, sha in known.items() if gradients.get(name) != sha]
            changed += [name for name in gradients if name not in known]
            raise ValueError(
                f"gradients of {_some(changed)}: not those with which this audit was begun; restore them, or "
                "pass --overwrite to begin anew"
            )
        return self


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:4])
    return listed + (f" and {len(names) - 4} more" if len(names) > 4 else "")
