"""The Transformers engine: what it feeds the model, what it makes of the answers, and what it survives."""

import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import fail_at
from generating import GREEDY, SHAPES, WILD, answers, texts, variant
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, LlamaConfig

from reelscribe.config import Settings
from reelscribe.engines import load_engine, transformers
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.inputs import InputBuilder, ModelInputs
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.sampling import Sampler, _Draft
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.errors import EngineError, ModelError
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Candidate, Failure, Generation, Work


class TestGreedy:
    def test_a_batch_gives_what_each_clip_gives_alone(
        self, lively_engine: TransformersEngine, varied: list[Work]
    ) -> None:
        engine = variant(lively_engine, show_ids=True)
        together = texts(engine, *varied)
        assert together == {key: made for item in varied for key, made in texts(engine, item).items()}

    def test_it_is_what_generate_of_transformers_gives(
        self, lively_engine: TransformersEngine, plain_model: Any, varied: list[Work]
    ) -> None:
        together = texts(variant(lively_engine, show_ids=True), *varied)
        end = plain_model.generation_config.eos_token_id
        for item in varied:
            inputs = lively_engine.inputs([item])
            ids = plain_model.generate(**inputs, do_sample=False, max_new_tokens=10)[
                0, inputs["input_ids"].shape[1] :
            ].tolist()
            assert together[item.requests[0].id.task] == [" ".join(str(token) for token in ids if token != end)]

    def test_log_probabilities_are_those_of_one_pass_over_the_answer(
        self, lively_engine: TransformersEngine, plain_model: Any, varied: list[Work]
    ) -> None:
        scored = [replace(item, requests=(replace(item.requests[0], keep="likeliest"),)) for item in varied]
        end = plain_model.generation_config.eos_token_id
        for answer in lively_engine.generate(iter(scored)):
            assert isinstance(answer, Generation)
            inputs = lively_engine.inputs([item for item in varied if item.requests[0].id == answer.id])
            made = plain_model.generate(
                **inputs, do_sample=False, max_new_tokens=10, output_logits=True, return_dict_in_generate=True
            )
            tokens = made.sequences[0, inputs["input_ids"].shape[1] :]
            each = [float(logits.log_softmax(-1)[0, token]) for logits, token in zip(made.logits, tokens, strict=True)]
            assert len(each) == 10 or tokens[-1] == end
            assert answer.candidates[0].mean_logprob == pytest.approx(sum(each) / len(each), abs=1e-4)

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
            assert together[item.requests[0].id.task] == [" ".join(str(token) for token in ids if token != end)]

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
            assert together[item.requests[0].id.task] == [
                " ".join(map(str, made[0, inputs["input_ids"].shape[1] :].tolist()))
            ]


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


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ({"size": (96, 40)}, "ValueError: 4 frames of 96 x 40; sides must be multiples of 32"),
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

    def test_no_prompt_and_answer_are_longer_than_the_model_s_context(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good, bad = prepare("good", sampling=GREEDY), prepare("bad", sampling=GREEDY, prompt="What? " * 40)
        [expected] = answers(shapes_engine, good).values()
        assert isinstance(expected, Generation)
        assert expected.prompt_tokens
        assert shapes_engine._inputs._context == 32768
        monkeypatch.setattr(shapes_engine._inputs, "_context", expected.prompt_tokens + 3)
        both = replace(good, requests=(*good.requests, *bad.requests))
        replies = {reply.id.task: reply for reply in shapes_engine.generate(iter([both]))}
        made, failure = replies["good"], replies["bad"]
        assert isinstance(made, Generation)
        assert isinstance(failure, Failure)
        assert [(each.num_tokens, each.stop_reason) for each in made.candidates] == [(3, "length")]
        assert failure.kind == "engine"
        said = r"its prompt has \d+ tokens, and the model has room for \d+ with the answer: lower max_video_tokens, "
        assert re.match(said, failure.message)

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
        inner, tried = engine._model.model.language_model, []
        forward = inner.forward

        def small(**kwargs: Any) -> Any:
            clips = len(kwargs["inputs_embeds"])
            if "visual_pos_masks" in kwargs:
                tried.append(clips)
                if clips > 2:
                    raise error("the card is full")
            return forward(**kwargs)

        items = [prepare(f"{number}", frames=2 + number % 3, sampling=GREEDY) for number in range(11)]
        expected = answers(engine, *items)
        monkeypatch.setattr(inner, "forward", small)
        with caplog.at_level(logging.WARNING):
            assert answers(engine, *items) == expected
        assert max(tried) > 2
        assert max(tried[-3:]) <= 2
        assert len(caplog.records) == 1
        assert re.fullmatch(
            r"Out of memory with \d clips of \d+ tokens; going on with half as many\.", caplog.records[0].message
        )

    def test_a_clip_too_large_by_itself_is_a_failure_that_says_what_to_do(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(**kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("the card is full")

        monkeypatch.setattr(shapes_engine._model.model.language_model, "forward", full)
        [failure] = variant(shapes_engine).generate(iter([prepare("a")]))
        assert isinstance(failure, Failure)
        assert failure.message == "OutOfMemoryError: the card is full; lower max_video_tokens or num_captions"

    def test_a_package_that_is_missed_stops_the_run(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lacking(**kwargs: Any) -> Any:
            raise ImportError("kernels is not installed")

        monkeypatch.setattr(shapes_engine._model.model.language_model, "forward", lacking)
        with pytest.raises(EngineError, match="the model lacks a package to run with: kernels is not installed"):
            list(shapes_engine.generate(iter([prepare("a"), prepare("b")])))

    def test_a_broken_device_stops_the_run(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(**kwargs: Any) -> Any:
            raise torch.AcceleratorError("unspecified launch failure")

        monkeypatch.setattr(shapes_engine._model.model.language_model, "forward", broken)
        with pytest.raises(EngineError, match="the device cpu failed: unspecified launch failure"):
            list(shapes_engine.generate(iter([prepare("a"), prepare("b")])))


OPERATIONS: list[tuple[Any, str]] = [
    (InputBuilder, "collate"),
    (Sampler, "add"),
    (Sampler, "step"),
    (Sampler, "_draw"),
    (Sampler, "drop_finished"),
    (BranchingCache, "add"),
    (BranchingCache, "begin_step"),
    (BranchingCache, "update"),
    (BranchingCache, "keep"),
]


class TestStepsThatFail:
    """Whatever fails, and wherever: each clip is answered once, as if nothing had been."""

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, prepare: Prepare) -> list[Work]:
        """Some are finished before others, and some wait while others run."""
        sampling = [SamplingParams(temperature=0.5, max_tokens=tokens) for tokens in (1, 4, 2, 3)]
        return [
            prepare(f"{n}", frames=2, size=(32, 32), num_captions=1 + n % 2, seed=n, sampling=params)
            for n, params in enumerate(sampling)
        ]

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, shapes_engine: TransformersEngine, clips: list[Work]) -> dict[str, Generation | Failure]:
        return answers(variant(shapes_engine, batch_size=3), *clips)

    @pytest.mark.parametrize(("owner", "name"), OPERATIONS)
    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("the card is full"), AssertionError("a wrong shape")])
    def test_an_operation_that_fails_once_costs_nothing(
        self,
        shapes_engine: TransformersEngine,
        clips: list[Work],
        expected: dict[str, Generation | Failure],
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        error: Exception,
    ) -> None:
        call = 1 if name == "keep" or isinstance(error, AssertionError) else 2
        failed = fail_at(monkeypatch, owner, name, error, calls={call})
        assert answers(variant(shapes_engine, batch_size=3), *clips) == expected
        assert failed == [call]

    @pytest.mark.parametrize(
        ("owner", "name"), [(InputBuilder, "collate"), (Sampler, "step"), (BranchingCache, "begin_step")]
    )
    def test_one_that_always_fails_costs_those_that_need_it(
        self,
        shapes_engine: TransformersEngine,
        clips: list[Work],
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
    ) -> None:
        fail_at(monkeypatch, owner, name, KeyError("no such layer"), calls=range(100_000))
        replies = answers(variant(shapes_engine, batch_size=3), *clips)
        assert sorted(replies) == [item.requests[0].id.task for item in clips]
        failures = {reply.message for reply in replies.values() if isinstance(reply, Failure)}
        assert failures == {"KeyError: 'no such layer'"}

    def test_what_is_finished_in_a_step_that_fails_is_not_made_again(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        joined: list[list[str]] = []
        join = RunningBatch.join

        def see(batch: RunningBatch, group: list[ModelInputs]) -> None:
            joined.append([each.request.id.task for item in group for each in item.questions])
            join(batch, group)

        engine = variant(shapes_engine, batch_size=8)
        short, long = (prepare(f"{n}", sampling=SamplingParams(temperature=0.0, max_tokens=n)) for n in (1, 4))
        expected = answers(engine, short, long)
        monkeypatch.setattr(RunningBatch, "join", see)
        fail_at(monkeypatch, BranchingCache, "begin_step", RuntimeError("made up"))
        assert answers(engine, short, long) == expected
        assert joined == [["1", "4"], ["4"]]

    def test_what_is_finished_is_handed_out_before_a_broken_device_stops_the_run(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_at(monkeypatch, BranchingCache, "begin_step", torch.AcceleratorError("unspecified launch failure"))
        clips = (prepare(f"{n}", sampling=SamplingParams(temperature=0.0, max_tokens=n)) for n in (1, 4))
        replies = variant(shapes_engine, batch_size=8).generate(clips)
        assert next(replies).id.task == "1"
        with pytest.raises(EngineError, match="the device cpu failed: unspecified launch failure"):
            next(replies)

    def test_a_text_that_cannot_be_read_costs_its_own_clip(
        self,
        shapes_engine: TransformersEngine,
        clips: list[Work],
        expected: dict[str, Generation | Failure],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fail_at(monkeypatch, _Draft, "candidate", UnicodeError("odd bytes"), calls={2})
        replies = answers(variant(shapes_engine, batch_size=3), *clips)
        [failure] = [reply for reply in replies.values() if isinstance(reply, Failure)]
        assert failure.message == "UnicodeError: odd bytes"
        assert {**replies, failure.id.task: expected[failure.id.task]} == expected

    def test_clips_that_are_ready_do_not_wait_for_a_slow_one(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transformers, "_PATIENCE_SECONDS", 0.01)
        answered = threading.Event()

        def requests() -> Iterator[Work]:
            yield prepare("a", sampling=GREEDY)
            assert answered.wait(60), "the clip that is ready waits for others to join it"
            yield prepare("b", sampling=GREEDY)

        replies = variant(shapes_engine, batch_size=32).generate(requests())
        assert next(replies).id.task == "a"
        answered.set()
        assert [reply.id.task for reply in replies] == ["b"]


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
        monkeypatch.setattr(AutoModelForMultimodalLM, "from_pretrained", spy("model", None))
        return seen

    def test_what_the_hub_logs_is_printed_once(self, loader: dict[str, dict[str, Any]]) -> None:
        hub, printed = logging.getLogger("huggingface_hub"), logging.StreamHandler()
        hub.addHandler(printed)
        assert logging.getLogger().handlers  # as where the command prints what is logged
        with pytest.raises(ModelError):
            load_engine(Settings(model="shapes"))
        assert printed not in hub.handlers
        assert hub.propagate

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

    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(
            ModelError, match=r"the model 'no-such-model' cannot be loaded: HF_HUB_OFFLINE .* the built-in model"
        ):
            TransformersEngine("no-such-model")

    def test_a_model_without_eyes(self, tmp_path: Path) -> None:
        LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=8).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"cannot be loaded: Unrecognized processing class"):
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
