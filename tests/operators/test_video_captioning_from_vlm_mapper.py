"""The operator against its contract.

Where the text of captions matters, the built-in model says it; where it is the handling of rows, a scripted engine.
"""

import inspect
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow import EOC, VIDEO

from reelscribe import VideoCaptioningFromVLMMapper
from reelscribe.config import Settings
from reelscribe.demo import write_clip
from reelscribe.engines.fake import FakeEngine, Reply
from reelscribe.errors import SettingsError
from reelscribe.models.shapes.scenes import Scene, random_scene
from reelscribe.operators import video_captioning_from_vlm_mapper as module
from reelscribe.selection import simhash
from reelscribe.values import Row, Work

Operator = Callable[..., VideoCaptioningFromVLMMapper]
Batch = dict[str, list[Any]]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """Three clips, and what they show."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(11)
    made = {}
    for name in ("a", "b", "c"):
        scene = random_scene(rng)
        write_clip(folder / f"{name}.mp4", scene, width=320, height=240, fps=12, seconds=4)
        made[str(folder / f"{name}.mp4")] = scene
    return made


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "broken.mp4"
    file.write_bytes(b"this is no video")
    return str(file)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Make operators whose engine answers "<clip> <candidate> <prompt>", or by a given function."""

    def make(reply: Reply | None = None, **arguments: Any) -> VideoCaptioningFromVLMMapper:
        def say(prepared: Work, number: int) -> str:
            return f"{Path(prepared.requests[0].clip.name).stem} {number} {prepared.requests[0].prompt}"

        monkeypatch.setattr(module, "load_engine", lambda settings: FakeEngine(reply or say))
        return VideoCaptioningFromVLMMapper(**arguments)

    return make


def batch(*rows: tuple[str | None, Any], **columns: list[Any]) -> Batch:
    return {"videos": [videos for _, videos in rows], "text": [text for text, _ in rows], **columns}


# The contract of the signature.


def test_signature_is_the_published_one() -> None:
    parameters = inspect.signature(VideoCaptioningFromVLMMapper.__init__).parameters
    published = {
        "hf_model": "Qwen/Qwen3-VL-8B-Instruct",
        "enable_vllm": False,
        "caption_num": 1,
        "keep_candidate_mode": "random_any",
        "keep_original_sample": True,
        "prompt": None,
        "prompt_key": None,
        "model_params": None,
        "sampling_params": None,
    }
    assert {name: parameters[name].default for name in list(parameters)[1:10]} == published
    assert list(parameters)[1:10] == list(published)
    assert list(parameters.values())[10].kind is inspect.Parameter.VAR_POSITIONAL


def test_schedulers_find_what_the_operator_declares() -> None:
    op = VideoCaptioningFromVLMMapper(text_key="words", video_key="clips", num_proc=3)
    assert (op._accelerator, op._batched_op, op.memory) == ("cuda", True, "70GB")
    assert (op.text_key, op.video_key, op.num_proc) == ("words", "clips", 3)  # type: ignore[attr-defined]
    assert VideoCaptioningFromVLMMapper(memory="8GB").memory == "8GB"
    assert not hasattr(op, "process")


