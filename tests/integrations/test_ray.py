"""The stage inside real Ray: two actors with the built-in model, one of which is killed, held against a local run."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.runners.local import run
from reelscribe.values import Row

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

SETTINGS = Settings(model="shapes", device="cpu", decoders=1, layout="columns")


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
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def local(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """What a local run makes of the rows."""
    folder = tmp_path_factory.mktemp("local")
    data = put_rows(folder / "in.jsonl", rows)
    run([data], folder / "out.jsonl", SETTINGS)
    return read_rows_of(folder / "out.jsonl")


def test_captions_are_those_of_a_local_run_though_an_actor_is_killed(
    ray: Any, rows: list[Row], local: list[Row], tmp_path: Path
) -> None:
    from reelscribe.integrations.ray import CaptionBatches

    killed = tmp_path / "killed"

    class Mortal(CaptionBatches):
        """Of all actors the first that is given rows is killed in the middle of them, once."""

        def caption(self, batch: Any) -> Any:
            made = super().caption(batch)
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return made

    options = CaptionBatches.ray_options(batch_size=1, num_gpus=0, num_cpus=1, concurrency=2)
    data = ray.data.from_items(rows).map_batches(Mortal, fn_constructor_kwargs={"settings": SETTINGS}, **options)
    made = sorted(data.take_all(), key=lambda row: row["id"])
    assert killed.exists()
    assert len(made) == len(local)
    for ours, theirs in zip(made, local, strict=True):
        assert list(ours["caption_failure"]) == theirs["caption_failure"]
        assert any(ours["caption_failure"]) == (theirs["caption"] == [None])
        assert list(ours["caption"]) == theirs["caption"]
        assert [meta and json.loads(meta) for meta in ours["caption_meta"]] == theirs["caption_meta"]
        assert list(ours["videos"]) == theirs["videos"]
        assert (ours["id"], ours["text"], ours["truth"]) == (theirs["id"], theirs["text"], theirs["truth"])
