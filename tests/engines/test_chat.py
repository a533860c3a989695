"""Bodies of requests, and what is read from answers."""

import base64
import io
import math
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import cut, write_audio, write_clip
from conftest import Prepare
from flow import clip_bytes, named, prepared, put_clip
from numpy.typing import NDArray
from openai_server import say
from sounds import RATE, sweep

from reelscribe.engines.chat import Answer, body, read_answer, show
from reelscribe.engines.gate import FailedError
from reelscribe.engines.stills import words_of
from reelscribe.errors import ClipError
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import NO_FRAMES, Candidate, Clip, Request, Sound, Work
from reelscribe.video.fetch import FetchLimits

JPEG = "data:image/jpeg;base64,"


def _picture(jpeg: str) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(base64.b64decode(jpeg)), "r") as container:
        (frame,) = container.decode(video=0)
        return np.asarray(frame.to_ndarray(format="rgb24"))


def _file(clip: Clip) -> Work:
    return Work(requests=(Request(id=named("0"), clip=clip, prompt="x"),), frames=NO_FRAMES)


def _body(**request: Any) -> dict[str, Any]:
    item = prepared(**request)
    shown = show(item, "images", 1, FetchLimits())
    [asked] = item.requests
    return body(asked, shown, model="m", first=0, count=asked.num_captions, default_temperature=0.9)


# Frames


def test_frames_are_pictures_each_after_its_time(prepare: Prepare) -> None:
    item = prepare("a", timestamps=(0.0, 0.5, 7.125), size=(96, 64))
    lead, *parts = show(item, "images", 1, FetchLimits()).parts
    assert lead == {"type": "text", "text": "A video, as frames, each after its time:"}
    assert [part["text"] for part in parts[::2]] == ["0.00 s", "0.50 s", "7.12 s"]
    for part, pixels in zip(parts[1::2], item.frames.pixels, strict=True):
        url = part["image_url"]["url"]
        assert url.startswith(JPEG)
        assert np.abs(_picture(url.removeprefix(JPEG)).astype(int) - pixels).mean() < 1


@pytest.mark.parametrize(
    ("model", "texts"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", ["<0.0 seconds>", None, "<71.5 seconds>", None]),
        ("qwen3.6-35b-a3b", ["<0.0 seconds>", None, "<71.5 seconds>", None]),
        ("zai-org/GLM-4.5V", [None, "0", None, "71"]),
        ("glm-4.6v", [None, "0.0 seconds", None, "71.5 seconds"]),
        ("google/gemma-4-31b-it", ["00:00 ", None, " 01:11 ", None]),
        ("moonshotai/Kimi-K2.5", ["00:00:00.000", None, "00:01:11.500", None]),
        ("OpenGVLab/InternVL3_5-8B-HF", ["Frame1 at 0.0 seconds: ", None, "Frame2 at 71.5 seconds: ", None]),
        ("google/gemma-3-4b-it", ["A video, as frames, each after its time:", "0.00 s", None, "71.50 s", None]),
        ("gpt-7", ["A video, as frames, each after its time:", "0.00 s", None, "71.50 s", None]),
    ],
)
def test_times_stand_beside_pictures_in_the_words_of_the_model_s_family(model: str, texts: list[str | None]) -> None:
    frames = replace(prepared().frames, pixels=np.zeros((2, 32, 32, 3), np.uint8), timestamps=(0.0, 71.5))
    parts = show(replace(prepared(), frames=frames), "images", 1, FetchLimits(), words_of(model)).parts
    assert [part.get("text") for part in parts] == texts


def test_frames_are_one_video_with_their_true_times(prepare: Prepare) -> None:
    item = prepare("a", timestamps=(0.0, 1 / 3, 2.0, 9.5), size=(64, 96))
    shown = show(item, "frames", 1, FetchLimits())
    ((kind, video),) = [(part["type"], part["video_url"]["url"]) for part in shown.parts]
    assert kind == "video_url"
    head, *jpegs = video.split(",")
    assert head == "data:video/jpeg;base64"
    for jpeg, pixels in zip(jpegs, item.frames.pixels, strict=True):
        assert np.abs(_picture(jpeg).astype(int) - pixels).mean() < 1
    told = shown.fields["media_io_kwargs"]["video"]
    times = [index / told["fps"] for index in told["frames_indices"]]
    assert times == pytest.approx(item.frames.timestamps, abs=1e-6)
    assert all(isinstance(index, int) for index in told["frames_indices"])
    assert (told["duration"], told["total_num_frames"], told["num_frames"]) == (10.0, 10_000_000, -1)
    assert told["do_sample_frames"] is False
    assert shown.held_bytes == len(video)