def test_constructor_loads_no_model() -> None:
    VideoCaptioningFromVLMMapper(hf_model="no/such-model")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, {"engine": "transformers", "device": "auto:3"}),
        ({"accelerator": "cpu"}, {"engine": "transformers", "device": "cpu"}),
        ({"enable_vllm": True}, {"engine": "vllm", "device": "auto", "tp": None, "dp": 1}),  # one replica on all GPUs
        ({"enable_vllm": True, "accelerator": "cpu"}, {"engine": "vllm", "device": "cpu"}),
        (
            {"enable_vllm": True, "model_params": {"tensor_parallel_size": 2}},
            {"model_params": {"tensor_parallel_size": 2}, "dp": 1},
        ),
    ],
    ids=str,
)
def test_what_the_engine_is_told(
    monkeypatch: pytest.MonkeyPatch, clips: dict[str, Scene], arguments: dict[str, Any], told: dict[str, Any]
) -> None:
    asked = []

    def load(settings: Settings) -> FakeEngine:
        asked.append(settings)
        return FakeEngine()

    monkeypatch.setattr(module, "load_engine", load)
    mapper = VideoCaptioningFromVLMMapper(**arguments)
    batch: Batch = {"videos": [[next(iter(clips))]], "text": [f"{VIDEO} a clip {EOC}"]}
    for _ in range(2):
        mapper.process_batched(batch, rank=3)
    [settings] = asked
    assert {name: getattr(settings, name) for name in told} == told


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"keep_candidate_mode": "best"},
            ValueError,
            "similar_one_simhash, consensus, likeliest, judged, all; got 'best'",
        ),
        ({"caption_num": 0}, ValueError, "caption_num must be a whole number of at least 1; got 0"),
        ({"caption_num": True}, ValueError, "caption_num must be a whole number of at least 1; got True"),
        ({"sampling_params": {"temprature": 1}}, ValueError, "unknown sampling parameter 'temprature'.*temperature"),
        ({"capton_num": 2}, TypeError, "unknown arguments: capton_num"),
    ],
)
def test_wrong_argument_is_told(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        VideoCaptioningFromVLMMapper(**arguments)


# Rows in, rows out.


def test_each_original_is_followed_by_its_captioned_row(scripted: Operator, clips: dict[str, Scene]) -> None:
    a, b, _ = clips
    out = scripted(prompt="p").process_batched(
        batch((f"{VIDEO}a sheep talks{EOC}", [a]), (f"{VIDEO}a goat{EOC}", [b]), id=[7, 8])
    )
    assert out == {
        "videos": [[a], [a], [b], [b]],
        "text": [f"{VIDEO}a sheep talks{EOC}", f"{VIDEO} a 0 p {EOC}", f"{VIDEO}a goat{EOC}", f"{VIDEO} b 0 p {EOC}"],
        "id": [7, 7, 8, 8],
    }


def test_originals_are_left_out_on_request(scripted: Operator, clips: dict[str, Scene]) -> None:
    a, *_ = clips
    out = scripted(prompt="p", keep_original_sample=False).process_batched(batch((f"{VIDEO}a sheep{EOC}", [a])))
    assert out["text"] == [f"{VIDEO} a 0 p {EOC}"]


def test_two_videos_of_a_chunk_get_each_its_own_caption(scripted: Operator, clips: dict[str, Scene]) -> None:
    a, b, _ = clips
    out = scripted(prompt="p").process_batched(batch((f"{VIDEO}{VIDEO}two clips", [a, b])))
    assert out["text"][1] == f"{VIDEO} a 0 p {VIDEO} b 0 p {EOC}"


def test_chunks_without_video_are_left_out_and_other_tokens_stay(scripted: Operator, clips: dict[str, Scene]) -> None:
    a, b, _ = clips
    text = f"<__dj__image>x{VIDEO}first{EOC}only words{EOC}{VIDEO}second<__dj__audio>{EOC}"
    out = scripted(prompt="p").process_batched(batch((text, [a, b])))
    assert out["text"][1] == f"<__dj__image>{VIDEO} a 0 p {EOC}{VIDEO} b 0 p <__dj__audio>{EOC}"


def test_mode_all_gives_one_row_a_candidate(scripted: Operator, clips: dict[str, Scene]) -> None:
    a, b, _ = clips
    op = scripted(prompt="p", caption_num=3, keep_candidate_mode="all")
    out = op.process_batched(batch((f"{VIDEO}{VIDEO}", [a, b])))
    assert out["text"][1:] == [f"{VIDEO} a {n} p {VIDEO} b {n} p {EOC}" for n in range(3)]


def test_simhash_mode_keeps_the_candidate_nearest_to_the_chunks_own_text(
    scripted: Operator, clips: dict[str, Scene]
) -> None:
    a, b, _ = clips
    texts = ["the dog runs over the wide green field", "a cat sits on the old red mat", "rain falls on the dark city"]
    op = scripted(lambda _, number: texts[number], caption_num=3, keep_candidate_mode="similar_one_simhash")
    out = op.process_batched(batch((f"{VIDEO}a cat sits on a red mat{EOC}{VIDEO}rain falls on a city{EOC}", [a, b])))
    assert out["text"][1] == f"{VIDEO} {texts[1]} {EOC}{VIDEO} {texts[2]} {EOC}"
    assert simhash("A cat") == simhash("a cat") != 0


def test_random_mode_picks_the_same_whatever_the_batch(scripted: Operator, clips: dict[str, Scene]) -> None:
    op = scripted(prompt="p", caption_num=8, keep_original_sample=False)
    rows = [(f"{VIDEO}words {n}{EOC}", [list(clips)[n % 3]]) for n in range(6)]
    together = op.process_batched(batch(*rows))["text"]
    alone = [op.process_batched(batch(row))["text"][0] for row in reversed(rows)]
    assert together == alone[::-1]
    assert len({text.split()[2] for text in together}) > 1, "the picks are not all the same candidate"


def test_prompt_comes_from_the_row_then_the_setting_then_the_default(
    scripted: Operator, clips: dict[str, Scene], caplog: pytest.LogCaptureFixture
) -> None:
    a, *_ = clips
    rows = [(VIDEO, [a])] * 4
    with caplog.at_level(logging.WARNING):
        op = scripted(prompt="general", prompt_key="ask", keep_original_sample=False)
    assert "Both prompt and prompt_key are set" in caplog.text
    out = op.process_batched(batch(*rows, ask=["own", None, " ", 5]))
    assert [text.split()[3] for text in out["text"]] == ["own", "general", "general", "general"]
    assert (out["ask"], op.failures) == (["own", None, " ", 5], [])
    without_field = op.process_batched(batch(rows[0]))
    assert without_field["text"] == [f"{VIDEO} a 0 general {EOC}"]
    default = scripted(prompt_key="ask", keep_original_sample=False).process_batched(batch(rows[0]))
    assert default["text"] == [f"{VIDEO} a 0 Describe the input video in 1-2 sentences. {EOC}"]


def test_tokens_follow_the_environment(
    scripted: Operator, clips: dict[str, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_DJ_SPECIAL_TOKEN_VIDEO", "<film>")
    monkeypatch.setenv("_DJ_SPECIAL_TOKEN_EOC", "<end>")
    out = scripted(prompt="p").process_batched(batch(("<film>words<end>", [next(iter(clips))])))
    assert out["text"][1] == "<film> a 0 p <end>"


def test_videos_may_be_bytes(scripted: Operator, clips: dict[str, Scene]) -> None:
    content = Path(next(iter(clips))).read_bytes()
    out = scripted(lambda item, _: f"{len(item.frames.pixels)} frames").process_batched(batch((VIDEO, [content])))
    assert out["text"] == [VIDEO, f"{VIDEO} 8 frames {EOC}"]
    assert out["videos"] == [[content], [content]]


def test_captions_go_to_a_field_without_tokens(scripted: Operator, clips: dict[str, Scene], broken: str) -> None:
    a, b, _ = clips
    op = scripted(prompt="p", caption_field="captions")
    out = op.process_batched(batch(("words stay", [a, b]), ("", [broken]), (None, [])))
    assert out["text"] == ["words stay", "", None]
    assert out["captions"] == [["a 0 p", "b 0 p"], [None], []]
    own = op.process_batched(batch(("", [a]), ("", []), caption=["mine", "mine, too"]))
    assert (own["caption"], own["captions"]) == (["mine", "mine, too"], [["a 0 p"], []])
    for field in ("text", "videos"):
        with pytest.raises(SettingsError, match="caption_field must be a column of its own"):
            scripted(prompt="p", caption_field=field)
    every = scripted(prompt="p", caption_field="captions", caption_num=2, keep_candidate_mode="all")
    assert every.process_batched(batch(("", [a])))["captions"] == [[["a 0 p", "a 1 p"]]]


@pytest.mark.parametrize("arguments", [{}, {"caption_field": "said"}])
def test_columns_may_be_called_as_they_like(scripted: Operator, clips: dict[str, Scene], arguments: Row) -> None:
    op = scripted(text_key="caption", prompt_key="caption_meta", video_key="caption_failure", **arguments)
    out = op.process_batched({"caption_failure": [[next(iter(clips))]], "caption": [VIDEO], "caption_meta": ["own"]})
    if arguments:
        assert (out["said"], out["caption"]) == ([["a 0 own"]], [VIDEO])
    else:
        assert out["caption"] == [VIDEO, f"{VIDEO} a 0 own {EOC}"]


@pytest.mark.parametrize("arguments", [{}, {"caption_field": "said"}])
def test_braces_in_a_prompt_are_braces(scripted: Operator, clips: dict[str, Scene], arguments: Row) -> None:
    """The published operator puts nothing in their place."""
    prompt = 'Say {text} as {"a": {}}, {{b}} and {duration}.'
    out = scripted(prompt=prompt, **arguments).process_batched(batch((VIDEO, [next(iter(clips))])))
    assert prompt in (out["said"][0][0] if arguments else out["text"][1])


# What must never be lost or made up.


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("videos", [None, []])
def test_row_without_videos_stays_alone(scripted: Operator, keep: bool, videos: list[str] | None) -> None:
    out = scripted(keep_original_sample=keep).process_batched(batch((f"just text{EOC}", videos)))
    assert out == {"videos": [videos], "text": [f"just text{EOC}"]}


def test_missing_video_column_is_a_row_without_videos(scripted: Operator) -> None:
    assert scripted().process_batched({"text": ["words"]}) == {"text": ["words"]}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("text", "count", "reason"),
    [
        (None, 1, "must hold text"),
        ("no token here", 1, "has no <__dj__video>"),
        (f"{VIDEO}{VIDEO}", 1, "has 2 <__dj__video>, but the row only 1"),
    ],
)
def test_text_that_does_not_fit_keeps_the_row_and_makes_nothing_up(
    scripted: Operator, clips: dict[str, Scene], text: str | None, count: int, reason: str, keep: bool
) -> None:
    op = scripted(keep_original_sample=keep)
    videos = list(clips)[:count]
    assert op.process_batched(batch((text, videos))) == {"videos": [videos], "text": [text]}
    assert [failure.kind for failure in op.failures] == ["prompt"]
    assert reason in op.failures[0].message


def test_surplus_videos_are_not_opened(scripted: Operator, clips: dict[str, Scene], broken: str) -> None:
    op = scripted(prompt="p")
    out = op.process_batched(batch((f"{VIDEO}words", [next(iter(clips)), broken])))
    assert out["text"][1] == f"{VIDEO} a 0 p {EOC}"
    assert op.failures == []


@pytest.mark.parametrize("keep", [True, False])
def test_one_bad_video_costs_its_own_row_only(
    scripted: Operator, clips: dict[str, Scene], broken: str, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = clips
    rows = [(f"{VIDEO}{n}", [video]) for n, video in enumerate([a, b, broken, c, a, b])]
    op = scripted(prompt="p", keep_original_sample=keep)
    out = op.process_batched(batch(*rows))
    assert out["videos"].count([broken]) == 1
    assert out["text"].count(f"{VIDEO}2") == 1, "the original of the bad row stays"
    assert len(out["text"]) == (11 if keep else 6)
    assert [failure.kind for failure in op.failures] == ["unreadable"]
    assert f"No caption for row 2, {broken}: {broken} cannot be opened as a video" in caplog.text


def test_only_a_missing_column_of_videos_is_warned_of_and_once(
    scripted: Operator, clips: dict[str, Scene], caplog: pytest.LogCaptureFixture
) -> None:
    [video, *_] = clips
    asking = scripted(prompt_key="ask", keep_candidate_mode="similar_one_simhash", caption_field="said")
    asking.process_batched({"videos": [[video]]})
    assert caplog.text == "", "a column that is not needed may be missing"
    misnamed = scripted(video_key="clips")
    for _ in range(2):
        assert misnamed.process_batched({"videos": [[video]]}) == {"videos": [[video]]}
    assert caplog.text.count("no column 'clips', so nothing is captioned") == 1


def test_failed_generation_keeps_the_row(
    scripted: Operator, clips: dict[str, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    op = scripted(keep_original_sample=False)
    monkeypatch.setattr(module, "load_engine", lambda settings: FakeEngine(lambda *_: ""))
    assert op.process_batched(batch((f"{VIDEO}words", [next(iter(clips))])))["text"] == [f"{VIDEO}words"]
    assert "gave no text" in op.failures[0].message


def test_empty_batch_keeps_its_columns(scripted: Operator) -> None:
    assert scripted().process_batched({"videos": [], "text": [], "id": []}) == {"videos": [], "text": [], "id": []}


def test_callers_batch_is_never_changed(scripted: Operator, clips: dict[str, Scene]) -> None:
    samples = batch((f"{VIDEO}words", [next(iter(clips))]), meta=[{"k": [1]}])
    before = pickle.dumps(samples)
    scripted().process_batched(samples)
    assert pickle.dumps(samples) == before


def test_operator_travels_to_workers_without_its_model(scripted: Operator, clips: dict[str, Scene]) -> None:
    op = scripted(prompt="p")
    samples = batch((f"{VIDEO}words", [next(iter(clips))]))
    first = op.process_batched(samples)
    assert op._engine is not None
    copy = pickle.loads(pickle.dumps(op))
    assert copy._engine is None
    assert copy.process_batched(samples) == first


# With the built-in model: the whole way, through Transformers.


@pytest.mark.transformers
def test_real_model_captions_each_clip_rightly(clips: dict[str, Scene], broken: str) -> None:
    op = VideoCaptioningFromVLMMapper(hf_model="shapes", keep_original_sample=False)
    rows = [(f"{VIDEO}?", [video]) for video in [*clips, broken]]
    out = op.process_batched(batch(*rows))
    assert out["text"] == [*(f"{VIDEO} {scene.caption} {EOC}" for scene in clips.values()), f"{VIDEO}?"]


@pytest.mark.transformers
@pytest.mark.parametrize(
    "sampling",
    [
        {"max_new_tokens": 40},
        {"max_tokens": 40, "temperature": 0, "do_sample": True, "top_k": -1, "stop_token_ids": []},
        {"temperature": 0.7, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.0, "seed": 3},
    ],
)
def test_real_model_takes_the_sampling_parameters_of_both_engines(
    clips: dict[str, Scene], sampling: dict[str, Any]
) -> None:
    op = VideoCaptioningFromVLMMapper(hf_model="shapes", sampling_params=sampling)
    out = op.process_batched(batch((f"{VIDEO}?", [next(iter(clips))])))
    assert len(out["text"]) == 2
    assert out["text"][1].startswith(f"{VIDEO} A ")


def test_several_candidates_at_temperature_0_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    VideoCaptioningFromVLMMapper(caption_num=2, sampling_params={"temperature": 0})
    assert "at temperature 0 all candidates are the same" in caplog.text


@pytest.mark.transformers
def test_real_candidates_differ_and_repeat(clips: dict[str, Scene]) -> None:
    arguments: dict[str, Any] = {
        "hf_model": "shapes",
        "caption_num": 4,
        "keep_candidate_mode": "all",
        "keep_original_sample": False,
        "sampling_params": {"temperature": 3.0, "max_tokens": 12},
    }
    samples = batch((f"{VIDEO}?", [next(iter(clips))]))
    first = VideoCaptioningFromVLMMapper(**arguments).process_batched(samples)["text"]
    assert len(set(first)) == 4
    assert VideoCaptioningFromVLMMapper(**arguments).process_batched(samples)["text"] == first
