"""What decides the bits of an audit's results, kept in ``audit.json`` before the first of them is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sapag_fast.files.output import finite_json
from sapag_fast.files.victims import ListedVictim
from sapag_fast.runtime.streams import shown

__all__ = ["Manifest", "ManifestVictim", "some"]


_MAPPINGS = ("settings", "model", "versions", "at_once", "skipped")


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
        Size of the file; 0 where that could not be told.
    state : str
        Of the file (see `file_state`), when its gradient was last compared; empty where that is not known. It
        does not count when two are compared: a copy of a file has another.
    metadata_sha256 : str
        SHA-256 of its input shape, batch size and labels, as listed; empty where they are not known.

    Raises
    ------
    ValueError
        For a part that is no text.
    """

    name: str
    file: str
    row: int | None
    bytes: int
    state: str = field(default="", compare=False)
    metadata_sha256: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for part in ("name", "file", "state", "metadata_sha256"):
            if not isinstance(getattr(self, part), str):
                raise ValueError(f"victims: {part}: expected a text, found {getattr(self, part)!r}")

    @classmethod
    def of(cls, victim: ListedVictim) -> ManifestVictim:
        """Take what the manifest knows of a listed victim."""
        return cls(
            name=victim.name,
            file=victim.path.name,
            row=victim.row,
            bytes=victim.size,
            state=victim.state,
            metadata_sha256=victim.metadata_sha256,
        )


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
        Why a victim was left out, by name; it is tried again by the next session.

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
                    "victims": tuple(_victim(victim) for victim in content["victims"]),
                    "waves": {int(number): dict(members) for number, members in content["waves"].items()},
                    **{part: dict(content[part].items()) for part in _MAPPINGS},
                }
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no audit's manifest: {error}") from None

    def differences(self, other: Manifest) -> list[str]:
        """In what an audit that is there (this one) differs from another, in words.

        What sessions choose or find out does not count, nor the file of a victim that was left out, nor a
        file that cannot be looked at now.
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
            differences.append(f"victims {some(gone)} are missing")
        if added := [name for name in after if name not in before]:
            differences.append(f"victims {some(added)} are new")
        settled = [name for name in before if name in after and name not in self.skipped]
        changed = [name for name in settled if after[name].bytes and before[name] != after[name]]
        if changed:
            differences.append(f"the gradient files of victims {some(changed)} have changed")
        told = {name: (before[name].metadata_sha256, after[name].metadata_sha256) for name in settled}
        if others := [name for name, (then, now) in told.items() if then and now and then != now]:
            what = "input shape, batch size or labels in the gradient files"
            differences.append(f"{what} of victims {some(others)} have changed")
        if not differences and list(before) != list(after):
            differences.append("the victims come in another order")
        return differences

    def with_skipped(self, faults: Mapping[str, str]) -> Manifest:
        """Leave out these victims, by name, for these reasons."""
        return self if faults.items() <= self.skipped.items() else self._changed(skipped=faults)

    def with_files(self, other: Manifest, names: Collection[str]) -> Manifest:
        """Take the files of these victims as they are now."""
        now = {victim.name: victim for victim in other.victims if victim.name in names}
        victims = tuple(now.get(victim.name, victim) for victim in self.victims)
        same = all(asdict(a) == asdict(b) for a, b in zip(victims, self.victims, strict=True))
        return self if same else replace(self, victims=victims)

    def with_at_once(self, group: str, count: int) -> Manifest:
        """Let so many searches of the group run at once."""
        return replace(self, at_once={**self.at_once, group: count})

    def with_wave(self, number: int, gradients: Mapping[str, str], faults: Mapping[str, str]) -> Manifest:
        """Have a wave consist of these victims, with the SHA-256 of their gradients; leave others out.

        The position in the wave decides a victim's random numbers.

        Raises
        ------
        ValueError
            When the wave was begun with others.
        """
        known = self.waves.get(number)
        if known is None:
            waves = {**self.waves, number: dict(gradients)} if gradients else self.waves
            return self._changed(waves=waves, skipped=faults, tried=gradients)
        changed = [name for name, sha in known.items() if gradients.get(name) != sha]
        changed += [name for name in gradients if name not in known]
        _check_none(changed)
        returned = gradients.keys() & self.skipped.keys()
        return self._changed(skipped=faults, tried=gradients) if returned else self.with_skipped(faults)

    def with_parts(
        self, number: int, parts: Sequence[Mapping[str, str]], faults: Mapping[str, str]
    ) -> tuple[Manifest, list[int]]:
        """Have parts of a wave go on as waves of their own, and give their numbers.

        The wave keeps the victims that are neither in a part nor left out.

        Raises
        ------
        ValueError
            When the wave was begun with other gradients.
        """
        known = self.waves.get(number, {})
        _check_none([name for part in parts for name in part if part[name] != known.get(name)])
        gone = faults.keys() | {name for part in parts for name in part}
        rest = {name: sha for name, sha in known.items() if name not in gone}
        first = self.next_wave
        new = {first + position: dict(part) for position, part in enumerate(parts)}
        return self._changed(waves={**self.waves, number: rest, **new}, skipped=faults), list(new)

    @property
    def next_wave(self) -> int:
        """The number of a wave that is begun now."""
        return max(self.waves, default=-1) + 1

    def _changed(
        self,
        *,
        waves: Mapping[int, Mapping[str, str]] | None = None,
        skipped: Mapping[str, str],
        tried: Collection[str] = (),
    ) -> Manifest:
        left_out = {name: reason for name, reason in self.skipped.items() if name not in tried}
        waves = self.waves if waves is None else waves
        return replace(self, waves=waves, skipped={**left_out, **skipped})


def _victim(content: Mapping[str, Any]) -> ManifestVictim:
    """Take a victim of ``audit.json``; ``modified``, the state as a time alone, tells too little to count."""
    return ManifestVictim(**{part: value for part, value in content.items() if part != "modified"})


def _check_none(changed: Sequence[str]) -> None:
    if changed:
        raise ValueError(
            f"gradients of {some(changed)}: not those with which this audit was begun; restore them, or "
            "pass --overwrite to begin anew"
        )


def some(names: Sequence[object]) -> str:
    """The first four of them, for a terminal."""
    listed = ", ".join(shown(str(name)) for name in names[:4])
    return listed + (f" and {len(names) - 4} more" if len(names) > 4 else "")
