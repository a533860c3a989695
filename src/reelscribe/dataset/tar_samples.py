"""WebDataset samples: the members of a tar file from one key to the next."""

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from reelscribe.dataset.tarfiles import Span
from reelscribe.values import Row

MEMBER: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""The name of a member of a sample: its key, and what follows the first dot of its file's name."""
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class BrokenSample:
    """A sample that is no row."""

    span: Span
    """Span of the sample, with other content up to the next one."""
    before: Span | None
    """Content before the first sample."""
    names: frozenset[str]
    """Suffixes of some of its members: the part of their names after the key."""
    films: Mapping[str, Span]
    """Films right before it, by the names of their members."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TarSample:
    """One sample: its members, and which of them a column was read from."""

    key: str
    location: str
    members: dict[str, bytes]
    """Contents of members by suffix, the part of their names after the key."""
    columns: dict[str, str]
    """For each column, the member that it was read from."""
    told: Row
    """What JSON says in a column whose place the videos take."""
    headers: dict[str, tarfile.TarInfo]
    """Headers of its members."""
    before: Span | None
    """What is before the first sample."""
    others: tuple[Span, ...]
    """What is no member of a sample, as folders: between the members of this one, and behind it."""
    films: Mapping[str, Span]
    """Films right before it, and those that it refers to, by the names of their members."""
    row: Row
    """All columns that were read."""
    stored: Mapping[str, bytes]
    """The content of those that it refers to."""

    def as_row(self) -> Row:
        """All columns, as Python values; for a film, which would be there for each stretch, what JSON says of it."""
        films = set(map(id, self.stored.values()))
        held = {name: value if isinstance(value, list) else [value] for name, value in self.row.items()}
        of_films = {name for name, values in held.items() if any(id(value) in films for value in values)}
        return self.row | {name: value for name, value in self.stand_ins(self.row).items() if name in of_films}

    def stand_ins(self, row: Row) -> Row:
        """For the columns of a row that hold members' bytes: what JSON says in their place, or the members' names."""
        names = {id(data): f"{self.key}.{name}" for name, data in self.members.items()}
        names |= {id(data): name for name, data in self.stored.items()}
        single = {column: names[id(value)] for column, value in row.items() if id(value) in names}
        lists = {column: value for column, value in row.items() if isinstance(value, list)}
        several = {
            column: [names[id(item)] for item in value]
            for column, value in lists.items()
            if value and all(id(item) in names for item in value)
        }
        names_of_all = single | several
        return names_of_all | {
            column: value
            for column, value in self.told.items()
            if column in names_of_all and _names_as_many(value, names_of_all[column])
        }


def _names_as_many(value: Any, names: str | list[str]) -> bool:
    """Whether a value from JSON may stand for videos: a path for one, as many paths for several."""
    if isinstance(names, str):
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and len(value) == len(names) and all(isinstance(item, str) for item in value)


@dataclass(kw_only=True, eq=False)
class Met:
    """A sample that is being read."""

    key: str
    location: str
    start: int
    end: int = 0
    before: Span | None = None
    members: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    others: list[Span] = field(default_factory=list)
    problem: str | None = None
    held: int = 0

    def span(self) -> Span:
        return Span(location=self.location, start=self.start, end=self.end)

    def add(self, name: str, info: tarfile.TarInfo, tar: tarfile.TarFile, max_bytes: int) -> None:
        """Add a member, unless the sample turned out to be no row."""
        self.held += info.size
        if name in self.headers:
            self.problem = f"it has the member {name!r} twice"
        elif self.held > max_bytes:
            self.problem = f"it holds more than {max_bytes:,} bytes (max_video_bytes)"
        elif len(self.headers) >= _MOST_MEMBERS:
            self.problem = f"it has more than {_MOST_MEMBERS:,} members"
        if len(self.headers) < _MOST_MEMBERS:
            self.headers[name] = info
        if self.problem is None:
            self.members[name] = cast(BinaryIO, tar.extractfile(info)).read()
        else:
            self.members = {}

    def add_other(self, start: int, end: int) -> None:
        """Add content that is no member of a sample."""
        if self.others and self.others[-1].end == start:
            start = self.others.pop().start
        self.others.append(Span(location=self.location, start=start, end=end))
        self.end = end


def samples(tar: tarfile.TarFile, location: str, max_bytes: int) -> Iterator[Met]:
    """Yield each sample once all of its members were read."""
    sample: Met | None = None
    before: Span | None = None
    end = 0
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # or the list of all that was met would grow
        found = MEMBER.fullmatch(info.name) if info.isfile() else None
        # A member's offset is that of its own extended headers, but not of global ones before it.
        start, others_end, end = end, info.offset if found else tar.offset, tar.offset
        if others_end > start and sample is None:
            before = Span(location=location, start=before.start if before else start, end=others_end)
        elif others_end > start and sample is not None:
            sample.add_other(start, others_end)
        if found is None:
            continue
        if sample is None or found[1] != sample.key:
            if sample is not None:
                yield sample
            sample, before = Met(key=found[1], location=location, start=info.offset, before=before), None
        sample.add(found[2], info, tar, max_bytes)
        sample.end = end
    if sample is not None:
        yield sample
