"""Content keys: what makes another caption makes another key, and nothing else does."""

import os
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, request, said

from reelscribe.config import AFFECTS, Settings
from reelscribe.dataset.identity import Keys, told
from reelscribe.engines.base import ModelInfo
from reelscribe.models import model_path
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import Schema
from reelscribe.templates import Name
from reelscribe.values import Clip, Request

INFO = ScriptedEngine(lambda _: said("text")).info
OTHER: dict[str, Any] = {
    "model": "other", "revision": "other", "engine": "fake", "num_captions": 2, "keep": "all", "prompt": "Who?",
    "prompt_key": "ask", "system_prompt": "Be brief.", "original": False, "text_key": "words", "video_key": "clip",
    "fps": 3.0, "min_frames": 2, "max_frames": 9, "max_video_tokens": 99, "sampling": {"top_k": 3}, "seed": 3,
    "batch_size": 3, "batch_tokens": 3, "tp": 2, "dp": 2, "device": "cpu", "dtype": "float16", "layout": "columns",
    "start_key": "from", "end_key": "to", "stretches_key": "parts", "split": "5", "overlap": 1.0, "min_seconds": 1.0,
    "max_seconds": 9.0, "nested": True, "prefetch_bytes": 3, "columns": "text", "schema": "shot",
    "tasks": {"short": "Who?"},
    "decoders": 3, "decode_seconds": 3.0, "decoder_bytes": 3, "base_url": "http://host", "api_key_env": "KEY",
    "send": "images", "max_concurrency": 3, "request_timeout": 3.0, "retry_seconds": 3.0, "error_budget": 3,
    "max_upload_bytes": 3, "root": "folder", "allow_private_urls": True, "max_video_bytes": 3, "download_seconds": 3.0,
    "max_downloads": 3,
    "max_line_bytes": 3, "output_format": "jsonl", "shard_rows": 3, "sidecar": "txt", "resume": False,
    "overwrite_sidecars": True,
    "checks": {"words": "20-60"}, "tell_faults": True, "scorer": "math:fsum", "scorer_params": {"model": "folder"},
    "judge_prompt": "Right? {caption}",
    "retry_flagged": True, "min_decoded": 0.5, "max_failures": "3", "price": 2.0, "budget": 3.0,
    "shard": "1/2", "runner": "ray", "address": "auto", "actors": "2",
    "audio": True, "model_params": {"attn_implementation": "eager"}, "thinking": True, "show": "images",
    "deterministic": True,
    "extra_body": {"top_k": 3},
}  # fmt: skip


def _key(asked: Request | None = None, info: ModelInfo = INFO, **settings: Any) -> bytes:
    keys = Keys(Settings(**settings), info)
    asked = asked or request()
    return keys.key(asked, keys.video(asked.clip))


@pytest.mark.parametrize("name", [item.name for item in fields(Settings)])
def test_setting_enters_where_the_table_says(name: str) -> None:
    assert name in OTHER, "give the new setting another value than its default here"
    alone: dict[str, dict[str, Any]] = {
        "budget": {"price": 1.0},
        "extra_body": {"engine": "openai"},
        "scorer_params": {"scorer": "math:fsum"},
    }
    needed = alone.get(name, {})  # these are no settings on their own
    before, after = Settings(**needed), Settings(**needed | {name: OTHER[name]})
    assert getattr(before, name) != getattr(after, name)
    assert (_key(**needed | {name: OTHER[name]}) != _key(**needed)) == (name in AFFECTS["captions"])
    assert (Keys(after, INFO).failures != Keys(before, INFO).failures) == (name in AFFECTS["failures"])


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Who?"},
        {"system_prompt": "Be brief."},
        {"num_captions": 2},
        {"sampling": SamplingParams(temperature=0.5)},
        {"seed": 5},
        {"clip": Clip(source=b"other")},
        {"clip": Clip(source="gone.mp4")},
        {"clip": Clip(source="https://host/a.mp4")},
    ],
)
def test_what_is_asked_makes_the_key(change: dict[str, Any]) -> None:
    assert _key(request(**change)) != _key()


def _schema(**fact: Any) -> Schema:
    return Schema.of(
        {"type": "object", "properties": {"what": {"type": "string"}, "seconds": {"type": "number", **fact}}},
        folder=Path(),
    )


def test_what_tasks_brought_makes_the_key() -> None:
    """Each of these is another question than any of the others, whatever else is the same."""
    changes: list[dict[str, Any]] = [
        {},
        {"schema": _schema()},
        {"schema": _schema(**{"x-from": "duration"})},
        {"schema": _schema(**{"x-from": "fps"})},
        {"video": False},
        {"video": False, "schema": _schema()},
    ]
    for parts in (
        ("It lasts ", Name("duration"), "."),
        ("It lasts {duration", "}."),
        (Name("It"), " lasts {duration}."),
        ("It lasts ", Name("fps"), "."),
    ):
        changes.append({"prompt": "It lasts {duration}.", "unfilled": parts})
    changes.append({"prompt": "It lasts {duration}."})
    assert len({_key(request(**change)) for change in changes}) == len(changes)
    assert _key(request(schema=_schema())) == _key(request(schema=replace(_schema(), name="other", intro="Hi.")))
    assert _key(request(keep="all")) == _key(), "which are kept is chosen anew"


