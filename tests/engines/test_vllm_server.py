"""The engine for servers, with vLLM's own server as a process on a loopback port: captions, and what a run survives."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from flow import read_rows_of

from reelscribe.config import Settings
from reelscribe.demo import prepare as prepare_clips
from reelscribe.engines.chat import read_answer
from reelscribe.engines.checkpoint import chat_template
from reelscribe.engines.inputs import InputBuilder
from reelscribe.errors import EngineError
from reelscribe.models import model_path
from reelscribe.runners.local import run
from reelscribe.values import RowResult, Work

if TYPE_CHECKING:
    from reelscribe.engines.transformers import TransformersEngine

pytestmark = pytest.mark.vllm

BUDGET: dict[str, Any] = {"max_video_tokens": 60, "min_frames": 8, "max_frames": 12, "sampling": {"temperature": 0}}
"""What the built-in model knows: a server's engine cannot ask for the checkpoint's own."""
CLIPS = 60


class Served:
    """The built-in model, served by vLLM."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.template = log.with_name("template.jinja")
        self.template.write_text(chat_template("shapes"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def start(self) -> None:
        """Start the server's process, in a group of its own."""
        options = {
            **{"model": model_path("shapes"), "served-model-name": "shapes", "host": "127.0.0.1", "port": self.port},
            **{
                "chat-template": self.template,
                "dtype": "float32",
                "max-model-len": 1024,
                "max-num-seqs": 8,
                "mm-processor-cache-gb": 0,
            },
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--enforce-eager", "--trust-request-mm-kwargs"],
                env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        pause = threading.Event()
        while self._process.poll() is None:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/health") as answer:
                    assert answer.status == 200
                    return
            except OSError:
                pause.wait(0.2)
        pytest.fail(f"the server ended:\n{self.log.read_text(errors='replace')[-4000:]}")

    def kill(self) -> None:
        """End it and the processes that it started, at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def settings(self, **told: Any) -> Settings:
        """To ask it."""
        return Settings(model="shapes", engine="openai", base_url=f"http://127.0.0.1:{self.port}/v1", **BUDGET, **told)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("server") / "log.txt")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Clips that the model has not seen, and what they show."""
    file, scenes = prepare_clips(tmp_path_factory.mktemp("clips"), clips=CLIPS, seed=4711, seconds=(2, 6))
    return file, [scene.caption for scene in scenes.values()]


@pytest.fixture(scope="module")
def output(served: Served, data: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run in peace wrote."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    assert run([data[0]], output, served.settings()).captions == CLIPS
    return output


def test_captions_are_right(output: Path, data: tuple[Path, list[str]]) -> None:
    rows = read_rows_of(output)
    assert {(row["caption_meta"]["engine"], row["caption_meta"]["sent"]) for row in rows} == {("openai", "frames")}
    right = [row["caption"] == truth for row, truth in zip(rows, data[1], strict=True)]
    assert sum(right) / CLIPS >= 0.95


def test_captions_are_those_of_the_transformers_engine(
    output: Path, data: tuple[Path, list[str]], shapes_engine: "TransformersEngine", tmp_path: Path
) -> None:
    run([data[0]], tmp_path / "out.jsonl", Settings(model="shapes", **BUDGET), engine=shapes_engine)
    pairs = list(zip(read_rows_of(output), read_rows_of(tmp_path / "out.jsonl"), strict=True))
    for served, local in pairs:
        for name in ("frame_timestamps", "frame_size", "prompt_tokens"):
            assert served["caption_meta"][name] == local["caption_meta"][name]
    different = [
        (served["caption"], local["caption"]) for served, local in pairs if served["caption"] != local["caption"]
    ]
    assert len(different) / CLIPS <= 0.05, different


def test_token_ids_are_those_of_the_transformers_engine(
    served: Served, data: tuple[Path, list[str]], shapes_engine: "TransformersEngine", tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[list[int]] = []
    fed: list[list[int]] = []
    prepare = InputBuilder.prepare

    def read(answer: Any, **told: Any) -> Any:
        asked.append(answer["prompt_token_ids"])
        return read_answer(answer, **told)

    def build(self: InputBuilder, item: Work) -> Any:
        inputs = prepare(self, item)
        fed.extend(question.ids.tolist() for question in inputs.questions)
        return inputs

    monkeypatch.setattr("reelscribe.engines.openai.read_answer", read)
    monkeypatch.setattr(InputBuilder, "prepare", build)
    told: dict[str, Any] = {"system_prompt": "Be brief.", "prompt": "What moves?"}
    run([data[0]], tmp_path / "served.jsonl", served.settings(extra_body={"return_token_ids": True}, **told))
    run([data[0]], tmp_path / "local.jsonl", Settings(model="shapes", **BUDGET, **told), engine=shapes_engine)
    assert len(asked) == CLIPS
    assert sorted(asked) == sorted(fed)


def test_server_that_is_killed_is_waited_for_or_gone_on_with(
    served: Served, output: Path, data: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """It is killed twice: first for good, so that the run stops, and then it is started again while the run waits."""
    again, done = tmp_path / "out.jsonl", 0

    def kill_at(row: int, *, then_start: bool) -> Any:
        def look(result: RowResult) -> None:
            nonlocal done
            done += 1
            if result.index == row:
                served.kill()
                if then_start:
                    served.start()

        return look

    with pytest.raises(EngineError, match=r"the server has given no answer for .* retry_seconds is 2"):
        run([data[0]], again, served.settings(retry_seconds=2), on_row=kill_at(10, then_start=False))
    assert 10 < done < CLIPS
    assert not again.exists()
    served.start()
    served.wait()
    summary = run([data[0]], again, served.settings(retry_seconds=600), on_row=kill_at(40, then_start=True))
    assert summary.known >= 11
    assert summary.captions == CLIPS
    assert again.read_bytes() == output.read_bytes()
