"""Answers that are held to a schema: whatever a model would rather say, what comes out fits."""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import named
from generating import SHAPES, answers, texts, variant
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.constraints import Constraint, Constraints
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import READY, ReadySchema, Schema
from reelscribe.values import Candidate, Clip, Failure, Generation, Request

CPU = torch.device("cpu")
VOCABULARY = json.loads((SHAPES / "config.json").read_text("utf-8"))["text_config"]["vocab_size"]
"""Of the built-in model."""
SHORT = {"type": "string", "maxLength": 12}
WILD = SamplingParams(temperature=2.0, max_tokens=400)
GREEDY = SamplingParams(temperature=0.0, max_tokens=400)


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows are masked, at each step that masks any."""
    rows: list[int] = []
    allowed = Constraints.allowed

    def spy(self: Constraints, held: list[Constraint], *args: Any) -> torch.Tensor:
        rows.append(len(held))
        return allowed(self, held, *args)

    monkeypatch.setattr(Constraints, "allowed", spy)
    return rows


def node(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def schema(properties: dict[str, Any], **more: Any) -> Schema:
    return Schema.of(node(properties, **more), folder=Path())


PAIR = schema({"what": SHORT, "sure": {"type": "boolean"}})
SCHEMAS = [
    PAIR,
    schema({"n": {"type": "integer"}, "f": {"type": "number"}, "p": {"type": "number", "minimum": 0, "maximum": 1}}),
    schema({"kind": {"enum": ["a cat", 'a "dog"', 7, None]}, "no": {"type": "null"}, "same": {"const": {"q": [1]}}}),
    schema({"list": {"type": "array", "items": node({"a": SHORT, "b": {"type": "boolean"}}), "maxItems": 3}}),
    schema({"list": {"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 9}, "minItems": 2,
                     "maxItems": 4}}),
    schema({"any": {"anyOf": [SHORT, {"type": "boolean"}, {"type": "null"}]},
            "hex": {"type": "string", "pattern": "^[a-f]{2}$"}}),
    schema({"new\nline": SHORT, "größe": SHORT, 'quo"te\\': {"type": "boolean"}}),
    schema({"tree": {"$ref": "#/$defs/t"}},
           **{"$defs": {"t": {"anyOf": [node({"left": {"$ref": "#/$defs/t"}}), {"type": "null"}]}}}),
    Schema.of({"type": "object", "properties": {"a": SHORT, "b": {"type": "boolean"}}}, folder=Path()),
    schema({"what": SHORT, "long": {"type": "number", "x-from": "duration"}}),
]  # fmt: skip


def without_strings(text: str) -> str:
    return re.sub(r'"(?:[^"\\]|\\.)*"', "", text)


def check(candidate: Candidate, given: Schema) -> Any:
    """That a candidate is complete, fits, and has no white space between its tokens. Returns: its value."""
    value, fault = given.read(candidate.text)
    assert (fault, candidate.stop_reason) == (None, "stop"), candidate
    assert not re.search(r"\s", without_strings(candidate.text))
    return value


@pytest.fixture(scope="module")
def rules() -> TokenRules:
    """Those of the built-in model."""
    return TokenRules(AutoTokenizer.from_pretrained(SHAPES), GenerationConfig(eos_token_id=[2, 0]))


class TestModels:
    """Real models: the built-in one, which wants to say other things, and one with random weights."""

    def test_random_weights_make_what_fits(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        """All in one batch, which rows join and leave."""
        wild = [
            prepare(f"wild {number}", schema=item, num_captions=3, sampling=WILD, seed=number)
            for number, item in enumerate(SCHEMAS)
        ]
        greedy = [prepare(f"greedy {number}", schema=item, sampling=GREEDY) for number, item in enumerate(SCHEMAS)]
        replies = answers(variant(lively_engine, batch_size=12), *wild, *greedy)
        for key, reply in replies.items():
            assert isinstance(reply, Generation), reply
            for candidate in reply.candidates:
                check(candidate, SCHEMAS[int(key.split()[1])])

    def test_the_built_in_model_fills_what_it_is_asked(
        self, shapes_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        reply = answers(shapes_engine, prepare("a", schema=PAIR, num_captions=4, sampling=WILD))["a"]
        assert isinstance(reply, Generation)
        assert {tuple(check(candidate, PAIR)) for candidate in reply.candidates} == {("what", "sure")}
        assert len({candidate.text for candidate in reply.candidates}) > 1

    def test_free_requests_and_other_schemas_beside_it_change_nothing(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        wild = SamplingParams(temperature=1.5, max_tokens=20, top_k=40, repetition_penalty=1.1)
        given = [None, SCHEMAS[0], SCHEMAS[3], SCHEMAS[0], None]
        batch = [
            prepare(
                f"{number}", frames=2 + number, schema=item, num_captions=1 + number % 3, sampling=wild, seed=number
            )
            for number, item in enumerate(given)
        ]
        alone = {key: made for item in batch for key, made in texts(lively_engine, item).items()}
        assert texts(lively_engine, *batch) == alone
        assert texts(variant(lively_engine, batch_size=2), *reversed(batch)) == alone
        free = [item for item in batch if item.requests[0].schema is None]
        assert texts(lively_engine, *free) == {
            item.requests[0].id.task: alone[item.requests[0].id.task] for item in free
        }
        assert "{" not in "".join(alone["0"])

    def test_only_rows_with_a_schema_are_masked(
        self, lively_engine: TransformersEngine, prepare: Prepare, masked: list[int]
    ) -> None:
        brief = SamplingParams(temperature=2.0, max_tokens=12)
        free = [prepare(f"{number}", num_captions=5, sampling=brief) for number in range(2)]
        answers(lively_engine, *free)
        assert not masked
        reply = answers(lively_engine, *free, prepare("a", schema=PAIR, num_captions=2, sampling=WILD))["a"]
        assert isinstance(reply, Generation)
        assert sum(masked) == sum(candidate.num_tokens or 0 for candidate in reply.candidates)  # once a token

    def test_one_that_hits_the_limit_is_cut_off(self, lively_engine: TransformersEngine, prepare: Prepare) -> None:
        length = SamplingParams(temperature=2.0, max_tokens=5)
        reply = answers(lively_engine, prepare("a", schema=PAIR, sampling=length))["a"]
        assert isinstance(reply, Generation)
        [candidate] = reply.candidates
        assert (candidate.stop_reason, candidate.num_tokens) == ("length", 5)
        assert PAIR.read(candidate.text) == (None, "not_json")

    def test_one_that_is_complete_at_the_limit_is_not(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        reply = answers(lively_engine, prepare("a", schema=PAIR, sampling=GREEDY))["a"]
        assert isinstance(reply, Generation)
        exact = SamplingParams(temperature=0.0, max_tokens=reply.candidates[0].num_tokens)
        again = answers(lively_engine, prepare("a", schema=PAIR, sampling=exact))["a"]
        assert again == reply

    def test_a_schema_of_the_settings_that_cannot_be_enforced_is_told_when_the_model_is_loaded(self) -> None:
        odd = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}
        with pytest.raises(SettingsError, match="the schema 'tags' cannot be enforced: Unsatisfiable schema: required"):
            load_engine(Settings(model="shapes", device="cpu", tasks={"tags": {"schema": odd}}))

    def test_a_schema_that_cannot_be_enforced_fails_its_own_requests(
        self, lively_engine: TransformersEngine, prepare: Prepare
    ) -> None:
        odd = schema({"a": {"not": {"type": "string"}}})
        replies = answers(
            lively_engine, prepare("a", schema=odd), prepare("b", schema=PAIR, sampling=GREEDY), prepare("c")
        )
        refused = replies.pop("a")
        assert isinstance(refused, Failure)
        assert refused.kind == "engine"
        assert refused.message.startswith("the schema 'caption' cannot be enforced: Unimplemented keys: [\"not\"]")
        assert all(isinstance(reply, Generation) for reply in replies.values())

    def test_without_the_extra_the_run_stops(
        self, shapes_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = variant(shapes_engine)
        monkeypatch.setattr(engine._rules, "constraints", Constraints(engine._processor.tokenizer, [2]))
        monkeypatch.setitem(sys.modules, "llguidance", None)
        with pytest.raises(
            MissingExtraError, match=r"^a schema needs llguidance: pip install 'reelscribe\[structured\]'"
        ):
            answers(engine, prepare("a", schema=PAIR))

    def test_an_answer_that_broke_its_constraint_is_a_failure(
        self, lively_engine: TransformersEngine, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def everything(_: Constraints, held: list[Constraint], vocabulary: int, device: torch.device) -> torch.Tensor:
            return torch.ones(len(held), vocabulary, dtype=torch.bool, device=device)

        monkeypatch.setattr(Constraints, "allowed", everything)
        replies = answers(lively_engine, prepare("a", schema=PAIR, num_captions=2, sampling=WILD), prepare("b"))
        assert isinstance(replies["b"], Generation)
        broken = replies["a"]
        assert isinstance(broken, Failure)
        assert broken.message.startswith("the answer could not be held to its schema: ")


class TestTokens:
    """What may come next, token by token."""

    def walk(self, rules: TokenRules, given: Schema, seed: int, *, vocabulary: int = VOCABULARY) -> str:
        """An answer of tokens that are drawn by chance, texts and lists soon at their end."""
        chance = random.Random(seed)
        answer, tokens = rules.constraints.begin(given), list[int]()
        ends = sorted(rules.end_ids)
        quote = rules.tokenizer.convert_tokens_to_ids('"')
        for _ in range(5000):
            [allowed] = rules.constraints.allowed([answer], vocabulary, CPU)
            choices = allowed.nonzero()[:, 0].tolist()
            if set(choices) & set(ends):
                assert choices == ends, "an end token is allowed beside others"
                given_up = rules.tokenizer.decode(tokens)
                assert given.read(given_up)[1] is None
                return str(given_up)
            assert given.read(rules.tokenizer.decode(tokens))[1], "it was complete before"
            token = quote if quote in choices and chance.random() < 0.5 else chance.choice(choices)
            tokens.append(token)
            complete = answer.accept(token)
            assert not answer.error
            assert complete == bool(rules.constraints.allowed([answer], vocabulary, CPU)[0, ends].all())
        raise AssertionError("it came to no end")

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("number", range(len(SCHEMAS)))
    def test_an_end_token_is_allowed_where_the_json_is_complete_and_nowhere_else(
        self, rules: TokenRules, number: int, seed: int
    ) -> None:
        text = self.walk(rules, SCHEMAS[number], seed)
        assert not re.search(r"\s", without_strings(text))

    @pytest.mark.parametrize("name", READY)
    def test_ready_schemas_can_be_enforced(self, rules: TokenRules, name: ReadySchema) -> None:
        ready = Schema.of(name, folder=Path())
        value = json.loads(self.walk(rules, ready, 1))
        assert list(value) == list(ready.asked["properties"])

    @pytest.mark.parametrize("kind", ["number", "integer"])
    def test_a_number_ends_however_many_digits_a_model_wants(self, rules: TokenRules, kind: str) -> None:
        answer, text = rules.constraints.begin(schema({"n": {"type": kind}})), ""
        wanted = rules.tokenizer.convert_tokens_to_ids(list("06.1"))
        while "}" not in text:
            [allowed] = rules.constraints.allowed([answer], VOCABULARY, CPU)
            choices = allowed.nonzero()[:, 0].tolist()
            token = next((item for item in wanted if item in choices), choices[0])
            answer.accept(token)
            text += rules.tokenizer.decode([token])
            assert len(text) < 40
        assert text == {"number": '{"n":0.000000}', "integer": '{"n":0}'}[kind]

    def test_tokens_that_the_tokenizer_lacks_are_never_allowed(self, rules: TokenRules) -> None:
        answer = rules.constraints.begin(PAIR)
        wide = rules.constraints.allowed([answer], 700, CPU)
        assert wide.shape == (1, 700)
        assert wide[0].nonzero()[:, 0].tolist() == [rules.tokenizer.convert_tokens_to_ids('{"')]
        narrow = rules.constraints.allowed([answer], 101, CPU)
        assert torch.equal(narrow, wide[:, :101])
        self.walk(rules, PAIR, 1, vocabulary=700)

    def test_each_row_has_its_own(self, rules: TokenRules) -> None:
        schemas = [SCHEMAS[0], SCHEMAS[1], SCHEMAS[0]]
        held = [rules.constraints.begin(item) for item in schemas]
        for token in rules.tokenizer.encode('{"', add_special_tokens=False):
            held[0].accept(token)
            held[1].accept(token)
        together = rules.constraints.allowed(held, VOCABULARY, CPU)
        assert torch.equal(together, torch.cat([rules.constraints.allowed([item], VOCABULARY, CPU) for item in held]))
        assert len({tuple(row.tolist()) for row in together}) == 3

    def test_a_tokenizer_without_bytes_is_refused(self) -> None:
        words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "</s>": 2}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
        with pytest.raises(SettingsError, match=r"^the model's tokenizer cannot be held to a schema: .*decoder"):
            Constraints(tokenizer, [2]).begin(PAIR)


def test_the_likeliest_of_what_is_allowed_is_drawn_whatever_filters_there_are(rules: TokenRules) -> None:
    """A model that is sure to say something else: all that it would say is cut away."""
    start, other = rules.tokenizer.convert_tokens_to_ids(['{"', "a"])
    logits = torch.zeros(1, VOCABULARY)
    logits[0, other], logits[0, start] = 90.0, -90.0
    for params in (
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.1, top_k=1),
        SamplingParams(temperature=1.0, top_p=0.01, min_p=0.5, repetition_penalty=1.5),
    ):
        sampler = Sampler(rules, VOCABULARY, CPU)
        asked = Request(id=named("a"), clip=Clip(source="x.mp4"), prompt="", schema=PAIR, sampling=params)
        sampler.add([asked], torch.tensor([[other]]), torch.ones(1, 1))
        assert sampler.step(logits.clone()).tolist() == [start]


def test_a_row_that_is_finished_but_not_dropped_is_not_masked(rules: TokenRules, masked: list[int]) -> None:
    sampler = Sampler(rules, VOCABULARY, CPU)
    first, others = (SamplingParams(temperature=1.0, max_tokens=count) for count in (1, 9))
    held = Request(id=named("a"), clip=Clip(source="x.mp4"), prompt="", schema=PAIR, sampling=first)
    free = Request(id=named("b"), clip=Clip(source="x.mp4"), prompt="", num_captions=7, sampling=others)
    sampler.add([held, free], torch.tensor([[9], [9]]), torch.ones(2, 1))
    for _ in range(2):
        sampler.step(torch.zeros(len(sampler), VOCABULARY))
        assert sampler.drop_finished() is None
    assert masked == [1]
