"""Families of models in the Transformers engine: tiny checkpoints, held against their own processors and `generate`.

Logits are compared, not ids alone: positions that are wrong by one change ids of few random models.
"""

import re
import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from flow import named
from generating import GREEDY
from transformers import AutoModelForMultimodalLM, AutoProcessor

from reelscribe.engines import branching, running
from reelscribe.engines.judging import YesNo
from reelscribe.engines.stills import words_of
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Clip, Frames, Generation, Request, Work
from reelscribe.video.sampling import count_video_tokens

ROOT = Path(__file__).parents[2]
STEP = 0.5
"""Seconds between frames."""
CLOSE = 1e-5
"""By which logits may differ, as a share of the largest. A position that is wrong by one makes 100 times as much."""


WORDS = {
    "qwen3_vl as images": ("<{1:.1f} seconds>", ""),
    "internvl as images": ("Frame{0} at {1:.1f} seconds: ", ""),
    "smolvlm as images": ("\nFrame from 00:{2:02d}:", ""),
}
"""What stands before frames, and before the first one, where that is not as for all others."""
TILES: dict[str, dict[str, Any]] = {
    "internvl": {"crop_to_patches": False},
    "smolvlm": {"do_image_splitting": False},
    "perception_lm": {"vision_input_type": "vanilla"},
}
"""By which processors leave an image whole."""


class Tiny:
    """A tiny checkpoint: in the engine, and as Transformers has it."""

    def __init__(self, name: str, folder: Any) -> None:
        family, _, images = name.partition(" as ")
        self.name, self.folder, self.show = name, tiny_checkpoints.make(family, folder), images or "auto"
        self.engine = TransformersEngine(str(folder), device="cpu", dtype="float32", show=self.show)
        self.engine._rules.end_ids = frozenset()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.family = self.engine._inputs._family

    def work(self, key: str, *prompts: str, frames: int = 8, system: str | None = None, **request: Any) -> Work:
        """A clip of noise, and what is asked about it."""
        limits = self.engine.info.limits
        size = limits.token_pixels
        height, width = (3 * size, 2 * size) if frames % 3 else (2 * size, 4 * size)
        if limits.own_size:
            width, height = limits.own_size.fit(640, 360 if frames % 3 else 480)
        noise = np.random.default_rng(list(key.encode())).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        return Work(
            requests=tuple(
                Request(
                    id=named(f"{key} {number}"),
                    clip=Clip(source=f"{key}.mp4"),
                    prompt=prompt,
                    system_prompt=system,
                    **{"sampling": GREEDY, **request},
                )
                for number, prompt in enumerate(prompts)
            ),
            frames=Frames(
                pixels=noise,
                timestamps=tuple(STEP * number for number in range(frames)),
                duration_seconds=STEP * frames,
                video_tokens=count_video_tokens(width, height, frames, limits),
            ),
        )

    def theirs(self, work: Work) -> Any:
        """What the processor makes of a work of one request.

        It gets a video of two frames a second, all of them taken, or an image of each frame.
        """
        [request] = work.requests
        content = [{"type": "video"}, {"type": "text", "text": request.prompt}]
        if self.family.stills:
            content = self.images(work.frames, request.prompt)
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.system_prompt:
            words = request.system_prompt
            gemma = "<|turn>" in self.processor.chat_template  # it takes text
            given = words if gemma else [{"type": "text", "text": words}]
            messages.insert(0, {"role": "system", "content": given})
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if self.family.bare:
            text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
        pixels = work.frames.pixels
        metadata = {
            "fps": 1 / STEP,
            "frames_indices": list(range(len(pixels))),
            "total_num_frames": len(pixels),
            "duration": work.frames.duration_seconds,
        }
        more: dict[str, Any] = {"do_resize": False} if self.family.arguments.get("do_resize") is False else {}
        if type(self.processor).__name__ == "VideoLlama3Processor":
            more["use_token_compression"] = False
        if self.name == "minicpm_v4_6":
            more["max_slice_nums"] = 1
        if type(self.processor).__name__ == "Qwen3OmniMoeProcessor":
            more["fps"] = 1 / STEP
        if self.family.stills:
            more |= TILES.get(self.name.split()[0], {})
            images = [list(torch.tensor(pixels).permute(0, 3, 1, 2))]
            return self.processor(text=[text], images=images, return_tensors="pt", **more)
        return self.processor(
            text=[text],
            videos=[torch.tensor(pixels).permute(0, 3, 1, 2)],  # a copy, since Ernie's draws into it
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
            **more,
        )

    def images(self, frames: Frames, question: str) -> list[dict[str, str]]:
        """The parts of a message: the frames of a clip, each after its time, and a question."""
        form, lead = WORDS.get(self.name, ("{1:.2f} s", "A video, as frames, each after its time:\n"))
        words = [form.format(number, seconds, int(seconds)) for number, seconds in enumerate(frames.timestamps, 1)]
        words[0] = lead + words[0]
        if self.name == "llava":  # whose template would put all images before all text
            clip = "".join(f"{each}<image>\n" for each in words)
            return [{"type": "text", "text": clip}, {"type": "text", "text": question}]
        shown = [part for text in words for part in ({"type": "text", "text": text}, {"type": "image"})]
        return [*shown, {"type": "text", "text": question}]

    def generated(self, work: Work, tokens: int) -> torch.Tensor:
        """Logits of greedy tokens as `generate` makes them, shape (tokens, vocabulary)."""
        inputs = self.theirs(work)
        made = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=-1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.cat(made.logits)


