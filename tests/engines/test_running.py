"""A running batch: what is looked at and read once, who joins and who leaves, and that none of it shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from conftest import Prepare
from generating import GREEDY, WILD, answers, texts, variant
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from reelscribe.engines import running, transformers
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.inputs import InputBuilder, ModelInputs, most_tokens
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Generation, Work


class Watch:
    """What goes into the model: clips of each prefill, rows of each decode step, and who joins when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefills: list[int] = []
        self.steps: list[int] = []
        self.joined: list[tuple[int, list[str]]] = []
        collate, begin, join = InputBuilder.collate, BranchingCache.begin_step, RunningBatch.join

        def see_prefill(builder: InputBuilder, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
            self.prefills.append(len(batch))
            return collate(builder, batch)

        def see_step(cache: BranchingCache, mask: torch.Tensor | None = None) -> None:
            if mask is None:
                self.steps.append(len(cache._branches.owners))
            begin(cache, mask)

        def see_join(batch: RunningBatch, group: Sequence[ModelInputs]) -> None:
            self.joined.append((len(self.steps), [each.request.id.task for item in group for each in item.questions]))
            join(batch, group)

        monkeypatch.setattr(InputBuilder, "collate", see_prefill)
        monkeypatch.setattr(BranchingCache, "begin_step", see_step)
        monkeypatch.setattr(RunningBatch, "join", see_join)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def endless(lively_engine: TransformersEngine) -> TransformersEngine:
    """An engine that never ends before the limit of tokens, and tells token ids."""
    engine = variant(lively_engine, show_ids=True)
    engine._rules.end_ids = frozenset()
    return engine


def lasting(prepare: Prepare, key: str, tokens: int, **request: Any) -> Work:
    """A clip whose candidates have so many tokens."""
    return prepare(key, sampling=SamplingParams(max_tokens=tokens, temperature=1.0), **request)


class TestOnePass:
    """Candidates share the vision encoder's work and the prefill."""

    def test_eight_candidates_cost_one_look_and_one_prefill_a_video(
        self, lively_engine: TransformersEngine, varied: list[Work], prepare: Prepare
    ) -> None:
        batch = [prepare(item.requests[0].id.task, num_captions=8, sampling=WILD) for item in varied]
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
        self, lively_engine: TransformersEngine, plain_model: Any, varied: list[Work]
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

    def test_an_attention_keeps_the_name_by_which_its_kernels_are_found(
        self, shapes_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        names = []

        def named(module: Any, *args: Any, **kwargs: Any) -> Any:
            names.append(module.config._attn_implementation)
            return sdpa_attention_forward(module, *args, **kwargs)

        AttentionInterface.register("named", named)
        AttentionMaskInterface.register("named", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        item = prepare("a", sampling=GREEDY)
        for _ in range(2):  # the second finds what the first left in the tables
            engine = TransformersEngine("shapes", device="cpu", model_params={"attn_implementation": "named"})
            assert texts(engine, item) == texts(shapes_engine, item)
        assert set(names) == {"named"}


class TestJoining:
    def test_finished_candidates_leave_and_the_others_go_on_unharmed(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch
    ) -> None:
        batch = [lasting(prepare, f"{limit}", limit, frames=limit, num_captions=2) for limit in (2, 8, 4)]
        alone = {key: reply for item in batch for key, reply in answers(endless, item).items()}
        watch.steps.clear()
        endless._batch_size = 12  # three clips are a quarter: they join together
        assert answers(endless, *batch) == alone
        assert watch.steps == [6, 4, 4, 2, 2, 2, 2]
        for limit in (2, 8, 4):
            reply = alone[f"{limit}"]
            assert isinstance(reply, Generation)
            assert [(made.num_tokens, made.stop_reason) for made in reply.candidates] == [(limit, "length")] * 2

    def test_waiting_clips_take_the_place_of_those_that_leave(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch
    ) -> None:
        lengths = [3, 12, 12, 3, 5, 7, 2, 9]
        items = [
            lasting(prepare, f"{number}", length, frames=2 + number % 4, num_captions=2, seed=number)
            for number, length in enumerate(lengths)
        ]
        alone = {key: reply for item in items for key, reply in answers(endless, item).items()}
        watch.steps.clear()
        watch.joined.clear()
        endless._batch_size = 4
        assert answers(endless, *items) == alone
        assert sorted(key for _, keys in watch.joined for key in keys) == [f"{number}" for number in range(8)]
        running_when_joined = [watch.steps[step - 1] for step, _ in watch.joined if step]
        assert any(running_when_joined)
        assert max(watch.steps) <= 8
        assert len(watch.steps) < 12 + 9  # two batches, one after the other, would take so many

    def test_answers_come_as_they_are_done(self, endless: TransformersEngine, prepare: Prepare, watch: Watch) -> None:
        items = [lasting(prepare, "long", 9), lasting(prepare, "short", 2)]
        replies = endless.generate(iter(items))
        assert next(replies).id.task == "short"
        assert len(watch.steps) < 4
        assert next(replies).id.task == "long"

    def test_clips_of_like_length_go_together_and_none_waits_for_ever(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch
    ) -> None:
        endless._batch_size = 2
        items = [lasting(prepare, f"{number}", 1, frames=10 if number in (1, 2) else 2) for number in range(4)]
        feed = iter(items)
        replies = []
        for reply in endless.generate(feed):
            replies.append(reply.id.task)
        assert sorted(replies) == ["0", "1", "2", "3"]
        assert watch.joined[0][1][0] == "0"

    def test_groups_are_read_in_parts_that_the_caches_hold(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = [lasting(prepare, f"{number}", 3, frames=2 + number) for number in range(6)]
        expected = answers(endless, *items)
        monkeypatch.setattr(running, "_PREFILL_TOKENS", {"cpu": 120})
        watch.prefills.clear()
        assert answers(endless, *items) == expected
        assert len(watch.prefills) >= 3
        assert sum(watch.prefills) == 6

    def test_on_a_gpu_no_prompt_is_padded_to_be_read(
        self, endless: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = [lasting(prepare, f"{number}", 2, frames=2 + 2 * (number % 2)) for number in range(5)]
        prepared = [endless._inputs.prepare(item) for item in items]
        together, apart = endless._new_batch(), endless._new_batch()
        together.join(prepared)
        parts, collate = running._parts, InputBuilder.collate
        masks = []

        def see(builder: InputBuilder, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
            inputs = collate(builder, batch)
            masks.append(inputs["attention_mask"])
            return inputs

        monkeypatch.setattr(running, "_parts", lambda *args, **told: parts(*args, **{**told, "padded": False}))
        monkeypatch.setattr(InputBuilder, "collate", see)
        apart.join(prepared)
        assert [len(mask) for mask in masks] == [3, 2]
        assert all(bool(mask.all()) for mask in masks)
        torch.testing.assert_close(apart._logits, together._logits[[0, 2, 4, 1, 3]], rtol=1e-4, atol=1e-4)

    def test_the_cache_never_holds_more_than_its_budget(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch
    ) -> None:
        items = [lasting(prepare, f"{number}", 4, frames=2, num_captions=2) for number in range(6)]
        cost = most_tokens([endless._inputs.prepare(items[0])])
        assert cost == len(endless.inputs(items[:1])["input_ids"][0]) + 2 * 4
        expected = answers(endless, *items)
        watch.joined.clear()
        endless._batch_tokens = 2 * cost + 1
        assert answers(endless, *items) == expected
        assert max(len(keys) for _, keys in watch.joined) == 2

    def test_padding_counts_as_what_it_takes(self, endless: TransformersEngine, prepare: Prepare, watch: Watch) -> None:
        short = [lasting(prepare, f"{number}", 4, frames=2) for number in range(3)]
        long = lasting(prepare, "long", 4, frames=12)
        tokens = [len(endless.inputs([item])["input_ids"][0]) for item in (short[0], long)]
        endless._batch_tokens = 3 * tokens[0] + tokens[1] + 4 * 4  # would hold them all, were they not padded
        replies = answers(endless, *short, long)
        assert len(replies) == 4
        assert most_tokens([endless._inputs.prepare(item) for item in (*short, long)]) == 4 * tokens[1] + 4 * 4
        assert all("long" not in keys or len(keys) == 1 for _, keys in watch.joined)

    def test_clips_join_where_no_more_may_wait_for_company(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transformers, "_WINDOW_BYTES", 1)  # one clip waits at a time, and a quarter is two
        endless._batch_size = 8
        items = [lasting(prepare, f"{number}", 100, frames=2) for number in range(4)]
        assert len(answers(endless, *items)) == 4
        assert max(watch.steps) > 1

    def test_a_clip_larger_than_the_budget_goes_alone(
        self, endless: TransformersEngine, prepare: Prepare, watch: Watch
    ) -> None:
        endless._batch_tokens = 1
        items = [lasting(prepare, f"{number}", 2) for number in range(3)]
        assert len(answers(endless, *items)) == 3
        assert [keys for _, keys in watch.joined] == [["0"], ["1"], ["2"]]

    def test_what_waits_is_bounded(
        self, endless: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for batch_size, max_bytes, bound in ((2, 1 << 30, 2 + 4 + 1), (2, 1, 2 + 1 + 1)):
            endless._batch_size = batch_size
            monkeypatch.setattr(transformers, "_WINDOW_BYTES", max_bytes)
            pulled = answered = 0

            def source() -> Iterator[Work]:
                nonlocal pulled
                for number in range(12):
                    pulled += 1
                    yield lasting(prepare, f"{number}", 3, frames=2, size=(32, 32))

            for _ in endless.generate(source()):
                assert pulled - answered <= bound
                answered += 1
            assert answered == 12

    def test_nothing_to_do_is_nothing_done(self, shapes_engine: TransformersEngine) -> None:
        assert list(shapes_engine.generate(iter(()))) == []

    def test_an_error_of_the_source_comes_after_the_answers_to_what_came_before(
        self, endless: TransformersEngine, prepare: Prepare
    ) -> None:
        def source() -> Iterator[Work]:
            yield lasting(prepare, "a", 3)
            raise KeyError("the source broke")

        replies = endless.generate(source())
        assert next(replies).id.task == "a"
        with pytest.raises(KeyError, match="the source broke"):
            next(replies)
