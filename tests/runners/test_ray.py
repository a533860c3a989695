"""A run on real Ray: two actors, killed actors, readers, drivers and nodes, held against a local run."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run, ended
from flow import put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.demo import write_clip
from reelscribe.errors import EngineError, ModelError, SettingsError
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.runners.local import run
from reelscribe.runners.status import read_status
from reelscribe.values import Row, RowResult

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

ACTOR, READER = b"ray::MapWorker(MapBatches(MakeAnswers))", b"ray::Read_FromFeed"
FAKE = Settings(engine="fake", decoders=1, runner="ray", actors="2")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster on this machine, as wide as two actors."""
    import ray

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init(
        address="local",  # not one that another program has left here
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


def _processes(title: bytes) -> list[int]:
    """Processes of Ray that call themselves so."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(title):
                found.append(int(file.parent.name))
        except OSError:  # it has ended
            continue
    return found


def _data(folder: Path, count: int) -> Path:
    put_clip(folder / "a.mp4")
    rows: list[Row] = []
    for n in range(count):
        clip, text = put_clip(folder / f"{n}.mp4").name, f"text-{n}.mp4"
        (folder / text).write_text("this is no video")
        rows.append({"id": n, "videos": [[clip], [clip, text], [f"gone-{n}.mp4"], []][n % 4], "text": f"row {n}"})
    return put_rows(folder / "in.jsonl", rows)


def _same(folder: Path, *names: str) -> bool:
    kinds = ("jsonl", "failures.jsonl")
    return all(len({(folder / f"{name}.{kind}").read_bytes() for name in names}) == 1 for kind in kinds)


def _once(do: Callable[[], None], at: int) -> Callable[[RowResult], None]:
    """Do something once, when a row is written."""

    def on_row(result: RowResult) -> None:
        if result.index == at:
            do()

    return on_row


@pytest.mark.transformers
def test_captions_are_those_of_a_local_run_though_an_actor_is_killed(ray: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for number in range(12):
        scene = random_scene(rng)
        write_clip(tmp_path / f"{number}.mp4", scene, width=160, height=120, fps=8, seconds=2)
    (tmp_path / "5.mp4").write_text("this is no video")
    data = put_rows(tmp_path / "in.jsonl", ({"id": number, "video": f"{number}.mp4"} for number in range(12)))
    settings = {"model": "shapes", "device": "cpu", "decoders": 1, "num_captions": 2}
    run([data], tmp_path / "local.jsonl", Settings(**settings))  # type: ignore[arg-type]
    killed: list[int] = []

    def kill() -> None:
        killed.append(_processes(ACTOR)[0])
        os.kill(killed[0], signal.SIGKILL)

    on_ray = Settings(**settings, runner="ray", actors="2")  # type: ignore[arg-type]
    summary = run([data], tmp_path / "out.jsonl", on_ray, on_row=_once(kill, 1))
    assert killed
    assert (summary.captions, summary.failures) == (11, {"unreadable": 1})
    assert (summary.speed["clips"], summary.speed["tokens"] > 50) == (12, True)
    assert _same(tmp_path, "local", "out")


def test_answers_to_several_tasks_are_those_of_a_local_run(ray: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, 60)
    told = FAKE.without_token() | {
        "tasks": {
            "short": "In 5 words.",
            "long": "Tell all of {text}.",
            "check": {"prompt": "Is this right? {long}", "after": ["long"], "video": False},
        }
    }
    local = run([data], tmp_path / "local.jsonl", Settings(**told | {"runner": "local", "actors": None}))
    summary = run([data], tmp_path / "out.jsonl", Settings(**told))
    assert summary.tasks == local.tasks
    assert summary.tasks["check"]["captions"] == 30
    assert (summary.speed["clips"], summary.speed["answers"]) == (60, 180)
    assert _same(tmp_path, "local", "out")


def test_chunks_are_read_again_where_their_reader_is_killed(ray: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, 300)
    run([data], tmp_path / "local.jsonl", Settings(engine="fake", decoders=1))
    killed = 0

    def kill() -> None:
        nonlocal killed
        for pid in _processes(READER):
            os.kill(pid, signal.SIGKILL)
            killed += 1

    slow = Settings(**{**FAKE.without_token(), "model_params": {"clips_per_second": 100}})
    run([data], tmp_path / "out.jsonl", slow, on_row=_once(kill, 1))
    assert killed
    assert _same(tmp_path, "local", "out")


@pytest.mark.transformers
def test_a_killed_driver_goes_on_where_it_was(ray: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, 240)
    (tmp_path / "run.toml").write_text('model = "shapes"\ndevice = "cpu"\ndecoders = 1\n')
    address = ray.get_runtime_context().gcs_address
    words = ("--config", "run.toml", "--runner", "ray", "--actors", "2", "--address", address)
    (tmp_path / "out").mkdir()
    with ended(Run(tmp_path, "out", *words)) as first:
        first.wait_until(lambda: first.outcomes() > 10)
        os.killpg(first.process.pid, signal.SIGKILL)
        first.end()
    before = first.outcomes()
    assert 10 < before < 240
    with ended(Run(tmp_path, "out", *words)) as second:
        told = second.end()
    assert second.process.returncode == 3, told
    assert f"for 240 rows in out/out.jsonl ({before} taken from the ledger)" in told
    run([data], tmp_path / "local.jsonl", Settings(model="shapes", device="cpu", decoders=1))
    for kind in ("jsonl", "failures.jsonl"):
        assert (tmp_path / "out" / f"out.{kind}").read_bytes() == (tmp_path / f"local.{kind}").read_bytes()


def test_ctrl_c_leaves_what_no_engine_has_begun_to_the_next_run(tmp_path: Path) -> None:
    """The group of the command gets the signal, as from a terminal: so may the cluster that it started."""
    clip = put_clip(tmp_path / "clip.mp4")
    names = [f"{number:03d}.mp4" for number in range(200)]
    for name in names:
        (tmp_path / name).hardlink_to(clip)
    put_rows(tmp_path / "in.jsonl", ({"video": name} for name in names))
    (tmp_path / "run.toml").write_text('engine = "fake"\ndecoders = 1\n[model_params]\nclips_per_second = 3\n')
    (tmp_path / "out").mkdir()
    with ended(Run(tmp_path, "out", "--config", "run.toml", "--runner", "ray", "--actors", "2")) as command:
        command.wait_until(lambda: command.lines() >= 12)
        before = command.lines()
        os.killpg(command.process.pid, signal.SIGINT)
        told = command.end()
    assert command.process.returncode == 130, told
    assert re.search(r"reelscribe: finishing \d+ clips, about \d+ s; once more stops at once", told)
    assert "stopped by SIGINT after " in told
    # In chunks of 6, each of the two engines has 18 works, and 18 wait for it: 72 would follow if all were finished.
    assert before <= command.lines() <= command.outcomes() < before + 54
    assert read_status(command.output).state == "broken off"


def test_what_the_cluster_loses_for_good_is_made_once_more(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelscribe.runners.ray import Actors

    data = _data(tmp_path, 60)
    run([data], tmp_path / "local.jsonl", Settings(engine="fake", decoders=1))
    begun: list[int] = []
    whole = Actors.pipeline

    def breaking(self: Actors, feed: Any, first: int) -> Any:
        begun.append(first)
        made = whole(self, feed, first)

        class Lost:
            def iter_batches(self, **options: Any) -> Iterator[Any]:
                for count, batch in enumerate(made.iter_batches(**options)):
                    if count == 5 and len(begun) < 3:
                        raise ray.exceptions.ObjectLostError("an object", None, "")
                    yield batch

        return Lost()

    monkeypatch.setattr(Actors, "pipeline", breaking)
    run([data], tmp_path / "out.jsonl", FAKE)
    assert len(begun) == 3
    assert begun == sorted(begun)
    assert begun[-1] > 0
    assert _same(tmp_path, "local", "out")


def test_a_cluster_that_loses_everything_again_and_again_ends_the_run(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelscribe.runners.ray import Actors

    class Lost:
        def iter_batches(self, **_: Any) -> Iterator[Any]:
            raise ray.exceptions.ObjectLostError("an object", None, "")

    monkeypatch.setattr(Actors, "pipeline", lambda *_: Lost())
    with pytest.raises(EngineError, match="the Ray cluster lost what it worked on 3 times in a row"):
        run([_data(tmp_path, 8)], tmp_path / "out.jsonl", FAKE)


def test_a_pipeline_that_ends_too_early_ends_the_run(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reelscribe.runners.ray import Actors

    class Short:
        def iter_batches(self, **_: Any) -> Iterator[Any]:
            return iter(())

    monkeypatch.setattr(Actors, "pipeline", lambda *_: Short())
    with pytest.raises(EngineError, match="the pipeline on Ray ended although there were requests left"):
        run([_data(tmp_path, 8)], tmp_path / "out.jsonl", FAKE)


def test_more_rows_than_may_wait_change_nothing(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reelscribe.runners.ray import Cluster

    data = _data(tmp_path, 60)
    run([data], tmp_path / "local.jsonl", Settings(engine="fake", decoders=1))
    enter = Cluster.__enter__

    def narrow(self: Cluster) -> Cluster:
        enter(self)
        self.waiting_rows = 7
        return self

    monkeypatch.setattr(Cluster, "__enter__", narrow)
    run([data], tmp_path / "out.jsonl", FAKE)
    assert _same(tmp_path, "local", "out")


def test_rows_at_which_every_engine_breaks_cost_those_rows(ray: Any, tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    prompts = ["poison" if number in (37, 38) else f"Describe {number}." for number in range(60)]
    rows: list[Row] = [{"id": n, "video": "a.mp4", "prompt": prompt} for n, prompt in enumerate(prompts)]
    data = put_rows(tmp_path / "in.jsonl", rows)
    told = {"model_params": {"break_on": "poison"}, "prompt_key": "prompt"}
    summary = run([data], tmp_path / "out.jsonl", Settings(**{**FAKE.without_token(), **told}))
    assert (summary.captions, summary.failures) == (58, {"engine": 2}), summary.examples
    failures = read_rows_of(tmp_path / "out.failures.jsonl")
    assert [failure["row"] for failure in failures] == [37, 38]
    words = r"the engine died [23] times with this clip alone; its last word: the prompt holds 'poison', at which"
    assert all(re.match(words, str(failure["message"])) for failure in failures)


def test_an_engine_that_always_breaks_ends_the_run(ray: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, 40)  # enough that none is through with all of its own before
    settings = Settings(**{**FAKE.without_token(), "model_params": {"break_after": 0}})
    told = (
        r"on the Ray cluster died 10 times in a row; its last word: the fake engine breaks after 0 requests.* \(on \d"
    )
    with pytest.raises(EngineError, match=told):
        run([data], tmp_path / "out.jsonl", settings)
    status = read_status(tmp_path / "out.jsonl")
    assert (status.state, status.detail[:22]) == ("broken off", "an engine on the Ray c")


def test_a_model_that_cannot_be_loaded_is_told_before_anything_begins(ray: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    settings = Settings(model=str(tmp_path / "model"), runner="ray", decoders=1)
    with pytest.raises(ModelError, match=r"the model .* cannot be loaded"):
        run([_data(tmp_path, 4)], tmp_path / "out.jsonl", settings)


def test_a_cluster_without_room_is_refused(ray: Any, tmp_path: Path) -> None:
    settings = Settings(engine="fake", runner="ray", decoders=64)
    with pytest.raises(EngineError, match="the Ray cluster has 0 GPUs and 2 CPUs, and an engine takes 0 and 64"):
        run([_data(tmp_path, 4)], tmp_path / "out.jsonl", settings)


def test_addresses_that_cannot_be_joined(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from reelscribe.runners.ray import _connect

    with pytest.raises(SettingsError, match="address must be that of a cluster which this machine is part of"):
        _connect("ray://head:10001")

    asked = []

    def away(**told: Any) -> None:
        asked.append(told["address"])
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", away)
    with pytest.raises(EngineError, match="the Ray cluster at head:6379 cannot be reached: nobody there"):
        _connect("head:6379")
    with pytest.raises(EngineError, match="the Ray cluster at local cannot be reached"):
        _connect(None)  # whatever cluster there may be on this machine
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(EngineError, match=r"the Ray cluster at \$RAY_ADDRESS cannot be reached"):
        _connect(None)
    assert asked == ["head:6379", "local", None]


def test_how_many_actors_and_what_each_is_given() -> None:
    pytest.importorskip("ray")
    from reelscribe.runners.ray import Actors

    nodes = [{"Alive": True, "Resources": {"GPU": 8.0, "CPU": 96.0}}, {"Alive": True, "Resources": {"CPU": 4.0}}]
    resources = {"GPU": 16.0, "CPU": 196.0}

    def told(**settings: Any) -> tuple[int, int, int, int, int | None]:
        actors = Actors.of(Settings(**settings), resources, nodes)
        return actors.fewest, actors.most, actors.gpus, actors.cpus, actors.settings.decoders

    assert told(engine="vllm") == (1, 16, 1, 12, 12)
    assert told(engine="vllm", tp=4) == (1, 4, 4, 32, 32)
    assert told(engine="vllm", tp=2, dp=2, decoders=6) == (1, 4, 4, 6, 6)
    assert told(engine="transformers", device="cpu", decoders=4) == (1, 49, 0, 4, 4)
    assert told(engine="openai", actors="3") == (3, 3, 0, 1, 1)
    assert told(engine="fake", decoders=0, actors="2-5") == (2, 5, 0, 1, 0)
    assert Actors.of(Settings(engine="vllm", device="cuda", actors="4"), {"CPU": 8.0}, nodes[1:]).gpus == 1
    assert str(Actors.of(Settings(engine="vllm", actors="2-64"), resources, nodes)) == (
        "2 to 64 engines on Ray, with 1 GPUs and 12 CPUs for each"
    )


def test_a_replica_gets_as_few_gpus_as_hold_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from reelscribe.engines.planning import ModelSize
    from reelscribe.engines.prospects import Prospect
    from reelscribe.runners import ray_stage
    from reelscribe.video.sampling import VisionLimits

    size = ModelSize(text_bytes=140 * 10**9, vision_bytes=10**9, layers=80, heads=64, kv_heads=8, head_dim=128)
    limits = VisionLimits()

    def planned(size: ModelSize | None, gpus: int = 8, **settings: Any) -> Any:
        monkeypatch.setattr(
            ray_stage,
            "look_at_model",
            lambda _: Prospect(limits=limits, size=size, source="the checkpoint's own", exact=True),
        )
        return ray_stage.planned_tp(Settings(engine="vllm", **settings), str(tmp_path), gpus)

    monkeypatch.setattr(ray_stage, "visible_gpus", lambda: [("H100", 80 * 10**9)])
    assert [planned(size), planned(size, model_params={"gpu_memory_utilization": 0.5})] == [4, 8]
    assert "the model does not fit" in str(planned(size, gpus=2))
    assert planned(None) == 1
    monkeypatch.setattr(ray_stage, "visible_gpus", list)
    assert planned(size) == 1


def test_the_feed_keeps_chunks_until_they_are_answered() -> None:
    pytest.importorskip("ray")
    from reelscribe.runners.ray_feed import Feed

    feed = Feed()
    feed.put(0, b"first")
    feed.put(1, b"second")
    assert [feed.get(0), feed.get(1), feed.get(0)] == [(0, b"first"), (1, b"second"), (0, b"first")]
    feed.answered(0)
    feed.answered(0)
    assert feed.offer_again() == 2
    feed.put(2, b"third")
    feed.close()
    places = [feed.get(place) for place in range(5)]
    assert places == [(0, b""), (1, b"second"), (1, b"second"), (2, b"third"), None]
    feed.close(drop=True)
    assert feed.get(1) is None


@pytest.fixture
def feed() -> Any:
    pytest.importorskip("ray")
    from reelscribe.runners.ray_feed import Feed

    feed = Feed()
    feed.put(0, b"chunk")
    for name in ("A", "B"):
        feed.started(name)
    return feed


def test_a_feed_that_stops_forgets_what_no_actor_has_begun(feed: Any) -> None:
    feed.put(1, b"waits")
    feed.begun("A", 0)
    assert not feed.is_stopping()
    assert feed.stop() == [1]
    assert feed.is_stopping()
    assert feed.begun("B", 1) is False
    assert feed.get(0) == (0, b"chunk"), "what an actor has is still waited for"


def test_a_chunk_is_tried_as_one_and_then_apart(feed: Any) -> None:
    for _ in range(2):
        assert feed.begun("A", 0) is True
        assert feed.begun("A", 0) is False  # offered again while this actor has it
        feed.started("A")
    feed.went_through("A", 0, 1, {"a": b"outcome"})
    feed.begun_alone("A", 0, "b")
    how = feed.begun("B", 0)
    assert (how.tries, how.done) == ({"b": 1}, {"a": b"outcome"})
    feed.finished("B", 0)
    assert feed.begun("B", 0)
    feed.answered(0)
    feed.finished("B", 0)
    assert feed.begun("B", 0) is False


def test_a_request_is_given_up_early_where_others_go_through(feed: Any) -> None:
    assert [feed.begun_alone("A", 0, "a") for _ in range(2)] == [None, None]
    feed.went_through("A", 0, 1, {})
    feed.broke("A", "bang")
    assert feed.begun_alone("A", 0, "a") == "the engine died 2 times with this clip alone; its last word: bang"
    # ... and late where it may be the machine
    feed.went_through("B", 0, 0, {})
    assert [feed.begun_alone("B", 0, "b") for _ in range(3)] == [None] * 3
    assert feed.begun_alone("B", 0, "b") == (
        "the engine died 3 times with this clip alone; its last word: it left no word; see Ray's logs"
    )


def test_an_actor_that_dies_again_and_again_ends_the_run(feed: Any) -> None:
    assert [feed.started("A") for _ in range(9)] == [None] * 9
    feed.went_through("B", 0, 5, {})  # does not help A
    feed.answered(0)
    feed.broke("A", "bang")
    assert feed.started("A") == "an engine on the Ray cluster died 10 times in a row; its last word: bang"
    feed.went_through("A", 0, 1, {})
    assert [feed.started("A") for _ in range(9)] == [None] * 9
    assert all(feed.started(str(number)) is None for number in range(400))  # as many loads


def test_whole_videos_make_small_chunks() -> None:
    pytest.importorskip("ray")
    from flow import request

    from reelscribe.runners.ray import _chunks
    from reelscribe.values import Clip, Work

    large, small = (Work(requests=(request(clip=Clip(source=bytes(size))),)) for size in (5 << 20, 5))
    assert [len(chunk) for chunk in _chunks(iter([large] * 5), 64)] == [2, 2, 1]
    assert [len(chunk) for chunk in _chunks(iter([small] * 5), 2)] == [2, 2, 1]
    assert list(_chunks(iter([]), 2)) == []


def test_a_folder_that_a_node_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from reelscribe.runners.ray_stage import look

    told = look(Settings(engine="fake"), str(tmp_path / "gone"))
    assert isinstance(told, EngineError)
    assert "gone, where the run was started, cannot be entered on a node of the Ray cluster" in str(told)
