"""Replicas in processes of their own, with engines that die, raise and hang."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import replica_engines
from conftest import Prepare
from replica_engines import REFUSES, STUCK

from reelscribe.config import Settings
from reelscribe.engines import replicas as replicas_module
from reelscribe.engines.replicas import Replicas
from reelscribe.errors import EngineError, ModelError
from reelscribe.values import Failure, Generation, Work

SETTINGS = Settings(model="fake", engine="fake")


def loaded(*environments: Mapping[str, str]) -> Replicas:
    return Replicas(replica_engines.load, SETTINGS, environments or [{}, {}])


def pids(engine: Replicas) -> list[int]:
    return [replica._process.pid or 0 for replica in engine._replicas]


@pytest.fixture(scope="module")
def pair() -> Iterator[Replicas]:
    engine = loaded()
    yield engine
    engine.close()
    assert not any(replica._process.is_alive() for replica in engine._replicas)


def said(answer: Generation | Failure) -> str:
    assert isinstance(answer, Generation), answer
    return answer.candidates[0].text


class TestAnswers:
    def test_each_request_is_answered_once_and_frames_arrive_whole(self, pair: Replicas, prepare: Prepare) -> None:
        works = {f"{n}": prepare(f"{n}", frames=2 + n, size=(32 + 32 * n, 64)) for n in range(8)}
        answers = {answer.id.task: said(answer) for answer in pair.generate(iter(works.values()))}
        assert answers.keys() == works.keys()
        for name, text in answers.items():
            pid, _, seen = text.partition(" ")
            frames = works[name].frames
            assert int(pid) in pids(pair)
            assert seen == f"{frames.pixels.shape} {int(frames.pixels.sum())} {len(frames.timestamps)}"

    def test_streams_follow_each_other(self, pair: Replicas, prepare: Prepare) -> None:
        assert list(pair.generate(iter(()))) == []
        for name in "ab":
            [answer] = pair.generate(iter([prepare(name)]))
            assert answer.id.task == name

    def test_one_that_is_left_early_spoils_nothing_for_the_next(self, pair: Replicas, prepare: Prepare) -> None:
        endless = pair.generate(prepare(f"{n}") for n in range(10**6))
        next(endless)
        endless.close()  # type: ignore[attr-defined]
        assert {answer.id.task for answer in pair.generate(prepare(name) for name in "abcd")} == set("abcd")

    def test_an_error_of_the_source_comes_through(self, pair: Replicas, prepare: Prepare) -> None:
        def source() -> Iterator[Work]:
            yield prepare("a")
            raise LookupError("no more clips")

        with pytest.raises(LookupError, match="no more clips"):
            list(pair.generate(source()))


class TestFaults:
    def test_works_go_where_there_is_room(self, prepare: Prepare, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        held = os.open(tmp_path / "fifo", os.O_RDWR)
        engine = loaded({STUCK: str(tmp_path / "fifo")}, {})
        answers = engine.generate(prepare(f"{n}") for n in range(12))
        _, free = pids(engine)
        first = [said(next(answers)) for _ in range(10)]
        assert {int(text.split()[0]) for text in first} == {free}
        os.write(held, b"!")
        assert len(list(answers)) == 2
        engine.close()
        os.close(held)

    def test_one_that_dies_stops_the_run_and_says_which(self, prepare: Prepare) -> None:
        engine = loaded()
        with pytest.raises(EngineError, match=r"^The process of replica [12] of 2 died\. Most often memory ran out"):
            list(engine.generate(iter([prepare("a"), prepare("b", prompt="die")])))
        with pytest.raises(EngineError, match="died"):
            list(engine.generate(iter([prepare("later")])))
        engine.close()

    def test_one_that_raises_stops_the_run(self, pair: Replicas, prepare: Prepare) -> None:
        with pytest.raises(EngineError, match=r"^ZeroDivisionError: of this replica$"):
            list(pair.generate(iter([prepare("a", prompt="raise")])))
        assert said(*pair.generate(iter([prepare("after")])))

    def test_one_that_hangs_is_killed_at_the_end(self, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicas_module, "_SECONDS_TO_STOP", 0.1)
        engine = loaded()
        answers = engine.generate(iter([prepare("a", prompt="hang"), prepare("b")]))
        assert next(answers).id.task == "b"
        answers.close()  # type: ignore[attr-defined]
        engine.close()
        assert not any(replica._process.is_alive() for replica in engine._replicas)

    def test_one_that_cannot_be_loaded_is_told_as_it_is(self) -> None:
        with pytest.raises(ModelError, match=r"^the model is not there$"):
            loaded({}, {REFUSES: "1"})

    def test_a_work_that_cannot_be_sent_is_told(self, pair: Replicas, prepare: Prepare) -> None:
        engine = loaded({})
        work = prepare("a")
        object.__setattr__(work.frames, "facts", lambda: "not to be pickled")
        with pytest.raises(EngineError, match=r"^a clip could not be handed to replica 1 of 1: "):
            list(engine.generate(iter([work])))
        engine.close()