_BOTH = ("qwen3_vl", "internvl", "smolvlm", "perception_lm")
AS_IMAGES = [f"{name} as images" for name in _BOTH if name in tiny_checkpoints.NAMES]
"""Families that take videos as well."""
FAMILIES = [
    pytest.param(name, marks=[pytest.mark.model_packages] if name.split()[0] in tiny_checkpoints.WITH_PACKAGES else [])
    for name in (*tiny_checkpoints.NAMES, *AS_IMAGES)
]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


def run(tiny: Tiny, groups: Sequence[Sequence[Work]], *, between: int) -> dict[str, torch.Tensor]:
    """Let groups of works join a running batch, some steps apart. Gives the logits of each candidate's tokens."""
    batch = tiny.engine._new_batch()
    waiting = [[tiny.engine._inputs.prepare(work) for work in group] for group in groups]
    rows: list[str] = []
    """Candidates in the batch. One that is finished may stay for a while."""
    found: dict[str, list[torch.Tensor]] = {}
    keep = batch._keep

    def watched(kept: list[int] | None, tokens: torch.Tensor | None = None) -> torch.Tensor:
        if kept is not None:
            rows[:] = [rows[row] for row in kept]
        return keep(kept, tokens)

    setattr(batch, "_keep", watched)  # noqa: B010  # a method of one object
    lengths: dict[str, int] = {}
    step = 0
    while waiting or batch.works:
        if waiting and step % between == 0:
            group = waiting.pop(0)
            batch.join(group)
            for question in [each for item in group for each in item.questions]:
                for number in range(question.request.num_captions):
                    rows.append(f"{question.request.id.task}.{number}")
                    lengths[rows[-1]] = question.longest_answer
        for name, logits in zip(rows, batch._logits, strict=True):
            found.setdefault(name, []).append(logits)
        batch.step()
        batch.finished()
        step += 1
    return {name: torch.stack(logits[: lengths[name]]) for name, logits in found.items()}


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE * float(theirs.abs().max()))


ENCODERS = ("visual", "vision_tower", "vision_model", "vision_backbone", "vit")
"""What models call their vision encoders."""
TIMES = {
    "qwen2_5_vl": "positions",
    "qwen3_omni_thinker": "positions",
    "ernie4_5_vl": "drawn",
    "internvl": "none",
    "llava_onevision": "none",
    "llava_next_video": "none",
    "perception_lm": "none",
    "minicpm_v4_6": "none",
}
"""How models are given the times of frames; all others in words."""