@pytest.mark.parametrize("send", ["frames", "images"])
def test_sound_goes_with_frames_once(prepare: Prepare, send: str) -> None:
    item = prepare("a")
    samples = sweep(1.5)
    hearing = replace(item, frames=replace(item.frames, sound=Sound(samples=samples, rate=RATE, heard="heard")))
    without, shown = (show(each, send, 1, FetchLimits()) for each in (item, hearing))
    assert shown.parts[: len(without.parts)] == without.parts
    words, part = shown.parts[len(without.parts) :]
    assert words == {"type": "text", "text": "The sound of the video:"}
    assert (part["type"], part["input_audio"]["format"]) == ("input_audio", "wav")
    with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, RATE, 2)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2") / (2**15 - 1)
    np.testing.assert_allclose(heard, samples, atol=1e-4)
    assert shown.held_bytes > without.held_bytes + 1.5 * RATE * 2
    mute = Sound(samples=samples[:0], rate=RATE, heard="no track")
    assert show(replace(item, frames=replace(item.frames, sound=mute)), send, 1, FetchLimits()).parts == without.parts


def test_colours_are_kept(prepare: Prepare) -> None:
    item = prepare("a", frames=2, size=(64, 64))
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    item.frames.pixels[:] = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 32, 1)
    url = show(item, "images", 1, FetchLimits()).parts[2]["image_url"]["url"]
    assert np.abs(_picture(url.removeprefix(JPEG)).astype(int) - item.frames.pixels[0]).max() < 8


# Files


@pytest.mark.parametrize(
    ("name", "kind"), [("a.mp4", "mp4"), ("a.webm", "webm"), ("a.MOV", "quicktime"), ("a.x", "mp4")]
)
def test_file_is_sent_as_it_is(tmp_path: Path, name: str, kind: str) -> None:
    put_clip(tmp_path / name)
    shown = show(_file(Clip(source=name, root=tmp_path)), "video", 1 << 20, FetchLimits())
    (part,) = shown.parts
    assert part["type"] == "video_url"
    head, _, content = part["video_url"]["url"].partition(",")
    assert head == f"data:video/{kind};base64"
    assert base64.b64decode(content) == clip_bytes()


def test_bytes_are_sent_as_they_are() -> None:
    url = show(_file(Clip(source=clip_bytes())), "video", 1 << 20, FetchLimits()).parts[0]["video_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == clip_bytes()


@pytest.mark.parametrize(
    ("name", "content", "kind", "told"),
    [
        ("gone.mp4", None, "missing", "gone.mp4: there is no such file"),
        ("a.mp4", b"", "unreadable", r"a.mp4 is empty \(0 bytes\)"),
        ("a.mp4", b"words", "unreadable", "a.mp4 cannot be opened as a video"),
        ("a.avi", "cut", "decode", "a.avi is cut short: "),
        ("a.mp4", "still", "too_short", "a.mp4 has 1 frame; at least 2 are needed"),
        ("a.m4a", "sound", "no_video", "a.m4a has no video stream, only audio"),
    ],
)
def test_what_is_no_whole_video_is_not_sent(
    tmp_path: Path, name: str, content: bytes | str | None, kind: str, told: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content == "cut":
        cut(write_clip(tmp_path / "whole.avi", codec="mpeg4"), tmp_path / name, keep=0.5)
    elif content == "still":
        write_clip(tmp_path / name, [1])
    elif content == "sound":
        write_audio(tmp_path / name)
    with pytest.raises(ClipError, match=told) as caught:
        show(_file(Clip(source=name, root=tmp_path)), "video", 1 << 20, FetchLimits())
    assert caught.value.kind == kind


def test_too_large_a_file_is_not_sent(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    with pytest.raises(
        ClipError, match=r"^a.mp4 has [\d,]+ bytes; max_upload_bytes is 1,000. Raise it, or send frames"
    ):
        show(_file(Clip(source="a.mp4", root=tmp_path)), "video", 1000, FetchLimits())


def test_file_that_vanishes_is_a_failure_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    put_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ClipError, match=r"^a.mp4 cannot be read to its end: Input/output error\.$"):
        show(_file(Clip(source="a.mp4", root=tmp_path)), "video", 1 << 20, FetchLimits())


# Bodies


def test_video_comes_before_the_prompt_and_after_the_system_prompt() -> None:
    messages = _body(prompt="What?", system_prompt="Be brief.")["messages"]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[1]["role"] == "user"
    assert messages[1]["content"][-1] == {"type": "text", "text": "What?"}
    assert len(_body()["messages"]) == 1


def test_what_the_user_left_out_is_left_out() -> None:
    assert set(_body()) == {"model", "messages", "seed"}


def test_sampling_goes_under_the_servers_names() -> None:
    sampling = SamplingParams(
        temperature=0.5, top_p=0.9, max_tokens=7, stop=("a", "b"), top_k=5, min_p=0.1, repetition_penalty=1.1,
        stop_token_ids=(3,),
    )  # fmt: skip
    made = _body(sampling=sampling, seed=3, num_captions=4)
    told = {name: value for name, value in made.items() if name not in ("model", "messages")}
    assert told == {
        "n": 4, "seed": 3, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["a", "b"], "top_k": 5,
        "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [3],
    }  # fmt: skip


def test_switched_off_top_k_is_minus_one() -> None:
    assert _body(sampling=SamplingParams(top_k=0))["top_k"] == -1


@pytest.mark.parametrize(
    ("request_", "temperature"),
    [
        ({}, None),
        ({"num_captions": 2}, 0.9),
        ({"sampling": SamplingParams(do_sample=True)}, 0.9),
        ({"sampling": SamplingParams(do_sample=False)}, 0.0),
        ({"num_captions": 2, "sampling": SamplingParams(temperature=0.0)}, 0.0),
    ],
)
def test_temperature_is_named_where_candidates_are_to_differ(
    request_: dict[str, Any], temperature: float | None
) -> None:
    assert _body(**request_).get("temperature") == temperature


def test_each_candidate_has_a_seed_of_its_own_that_fits_32_bits() -> None:
    item = prepared(num_captions=3, seed=2**64 - 2)
    shown = show(item, "images", 1, FetchLimits())
    seeds = [
        body(item.requests[0], shown, model="m", first=first, count=1, default_temperature=None)["seed"]
        for first in range(3)
    ]
    assert seeds == [2**31 - 2, 2**31 - 1, 0]


# Answers


def test_answer_is_read_in_order() -> None:
    answer = read_answer(say("a", "b", finish="length").content)
    assert answer == Answer(
        candidates=[Candidate(text=text, stop_reason="length", num_tokens=None) for text in "ab"], prompt_tokens=9
    )


def test_tokens_of_one_candidate_are_those_of_the_answer() -> None:
    assert read_answer(say("a").content).candidates[0].num_tokens == 5


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None}, {"prompt_tokens": True, "completion_tokens": "5"}])
def test_tokens_that_are_not_told_are_not_known(usage: dict[str, Any]) -> None:
    answer = read_answer(say("a", usage=usage).content)
    assert (answer.prompt_tokens, answer.candidates[0].num_tokens) == (None, None)


