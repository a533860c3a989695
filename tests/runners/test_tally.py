"""What a run counts."""

import json
from typing import Any

import pytest
from flow import named

from reelscribe.config import FailureLimit
from reelscribe.errors import FailureKind, FailuresError
from reelscribe.runners.tally import Tally
from reelscribe.values import Candidate, Caption, Failure, RequestId, RowResult


def _caption(key: str = "0:0", *flags: str) -> Caption:
    candidates = (Candidate(text="text", stop_reason="stop", num_tokens=1),)
    return Caption(id=named(key), kept=(0,), reason="the only one", candidates=candidates, meta={"flags": list(flags)})


def _failure(kind: FailureKind, key: str = "0:0", message: str = "it says why") -> Failure:
    return Failure(id=named(key), video=None, kind=kind, message=message)


def _row(*outcomes: Any, known: frozenset[RequestId] = frozenset(), index: int = 0) -> RowResult:
    return RowResult(index=index, rows=(), outcomes=outcomes, known=known)


def test_everything_is_counted_and_told() -> None:
    tally = Tally()
    tally.add(_row())
    tally.add(_row(_caption("1:0"), _caption("1:1", "cut_off"), known=frozenset({named("1:0")})))
    for number in range(5):
        tally.add(_row(_failure("decode", message=f"reason {number}"), index=number))
    assert tally.told() == {
        "rows": 7,
        "made": 6,
        "captions": 2,
        "without_video": 1,
        "flags": {"cut_off": 1},
        "failures": {"decode": 5},
        "examples": {"decode": ["row 0: reason 0", "row 1: reason 1", "row 2: reason 2"]},
    }
    json.dumps(tally.told())


def test_too_many_failures_stop_with_the_commonest_reason() -> None:
    tally = Tally(FailureLimit(count=3))
    tally.add(_row(_caption()))
    for kind, message in [("decode", "first"), ("missing", "second"), ("decode", "third")]:
        tally.add(_row(_failure(kind, message=message)))  # type: ignore[arg-type]
        tally.check()
    tally.add(_row(_failure("row")))
    words = (
        r"stopped: 4 of 5 videos failed, more than max_failures allows \(3\)\. The commonest reason is decode \(2\), "
        "as: third What was made is kept: the same command goes on, `reelscribe retry` tries what failed again"
    )
    with pytest.raises(FailuresError, match=words):
        tally.check()


def test_failures_of_earlier_runs_stop_nothing() -> None:
    tally = Tally(FailureLimit(count=0))
    tally.add(_row(_failure("decode"), known=frozenset({named("0:0")})))
    tally.check()
    assert tally.failures == {"decode": 1}