def test_it_is_said_how_times_are_given(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    assert tiny.engine.info.details["times_given"] == TIMES.get(tiny.name, "words")
    TransformersEngine(str(tiny.folder), device="cpu", show=tiny.show)
    warned = [message for message in caplog.messages if "do not ask it for times" in message]
    assert len(warned) == (TIMES.get(tiny.name) == "none")


def test_words_beside_images_are_those_that_its_processor_writes_in_videos(tiny: Tiny) -> None:
    words = words_of(tiny.model.config.model_type)
    if tiny.family.times != "words" or tiny.family.stills:
        pytest.skip("its processor writes none")
    work = tiny.work("a", "What?")
    frames = replace(work.frames, timestamps=(1.26,) * 4 + (71.5,) * 4, duration_seconds=72.0)
    text = tiny.family.show(tiny.processor, frames).layout
    vocabulary = tiny.processor.tokenizer.get_added_vocab()
    frame = next(token for token, number in vocabulary.items() if number == tiny.family.placeholder)
    for token in vocabulary:
        text = text.replace(token, "*" if token == frame else "")
    text = re.sub(r"\*+", "*", text).replace("video", "")  # as Kimi-K2.5 calls each group of frames
    times = [1.26] * (text.count("*") // 2) + [71.5] * (text.count("*") // 2)
    assert "*".join(words.around(times)) in text
    assert not words.lead


def test_the_table_of_models_is_up_to_date(tiny: Tiny) -> None:
    if tiny.show == "images":
        pytest.skip("the table says how a model is shown a clip by itself")
    tool = runpy.run_path(str(ROOT / "tools" / "render_models.py"))
    line = tool["row"](tiny.name, tiny.family, tiny.model.config.get_text_config())
    assert line in tool["PAGE"].read_text("utf-8").splitlines(), "run: python tools/render_models.py"


def test_candidates_of_all_but_latent_attention_branch(tiny: Tiny) -> None:
    assert tiny.engine._new_batch()._branches == (tiny.name != "kimi_k2_5")


class TestInputs:
    def test_ids_and_pixels_are_those_of_its_processor(self, tiny: Tiny) -> None:
        for frames in (8, 5, 6):
            work = tiny.work("a", "What happens?", frames=frames, system="Be brief.")
            ours, theirs = tiny.engine.inputs([work]), tiny.theirs(work)
            assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
            assert set(theirs) <= set(ours)
            for name, tensor in theirs.items():
                torch.testing.assert_close(ours[name], torch.as_tensor(tensor), rtol=0, atol=1e-5, check_dtype=False)

    def test_a_clip_costs_what_is_counted(self, tiny: Tiny) -> None:
        for frames in (8, 5, 6):
            work = tiny.work("a", "What happens?", frames=frames)
            ids = tiny.theirs(work)["input_ids"][0].tolist()
            assert ids.count(tiny.family.placeholder) == work.frames.video_tokens


class TestCost:
    def test_a_clip_is_looked_at_once(self, tiny: Tiny) -> None:
        looks = []

        def looked(module: torch.nn.Module, *_: Any) -> None:
            looks.append(module)

        inner = tiny.engine._model.model
        owners = [tiny.engine._model, inner, getattr(inner, "vision_tower", None)]
        encoders = [getattr(owner, name, None) for owner in owners for name in ENCODERS]
        seen = {id(each): each for each in encoders if isinstance(each, torch.nn.Module)}
        assert seen
        hooks = [each.register_forward_pre_hook(looked) for each in seen.values()]
        run(tiny, [[tiny.work("a", "What?", frames=4)]], between=1)
        once = len(looks)
        briefly = tiny.work("a", "Who?", "Where?", frames=4, system="Be brief.", num_captions=2)
        several = tiny.work("b", "What?", "Why, then?", frames=4, num_captions=3)
        work = replace(several, requests=several.requests + briefly.requests)
        assert len(tiny.engine._inputs.prepare(work).prefixes) == 2 - (tiny.family.system == "question")
        run(tiny, [[work]], between=1)
        for hook in hooks:
            hook.remove()
        assert once
        assert len(looks) == 2 * once


@pytest.fixture
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache that the family has, the one it has on a GPU, and the one for models whose layers are not known."""
    if request.param == "packed":
        monkeypatch.setattr(branching, "packs", lambda keys, _: keys is not None)
    if request.param == "repeating":
        monkeypatch.setattr(running, "can_branch", lambda *_: False)


CACHES = ("as it is", "repeating")


@pytest.mark.usefixtures("cache")
class TestLogits:
    @pytest.mark.parametrize("cache", [*CACHES, "packed"], indirect=True)
    def test_candidates_share_a_clip_and_others_join_and_leave(self, tiny: Tiny) -> None:
        long, short = (SamplingParams(temperature=0.0, max_tokens=tokens) for tokens in (20, 6))
        first = tiny.work("a", "What?", sampling=long, num_captions=2)
        leaving = tiny.work("b", "Where does it go to?", frames=5, sampling=short)
        late = tiny.work("c", "Who is it that moves?", frames=6, sampling=long, num_captions=3)
        found = run(tiny, [[first, leaving], [late]], between=4)
        assert {name: len(logits) for name, logits in found.items()} == {
            "a 0.0": 20, "a 0.1": 20, "b 0.0": 6, "c 0.0": 20, "c 0.1": 20, "c 0.2": 20
        }  # fmt: skip
        for work, tokens in ((first, 20), (leaving, 6), (late, 20)):
            expected = tiny.generated(work, tokens)
            assert expected.std() > 0.1
            for number in range(work.requests[0].num_captions):
                ours = found[f"{work.requests[0].id.task}.{number}"]
                assert_equal(ours, expected)

    @pytest.mark.parametrize("cache", CACHES, indirect=True)
    def test_a_judge_says_what_it_would_from_the_start(self, tiny: Tiny) -> None:
        wild, long = (SamplingParams(temperature=2.0, max_tokens=tokens) for tokens in (5, 20))
        asked = tiny.work("a", "What?", frames=6, system="Be brief.", sampling=wild, num_captions=2)
        [request] = asked.requests
        judged = replace(asked, requests=(replace(request, keep="judged", judge="Right? {caption}"),))
        beside = tiny.work("b", "Where does it go to?", frames=5, sampling=long)
        made = {answer.id: answer for answer in tiny.engine.generate(iter([beside, judged]))}[request.id]
        assert isinstance(made, Generation)
        yes_no = YesNo(tiny.processor.tokenizer)
        for candidate in made.candidates:
            question = replace(judged.requests[0].judging(candidate.text), keep="random_any")
            theirs = tiny.generated(replace(judged, requests=(question,)), 1)
            assert candidate.scores["judged"] == pytest.approx(yes_no.chances(theirs)[0], abs=1e-4)

    @pytest.mark.parametrize("cache", CACHES, indirect=True)
    def test_several_questions_share_a_clip(self, tiny: Tiny) -> None:
        work = tiny.work("a", "What?", "Where does it go to, and why?", "What, then?", "What?")
        [briefly] = tiny.work("a", "What?", system="Be brief.").requests  # it has a prefix of its own
        work = replace(work, requests=(*work.requests, replace(briefly, id=named("a briefly"))))
        other = tiny.work("b", "Who?", "Which colour has it?", frames=5)
        found = run(tiny, [[work, other]], between=1)
        for one in (*work.singly(), *other.singly()):
            ours = found[f"{one.requests[0].id.task}.0"]
            assert_equal(ours, tiny.generated(one, len(ours)))
