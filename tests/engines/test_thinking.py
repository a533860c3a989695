"""Templates that let a model think or not, and thoughts in what it says."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Prepare
from flow import request
from generating import SHAPES
from transformers import AddedToken, AutoProcessor, GenerationConfig

from reelscribe.config import Settings
from reelscribe.engines import load_engine
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.describing import describe
from reelscribe.engines.prompt import Prompt
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.engines.thinking import decode, opens_thought, special_marks, template_switches
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.engines.vllm_answers import candidate_of
from reelscribe.errors import ModelError
from reelscribe.sampling_params import SamplingParams
from reelscribe.thoughts import set_apart
from reelscribe.values import Candidate, Generation

PLAIN = (SHAPES / "chat_template.jinja").read_text("utf-8")
OPENS = PLAIN + r"{{- '<think>\n' if add_generation_prompt -}}"
"""As those of Qwen3-VL-Thinking."""
SWITCHED = (
    PLAIN
    + r"{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}"
    + r"{%- else -%}{{- '<think>\n' -}}{%- endif -%}"
)
"""As those of Qwen3.5: it thinks unless told otherwise."""
QUIET = (
    PLAIN
    + r"{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
)
"""As those of Qwen3: the model opens the thought."""
OTHER_NAME = PLAIN + r"{{- '<think>' if thinking else '</think>' -}}"
"""As those of DeepSeek."""
MENTIONED = PLAIN + r"{#- enable_thinking and thinking are for another model -#}"
BROKEN = PLAIN + r"{{- raise_exception('no videos') if enable_thinking -}}"


def _with_template(template: str) -> Any:
    processor = AutoProcessor.from_pretrained(SHAPES)
    processor.chat_template = template
    return processor


def _end(processor: Any, *, thinking: bool) -> str:
    text = Prompt.of(processor, describe(processor), request(), template_switches(processor, thinking=thinking)).text
    return text.rpartition("<|im_start|>assistant\n")[2]


@pytest.mark.parametrize(
    ("template", "switches", "quiet", "loud"),
    [
        (PLAIN, [], "", ""),
        (OPENS, [], "<think>\n", "<think>\n"),
        (SWITCHED, ["enable_thinking"], "<think>\n\n</think>\n\n", "<think>\n"),
        (QUIET, ["enable_thinking"], "<think>\n\n</think>\n\n", ""),
        (OTHER_NAME, ["thinking"], "</think>", "<think>"),
        (MENTIONED, [], "", ""),
    ],
    ids=["plain", "opens", "switched", "quiet", "other name", "mentioned"],
)
def test_template_is_told_if_it_can_be(
    template: str, switches: list[str], quiet: str, loud: str, caplog: pytest.LogCaptureFixture
) -> None:
    processor = _with_template(template)
    caplog.clear()  # what the oldest Transformers says of the model's configuration
    for thinking in (False, True):
        assert template_switches(processor, thinking=thinking) == dict.fromkeys(switches, thinking)
    assert (_end(processor, thinking=False), _end(processor, thinking=True)) == (quiet, loud)
    assert caplog.messages == []


def test_one_of_several_templates_is_asked() -> None:
    processor = _with_template(PLAIN)
    processor.chat_template = {"default": SWITCHED, "tools": PLAIN}
    assert template_switches(processor, thinking=True) == {"enable_thinking": True}
    processor.chat_template = None
    assert template_switches(processor, thinking=True) == {}


def test_template_that_fails_is_told_when_the_model_is_loaded() -> None:
    processor = _with_template(BROKEN)
    family = describe(_with_template(PLAIN))
    checkpoint = Checkpoint(path="some/model", revision=None, config=None, processor=processor, family=family)
    with pytest.raises(ModelError, match="the model 'some/model' cannot be loaded: its chat template fails: no videos"):
        checkpoint.template_switches(thinking=False)


@pytest.mark.parametrize("kind", ["spelt out", "added", "special"])
def test_prompt_that_opens_a_thought_is_known_by_its_end(kind: str) -> None:
    processor = _with_template(OPENS)
    tokenizer = processor.tokenizer
    if kind != "spelt out":
        tokenizer.add_tokens([AddedToken(mark, special=kind == "special") for mark in ("<think>", "</think>")])

    def opens(**asked: Any) -> bool:
        return opens_thought(tokenizer, Prompt.of(processor, describe(processor), request(**asked)).ids(tokenizer))

    assert opens()
    assert opens(prompt="So </think>?")
    processor.chat_template = PLAIN
    assert not opens(prompt="<think>")
    processor.chat_template = OPENS.replace(r"<think>\n", r"<think>\n\n</think>\n\n")
    assert not opens()


# What is decoded


@pytest.fixture
def special() -> Any:
    """A tokenizer with the marks as special tokens."""
    tokenizer = AutoProcessor.from_pretrained(SHAPES).tokenizer
    tokenizer.add_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=True)])
    return tokenizer


@pytest.fixture
def added() -> Any:
    """A tokenizer with the marks as tokens that are not special, as Qwen3's."""
    tokenizer = AutoProcessor.from_pretrained(SHAPES).tokenizer
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


