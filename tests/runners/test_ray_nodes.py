"""A run on a Ray cluster of several nodes, each with a raylet of its own: what happens when one goes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows

from reelscribe.config import Settings
from reelscribe.errors import ModelError
from reelscribe.runners.local import run
from reelscribe.values import RowResult

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for an engine, and two nodes with room for one each. This process is on the head."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    memory = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    cluster.nodes = [cluster.add_node(num_cpus=1, num_gpus=4, **memory) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_killed_node_costs_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no other has room for its engine, which Ray would wait for."""
    import ray

    from reelscribe.runners import ray as module

    monkeypatch.setattr(module, "_QUIET_SECONDS", 2.0)
    monkeypatch.setattr(module, "_END_SECONDS", 1.0)
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    data = put_rows(
        tmp_path / "in.jsonl",
        ({"id": number, "video": "text.mp4" if number % 10 == 3 else "a.mp4"} for number in range(400)),
    )
    run([data], tmp_path / "local.jsonl", Settings(engine="fake", decoders=1))

    both_work: list[int] = []

    def on_row(result: RowResult) -> None:
        """Kill a node once both engines have their place and were at work for a while."""
        if ray.available_resources().get("CPU", 0) == 0:
            both_work.append(result.index)
            if len(both_work) == 100:
                cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)

    slow = Settings(engine="fake", decoders=1, runner="ray", actors="2", model_params={"clips_per_second": 20})
    summary = run([data], tmp_path / "out.jsonl", slow, on_row=on_row)
    assert "A node of the Ray cluster is gone" in caplog.text
    assert (summary.captions, summary.failures) == (360, {"unreadable": 40})
    for kind in ("jsonl", "failures.jsonl"):
        assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"local.{kind}").read_bytes()


@pytest.mark.transformers
def test_the_cluster_is_asked_how_a_model_lies_on_its_gpus(cluster: Any, tmp_path: Path) -> None:
    """Its GPUs are imagined, so that the one that is asked says: there is none."""
    import ray

    from reelscribe.runners.ray import _with_tp

    asked = Settings(engine="vllm", model="shapes")
    assert _with_tp(asked, ray.nodes()).tp == 1
    assert _with_tp(Settings(engine="vllm", model="shapes", device="cpu"), ray.nodes()).tp is None
    assert _with_tp(Settings(engine="vllm", tp=4), ray.nodes()).tp == 4
    assert _with_tp(Settings(engine="vllm", model_params={"tensor_parallel_size": 2}), ray.nodes()).tp == 2
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        _with_tp(Settings(engine="vllm", model=str(tmp_path / "model")), ray.nodes())