def test_place_in_the_data_set_and_its_text_do_not() -> None:
    assert _key(request(reference="words")) == _key(), "no prompt names it"
    assert _key(request(key="7:1")) == _key(request(key="0:0"))


@pytest.mark.parametrize("change", [{"engine": "other"}, {"model": "other"}, {"revision": "other"}])
def test_what_is_running_makes_the_key(change: dict[str, Any]) -> None:
    assert _key(info=replace(INFO, **change)) != _key()


def test_names_of_one_sampling_parameter_are_one() -> None:
    assert told(Settings(sampling={"max_new_tokens": "5"}), "rows") == told(
        Settings(sampling={"max_tokens": 5}), "rows"
    )


def test_keys_of_ledgers_that_there_are_hold() -> None:
    """As they were made before there were `thinking` and `extra_body`, with fields for a server in `model_params`."""
    asked = request(clip=Clip(source="https://host/a.mp4"))
    assert _key(asked).hex() == "b9a9427034cb75d393e69ea0de40d758eca1caf0"
    fields = {"max_completion_tokens": 300}
    assert _key(asked, engine="openai", extra_body=fields).hex() == "9961f87ce030635d9fb43161a89dfd345b80b49a"
    assert _key(asked, thinking=True) != _key(asked)


def test_where_a_model_comes_from_and_how_it_is_spread_does_not() -> None:
    assert _key(model_params={"cache_dir": "x", "token": "secret", "tensor_parallel_size": 2}) == _key()


def test_model_in_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(model_path("shapes"), tmp_path / name)
    info = replace(INFO, model=str(tmp_path / "a"))
    before, weights = _key(info=info), Keys(Settings(), info).weights
    assert weights is not None
    assert Keys(Settings(), replace(INFO, model=str(tmp_path / "b"))).weights == weights
    with (tmp_path / "a" / "model.safetensors").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"changed")
    assert _key(info=info) != before
    assert Keys(Settings(), INFO).weights is None


# Videos


def _video(clip: Clip, **settings: Any) -> tuple[Any, ...]:
    return Keys(Settings(**settings), INFO).video(clip)


def test_file_is_known_by_path_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put_clip(tmp_path / "a.mp4")
    clip = Clip(source="a.mp4", root=tmp_path)
    before = _video(clip)
    assert before == _video(clip) == _video(Clip(source=str(file))) == _video(Clip(source=file.as_uri()))
    monkeypatch.chdir(tmp_path)
    assert _video(Clip(source="a.mp4")) == _video(Clip(source="../" + tmp_path.name + "/a.mp4")) == before
    os.utime(file, (1, 1))
    later = _video(clip)
    assert later != before
    with file.open("ab") as opened:
        opened.write(b"x")
    os.utime(file, (1, 1))
    assert _video(clip) not in (before, later)
    assert _video(Clip(source=str(put_clip(tmp_path / "b.mp4")))) != before


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name in ("one", "two"):
        os.utime(put_clip(tmp_path / name / "a.mp4"), (1, 1))
    assert len({_video(Clip(source="a.mp4", root=tmp_path / name)) for name in ("one", "two", "no")}) == 3


def test_file_that_comes_later_is_another_video(tmp_path: Path) -> None:
    clip = Clip(source="a.mp4", root=tmp_path)
    before = _video(clip)
    assert before == _video(clip)
    put_clip(tmp_path / "a.mp4")
    assert _video(clip) != before


@pytest.mark.parametrize("source", ["a\0.mp4", "\ud83d.mp4", "file://host/a.mp4", "x" * 300 + ".mp4"])
def test_path_that_can_be_no_file_has_an_identity(source: str) -> None:
    assert _key(request(clip=Clip(source=source))) == _key(request(clip=Clip(source=source))) != _key()


def test_file_out_of_the_root_folder_has_another_identity_once_it_may_be_read(tmp_path: Path) -> None:
    clip = Clip(source=str(put_clip(tmp_path / "a.mp4")))
    assert _video(clip, root=str(tmp_path / "sub"))[0] == "refused"
    assert _video(clip, root=str(tmp_path)) == _video(clip)


def test_bytes_are_known_by_their_hash() -> None:
    assert _video(Clip(source=b"a" * 9)) == _video(Clip(source=b"a" * 9)) != _video(Clip(source=b"b" * 9))
