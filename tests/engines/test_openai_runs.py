"""Whole runs with the engine for servers, and that the key is nowhere to be found after them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from clips import write_audio
from flow import clip_bytes, put_clip, put_rows, read_rows_of
from openai_asking import load_openai
from openai_server import Body, OpenAIServer, Reply, describe, refuse, say
from sounds import sweep, write_film

from reelscribe import cli
from reelscribe.config import Settings
from reelscribe.config.groups import Send
from reelscribe.errors import SettingsError
from reelscribe.runners.local import run

pytestmark = pytest.mark.usefixtures("quick_and_alone")


# Whole runs


def _rows(folder: Path, count: int) -> Path:
    clips = [put_clip(folder / f"clip{n or ''}.mp4").name for n in range(count)]
    return put_rows(folder / "in.jsonl", [{"video": clip} for clip in clips])


SHOWN = {"frame_timestamps": [0.0, 0.25, 0.5, 0.875], "frame_size": [64, 64]}


@pytest.mark.parametrize(
    ("send", "owner", "sent", "told"),
    [
        ("frames", "vllm", "frames", {**SHOWN, "video_tokens": 8}),
        ("frames", "other", "images", {**SHOWN, "video_tokens": None, "times_given": "words"}),
        ("video", "other", "video", {"frame_timestamps": None, "frame_size": None, "video_tokens": None}),
    ],
)
def test_run_writes_captions_and_where_they_come_from(
    tmp_path: Path, send: Send, owner: str, sent: str, told: dict[str, Any]
) -> None:
    data = put_rows(
        tmp_path / "in.jsonl", [{"video": "clip.mp4"}, {"video": "gone.mp4"}, {"video": "text.mp4"}, {"video": "s.m4a"}]
    )
    put_clip(tmp_path / "clip.mp4")
    write_audio(tmp_path / "s.m4a")
    (tmp_path / "text.mp4").write_text("no video")
    with OpenAIServer(owner=owner, version="0.32.0") as server:
        settings = Settings(engine="openai", base_url=server.url, model="some-model", send=send, prompt="What?")
        summary = run([data], tmp_path / "out.jsonl", settings)
    assert summary.captions == 1
    assert summary.failures == {"missing": 1, "unreadable": 1, "no_video": 1}
    meta = read_rows_of(tmp_path / "out.jsonl")[0]["caption_meta"]
    assert (meta["engine"], meta["model"], meta["revision"], meta["sent"]) == ("openai", "some-model", None, sent)
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (9, [5])
    assert {name: meta[name] for name in (*SHOWN, "video_tokens", "times_given")} == {"times_given": None, **told}


def test_nothing_is_decoded_where_the_file_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.pipeline.decode_ahead", lambda *_, **__: pytest.fail("decoded"))
    data = _rows(tmp_path, 2)
    with OpenAIServer() as server:
        settings = Settings(engine="openai", base_url=server.url, model="some-model", send="video")
        assert run([data], tmp_path / "out.jsonl", settings).captions == 2


def test_too_large_a_file_costs_its_row(tmp_path: Path) -> None:
    data, size = _rows(tmp_path, 1), len(clip_bytes())
    with OpenAIServer() as server:
        told: dict[str, Any] = {"engine": "openai", "base_url": server.url, "model": "some-model", "send": "video"}
        assert run([data], tmp_path / "o.jsonl", Settings(**told, max_upload_bytes=size)).captions == 1
        summary = run([data], tmp_path / "o.jsonl", Settings(**told, max_upload_bytes=size - 1, resume=False))
    (failure,) = read_rows_of(summary.failures_file)
    assert failure["kind"] == "engine"
    assert failure["message"] == (
        f"clip.mp4 has {size:,} bytes; max_upload_bytes is {size - 1:,}. Raise it, or send frames."
    )


def test_rerun_asks_the_same(tmp_path: Path) -> None:
    data = _rows(tmp_path, 4)
    runs: list[list[Body]] = []
    for _ in range(2):
        with OpenAIServer() as server:
            settings = Settings(engine="openai", base_url=server.url, model="some-model", num_captions=2)
            run([data], tmp_path / f"{len(runs)}.jsonl", settings)
        runs.append(sorted(server.bodies, key=str))
    assert runs[0] == runs[1]
    assert len({body["seed"] for body in runs[0]}) == 4


def test_server_that_is_killed_in_mid_run_stops_it_cleanly(tmp_path: Path) -> None:
    data = _rows(tmp_path, 30)

    def answer(body: Body) -> Reply:
        if len(server.bodies) == 12:
            server.kill()
        return describe(body)

    words = ["caption", str(data), "-o", str(tmp_path / "out.jsonl"), "--engine", "openai", "--model", "some-model"]
    with OpenAIServer(answer) as server:
        words += ["--base-url", server.url]
        result = CliRunner().invoke(cli.main, [*words, "--retry-seconds", "0.05"])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        last = result.stderr.splitlines()[-1]
        assert last.startswith(
            "reelscribe: the server has given no answer for 0 s, and is to be left alone for 0 s more"
        )
        assert "retry_seconds is 0.05. " in last
        assert last.endswith(f"{server.url} cannot be reached: All connection attempts failed.")
        done = read_rows_of(tmp_path / "out.jsonl.partial")
        assert 0 < len(done) < 30
        assert all(row["caption"] for row in done), "nobody's caption is lost, none is made up"
        assert not (tmp_path / "out.jsonl").exists()
        server.start()
        assert CliRunner().invoke(cli.main, words).exit_code == 0
    assert len(read_rows_of(tmp_path / "out.jsonl")) == 30


# The key

KEY = "sk-4f9d2c71b0a84e6d"


def _leaks() -> Iterator[Reply]:
    """All that a server can say, with the key in it."""
    echo = {"X-Key": KEY, "Location": f"http://{KEY}/{KEY}"}
    yield say("a caption")
    for status in (302, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503):
        yield Reply(status=status, content={"error": {"message": f"the key {KEY} is bad"}}, headers=echo)
        yield Reply(status=status, content=f"{'x' * 290}{KEY}", headers=echo)
    yield Reply(content=f"Bearer {KEY}")
    yield Reply(content={KEY: KEY})
    yield say(f"the key is {KEY}")
    yield say("text", finish=KEY)
    yield Reply(close=True)
    yield Reply(hang=True)


def test_key_is_nowhere_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)  # of httpx2 and its kin, too
    data, codes = _rows(tmp_path, 3), set()
    for number, reply in enumerate(_leaks()):
        with OpenAIServer(lambda _, reply=reply: reply) as server:  # type: ignore[misc]
            output = tmp_path / f"{number}" / "out.jsonl"
            words = ["-v", "caption", str(data), "-o", str(output), "--engine", "openai", "--base-url", server.url]
            limits = ["--retry-seconds", "0.01", "--request-timeout", "0.5", "--error-budget", "3"]
            result = CliRunner().invoke(cli.main, [*words, "--model", "some-model", *limits])
            assert any(KEY in headers.get("Authorization", "") for headers in server.headers), "it was used"
        assert isinstance(result.exception, SystemExit | None), reply
        codes.add(result.exit_code)
        files = "".join(file.read_text(errors="replace") for file in output.parent.iterdir())
        for text in (result.output, files):
            assert KEY[:-4] not in text, reply
    assert codes == {0, 1, 3}
    assert any(record.name.startswith("httpcore2") for record in caplog.records)
    assert not [record for record in caplog.records if KEY in record.getMessage() or KEY in repr(record.__dict__)]


def test_key_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer() as server:
        engine = load_openai(server)
    assert KEY not in repr((engine, engine.info, vars(engine)))


@pytest.mark.parametrize(
    "start",
    [
        {"models": refuse(401, f"bad key {KEY}")},
        {"models": refuse(500, KEY)},
        {"models": Reply(content=f"{'x' * 98}{KEY}")},
        {"models": (KEY,)},
        {"models": Reply(content=f'{{"data": [{{"id": "{"".join(f"{chr(92)}u{ord(c):04x}" for c in KEY)}"}}]}}')},
        {"owner": "vllm", "version": "0.32.0", "hello": refuse(403, KEY)},
    ],
)
def test_key_is_not_told_when_the_start_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: dict[str, Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    data = _rows(tmp_path, 1)
    with OpenAIServer(**start) as server:
        words = ["caption", str(data), "-o", str(tmp_path / "out.jsonl"), "--engine", "openai", "--model", "some-model"]
        result = CliRunner().invoke(cli.main, [*words, "--base-url", server.url])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("reelscribe: ")
    assert KEY[:4] not in line


class TestSound:
    def _run(self, folder: Path, server: OpenAIServer, **settings: Any) -> list[dict[str, Any]]:
        write_film(folder / "films" / "a.mp4", sweep(2, 48000), seconds=2)
        write_film(folder / "films" / "b.mp4", None, seconds=2)
        told: dict[str, Any] = {"engine": "openai", "base_url": server.url, "model": "some-model", "audio": True}
        run([folder / "films"], folder / "out.jsonl", Settings(**told, **settings))
        return [row["caption_meta"] for row in read_rows_of(folder / "out.jsonl")]

    @pytest.fixture(autouse=True)
    def _films(self, tmp_path: Path) -> None:
        (tmp_path / "films").mkdir()

    def test_goes_with_the_clips_that_have_some(self, tmp_path: Path) -> None:
        with OpenAIServer(lambda body: describe({"seed": 0, **body})) as server:
            metas = self._run(tmp_path, server, send="images")
        assert [meta["audio"] for meta in metas] == ["heard", "no track"]
        assert metas[0]["sound_given"] == "beside"
        silence, *asked = server.bodies
        assert sorted(len(_sounds(body)) for body in asked) == [0, 1]  # in any order
        assert len(_sounds(silence)) == 1

    def test_is_in_the_file_that_is_sent(self, tmp_path: Path) -> None:
        with OpenAIServer() as server:
            metas = self._run(tmp_path, server, send="video")
        assert [meta["audio"] for meta in metas] == ["in file"] * 2
        assert not any(map(_sounds, server.bodies))

    def test_is_refused_by_a_model_that_takes_none(self, tmp_path: Path) -> None:
        with (
            OpenAIServer(lambda body: refuse(400, "At most 0 audio(s) may be provided")) as server,
            pytest.raises(SettingsError, match="'some-model' on the server takes no sound"),
        ):
            self._run(tmp_path, server)
        assert len(server.bodies) == 1
        assert not (tmp_path / "out.jsonl").exists()


def _sounds(body: dict[str, Any]) -> list[Any]:
    return [part for part in body["messages"][-1]["content"] if part["type"] == "input_audio"]
