"""Several questions about one clip: what they share, and that none of it shows in the answers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import fail_at
from generating import GREEDY, WILD, answers, texts, variant

from reelscribe.engines import running
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.inputs import InputBuilder, most_tokens
from reelscribe.engines.prompt import Prompt
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import NO_FRAMES, Failure, Generation, Work


def merged(*works: Work) -> Work:
    """The requests of all, about the clip of the first."""
    return replace(works[0], requests=tuple(request for work in works for request in work.requests))


def singly(engine: TransformersEngine, *works: Work) -> dict[str, Generation | Failure]:
    """Answers to each request by itself."""
    return {key: made for work in works for one in work.singly() for key, made in answers(engine, one).items()}


def together(engine: TransformersEngine, *works: Work) -> dict[str, Generation | Failure]:
    """Answers to works."""
    return {made.id.task: made for made in engine.generate(iter(works))}


@pytest.fixture(scope="module")
def asked(prepare: Prepare) -> list[Work]:
    """Works of one to five questions, whose clips, words, candidates, sampling and seeds differ."""
    works = []
    for number, count in enumerate((3, 1, 5, 2)):
        several = [
            prepare(
                f"{number}.{task}",
                frames=2 + 3 * number,
                prompt="What is it? " * (1 + 4 * task % 7) + f"Say {task}.",
                num_captions=1 + task % 3,
                sampling=(GREEDY, WILD, SamplingParams(temperature=1.2, top_p=0.9, max_tokens=4))[task % 3],
                seed=10 * number + task,
            )
            for task in range(count)
        ]
        works.append(merged(*several))
    return works


@pytest.fixture
def spy(lively_engine: TransformersEngine) -> Iterator[list[tuple[str, int]]]:
    """What goes through the model: patches of each look, and the rows and tokens of each pass of the language model."""
    seen: list[tuple[str, int]] = []

    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(("patches", len(args[0])))

    def read(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, tokens = kwargs["inputs_embeds"].shape[:2]
        kind = (
            "question" if kwargs["attention_mask"].numel() == 0 and tokens > 1 else "prefix" if tokens > 1 else "step"
        )
        seen.append((kind, rows * tokens))

    inner = lively_engine._model.model
    hooks = [
        inner.visual.register_forward_pre_hook(look, with_kwargs=True),
        inner.language_model.register_forward_pre_hook(read, with_kwargs=True),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def total(seen: list[tuple[str, int]], kind: str) -> int:
    return sum(count for name, count in seen if name == kind)


class TestCost:
    def test_a_clip_is_looked_at_and_its_prefix_read_once(
        self, lively_engine: TransformersEngine, prepare: Prepare, spy: list[tuple[str, int]]
    ) -> None:
        prompts = ["What moves?", "Where does it go to?", "Is it red, or which colour has it?"]
        work = merged(*(prepare(text, prompt=text, num_captions=2, sampling=WILD) for text in prompts))
        encode = lively_engine._processor.tokenizer
        alone = [lively_engine.inputs([one])["input_ids"][0].tolist() for one in work.singly()]
        own = [len(encode(f"{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]) for text in prompts]
        assert len(together(lively_engine, work)) == 3
        assert total(spy, "patches") == 4 * work.frames.video_tokens
        assert total(spy, "prefix") == len(alone[0]) - own[0]
        assert total(spy, "question") == 3 * max(own)

    def test_a_request_alone_is_read_in_one_go(
        self, lively_engine: TransformersEngine, prepare: Prepare, spy: list[tuple[str, int]]
    ) -> None:
        work = prepare("a", sampling=GREEDY)
        answers(lively_engine, work)
        assert total(spy, "prefix") == lively_engine.inputs([work])["input_ids"].numel()
        assert total(spy, "question") == 0

    def test_equal_prompts_share_all(
        self, lively_engine: TransformersEngine, prepare: Prepare, spy: list[tuple[str, int]]
    ) -> None:
        work = merged(*(prepare(f"{seed}", prompt="What?", seed=seed, sampling=WILD) for seed in range(3)))
        assert texts(lively_engine, *work.singly()) == {
            key: [made.text for made in reply.candidates]  # type: ignore[union-attr]
            for key, reply in together(lively_engine, work).items()
        }
        assert total(spy, "question") == 0

    def test_system_prompts_have_prefixes_of_their_own_and_one_look(
        self, lively_engine: TransformersEngine, prepare: Prepare, spy: list[tuple[str, int]]
    ) -> None:
        systems = ["Be brief.", None, "Be brief.", "Speak like a poet would."]
        work = merged(
            *(
                prepare(f"{number}", prompt=f"What {number}?", system_prompt=system, sampling=GREEDY)
                for number, system in enumerate(systems)
            )
        )
        clip = prepare("another", frames=6, sampling=GREEDY)
        expected = singly(lively_engine, work, clip)
        spy.clear()
        assert together(lively_engine, work, clip) == expected
        assert total(spy, "patches") == 4 * (work.frames.video_tokens + clip.frames.video_tokens)
        assert len(lively_engine._inputs.prepare(work).prefixes) == 3


class TestAnswers:
    def test_each_is_what_its_request_alone_gives(self, lively_engine: TransformersEngine, asked: list[Work]) -> None:
        engine = variant(lively_engine, show_ids=True)
        expected = singly(engine, *asked)
        assert len(expected) == 11
        assert together(engine, *asked) == expected
        assert together(engine, *reversed(asked)) == expected
        assert together(variant(engine, batch_size=1), *asked) == expected

    def test_greedy_tokens_are_those_of_transformers(
        self, lively_engine: TransformersEngine, plain_model: Any, asked: list[Work]
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        greedy = [
            replace(work, requests=tuple(replace(each, sampling=GREEDY, num_captions=1) for each in work.requests))
            for work in asked
        ]
        replies = together(engine, *greedy)
        end = plain_model.generation_config.eos_token_id
        for work in greedy:
            for one in work.singly():
                inputs = lively_engine.inputs([one])
                made = plain_model.generate(**inputs, do_sample=False, max_new_tokens=10)
                ids = made[0, inputs["input_ids"].shape[1] :].tolist()
                reply = replies[one.requests[0].id.task]
                assert isinstance(reply, Generation)
                assert reply.candidates[0].text == " ".join(str(token) for token in ids if token != end)
                assert reply.prompt_tokens == inputs["input_ids"].shape[1]

    def test_long_questions_are_read_in_pieces(
        self, lively_engine: TransformersEngine, asked: list[Work], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        expected = together(engine, *asked)
        monkeypatch.setattr(running, "_QUESTION_TOKENS", 30)
        assert together(engine, *asked) == expected

    def test_works_join_those_under_way(self, lively_engine: TransformersEngine, asked: list[Work]) -> None:
        engine = variant(lively_engine, show_ids=True)
        engine._rules.end_ids = frozenset()
        expected = singly(engine, *asked)
        batch = engine._new_batch()
        made = []
        for work in asked:
            batch.join([engine._inputs.prepare(work)])
            batch.step()
            made += batch.finished()
        while batch.works:
            batch.step()
            made += batch.finished()
        assert {reply.id.task: reply for reply in made} == expected

    def test_they_come_as_they_are_finished(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        engine = variant(lively_engine, show_ids=True)
        engine._rules.end_ids = frozenset()
        long, short = (
            prepare(f"{count}", prompt=f"{count}?", sampling=SamplingParams(temperature=0.0, max_tokens=count))
            for count in (200, 2)
        )
        replies = engine.generate(iter([merged(long, short)]))
        assert next(replies).id.task == "2"
        assert [reply.id.task for reply in replies] == ["200"]


class TestWithoutVideo:
    def test_text_and_videos_go_in_one_stream(
        self, lively_engine: TransformersEngine, plain_model: Any, asked: list[Work], prepare: Prepare
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        text = replace(
            merged(
                *(prepare(f"text {n}", prompt="Sum it up. " * (n + 1), video=False, sampling=GREEDY) for n in (0, 1))
            ),
            frames=NO_FRAMES,
        )
        replies = together(engine, asked[0], text, asked[1])
        assert replies == singly(engine, asked[0], text, asked[1])
        for one in text.singly():
            prompt = Prompt.of(engine._processor, engine._inputs._family, one.requests[0])
            ids = torch.tensor([prompt.ids(engine._processor.tokenizer)])
            made = plain_model.generate(input_ids=ids, do_sample=False, max_new_tokens=10)[0, ids.shape[1] :].tolist()
            reply = replies[one.requests[0].id.task]
            assert isinstance(reply, Generation)
            end = plain_model.generation_config.eos_token_id
            assert reply.candidates[0].text == " ".join(str(token) for token in made if token != end)
            assert reply.prompt_tokens == ids.shape[1]

    def test_text_alone_is_looked_at_by_nobody(
        self, lively_engine: TransformersEngine, prepare: Prepare, spy: list[tuple[str, int]]
    ) -> None:
        work = replace(prepare("a", prompt="Sum it up.", video=False, sampling=GREEDY), frames=NO_FRAMES)
        assert isinstance(answers(lively_engine, work)["a"], Generation)
        assert total(spy, "patches") == 0

    def test_a_clip_may_be_asked_about_with_and_without_itself(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        work = merged(
            *(prepare(f"{shown}", prompt=f"{shown}?", video=shown, sampling=GREEDY) for shown in (True, False))
        )
        assert together(lively_engine, work) == singly(lively_engine, work)

    def test_no_frames_are_a_failure_where_a_video_is_asked_about(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        work = replace(prepare("a"), frames=NO_FRAMES)
        assert isinstance(answers(lively_engine, work)["a"], Failure)


class TestBounds:
    def test_the_cache_counts_prefixes_once_and_questions_by_candidate(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        params = SamplingParams(max_tokens=5)
        work = merged(*(prepare(text, prompt=text, num_captions=2, sampling=params) for text in ("What?", "Where to?")))
        ready = lively_engine._inputs.prepare(work)
        [prefix] = ready.prefixes
        longest = max(len(question.ids) for question in prefix.questions) - len(prefix.ids)
        assert most_tokens([ready]) == len(prefix.ids) + 4 * (longest + 5)

    def test_the_cache_holds_no_more_than_that(
        self, lively_engine: TransformersEngine, asked: list[Work], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        engine._rules.end_ids = frozenset()
        inputs = [engine._inputs.prepare(work) for work in asked]
        step = BranchingCache.begin_step

        def look(cache: BranchingCache, mask: torch.Tensor | None = None) -> None:
            step(cache, mask)
            branches = cache._branches
            assert branches.prefix_mask.numel() + branches.own_mask.numel() <= most_tokens(inputs)

        monkeypatch.setattr(BranchingCache, "begin_step", look)
        assert len(together(engine, *asked)) == 11


class TestFaults:
    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (InputBuilder, "collate"),
            (InputBuilder, "collate_prompts"),
            (RunningBatch, "_ask"),
            (BranchingCache, "add"),
            (BranchingCache, "begin_step"),
            (BranchingCache, "keep"),
        ],
    )
    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("the card is full"), AssertionError("a wrong shape")])
    def test_an_operation_that_fails_once_costs_nothing(
        self,
        lively_engine: TransformersEngine,
        asked: list[Work],
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        error: Exception,
    ) -> None:
        expected = together(variant(lively_engine), *asked)
        assert fail_at(monkeypatch, owner, name, error, calls={1}) == []
        assert together(variant(lively_engine), *asked) == expected

    def test_a_request_that_cannot_be_run_costs_only_itself(
        self, lively_engine: TransformersEngine, asked: list[Work], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = together(variant(lively_engine), *asked)
        read = RunningBatch._ask

        def refuse(batch: RunningBatch, *args: Any) -> torch.Tensor:
            if any(each.request.id.task == "2.3" for item in batch.works for each in item.questions):
                raise ValueError("made up")
            return read(batch, *args)

        monkeypatch.setattr(RunningBatch, "_ask", refuse)
        replies = together(variant(lively_engine), *asked)
        failure = replies["2.3"]
        assert isinstance(failure, Failure)
        assert failure.message == "ValueError: made up"
        assert {**replies, "2.3": expected["2.3"]} == expected

    def test_a_prompt_that_cannot_be_made_costs_only_its_request(
        self, lively_engine: TransformersEngine, asked: list[Work], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = together(variant(lively_engine), *asked)
        prompt = InputBuilder._prompt

        def refuse(builder: InputBuilder, request: Any, layout: str) -> Prompt:
            if request.id.task == "0.1":
                raise KeyError("no such word")
            return prompt(builder, request, layout)

        monkeypatch.setattr(InputBuilder, "_prompt", refuse)
        replies = together(variant(lively_engine), *asked)
        assert isinstance(replies["0.1"], Failure)
        assert {**replies, "0.1": expected["0.1"]} == expected
