"""WebDataset samples: runs of members of a tar file that share one key."""

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from reelscribe.dataset.tarfiles import Span
from reelscribe.values import Row

MEMBER: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""Name of a member of a sample: the key, and what follows the first dot of the file's name."""
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class BrokenSample:
    """A sample that cannot be read as a row."""

    span: Span
    """Span of the sample, with other content up to the next one."""
    before: Span | None
    """Content before the first sample."""
    names: frozenset[str]
    """Suffixes of some of its members: the part of their names after the key."""
    films: Mapping[str, Span]
    """Films directly before it, by the names of their members."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TarSample:
    """A sample: its members, and the columns that were read from them."""

    key: str
    location: str
    members: dict[str, bytes]
    """Contents of members by suffix, the part of their names after the key."""
    columns: dict[str, str]
    """For each column, the member that it was read from."""
    told: Row
    """Value of the sample's JSON for the column that the videos occupy, if it has one."""
    headers: dict[str, tarfile.TarInfo]
    """Headers of its members, by suffix."""
    before: Span | None
    """Content before the first sample of the file; None for later samples."""
    others: tuple[Span, ...]
    """Parts of the file that belong to no sample, such as folders: between the members of this one, and after it."""
    films: Mapping[str, Span]
    """Films directly before it, and those that it refers to, by the names of their members."""
    row: Row
    """All columns that were read."""
    stored: Mapping[str, bytes]
    """Contents of the films that it refers to, by the names of their members."""

    def as_row(self) -> Row:
        """All columns, as Python values. Films are replaced by their stand-ins: each stretch would repeat the film."""
        films = set(map(id, self.stored.values()))
        held = {name: value if isinstance(value, list) else [value] for name, value in self.row.items()}
        of_films = {name for name, values in held.items() if any(id(value) in films for value in values)}
        return self.row | {name: value for name, value in self.stand_ins(self.row).items() if name in of_films}

    def stand_ins(self, row: Row) -> Row:
        """For columns that hold bytes of members: the value of the sample's JSON, or else the members' names."""
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
    """Whether a value from JSON can replace names of videos: a path for one, a list of as many paths for several."""
    if isinstance(names, str):
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and len(value) == len(names) and all(isinstance(item, str) for item in value)


@dataclass(kw_only=True, eq=False)
class Met:
    """A sample while it is being read."""

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
        """Add a member. If the sample gets a problem, its contents are dropped, and only headers are kept."""
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
        """Add a part of the file that is not a member of a sample."""
        if self.others and self.others[-1].end == start:
            start = self.others.pop().start
        self.others.append(Span(location=self.location, start=start, end=end))
        self.end = end


def samples(tar: tarfile.TarFile, location: str, max_bytes: int) -> Iterator[Met]:
    """Yield each sample after all of its members were read."""
    sample: Met | None = None
    before: Span | None = None
    end = 0
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # tarfile lists every member it has read: keep memory flat
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