@pytest.mark.parametrize("kind", ["special", "added"])
def test_marks_are_decoded_and_other_special_tokens_are_not(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    assert len(special_marks(tokenizer)) == (2 if kind == "special" else 0)
    for text in ("<think>\nA ring?\n</think>\n\nA red ring.", "A red ring.", "</think></think>A", ""):
        ids = tokenizer(text + "<|im_end|>")["input_ids"]
        assert decode(tokenizer, ids) == text


def test_transformers_engine_drops_no_marks(special: Any) -> None:
    script = special("<think>A ring?</think>A red ring.<|im_end|>")["input_ids"]
    rules = TokenRules(special, GenerationConfig(eos_token_id=script[-1]))
    sampler = Sampler(rules, len(special), torch.device("cpu"))
    sampler.add([request(sampling=SamplingParams(stop=(" ring.",)))], torch.ones(1, 1).long(), torch.ones(1, 1))
    for token in script:
        sampler.step(torch.nn.functional.one_hot(torch.tensor([token]), len(special)).float())
    [made] = sampler.finished()
    assert isinstance(made, Generation)
    assert made.candidates[0].text == "<think>A ring?</think>A red"


@pytest.mark.parametrize("kind", ["special", "added"])
def test_vllm_engine_drops_no_marks(kind: str, request: pytest.FixtureRequest) -> None:
    """By itself vLLM decodes without special tokens, and cuts the text before a stop string."""
    tokenizer = request.getfixturevalue(kind)
    rules = TokenRules(tokenizer, GenerationConfig(eos_token_id=tokenizer.eos_token_id))
    ids = tokenizer("<think>A ring?</think>A red ring.")["input_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True).removesuffix(" ring.")
    told = {"finish_reason": "stop", "cumulative_logprob": None}
    made = SimpleNamespace(text=text, token_ids=ids, **told)
    expected = Candidate(text="<think>A ring?</think>A red", stop_reason="stop", num_tokens=len(ids))
    assert candidate_of(made, rules, SamplingParams(stop=(" ring.",))) == expected
    whole = SimpleNamespace(text=text + " ring.", token_ids=[*ids, tokenizer.eos_token_id], **told)
    assert candidate_of(whole, rules, SamplingParams()).text == "<think>A ring?</think>A red ring."


# The Transformers engine


class Thinker:
    """The built-in model with another template, made to say a certain text."""

    def __init__(self, folder: Path, template: str, **settings: Any) -> None:
        shutil.copytree(SHAPES, folder)
        (folder / "chat_template.jinja").write_text(template, "utf-8")
        engine = load_engine(Settings(model=str(folder), device="cpu", dtype="float32", **settings))
        assert isinstance(engine, TransformersEngine)
        self.engine = engine

    def say(self, text: str, item: Any) -> tuple[Candidate, ...]:
        """What comes out if it says this to a request, and then ends."""
        script: Iterator[int] = iter(self.engine._processor.tokenizer(text + "<|im_end|>")["input_ids"])

        def dictate(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            forced = torch.zeros_like(output)
            forced[..., next(script, 0)] = 100.0
            return forced

        hook = self.engine._model.lm_head.register_forward_hook(dictate)
        [reply] = self.engine.generate(iter([item]))
        hook.remove()
        assert isinstance(reply, Generation)
        return tuple(map(set_apart, reply.candidates))


def test_answer_begins_inside_a_thought_that_the_template_opens(tmp_path: Path, prepare: Prepare) -> None:
    thinker = Thinker(tmp_path / "model", OPENS)
    said = "A ring?\n</think>\n\nA red ring."
    count = len(thinker.engine._processor.tokenizer(said)["input_ids"])
    for made in thinker.say(said, prepare("a", num_captions=2)):
        assert (made.thought, made.text, made.unclosed) == ("A ring?", "A red ring.", False)
        assert (made.num_tokens, made.stop_reason) == (count, "stop")
    [cut] = thinker.say(said, prepare("b", sampling=SamplingParams(max_tokens=2)))
    assert (cut.text, cut.unclosed, cut.stop_reason, cut.num_tokens) == ("", True, "length", 2)


def test_thought_is_switched_off_unless_asked_for(tmp_path: Path, prepare: Prepare) -> None:
    quiet = Thinker(tmp_path / "quiet", SWITCHED)
    [made] = quiet.say("A red ring.", prepare("a"))
    assert (made.text, made.thought) == ("A red ring.", "")
    loud = Thinker(tmp_path / "loud", SWITCHED, thinking=True)
    [made] = loud.say("A ring?</think>A red ring.", prepare("a"))
    assert (made.text, made.thought) == ("A red ring.", "A ring?")
    assert loud.say("A red ring.", prepare("b"))[0].unclosed