def test_log_probabilities_are_asked_for_where_they_choose() -> None:
    assert _body(keep="likeliest")["logprobs"] is True
    assert "logprobs" not in _body(keep="consensus")


def test_log_probabilities_are_read_where_a_server_says_them() -> None:
    answer = say("a", "b", "c").content
    told: list[Any] = [{"content": [{"logprob": -0.5}, {"logprob": -0.25}]}, {"content": []}, None]
    for choice, logprobs in zip(reversed(answer["choices"]), told, strict=True):
        choice["logprobs"] = logprobs
    assert [candidate.mean_logprob for candidate in read_answer(answer).candidates] == [-0.375, None, None]


def test_a_judge_is_read_from_the_likeliest_first_tokens() -> None:
    answer = say("Yes").content
    likeliest = [{"token": text, "logprob": logprob} for text, logprob in (("Yes", -0.25), ("no", -2.0), ("It", -3.0))]
    answer["choices"][0]["logprobs"] = {"content": [{"logprob": -0.25, "top_logprobs": likeliest}]}
    yes, no = math.exp(-0.25), math.exp(-2.0)
    assert read_answer(answer).chance == pytest.approx(yes / (yes + no))
    answer["choices"][0]["logprobs"] = {"content": [{"logprob": -0.25, "top_logprobs": likeliest[2:]}]}
    assert read_answer(answer).chance is None


def test_silence_is_an_empty_text() -> None:
    assert [candidate.text for candidate in read_answer(say(None, "").content).candidates] == ["", ""]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("content", "finish", "text"),
    [
        ("A ring.", "stop", "<think>Hm.</think>A ring."),
        ("A ri", "length", "<think>Hm.</think>A ri"),
        (None, "stop", "<think>Hm.</think>"),
        (None, "length", "<think>Hm."),
    ],
)
def test_thought_that_a_server_sets_apart_stands_before_the_text(
    name: str, content: str | None, finish: str, text: str
) -> None:
    told = {"role": "assistant", "content": content, "reasoning": None, "reasoning_content": None, name: "Hm."}
    assert read_answer(say("", finish=finish, message=told).content).candidates[0].text == text


@pytest.mark.parametrize("thought", [None, "", 3, {"text": "Hm."}])
def test_what_is_no_thought_is_none(thought: Any) -> None:
    told = {"role": "assistant", "content": "A ring.", "reasoning": thought}
    assert read_answer(say("", message=told).content).candidates[0].text == "A ring."


@pytest.mark.parametrize("content", [None, [], "text", {}, {"choices": None}, {"choices": [1]}, {"choices": [{}]}])
def test_another_form_is_a_failure_of_the_server(content: Any) -> None:
    with pytest.raises(FailedError, match="the server's answer has another form than it should: "):
        read_answer(content)


def test_no_choice_is_a_failure_of_the_server() -> None:
    with pytest.raises(FailedError, match=r"^the server's answer has no choices\.$"):
        read_answer({"choices": []})


@pytest.mark.parametrize("reason", ["content_filter", None, 3, ["stop"]])
def test_another_end_is_no_caption(reason: Any) -> None:
    with pytest.raises(ClipError, match=r"the server ended the answer for the reason .*, not stop or length\.$"):
        read_answer(say("half of", finish=reason).content)


def test_a_file_outside_the_root_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip_bytes())
    limits = FetchLimits(root=tmp_path / "inside")
    with pytest.raises(ClipError, match=r"a\.mp4 leads out of the root folder"):
        show(_file(Clip(source="a.mp4", root=tmp_path)), "video", 1 << 20, limits)
