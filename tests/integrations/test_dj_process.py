"""Whole jobs of the real `dj-process` with the built-in model, on both executors, opted in to in both ways."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flow import put_rows, read_rows_of

from integrations.conftest import BROKEN
from reelscribe.integrations import DATA_JUICER_PLUGIN
from reelscribe.values import Row

pytestmark = pytest.mark.data_juicer

NAME = "video_captioning_from_vlm_mapper"
BY_PATH = {"custom_operator_paths": [str(DATA_JUICER_PLUGIN)]}
OWNER = f"{NAME} is Reelscribe's, version "


def told_of(row: int | str, of: str = "") -> re.Pattern[str]:
    """The error of the broken video, in the log."""
    sample = rf"row {row}, \S*clip-{BROKEN}\.mp4{of}"
    return re.compile(rf'An error occurred in {NAME} when processing sample "{sample}" -- unreadable: no caption')


IN_BATCH = told_of(r"\d", " of its batch")

Captioned = Callable[[Sequence[Row]], list[tuple[int, str]]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What came of a job."""

    exit_code: int
    told: str
    """Its output and its log."""
    rows: list[Row]

    @property
    def texts(self) -> list[tuple[int, str]]:
        return [(row["id"], row["text"]) for row in self.rows]


Process = Callable[..., Job]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Caches of its own, and the decoders and libraries kept to a thread: jobs of two processes share two cores."""
    folder = tmp_path_factory.mktemp("caches")
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    own = {"HF_HOME": str(folder / "hf"), "DATA_JUICER_CACHE_HOME": str(folder / "dj"), "OMP_NUM_THREADS": "1"}
    return os.environ | own | ray


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> str:
    """A folder with the distribution that brings the entry point, built and installed as a user would."""
    folder = tmp_path_factory.mktemp("plugin")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    source = packages / "reelscribe-data-juicer"
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", folder, source], check=True)
    return str(folder)


@pytest.fixture
def dj_process(tmp_path: Path, rows: list[Row], environment: dict[str, str]) -> Process:
    """Run a recipe over rows; `operator` are its arguments, all else are its other lines."""

    def run(
        operator: dict[str, Any],
        *,
        data: Sequence[Row] = rows,
        path: str | None = None,
        start: str = "fork",
        **recipe: Any,
    ) -> Job:
        dataset, output, told = tmp_path / "data.jsonl", tmp_path / "out" / "captioned.jsonl", tmp_path / "recipe.yaml"
        put_rows(dataset, data)
        whole = {
            "project_name": "captions",
            "dataset_path": str(dataset),
            "export_path": str(output),
            "process": [{NAME: {"hf_model": "shapes", **operator}}],
            **recipe,
        }
        told.write_text(json.dumps(whole), "utf-8")  # which is YAML, too
        command = [str(Path(sys.executable).parent / "dj-process"), "--config", str(told)]
        search = os.pathsep.join(filter(None, [path, environment.get("PYTHONPATH")]))
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | {"MP_START_METHOD": start} | ({"PYTHONPATH": search} if search else {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        files = sorted(output.glob("*.json")) if output.is_dir() else [output] * output.is_file()
        made = [row for file in files for row in read_rows_of(file)]
        return Job(exit_code=done.returncode, told=done.stdout + done.stderr, rows=made)

    return run


def test_a_recipe_with_one_line_more(dj_process: Process, rows: list[Row], captioned: Captioned) -> None:
    job = dj_process({}, **BY_PATH)
    assert job.exit_code == 0, job.told
    assert job.texts == captioned(rows)
    assert told_of(BROKEN).search(job.told)
    assert job.told.count(OWNER) == 1
    assert re.search(r"Errors: 1\n", job.told)
    assert re.search(rf"{NAME} │ unreadable +│ no caption; the row stays as it came +│ +1 │", job.told)


def test_an_unchanged_recipe_with_all_that_users_set(
    dj_process: Process, rows: list[Row], captioned: Captioned, plugin: str, tmp_path: Path
) -> None:
    lines: dict[str, Any] = {
        "np": 2,
        "skip_op_error": False,
        "use_checkpoint": True,
        "open_tracer": True,
        "job_id": "one",
    }
    operator = {"batch_size": 2, "memory": "1GB", "keep_original_sample": False}
    job = dj_process(operator, path=plugin, **lines)
    assert job.exit_code == 0, job.told
    assert "(num_proc=2): 100%" in job.told
    expected = [row["text"] if row["id"] == BROKEN else captioned([row])[1][1] for row in rows]
    assert [row["text"] for row in job.rows] == expected
    assert "Errors: 1\n" in job.told
    assert told_of(BROKEN).search(job.told)
    [traced] = tmp_path.rglob(f"sample_trace-{NAME}.jsonl")
    pairs = read_rows_of(traced)
    told = {(pair["original_text"], pair["processed_text"]) for pair in pairs}
    assert told == {(row["text"], text) for row, text in zip(rows, expected, strict=True) if row["id"] != BROKEN}
    again = dj_process(operator, path=plugin, **lines)
    assert again.exit_code == 0, again.told
    assert "Loading dataset from checkpoint" in again.told
    assert again.rows == job.rows


def test_captions_in_a_field_by_workers_that_start_as_on_a_gpu(dj_process: Process, rows: list[Row]) -> None:
    data = [{**row, "text": "words without a token"} for row in (rows[BROKEN], *rows[:2])]
    job = dj_process({"caption_field": "captions", "batch_size": 1}, data=data, start="forkserver", **BY_PATH)
    assert job.exit_code == 0, job.told
    assert job.rows == [{**row, "captions": [None if row["id"] == BROKEN else row["truth"]]} for row in data]
    assert told_of(0).search(job.told)
    assert "Errors: 1\n" in job.told


def test_a_model_that_cannot_be_loaded_ends_the_job(dj_process: Process, rows: list[Row], tmp_path: Path) -> None:
    job = dj_process({"hf_model": str(tmp_path / "no-model")}, skip_op_error=True, **BY_PATH)
    assert job.exit_code == 1
    assert f"{tmp_path / 'no-model'}" in job.told.splitlines()[-1]
    assert job.rows == []
    assert "Job completed successfully" not in job.told


# Ray.

CLUSTER = """
import ray, sys
print(ray.init(num_cpus=2, include_dashboard=False).address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Lines of a recipe that lead to a cluster, which lives as long as these tests."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        yield {"executor_type": "ray", "ray_address": owner.stdout.readline().strip()}
        owner.communicate()


def test_ray_as_tasks(dj_process: Process, rows: list[Row], captioned: Captioned, cluster: dict[str, str]) -> None:
    job = dj_process({"batch_size": 2}, **cluster, **BY_PATH)
    assert job.exit_code == 0, job.told
    assert job.texts == captioned(rows)
    assert IN_BATCH.search(job.told)
    assert job.told.count(OWNER) == 1


def test_ray_as_actors_like_on_a_gpu(
    dj_process: Process, rows: list[Row], cluster: dict[str, str], plugin: str
) -> None:
    data = [rows[BROKEN], *rows[:BROKEN]]
    operator = {"caption_field": "captions", "batch_size": 1, "ray_execution_mode": "actor", "num_proc": 1}
    job = dj_process({**operator, "memory": "1GB"}, data=data, path=plugin, skip_op_error=False, **cluster)
    assert job.exit_code == 0, job.told
    assert job.rows == [{**row, "captions": [None if row["id"] == BROKEN else row["truth"]]} for row in data]
    assert IN_BATCH.search(job.told)
    assert job.told.count(OWNER) == 1
