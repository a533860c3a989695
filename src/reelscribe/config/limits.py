"""Settings that are parsed from text: shards, and limits on failures."""

from dataclasses import dataclass
from typing import Final

from reelscribe.errors import SettingsError

_SHARE_FROM: Final = 100


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts of a data set's rows."""

    number: int
    """Number of this part, from 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "3/8".

        Raises:
            SettingsError: it is no such thing.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise SettingsError(f"shard must be a part and the number of all parts, as 3/8; got {text!r}.")
        return cls(number=int(number), of=int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, shard_hash: int) -> bool:
        """Whether a row with this hash belongs to this shard; see `RowPlan.shard_hash`."""
        return shard_hash % self.of == self.number - 1


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """The number or share of failures at which a run stops."""

    count: int | None = None
    share: float | None = None
    """Share of all videos, from 0 to 1."""

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read "10" or "5%".

        Raises:
            SettingsError: it is neither.
        """
        number, percent, rest = text.strip().partition("%")
        try:
            limit = cls(share=float(number) / 100) if percent else cls(count=int(number))
        except ValueError:
            limit = cls(share=-1)
        if rest or (limit.count or 0) < 0 or not 0 <= (limit.share or 0) < 1:
            raise SettingsError(f"max_failures must be a whole number, or a share below 100%, as 5%; got {text!r}.")
        return limit

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{100 * self.share:g}%"

    def exceeded_by(self, failures: int, videos: int) -> bool:
        """Whether this many failures exceed the limit. A share counts only once there are enough videos."""
        if self.count is not None:
            return failures > self.count
        return videos >= _SHARE_FROM and failures > (self.share or 0) * videos
