"""The Transformers engine: what it feeds the model, what it makes of the answers, and what it survives."""

import copy
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Prepare
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlamaConfig

from reelscribe.config import Settings
from reelscribe.engines import load_engine, transformers
from reelscribe.engines.inputs import InputBuilder
from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.errors import EngineError, ModelError
from reelscribe.models import model_path
from reelscribe.sampling_params import SamplingParams
from reelscribe.schema import Candidate, Failure, Generation, PreparedRequest
from reelscribe.video.sampling import VisionLimits

SHAPES = Path(model_path("shapes"))
GREEDY = SamplingParams(temperature=0.0, max_tokens=10)
WILD = SamplingParams(temperature=1.5, max_tokens=8)


class Ids:
    """A tokenizer that shows token ids, so that texts can be compared token for token."""

    eos_token_id = None

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


def variant(engine: TransformersEngine, *, batch_size: int = 8, show_ids: bool = False) -> TransformersEngine:
    """The same model with another batch size, or with texts that list token ids."""
    twin = copy.copy(engine)
    twin._batch_size = batch_size
    if show_ids:
        twin._rules = TokenRules(Ids(), engine._model.generation_config)
    return twin


def answers(engine: TransformersEngine, *batch: PreparedRequest) -> dict[str, Generation | Failure]:
    replies = list(engine.generate(iter(batch)))
    assert len(replies) == len(batch)
    return {reply.key: reply for reply in replies}


def texts(engine: TransformersEngine, *batch: PreparedRequest) -> dict[str, list[str]]:
    """Texts of the candidates by key; a failure has none."""
    return {
        key: [made.text for made in reply.candidates] if isinstance(reply, Generation) else []
        for key, reply in answers(engine, *batch).items()
    }


@pytest.fixture(scope="module")
def varied(prepare: Prepare) -> list[PreparedRequest]:
    """Clips of several lengths and sizes, with prompts of several lengths."""
    shapes = [(4, (96, 64)), (7, (64, 96)), (2, (32, 32)), (12, (160, 96)), (5, (96, 64)), (8, (96, 96))]
    return [
        prepare(
            f"clip {number}", frames=frames, size=size, prompt="Describe the video. " * (number + 1), sampling=GREEDY
        )
        for number, (frames, size) in enumerate(shapes)
    ]


@pytest.fixture(scope="module")
def lively_engine() -> TransformersEngine:
    """A model of the same shape whose every token hangs on all pixels, positions and tokens before it.

    A trained model is too sure of its words, and a freshly made one too dull, to show that something is slightly off.
    """
    engine = TransformersEngine("shapes", device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in engine._model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=2 * weight[0].numel() ** -0.5, generator=generator)
    return engine


@pytest.fixture(scope="module")
def plain_model(lively_engine: TransformersEngine) -> Any:
    """The lively model as Transformers runs it."""
    model = AutoModelForImageTextToText.from_pretrained(SHAPES, dtype=torch.float32).eval()
    model.load_state_dict(lively_engine._model.state_dict())
    return model


