"""Qwen3-Omni's thinker with the sound of clips: held against its own processor and `generate`."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clips import with_packet_overwritten
from flow import named, read_rows_of
from sounds import RATE, sweep, write_film
from transformers import AutoModelForMultimodalLM

from engines.test_families import Tiny, assert_equal, run
from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.positions import Positions
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.errors import SettingsError
from reelscribe.plan.outlook import look_ahead
from reelscribe.runners.local import run as run_command
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Sound, Work
from reelscribe.video.sampling import Hearing

STEP = 0.4
"""Seconds between frames: a pair of them is no whole number of positions."""


class Omni(Tiny):
    """The thinker."""

    def clip(self, key: str, *prompts: str, frames: int = 8, sound: Any = "sweep", **more: Any) -> Work:
        """A work whose clip has sound: a sweep, or samples; None for none."""
        work = self.work(key, *prompts, frames=frames, **more)
        seconds = STEP * frames
        samples = sweep(seconds, start=len(key)) if isinstance(sound, str) else sound
        return replace(
            work,
            frames=replace(
                work.frames,
                timestamps=tuple(STEP * number for number in range(frames)),
                duration_seconds=seconds,
                sound=None if samples is None else Sound(samples=samples, rate=RATE, heard="heard"),
            ),
        )

    def theirs(self, work: Work) -> Any:
        """What the processor makes of a work of one request, with the arguments of its own release."""
        [request], frames = work.requests, work.frames
        content = [{"type": "video"}, {"type": "text", "text": request.prompt}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        more: dict[str, Any] = {}
        if frames.sound is not None:
            newer = hasattr(self.processor, "load_audio_from_video")
            more = {"load_audio_from_video": True, "audio_from_video_indices": [0]} if newer else {}
            more |= {"audio": [frames.sound.samples]} | ({} if newer else {"use_audio_in_video": True})
        made = self.processor(
            text=[text],
            videos=[torch.tensor(frames.pixels).permute(0, 3, 1, 2)],
            fps=1 / STEP,
            do_resize=False,
            do_sample_frames=False,
            return_tensors="pt",
            **more,
        )
        return {**made, "use_audio_in_video": frames.sound is not None}


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Omni:
    return Omni("qwen3_omni_thinker", tmp_path_factory.mktemp("tiny") / "omni")


def test_it_says_how_it_hears(omni: Omni) -> None:
    assert omni.engine.info.limits.hearing == Hearing(rate=RATE, tokens_per_second=13.0)


def test_of_a_whole_model_the_thinker_is_taken(omni: Omni, tmp_path: Path) -> None:
    """As it is released: with one that speaks beside it."""
    folder = shutil.copytree(omni.folder, tmp_path / "whole")
    thinker = AutoModelForMultimodalLM.from_pretrained(omni.folder, dtype=torch.float32)
    whole = transformers.Qwen3OmniMoeForConditionalGeneration(
        transformers.Qwen3OmniMoeConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    )
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(folder)
    engine = TransformersEngine(str(folder), device="cpu")
    for name, weights in engine._model.state_dict().items():
        assert torch.equal(weights, omni.engine._model.state_dict()[name])


def test_a_model_that_takes_no_sound_is_refused_before_its_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForMultimodalLM, "from_pretrained", None)
    with pytest.raises(SettingsError, match="this model takes no sound with a video here"):
        load_engine(Settings(model="shapes", audio=True))


class TestInputs:
    @pytest.mark.parametrize("frames", [8, 5])
    def test_are_those_of_its_processor(self, omni: Omni, frames: int) -> None:
        work = omni.clip("a", "What happens?", frames=frames)
        ours, theirs = omni.engine.inputs([work]), omni.theirs(work)
        assert theirs.pop("use_audio_in_video")
        assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
        assert set(theirs) <= set(ours)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], torch.as_tensor(tensor), rtol=0, atol=1e-5, check_dtype=False)

    def test_have_the_sound_once(self, omni: Omni) -> None:
        audio, start, end = (
            omni.processor.tokenizer.convert_tokens_to_ids(f"<|audio_{name}|>") for name in ("pad", "start", "end")
        )
        hearing = omni.engine.info.limits.hearing
        assert hearing
        for frames in (8, 5, 50):
            ids = omni.engine.inputs([omni.clip("a", "What?", frames=frames)])["input_ids"][0].tolist()
            assert 0 <= hearing.tokens(STEP * frames) - ids.count(audio) <= 1
            assert (ids.count(start), ids.count(end)) == (1, 1)

    def test_silence_and_sound_differ(self, omni: Omni) -> None:
        samples = sweep(3.2)
        sounding, silent = (
            omni.engine.inputs([omni.clip("a", "What?", sound=each)]) for each in (samples, 0 * samples)
        )
        assert torch.equal(sounding["input_ids"], silent["input_ids"])
        assert (sounding["input_features"] - silent["input_features"]).abs().max() > 0.5
        without = omni.engine.inputs([omni.clip("a", "What?", sound=None)])
        assert "input_features" not in without
        mute = omni.engine.inputs([omni.clip("a", "What?", sound=samples[:0])])
        assert {name: value.tolist() for name, value in mute.items()} == {
            name: value.tolist() for name, value in without.items()
        }

    def test_a_model_that_takes_none_is_not_fed_any(self, omni: Omni) -> None:
        deaf = replace(omni.family, sound=None)
        with pytest.raises(ValueError, match="the model takes none"):
            deaf.show(omni.processor, omni.clip("a", "What?").frames)


def generated(omni: Omni, works: Sequence[Work], tokens: int, found: dict[str, torch.Tensor]) -> None:
    """Hold the logits of each candidate against those of `generate`."""
    for work in works:
        for one in work.singly():
            expected = omni.generated(one, tokens)
            assert expected.std() > 0.1
            for number in range(one.requests[0].num_captions):
                assert_equal(found[f"{one.requests[0].id.task}.{number}"], expected)


class TestLogits:
    def test_clips_with_sound_and_without_share_a_batch(self, omni: Omni) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=10)
        first = omni.clip("a", "What?", "Where does it go to?", sampling=sampling, num_captions=2)
        briefly = omni.clip("short", "What is heard?", frames=2, sampling=sampling)
        mute = omni.clip("b", "Where does it go to?", frames=5, sound=None, sampling=sampling)
        late = omni.clip("cc", "Who is it that moves?", frames=6, sampling=sampling, num_captions=3)
        found = run(omni, [[first, mute, briefly], [late]], between=4)
        generated(omni, [first, mute, briefly, late], 10, found)

    def test_sound_is_heard(self, omni: Omni) -> None:
        sounding, silent = (
            omni.clip("a", "What?"),
            omni.clip("a", "What?", sound=np.zeros(round(3.2 * RATE), np.float32)),
        )
        ours, other = (run(omni, [[work]], between=1)["a 0.0"] for work in (sounding, silent))
        assert (ours[0] - other[0]).abs().max() > 0.01

    @pytest.mark.parametrize("wrong", ["whole numbers", "apart"])
    def test_wrong_positions_show(self, omni: Omni, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
        """Positions rounded down, or those of a sound that comes by itself."""
        real = Positions.__call__

        def changed(self: Positions, ids: torch.Tensor, beside: Any) -> torch.Tensor:
            if wrong == "whole numbers":
                return real(self, ids, beside).floor()
            return torch.arange(len(ids)).expand(3, -1)

        work = omni.clip("a", "What?")
        monkeypatch.setattr(Positions, "__call__", changed)
        found = run(omni, [[work]], between=1)["a 0.0"]
        with pytest.raises(AssertionError):
            assert_equal(found, omni.generated(work, len(found)))


def test_sound_is_looked_at_once(omni: Omni) -> None:
    looks = []
    inner = omni.engine._model.model
    tower = getattr(inner, "audio_tower", None) or omni.engine._model.audio_tower
    hook = tower.register_forward_pre_hook(lambda *_: looks.append(1))
    several = omni.clip("a", "What?", "Why, then?", num_captions=3)
    [briefly] = omni.clip("a", "Who?", system="Be brief.").requests
    run(omni, [[replace(several, requests=(*several.requests, replace(briefly, id=named("other"))))]], between=1)
    hook.remove()
    assert looks == [1]


class TestRuns:
    @pytest.fixture(scope="class", name="films")
    @classmethod
    def _films(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("films")
        good = write_film(folder / "a.mp4", sweep(2, 48000), seconds=2)
        write_film(folder / "b.mkv", sweep(1, 48000), seconds=2, codec="libopus")
        write_film(folder / "c.mp4", None, seconds=2)
        with_packet_overwritten(good, folder / "d.mp4", 40, value=255, stream="audio")
        return folder

    def run(self, omni: Omni, films: Path, output: Path, **more: Any) -> list[dict[str, Any]]:
        settings = Settings(model=str(omni.folder), sampling={"max_tokens": 3, "temperature": 0}, **more)
        run_command([films], output, settings)
        return read_rows_of(output)

    def test_say_what_was_heard(self, omni: Omni, films: Path, tmp_path: Path) -> None:
        rows = self.run(omni, films, tmp_path / "out.jsonl", audio=True)
        assert [(row["caption_meta"] or {}).get("audio") for row in rows] == ["heard", "partly", "no track", None]
        assert "its sound is damaged at 0.832 s" in rows[3]["caption_failure"]
        assert self.run(omni, films, tmp_path / "out.jsonl", audio=True) == rows
        deaf = self.run(omni, films, tmp_path / "out.jsonl")  # goes on, and captions all of them anew
        assert [row["caption_meta"]["audio"] for row in deaf] == [None] * 4
        assert [made[0]["caption_meta"]["sound_given"] for made in (rows, deaf)] == ["among", None]
        costs = [[row["caption_meta"]["prompt_tokens"] for row in made[:3]] for made in (rows, deaf)]
        assert [there - without for there, without in zip(*costs, strict=True)] == [2 + 26, 2 + 26, 0]

    def test_are_planned_with_their_sound(self, omni: Omni, films: Path) -> None:
        settings = Settings(model=str(omni.folder))
        sounding, deaf = (look_ahead([films], replace(settings, audio=audio)) for audio in (True, False))
        assert sounding.tokens[0].total.value - deaf.tokens[0].total.value == 3 * 26
        assert sounding.one_gpu_bytes is not None
        assert deaf.one_gpu_bytes is not None
        assert sounding.one_gpu_bytes > deaf.one_gpu_bytes
