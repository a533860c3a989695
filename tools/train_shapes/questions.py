"""The kinds of question that `shapes` is asked, each with the scene's true answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from build import PROMPTS, SYSTEM_PROMPTS
from reelscribe.models.shapes.scenes import COLORS, FIELDS, GROUNDS, MOTIONS, SHAPES, SIZES, Scene, change_fact
from reelscribe.tasks import DEFAULT_PROMPT

KINDS = ("sentence", "detail", "json", "events", "truth")
DETAIL_PROMPTS = [
    "Describe the video in detail.",
    "Describe the clip in detail.",
    "Describe the main subject, its movement and the scene in detail.",
    "Describe this video in two sentences, in detail.",
    "Write a detailed caption for this clip.",
    "Give a detailed description of the video.",
    "Please tell me in detail what happens.",
]
FIELD_PROMPTS = [
    "Answer as JSON with the fields {}.",
    "Describe the video as JSON with the fields {}.",
    "Describe the clip as JSON with the keys {}.",
    "Return a JSON object with the fields {} and nothing else.",
    "Give JSON with {}.",
]
SCHEMA_PROMPTS = [
    "Answer as JSON by this schema: {}",
    "Describe the video as JSON that fits this JSON Schema:\n{}",
    "Describe the clip. Answer with JSON of the schema {}",
    "{}\nFill in this schema for the video.",
]
EVENT_PROMPTS = [
    "List the events with their times.",
    "List the events of the video with times.",
    "List every event with its start and end in seconds.",
    "What happens when? Give the times in seconds.",
    "Write what happens in the clip, with times.",
    "Give a timeline of the video, with times in seconds.",
    "Describe the events in order, with start and end times.",
]
TRUTH_PROMPTS = [
    "Is this true: {}",
    "Is this true? {}",
    "Is it true of the video: {}",
    "Is this statement true: {} Answer yes or no.",
    "Yes or no: {}",
    "Is the caption right? {}",
]
SENTENCE_PROMPTS = [prompt for prompt in PROMPTS if prompt not in DETAIL_PROMPTS]
"""One of those that the second stage answered in one sentence asks for detail, and now gets it."""
WORDS = ["tell", "me", "about", "this", "short", "clip", "please", "write", "list", "every", "event", "in", "order"]
VALUES = {"size": SIZES, "color": COLORS, "shape": SHAPES, "ground": GROUNDS, "motion": MOTIONS}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and its answer; for a statement also where it turns false."""

    prompt: str
    answer: str
    true_prompt: str = ""
    """The same prompt with a true statement; only for statements."""


def draw_prompt(rng: np.random.Generator, prompts: Sequence[str] = PROMPTS) -> tuple[str | None, str]:
    """A system prompt or None, and a user prompt: often the default, sometimes words in no order."""
    system = SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))] if rng.random() < 0.2 else None
    choice = rng.random()
    if choice < 0.5:
        return system, DEFAULT_PROMPT
    if choice < 0.8:
        return system, _one_of(prompts, rng)
    return system, " ".join(rng.choice(WORDS, rng.integers(1, 12))).capitalize() + "?."[rng.integers(2)]


def draw_question(
    kind: str, scene: Scene, seconds: float, rng: np.random.Generator, *, schema: bool = False
) -> Question:
    """A question of that kind about a scene in a clip of that length; JSON is asked for by a schema or by names."""
    if kind == "sentence":
        return Question(prompt=draw_prompt(rng, SENTENCE_PROMPTS)[1], answer=scene.caption)
    if kind == "detail":
        return Question(prompt=_one_of(DETAIL_PROMPTS, rng), answer=scene.detail)
    if kind == "events":
        return Question(prompt=_one_of(EVENT_PROMPTS, rng), answer=_loose_timeline(scene, seconds, rng))
    if kind == "json":
        return _json_question(scene, rng, schema=schema)
    return truth_question(scene, rng, true=bool(rng.integers(2)))


def truth_question(scene: Scene, rng: np.random.Generator, *, true: bool, prompt: str | None = None) -> Question:
    """Whether a statement is true: half of them whole captions; a false one is wrong in one fact."""
    field = FIELDS[rng.integers(len(FIELDS))]
    about = "caption" if rng.random() < 0.5 else field
    said = scene if true else change_fact(scene, field, rng)
    template = prompt or _one_of(TRUTH_PROMPTS, rng)
    return Question(
        prompt=template.format(said.claims[about]),
        answer="Yes" if true else "No",
        true_prompt=template.format(scene.claims[about]),
    )


def _loose_timeline(scene: Scene, seconds: float, rng: np.random.Generator) -> str:
    """The timeline with each time a little off, so that tenths learn to fit the whole second before them.

    Else a model that takes 3.1 to be 2.9 says 2 and then, as it always was, 1.
    """
    change, end = rng.normal(0, 0.1, 2)
    return replace(scene, event_at=scene.event_at + change / seconds).timeline(seconds + end)


def _json_question(scene: Scene, rng: np.random.Generator, *, schema: bool) -> Question:
    fields = list(FIELDS)
    if rng.random() < 0.35:
        chosen = rng.random(len(FIELDS)) < 0.5
        fields = [name for name, take in zip(FIELDS, chosen, strict=True) if take] or [FIELDS[rng.integers(6)]]
    if schema:
        prompt = _one_of(SCHEMA_PROMPTS, rng).format(draw_schema(fields, rng))
    elif len(fields) == len(FIELDS) and rng.random() < 0.3:
        prompt = "Describe the video as JSON."
    else:
        last = " and " if rng.random() < 0.3 and len(fields) > 1 else ", "
        prompt = _one_of(FIELD_PROMPTS, rng).format(last.join(filter(None, [", ".join(fields[:-1]), fields[-1]])))
    return Question(prompt=prompt, answer=scene.as_json(fields))


def draw_schema(fields: list[str], rng: np.random.Generator) -> str:
    """A JSON Schema of an object with these fields, in one of the ways in which people write them."""
    listed = rng.random() < 0.3
    properties: dict[str, object] = {}
    for name in fields:
        properties[name] = {"type": "string"}
        if listed and name in VALUES:
            properties[name] = (
                {"enum": VALUES[name]} if rng.random() < 0.5 else {"type": "string", "enum": VALUES[name]}
            )
    schema: dict[str, object] = {"type": "object", "properties": properties}
    if rng.random() < 0.5:
        schema["required"] = fields
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    return json.dumps(schema, separators=(",", ":") if rng.random() < 0.5 else None)


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[rng.integers(len(texts))]