class TestLayout:
    """Token ids, held against the layout that Transformers 4.57.1 makes, with which the models were released."""

    def fed(self, engine: TransformersEngine, item: PreparedRequest) -> tuple[list[int], Callable[[str], list[int]]]:
        tokenizer = engine._processor.tokenizer
        ids: list[int] = engine.inputs([item])["input_ids"][0].tolist()
        return ids, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]

    def test_timestamps_stand_before_each_pair_of_frames(
        self, shapes_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        ids, encode = self.fed(
            shapes_engine, prepare("a", timestamps=(0.0, 0.5, 1.0, 1.5), size=(96, 64), prompt="What is it?")
        )
        pads = "<|video_pad|>" * 6
        assert ids == encode(
            "<|im_start|>user\n"
            f"<0.2 seconds><|vision_start|>{pads}<|vision_end|>"
            f"<1.2 seconds><|vision_start|>{pads}<|vision_end|>"
            "What is it?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_a_system_prompt_comes_first(self, shapes_engine: TransformersEngine, prepare: Prepare) -> None:
        item = prepare("a", timestamps=(0.0, 0.7), size=(32, 32), prompt="What?", system_prompt="Answer briefly.")
        ids, encode = self.fed(shapes_engine, item)
        assert ids == encode(
            "<|im_start|>system\nAnswer briefly.<|im_end|>\n"
            "<|im_start|>user\n<0.3 seconds><|vision_start|><|video_pad|><|vision_end|>What?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize(
        ("timestamps", "shown"),
        [
            ((0.0, 0.7, 1.9), ["0.3", "1.9"]),
            ((0.0, 0.2, 0.4, 0.6, 3.14159), ["0.1", "0.5", "3.1"]),
            ((0.0, 1 / 30, 10.01, 75.5, 3599.0, 3600.0), ["0.0", "42.8", "3599.5"]),
            ((0.0, 0.0998), ["0.0"]),
            ((0.0501, 0.0501), ["0.1"]),
        ],
    )
    def test_odd_counts_and_irregular_times(
        self, shapes_engine: TransformersEngine, prepare: Prepare, timestamps: tuple[float, ...], shown: list[str]
    ) -> None:
        ids, encode = self.fed(shapes_engine, prepare("a", timestamps=timestamps, size=(64, 32), prompt="So?"))
        pairs = "".join(f"<{time} seconds><|vision_start|><|video_pad|><|video_pad|><|vision_end|>" for time in shown)
        assert ids == encode(f"<|im_start|>user\n{pairs}So?<|im_end|>\n<|im_start|>assistant\n")

    def test_a_batch_is_padded_on_the_left(
        self, shapes_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        inputs = shapes_engine.inputs(varied)
        for item, ids, mask in zip(varied, inputs["input_ids"], inputs["attention_mask"], strict=True):
            alone = shapes_engine.inputs([item])["input_ids"][0]
            assert ids[-len(alone) :].tolist() == alone.tolist()
            assert mask.tolist() == [0] * (len(ids) - len(alone)) + [1] * len(alone)

    def test_the_stated_cost_is_the_number_of_video_tokens(
        self, shapes_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        for item in varied:
            ids = shapes_engine.inputs([item])["input_ids"][0]
            assert (ids == shapes_engine._processor.video_token_id).sum() == item.frames.video_tokens

    def test_the_generation_tells_the_length_of_the_prompt(
        self, shapes_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        replies = answers(shapes_engine, *varied)
        for item in varied:
            reply = replies[item.request.key]
            assert isinstance(reply, Generation)
            assert reply.prompt_tokens == len(shapes_engine.inputs([item])["input_ids"][0])


class TestPixels:
    def test_each_patch_is_cut_from_its_place_in_its_two_frames(
        self, shapes_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        item = prepare("a", frames=3, size=(192, 160))  # more than the processor's own limit
        inputs = shapes_engine.inputs([item])
        assert inputs["video_grid_thw"].tolist() == [[2, 10, 12]]
        frames = item.frames.pixels[[0, 1, 2, 2]]  # the last one stands in for the missing fourth
        expected = [
            frames[2 * pair : 2 * pair + 2, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            .transpose(3, 0, 1, 2)
            .ravel()
            for pair in range(2)
            for top in range(0, 10, 2)
            for left in range(0, 12, 2)
            for row in (top, top + 1)
            for column in (left, left + 1)
        ]
        np.testing.assert_allclose(inputs["pixel_values_videos"].numpy(), np.stack(expected) / 127.5 - 1, atol=1e-5)

    def test_tokens_and_pixels_are_those_of_the_checkpoint_s_own_processor(
        self, shapes_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        processor = copy.deepcopy(shapes_engine._processor)
        processor.video_processor.image_mean = [0.48, 0.46, 0.41]
        processor.video_processor.image_std = [0.27, 0.26, 0.28]
        ours = InputBuilder(processor, torch.device("cpu")).build(varied)
        messages = [
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": item.request.prompt}]}]
            for item in varied
        ]
        prompts = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        times = [list(item.frames.timestamps) for item in varied]
        theirs = processor(
            # It replaces the placeholder alone; the template's own pair around it has to go.
            text=[text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>") for text in prompts],
            videos=[item.frames.pixels.transpose(0, 3, 1, 2).copy() for item in varied],
            video_metadata=[{"fps": 1.0, "frames_indices": each, "total_num_frames": len(each)} for each in times],
            do_sample_frames=False,
            do_resize=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, torch.as_tensor(theirs[name]), rtol=0, atol=1e-5, check_dtype=False)

    def test_videos_of_a_batch_do_not_mix(
        self, shapes_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        together = shapes_engine.inputs(varied)["pixel_values_videos"]
        apart = torch.cat([shapes_engine.inputs([item])["pixel_values_videos"] for item in varied])
        assert torch.equal(together, apart)

    def test_limits_come_from_the_checkpoint(self, shapes_engine: TransformersEngine) -> None:
        limits = VisionLimits(token_pixels=32, temporal_patch=2, max_frame_tokens=15, min_frames=8, max_frames=12)
        assert shapes_engine.info.limits == limits
        assert (shapes_engine.info.engine, shapes_engine.info.model) == ("transformers", "shapes")


class TestGreedy:
    def test_a_batch_gives_what_each_clip_gives_alone(
        self, lively_engine: TransformersEngine, varied: list[PreparedRequest]
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        together = texts(engine, *varied)
        assert together == {key: made for item in varied for key, made in texts(engine, item).items()}

    def test_it_is_what_generate_of_transformers_gives(
        self, lively_engine: TransformersEngine, plain_model: Any, varied: list[PreparedRequest]
    ) -> None:
        together = texts(variant(lively_engine, show_ids=True), *varied)
        end = plain_model.generation_config.eos_token_id
        for item in varied:
            inputs = lively_engine.inputs([item])
            ids = plain_model.generate(**inputs, do_sample=False, max_new_tokens=10)[
                0, inputs["input_ids"].shape[1] :
            ].tolist()
            assert together[item.request.key] == [" ".join(str(token) for token in ids if token != end)]

    def test_a_repetition_penalty_is_that_of_generate_whatever_the_padding(
        self, lively_engine: TransformersEngine, plain_model: Any, prepare: Prepare
    ) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=12, repetition_penalty=1.3)
        batch = [prepare("a", frames=2, sampling=params), prepare("b", frames=12, sampling=params)]
        together = texts(variant(lively_engine, show_ids=True), *batch)
        end = plain_model.generation_config.eos_token_id
        for item in batch:
            inputs = lively_engine.inputs([item])
            made = plain_model.generate(**inputs, do_sample=False, max_new_tokens=12, repetition_penalty=1.3)
            ids = made[0, inputs["input_ids"].shape[1] :].tolist()
            assert together[item.request.key] == [" ".join(str(token) for token in ids if token != end)]

    def test_long_answers_outgrow_the_cache_s_first_room(
        self, lively_engine: TransformersEngine, plain_model: Any, prepare: Prepare
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        engine._rules.end_ids = frozenset()
        long = SamplingParams(temperature=0.0, max_tokens=72)
        batch = [prepare("a", frames=2, sampling=long), prepare("b", frames=6, sampling=long)]
        together = texts(engine, *batch)
        for item in batch:
            inputs = engine.inputs([item])
            made = plain_model.generate(**inputs, do_sample=False, max_new_tokens=72, eos_token_id=-1)
            assert together[item.request.key] == [" ".join(map(str, made[0, inputs["input_ids"].shape[1] :].tolist()))]


class TestOnePass:
    """Candidates share the vision encoder's work and the prefill."""

    def test_eight_candidates_cost_one_look_and_one_prefill_a_video(
        self, lively_engine: TransformersEngine, varied: list[PreparedRequest], prepare: Prepare
    ) -> None:
        batch = [prepare(item.request.key, num_captions=8, sampling=WILD) for item in varied]
        patches: list[int] = []
        prefills: list[tuple[int, ...]] = []

        def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            patches.append(len(args[0]))

        def read(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if kwargs["inputs_embeds"].shape[1] > 1:
                prefills.append(tuple(kwargs["inputs_embeds"].shape[:2]))

        inner = lively_engine._model.model
        hooks = [
            inner.visual.register_forward_pre_hook(see, with_kwargs=True),
            inner.language_model.register_forward_pre_hook(read, with_kwargs=True),
        ]
        try:
            replies = answers(lively_engine, *batch)
        finally:
            for hook in hooks:
                hook.remove()
        assert all(isinstance(reply, Generation) and len(reply.candidates) == 8 for reply in replies.values())
        assert patches == [sum(item.frames.video_tokens * 4 for item in batch)]
        assert prefills == [tuple(lively_engine.inputs(batch)["input_ids"].shape)]

    def test_frames_of_one_size_go_through_attention_in_one_call_a_layer(
        self, lively_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        attention = torch.nn.functional.scaled_dot_product_attention

        def count(*args: Any, **kwargs: Any) -> torch.Tensor:
            calls.append(tuple(args[0].shape))
            return attention(*args, **kwargs)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
        inputs = lively_engine.inputs([prepare("a", frames=8), prepare("b", frames=6)])
        with torch.inference_mode():
            lively_engine._model.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
        assert calls == [(7, 3, 24, 64)] * 4

    def test_vision_features_are_those_of_transformers(
        self, lively_engine: TransformersEngine, plain_model: Any, varied: list[PreparedRequest]
    ) -> None:
        inputs = lively_engine.inputs(varied)
        with torch.inference_mode():
            ours, theirs = (
                model.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
                for model in (lively_engine._model, plain_model)
            )
        torch.testing.assert_close(ours.pooler_output, theirs.pooler_output, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.deepstack_features, theirs.deepstack_features, rtol=1e-4, atol=1e-4)

    def test_another_attention_that_is_asked_for_stays(
        self, shapes_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        eager = TransformersEngine("shapes", device="cpu", model_params={"attn_implementation": "eager"})
        assert eager._model.model.visual.config._attn_implementation == "eager"
        item = prepare("a", sampling=GREEDY)
        assert texts(eager, item) == texts(shapes_engine, item)


class TestCandidates:
    def test_they_differ_and_come_again(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        item = prepare("a", num_captions=6, sampling=WILD, seed=1)
        first = texts(lively_engine, item)
        assert len(set(first["a"])) == 6
        assert texts(lively_engine, item) == first

    def test_the_seed_changes_them(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        one, two = (prepare("a", num_captions=3, sampling=WILD, seed=seed) for seed in (1, 2))
        assert not set(texts(lively_engine, one)["a"]) & set(texts(lively_engine, two)["a"])

    def test_more_candidates_begin_with_the_same(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        few, many = (prepare("a", num_captions=count, sampling=WILD) for count in (2, 5))
        assert texts(lively_engine, many)["a"][:2] == texts(lively_engine, few)["a"]

    def test_neither_batch_nor_order_matters(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        batch = [
            prepare(f"{number}", frames=2 + 2 * number, num_captions=1 + number % 3, sampling=WILD, seed=number)
            for number in range(5)
        ]
        expected = {key: made for item in batch for key, made in texts(lively_engine, item).items()}
        assert texts(lively_engine, *batch) == expected
        assert texts(lively_engine, *reversed(batch)) == expected
        assert texts(variant(lively_engine, batch_size=2), *batch) == expected

    def test_temperature_zero_makes_them_equal(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        assert len(set(texts(lively_engine, prepare("a", num_captions=4, sampling=GREEDY))["a"])) == 1

    def test_one_follows_the_checkpoint_and_several_are_sampled(
        self, lively_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert texts(lively_engine, prepare("a")) == texts(
            lively_engine, prepare("a", sampling=SamplingParams(temperature=0.0, max_tokens=64))
        )
        monkeypatch.setattr(lively_engine._model.generation_config, "temperature", 20.0)
        assert len(set(texts(lively_engine, prepare("a", num_captions=4))["a"])) == 4

    def test_requests_of_one_batch_keep_their_own_parameters(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        settings = [
            GREEDY,
            WILD,
            SamplingParams(temperature=1.5, max_tokens=5, top_k=3),
            SamplingParams(temperature=1.5, max_tokens=9, top_p=0.5, repetition_penalty=1.5),
            SamplingParams(temperature=1.5, max_tokens=7, min_p=0.2, stop=("e", "o")),
            SamplingParams(temperature=0.0, max_tokens=12, repetition_penalty=1.2),
        ]
        batch = [
            prepare(f"{n}", frames=2 + n, sampling=params, num_captions=2, seed=n) for n, params in enumerate(settings)
        ]
        together = answers(lively_engine, *batch)
        assert together == {key: reply for item in batch for key, reply in answers(lively_engine, item).items()}

    def test_top_k_of_one_is_greedy(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        hot = SamplingParams(temperature=20.0, top_k=1, max_tokens=10)
        assert texts(lively_engine, prepare("a", sampling=hot)) == texts(lively_engine, prepare("a", sampling=GREEDY))


class TestStop:
    """The model is made to say a certain sentence, then its end token."""

    SENTENCE = "A small red ring moves left on a black background."

    @pytest.fixture
    def say(self, shapes_engine: TransformersEngine, prepare: Prepare) -> Iterator[Callable[..., Candidate]]:
        script: list[int] = shapes_engine._processor.tokenizer(self.SENTENCE + "<|im_end|>")["input_ids"]
        step = 0

        def dictate(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal step
            forced = torch.zeros_like(output)
            forced[..., script[step]] = 100.0
            step += 1
            return forced

        def run(**sampling: Any) -> Candidate:
            nonlocal step
            step = 0
            [reply] = shapes_engine.generate(iter([prepare("a", sampling=SamplingParams(**sampling))]))
            assert isinstance(reply, Generation)
            return reply.candidates[0]

        hook = shapes_engine._model.lm_head.register_forward_hook(dictate)
        yield run
        hook.remove()

    def count(self, engine: TransformersEngine, text: str) -> int:
        return len(engine._processor.tokenizer(text)["input_ids"])

    def test_the_end_token_ends(self, shapes_engine: TransformersEngine, say: Callable[..., Candidate]) -> None:
        whole = self.count(shapes_engine, self.SENTENCE)
        assert say() == Candidate(text=self.SENTENCE, stop_reason="stop", num_tokens=whole)
        assert say(max_tokens=whole + 1).stop_reason == "stop"
        assert say(max_tokens=whole).stop_reason == "length"

    def test_max_tokens_cuts(self, shapes_engine: TransformersEngine, say: Callable[..., Candidate]) -> None:
        length = self.count(shapes_engine, "A small red ring")
        assert say(max_tokens=length) == Candidate(text="A small red ring", stop_reason="length", num_tokens=length)

    def test_a_stop_string_cuts_before_itself(
        self, shapes_engine: TransformersEngine, say: Callable[..., Candidate]
    ) -> None:
        made = say(stop=(" moves left", "never"))
        assert (made.text, made.stop_reason) == ("A small red ring", "stop")
        assert made.num_tokens == self.count(shapes_engine, "A small red ring moves left")

    def test_a_stop_token_ends(self, shapes_engine: TransformersEngine, say: Callable[..., Candidate]) -> None:
        [*_, token] = shapes_engine._processor.tokenizer("A small red ring moves")["input_ids"]
        made = say(stop_token_ids=(token,))
        assert (made.text, made.stop_reason) == ("A small red ring", "stop")


class TestBatches:
    def test_the_first_answer_needs_one_batch_and_the_window_stays_bounded(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(shapes_engine, batch_size=2)
        monkeypatch.setattr(engine, "_run", instant)
        pulled = answered = 0
        gaps = []

        def source() -> Iterator[PreparedRequest]:
            nonlocal pulled
            for number in range(40):
                pulled += 1
                yield prepare(f"{number}", frames=2 + number % 2 * 8, size=(32, 32))

        for _ in engine.generate(source()):
            gaps.append(pulled - answered)
            answered += 1
        assert gaps[0] == 2
        assert max(gaps) == 8
        assert answered == 40

    def test_the_window_is_bounded_in_bytes(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(shapes_engine, batch_size=2)
        monkeypatch.setattr(engine, "_run", instant)
        monkeypatch.setattr(transformers, "_WINDOW_BYTES", 1)
        pulled = answered = 0

        def source() -> Iterator[PreparedRequest]:
            nonlocal pulled
            for number in range(12):
                pulled += 1
                yield prepare(f"{number}", frames=2, size=(32, 32))

        for _ in engine.generate(source()):
            assert pulled - answered <= 2
            answered += 1
        assert answered == 12

    def test_clips_of_like_length_go_together_and_none_waits_for_ever(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(shapes_engine, batch_size=2)
        batches: list[list[str]] = []

        def record(batch: list[PreparedRequest]) -> list[Generation | Failure]:
            batches.append([item.request.key for item in batch])
            return instant(batch)

        monkeypatch.setattr(engine, "_run", record)
        items = [prepare(f"{number}", frames=10 if number % 3 == 2 else 2, size=(64, 64)) for number in range(12)]
        list(engine.generate(iter(items)))
        assert batches == [["0", "1"], ["2", "5"], ["3", "4"], ["6", "7"], ["8", "11"], ["9", "10"]]

    def test_finished_candidates_leave_the_batch_and_the_others_go_on_unharmed(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        engine._rules.end_ids = frozenset()
        batch = [
            prepare(
                f"{limit}", frames=limit, num_captions=2, sampling=SamplingParams(max_tokens=limit, temperature=1.0)
            )
            for limit in (2, 8, 4)
        ]
        alone = {key: reply for item in batch for key, reply in answers(engine, item).items()}
        rows: list[int] = []
        hook = lively_engine._model.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        try:
            assert answers(engine, *batch) == alone
        finally:
            hook.remove()
        assert rows == [3, 6, 4, 4, 2, 2, 2, 2]
        for limit in (2, 8, 4):
            reply = alone[f"{limit}"]
            assert isinstance(reply, Generation)
            assert [(made.num_tokens, made.stop_reason) for made in reply.candidates] == [(limit, "length")] * 2

    def test_nothing_to_do_is_nothing_done(self, shapes_engine: TransformersEngine) -> None:
        assert list(shapes_engine.generate(iter(()))) == []


def instant(batch: list[PreparedRequest]) -> list[Generation | Failure]:
    return [Generation(key=item.request.key, candidates=(), prompt_tokens=0) for item in batch]


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (
                {"prompt": "What does <|video_pad|> mean?"},
                r"ValueError: a prompt must not hold <\|video_pad\|>, .* take it out\.",
            ),
            ({"system_prompt": "See <|image_pad|>."}, r"ValueError: a prompt must not hold <\|image_pad\|>, "),
            ({"size": (96, 40)}, "ValueError: cannot reshape array of size"),
        ],
    )
    def test_a_request_that_cannot_be_run_costs_only_itself(
        self, shapes_engine: TransformersEngine, prepare: Prepare, fault: dict[str, Any], reason: str
    ) -> None:
        good = [prepare(f"{number}", frames=2 + number, sampling=GREEDY) for number in range(4)]
        expected = {key: reply for item in good for key, reply in answers(shapes_engine, item).items()}
        replies = answers(shapes_engine, *good[:2], prepare("bad", sampling=GREEDY, **fault), *good[2:])
        failure = replies.pop("bad")
        assert replies == expected
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.video) == ("engine", "bad.mp4")
        assert re.search(reason, failure.message)

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
    def test_out_of_memory_goes_on_with_smaller_batches_and_says_so_once(
        self,
        shapes_engine: TransformersEngine,
        prepare: Prepare,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: type[Exception],
    ) -> None:
        engine = variant(shapes_engine, batch_size=8)
        forward, tried = engine._model.forward, []

        def small(**kwargs: Any) -> Any:
            clips = len(kwargs["input_ids"])
            if "pixel_values_videos" in kwargs:
                tried.append(clips)
                if clips > 2:
                    raise error("the card is full")
            return forward(**kwargs)

        items = [prepare(f"{number}", frames=2 + number % 3, sampling=GREEDY) for number in range(11)]
        expected = answers(engine, *items)
        monkeypatch.setattr(engine._model, "forward", small)
        with caplog.at_level(logging.WARNING):
            assert answers(engine, *items) == expected
        assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
        assert [record.message for record in caplog.records] == ["Out of memory with 8 clips at once; going on with 2."]

    def test_a_clip_too_large_by_itself_is_a_failure_that_says_what_to_do(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(**kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("the card is full")

        monkeypatch.setattr(shapes_engine._model, "forward", full)
        [failure] = variant(shapes_engine).generate(iter([prepare("a")]))
        assert isinstance(failure, Failure)
        assert failure.message == "OutOfMemoryError: the card is full; lower max_video_tokens or num_captions"

    def test_a_broken_device_stops_the_run(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(**kwargs: Any) -> Any:
            raise torch.AcceleratorError("unspecified launch failure")

        monkeypatch.setattr(shapes_engine._model, "forward", broken)
        with pytest.raises(EngineError, match="the device cpu failed: unspecified launch failure"):
            list(shapes_engine.generate(iter([prepare("a"), prepare("b")])))


class TestLoading:
    @pytest.fixture
    def loader(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
        """What each part is first loaded with. The model itself is not loaded."""
        seen: dict[str, dict[str, Any]] = {}

        def spy(name: str, load: Callable[..., Any] | None) -> Callable[..., Any]:
            def call(path: str, **kwargs: Any) -> Any:
                seen.setdefault(name, kwargs)
                if load is None:
                    raise OSError("that is far enough")
                return load(path)

            return call

        for name, part in (("AutoConfig", AutoConfig), ("AutoProcessor", AutoProcessor)):
            monkeypatch.setattr(part, "from_pretrained", spy(name, part.from_pretrained))
        monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", spy("model", None))
        return seen

    def test_settings_reach_the_loader(self, loader: dict[str, dict[str, Any]]) -> None:
        params = {"attn_implementation": "sdpa", "token": "secret"}
        settings = Settings(model="shapes", revision="abc", device="cpu", dtype="bfloat16", model_params=params)
        with pytest.raises(ModelError, match="the model 'shapes' cannot be loaded: that is far enough"):
            load_engine(settings)
        assert loader["AutoConfig"] == loader["AutoProcessor"] == {"revision": "abc", "token": "secret"}
        asked = {
            key: loader["model"][key] for key in ("revision", "dtype", "device_map", "attn_implementation", "token")
        }
        assert asked == {"revision": "abc", "dtype": "bfloat16", "device_map": "cpu", **params}

    @pytest.mark.parametrize(
        ("device", "dtype", "given"),
        [
            ("cpu", "auto", "float32"),
            ("cpu", "bfloat16", "bfloat16"),
            ("meta", "auto", "auto"),
            ("meta", "float16", "float16"),
        ],
    )
    def test_auto_is_float32_on_a_cpu_and_the_checkpoint_s_own_elsewhere(
        self, loader: dict[str, dict[str, Any]], device: str, dtype: str, given: str
    ) -> None:
        with pytest.raises(ModelError):
            TransformersEngine("shapes", device=device, dtype=dtype)
        assert loader["model"]["dtype"] == given

    def test_the_device_is_found(self, loader: dict[str, dict[str, Any]]) -> None:
        with pytest.raises(ModelError):
            TransformersEngine("shapes")
        assert loader["model"]["device_map"] == ("cuda:0" if torch.cuda.is_available() else "cpu")

    @pytest.mark.parametrize(("device", "given"), [("auto", "cuda:0"), ("auto:1", "cuda:1"), ("auto:5", "cuda:1")])
    def test_gpus_are_dealt_out_by_the_number_of_the_worker(
        self, loader: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, device: str, given: str
    ) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ModelError):
            TransformersEngine("shapes", device=device)
        assert loader["model"]["device_map"] == given

    def test_bfloat16_runs_if_asked_for(self, prepare: Prepare) -> None:
        engine = TransformersEngine("shapes", device="cpu", dtype="bfloat16")
        assert {weight.dtype for weight in engine._model.parameters()} == {torch.bfloat16}
        batch = [prepare("a", frames=2, sampling=GREEDY), prepare("b", frames=6, num_captions=2, sampling=WILD)]
        assert all(isinstance(reply, Generation) for reply in answers(engine, *batch).values())

    def test_weights_are_float32_by_default(self, shapes_engine: TransformersEngine) -> None:
        assert {weight.dtype for weight in shapes_engine._model.parameters()} == {torch.float32}

    @pytest.mark.parametrize("name", ["nowhere/at/all", "no-such-model"])
    def test_a_model_that_is_not_there(self, name: str) -> None:
        with pytest.raises(
            ModelError, match=rf"the model '{name}' cannot be loaded: .* No folder .* built in: shapes\."
        ):
            TransformersEngine(name)

    def test_a_model_without_eyes(self, tmp_path: Path) -> None:
        LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=8).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"is a llama; a Qwen3-VL checkpoint \(qwen3_vl\) is needed\."):
            TransformersEngine(str(tmp_path))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"cannot be loaded: Unrecognized model in .*config.json\.$"):
            TransformersEngine(str(tmp_path))

    def test_damaged_weights(self, tmp_path: Path) -> None:
        shutil.copytree(SHAPES, tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
        with pytest.raises(ModelError, match="cannot be loaded: Error while deserializing header"):
            TransformersEngine(str(tmp_path))

    def test_weights_that_lack_a_part_are_not_made_up(self, tmp_path: Path) -> None:
        shutil.copytree(SHAPES, tmp_path, dirs_exist_ok=True)
        weights = load_file(tmp_path / "model.safetensors")
        del weights["model.visual.pos_embed.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks weights, such as model\.visual\.pos_embed\.weight\.$"):
            TransformersEngine(str(tmp_path))

    def test_a_parameter_that_the_loader_does_not_know(self) -> None:
        with pytest.raises(
            ModelError, match=r"the model 'shapes' cannot be loaded: .*unexpected keyword argument 'wings'"
        ):
            TransformersEngine("shapes", model_params={"wings": 2})

    @pytest.mark.parametrize("device", ["gpu", "cuda:99"])
    def test_a_device_that_is_not_there(self, device: str) -> None:
        with pytest.raises(
            ModelError, match=f"device must be auto, cpu, cuda, cuda:1, ...; '{device}' does not work here: ."
        ):
            TransformersEngine("shapes", device=device)
