"""The third stage: teaches `shapes` to answer by prompt. See README.md beside this file.

It begins from the checkpoint that train.py left. Every clip is asked one question of each kind and two of the last.
The clip is encoded and read once; each question is read behind it on its own, as the engines do it. Every step draws
its clips and questions from (seed, step), so a run that was stopped goes on from its last checkpoint.
"""

import argparse
import ctypes
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoProcessor, BatchFeature, DynamicCache, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from build import MERGE, PATCH, SYSTEM_PROMPTS, TEMPORAL, extend_vocabulary
from questions import KINDS, Question, draw_question
from reelscribe.models.shapes.scenes import COLORS, GROUNDS, SHAPES, SIZES, Scene, random_scene, render
from train import GRIDS, roughen, save, use_faster_vision

SEED = 2028
STEPS, BATCH = 6000, 12
PEAK_LR, VISION_LR, WARMUP = 2.5e-4, 0.3, 100
"""Learning rate: a linear rise over WARMUP steps, then half a cosine down to nothing. The vision encoder, which knows
most of what it needs, learns at VISION_LR of it."""
EVERY = {"sentence": 3, "detail": 4, "json": 2, "events": 1, "truth": 4}
"""Each kind is asked once in this number of steps: what is known is only kept up."""
WEIGHTS = {"sentence": 0.5, "detail": 0.25, "json": 0.3, "events": 1.0, "truth": 0.3}
TIMES, PLACES = 0.2, 4.0
"""Weights of each loss of telling times, in seconds, and places. When a shape stops is read off its places."""
ROUND = 8
"""Rows of tokens are padded to a multiple of this: the matrix library has to prepare itself for each new length."""
TELLING = [*SIZES, *COLORS, *SHAPES, *GROUNDS, "left", "right", "up", "down"]
TELLING += ["moves", "rests", "grows", "shrinks", "stops", "turns", "then", "neither"]
"""Words by which statements are true or false; so are the marks that end them."""
COUNTS = [8] * 12 + [10] * 4 + [12] * 22 + [4, 16]
"""Frames of a clip, as often as clips of 2 to 12 s have them; a few as other budgets give them."""
SECONDS = {8: (1.5, 5.0), 10: (5.0, 6.0), 12: (6.0, 13.0), 4: (1.5, 8.0), 16: (4.0, 13.0)}
"""Lengths of clips of each number of frames, at two frames a second where the count may vary."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one resolution and number of frames, and the questions about them."""

    prefix: BatchFeature
    """What stands before the questions: system prompt and video, left-padded."""
    pairs: torch.Tensor
    """Shape (clips, pairs of frames, 7 and one for each of `COLORS`): the shape's place as (x, y); its way since the
    first pair as (x, y); the time; how much of the pair is after the scene's change, 0 if nothing changes; the time, or
    that of the change if it has been; the share of each colour. Places and ways within -2 and 2, times as `scaled` does
    it."""
    scenes: list[Scene]
    seconds: list[float]
    asked: list[tuple[str, list[Question]]]
    """Kinds, each with one question for each clip."""


def draw_clip(rng: np.random.Generator, count: int) -> tuple[Scene, float, np.ndarray]:
    """A scene, its length, and the instants of its frames, from the first to the last as the sampler takes them.

    A change of colour is moved to the middle between the two frames that show it: nobody can tell more from them.
    """
    scene = random_scene(rng)
    seconds = float(rng.uniform(*SECONDS[count]))
    at = np.linspace(0, 1, count)
    at[1:-1] -= rng.uniform(0, 1, count - 2) / (seconds * rng.choice([12, 24, 25, 30, 50, 60]))
    if scene.turns:
        after = int(np.searchsorted(at, scene.event_at))
        scene = replace(scene, event_at=float(at[after - 1 : after + 1].mean()))
    return scene, seconds, at


def make_batch(
    processor: Qwen3VLProcessor,
    rng: np.random.Generator,
    size: int,
    *,
    kinds: Sequence[str] = KINDS,
) -> Batch:
    """Draw clips and questions; of statements two for each clip."""
    grid = GRIDS[rng.integers(len(GRIDS))]
    height, width = (n * PATCH * MERGE for n in grid)
    count = COUNTS[rng.integers(len(COUNTS))]
    scenes, lengths, heads, videos, metadata, pairs = [], [], [], [], [], []
    for _ in range(size):
        scene, seconds, at = draw_clip(rng, count)
        aspect = width / height * rng.uniform(0.88, 1.14)
        frames = render(scene, width=width, height=height, at=at.tolist(), aspect=aspect)
        videos.append(roughen(frames, rng).transpose(0, 3, 1, 2))
        shown = seconds - 1 / rng.choice([12, 24, 25, 30, 50, 60])  # when the last frame comes up
        indices = np.rint(at * shown * 1000).astype(int).tolist()
        metadata.append({"fps": 1000.0, "frames_indices": indices, "total_num_frames": indices[-1] + 1})
        system = SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))] if rng.random() < 0.2 else None
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        heads.append(f"{head}<|im_start|>user\n<|video_pad|>")
        pairs.append(know_pairs(scene, at, shown))
        scenes.append(scene)
        lengths.append(seconds)
    prefix = processor(
        text=heads,
        videos=videos,
        video_metadata=metadata,
        do_sample_frames=False,
        do_resize=False,
        padding=True,
        padding_side="left",
        pad_to_multiple_of=ROUND,
        return_tensors="pt",
    )
    prefix.pop("video_metadata", None)
    schema = bool(rng.random() < 0.2)  # all of a batch or none: a schema is long, and the others would be padded to it
    clips = list(zip(scenes, lengths, strict=True))
    twice = [*kinds, *(["truth"] if "truth" in kinds else [])]
    asked = [(kind, [draw_question(kind, *clip, rng, schema=schema) for clip in clips]) for kind in twice]
    known = torch.tensor(np.stack(pairs), dtype=torch.float32)
    return Batch(prefix=prefix, pairs=known, scenes=scenes, seconds=lengths, asked=asked)


def know_pairs(scene: Scene, at: np.ndarray, shown: float) -> np.ndarray:
    """What there is to know at the end of each pair of frames; see `Batch.pairs`."""
    places = 4 * (np.array([scene.center(instant) for instant in at[::TEMPORAL]]) - 0.5)
    times = at.reshape(-1, TEMPORAL).mean(1)
    changes = scene.turns is not None or scene.stops
    after = (changes * (at >= scene.event_at)).reshape(-1, TEMPORAL).mean(1)
    stopped = np.minimum(times, scene.event_at) if changes else times
    known = [places, places - places[0], scaled(times * shown), after, scaled(stopped * shown)]
    turned = after if scene.turns else 0 * after
    known += [(scene.color == color) * (1 - turned) + (scene.turns == color) * turned for color in COLORS]
    return np.column_stack(known)


def scaled(seconds: np.ndarray) -> np.ndarray:
    """Times of clips of usual lengths, as numbers about as large as the other things that heads are asked for."""
    return seconds / 4 - 1.5


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Questions and answers as token ids, right-padded. All of shape (questions, tokens)."""

    ids: torch.Tensor
    labels: torch.Tensor
    """The answers; -100 elsewhere."""
    truths: torch.Tensor
    """At the telling words of a statement, 1 for a true one and 0 for the one that makes it false; -1 elsewhere."""
    instead: torch.Tensor
    """The word that would be true there."""


def tokenize(processor: Qwen3VLProcessor, questions: Sequence[Question]) -> Tokens:
    """Questions and answers in the model's chat format, as they stand behind the video."""
    tokenizer = processor.tokenizer
    telling = set(tokenizer.convert_tokens_to_ids([f"\u0120{word}" for word in TELLING] + [".", ","]))
    rows: list[list[list[int]]] = []
    for question in questions:
        prompt = tokenizer(question.prompt)["input_ids"]
        asked = [*prompt, *tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]]
        answer = tokenizer(question.answer + "<|im_end|>")["input_ids"]
        truth, instead = [-1] * len(asked + answer), [0] * len(asked + answer)
        if question.true_prompt:
            true = tokenizer(question.true_prompt)["input_ids"]
            for place, (word, right) in enumerate(zip(prompt, true, strict=False)):
                if word in telling:
                    truth[place], instead[place] = int(word == right), right
                if word != right:
                    break
        rows.append([asked + answer, [-100] * len(asked) + answer, truth, instead])
    length = -(-max(len(row[0]) for row in rows) // ROUND) * ROUND
    ids, labels, truths, instead_ids = (
        torch.tensor([row[part] + [filler] * (length - len(row[part])) for row in rows])
        for part, filler in enumerate((tokenizer.pad_token_id, -100, -1, 0))
    )
    return Tokens(ids=ids, labels=labels, truths=truths, instead=instead_ids)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How the answers of one kind came out."""

    loss: float
    right: torch.Tensor
    """For each clip whether every token is right: what greedy decoding would say."""
    found: list[list[int]]
    """The likeliest token at each place of each answer, given those before it."""


def build_heads(model: Qwen3VLForConditionalGeneration) -> nn.ModuleDict:
    """Small heads that ask the language model on its way for what the answers need; see `answer_all`."""
    hidden, words = model.config.text_config.hidden_size, model.config.text_config.vocab_size
    sizes = {"clock": 1, "places": 2, "colors": len(COLORS), "pairs": 4, "stopped": 1, "at": 1}
    sizes |= {"truth": 1, "instead": words}
    return nn.ModuleDict({name: nn.Linear(hidden, size) for name, size in sizes.items()})


def times_loss(found: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """How far times are off, in seconds; as squares where they are nearly right."""
    return nn.functional.smooth_l1_loss(4 * found, 4 * known, beta=0.25)


def pairs_losses(
    heads: nn.ModuleDict, stamps: torch.Tensor, ends: Sequence[torch.Tensor], pairs: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of telling what `Batch.pairs` holds, those of times on their own.

    Args:
        heads: see `build_heads`.
        stamps: the first layer's output behind the timestamp of each pair. The time is asked there.
        ends: the first three layers' outputs at the end of each pair. The first tells where the shape is and in which
            colour, the second the rest, the third when the change was.
        pairs: see `Batch.pairs`.
    """
    known = pairs.flatten(0, 1)
    found = heads["pairs"](ends[1])
    places = (
        PLACES * nn.functional.mse_loss(heads["places"](ends[0]), known[:, :2])
        + PLACES * nn.functional.mse_loss(found[:, :2], known[:, 2:4])
        + nn.functional.cross_entropy(heads["colors"](ends[0]), known[:, 7:])
        + nn.functional.binary_cross_entropy_with_logits(found[:, 3], known[:, 5])
    )
    times = {
        "clock": times_loss(heads["clock"](stamps).squeeze(1), known[:, 4]),
        "time": times_loss(found[:, 2], known[:, 4]),
        "stopped": times_loss(heads["stopped"](ends[2]).squeeze(1), known[:, 6]),
    }
    return places, times


def answer_all(
    model: Qwen3VLForConditionalGeneration, heads: nn.ModuleDict, processor: Qwen3VLProcessor, batch: Batch
) -> tuple[torch.Tensor, list[Answered], dict[str, float]]:
    """The whole loss of a batch, how each question came out, and the losses of the heads.

    Answers are words; what they need is asked for on the way, or it stays at chance for long: at the end of each pair
    of frames where the shape is and whether its change has happened; at each telling word of a statement whether it is
    true and what would be; at each time of an event, when it is.
    """
    inner = model.model
    with torch.autocast("cpu", torch.bfloat16):
        read = inner(**batch.prefix, use_cache=True, output_hidden_states=True)
    ends = batch.prefix["input_ids"] == model.config.vision_end_token_id
    words = processor.tokenizer.convert_tokens_to_ids
    stamps = read.hidden_states[1][batch.prefix["input_ids"] == words(">")].float()
    places, times = pairs_losses(heads, stamps, [layer[ends].float() for layer in read.hidden_states[1:4]], batch.pairs)
    total = 0.5 * places + TIMES * sum(times.values())
    aside = {name: loss.item() for name, loss in {"pairs": places, **times}.items()}
    mask = batch.prefix["attention_mask"]
    first = mask.sum(1, keepdim=True) + inner.rope_deltas
    results = []
    for kind, questions in batch.asked:
        tokens = tokenize(processor, questions)
        cache = DynamicCache([(layer.keys, layer.values) for layer in read.cache.layers])
        with torch.autocast("cpu", torch.bfloat16):
            output = inner.language_model(
                inputs_embeds=model.get_input_embeddings()(tokens.ids),
                attention_mask=torch.cat([mask, torch.ones_like(tokens.ids)], 1),
                position_ids=(first + torch.arange(tokens.ids.shape[1])).expand(3, -1, -1),
                cache=cache,
                use_cache=True,
                output_hidden_states=True,
            )
            answers = tokens.labels[:, 1:] != -100
            scores = model.lm_head(output.last_hidden_state[:, :-1][answers]).float()
        targets = tokens.labels[:, 1:][answers]
        loss = nn.functional.cross_entropy(scores, targets)
        total = total + WEIGHTS[kind] * loss
        late = output.hidden_states[3]
        if kind == "truth":
            telling = tokens.truths >= 0
            at, truths = late[telling].float(), tokens.truths[telling]
            doubt = nn.functional.binary_cross_entropy_with_logits(
                heads["truth"](at).squeeze(1), truths.float(), reduction="none"
            )
            other = nn.functional.cross_entropy(heads["instead"](at), tokens.instead[telling], reduction="none")
            aside |= {"doubt": balanced(doubt, truths).item(), "instead": balanced(other, truths).item()}
            total = total + 0.2 * balanced(doubt, truths) + 0.1 * balanced(other, truths)
        if kind == "events":
            clips = zip(batch.scenes, batch.seconds, strict=True)
            known = scaled(torch.tensor([at for scene, end in clips for _, at in scene.events(end)]))
            for mark in "(.":  # before each number, and within it
                asked = (tokens.ids == words(mark)) & (tokens.labels != -100)
                wrong = times_loss(heads["at"](late[asked].float()).squeeze(1), known)
                aside[f"at {mark}"] = wrong.item()
                total = total + TIMES * wrong
        best, counts = scores.argmax(-1), answers.sum(1).tolist()
        right = torch.stack([part.all() for part in (best == targets).split(counts)])
        found = [part.tolist() for part in best.split(counts)]
        results.append(Answered(loss=loss.item(), right=right, found=found))
    return total, results, aside


def balanced(losses: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """The mean in which the few false words weigh as much as all true ones."""
    parts = [losses[truths == value] for value in (0, 1)]
    return torch.stack([part.mean() for part in parts if len(part)]).mean()


def evaluate(
    model: Qwen3VLForConditionalGeneration, heads: nn.ModuleDict, processor: Qwen3VLProcessor
) -> dict[str, dict[str, float]]:
    """Share of answers right of each kind, on clips that training does not show."""
    hits: dict[str, list[bool]] = {}
    with torch.no_grad():
        for index in range(8):
            batch = make_batch(processor, np.random.default_rng([SEED, 1, index]), BATCH)
            for (kind, _), answered in zip(batch.asked, answer_all(model, heads, processor, batch)[1], strict=True):
                hits.setdefault(kind, []).extend(answered.right.tolist())
                if kind == "events":
                    texts = [processor.decode(ids[:-1]) for ids in answered.found]
                    cases = zip(batch.scenes, texts, batch.seconds, strict=True)
                    hits.setdefault("within", []).extend(scene.fits_timeline(*rest) for scene, *rest in cases)
    return {"fresh": {kind: round(sum(found) / len(found), 3) for kind, found in hits.items()}}


def learning_rate(step: int, total: int) -> float:
    return PEAK_LR * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / total))


def build_optimizer(model: Qwen3VLForConditionalGeneration, parts: nn.ModuleDict) -> torch.optim.AdamW:
    """One for all parts; each group says which share of the learning rate it takes."""
    vision = list(model.model.visual.parameters())
    seen = {id(p) for p in vision}
    others = [p for p in parts.parameters() if id(p) not in seen]
    return torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05, "share": 1.0},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "share": 1.0},
            {"params": vision, "weight_decay": 0.0, "share": VISION_LR},
        ],
        betas=(0.9, 0.98),
    )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save what is needed to go on; the state of before is kept beside it."""
    if sys.platform == "linux":  # batches of many sizes leave the C library with memory in pieces
        ctypes.CDLL(None).malloc_trim(0)
    if path.exists():
        path.replace(path.with_stem(f"{path.stem}-before"))
    torch.save(state, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where checkpoints and the result go")
    parser.add_argument("--start", type=Path, required=True, help="the checkpoint that train.py made: its OUT/shapes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--same", type=int, default=0, help="a trial: only this many batches, over and over")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    use_faster_vision()

    processor: Any = AutoProcessor.from_pretrained(args.start)
    model = Qwen3VLForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32)
    extend_vocabulary(processor, model)
    model.set_attn_implementation("eager")
    heads = build_heads(model)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    optimizer = build_optimizer(model, parts)
    state_path, first = args.folder / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path)
        parts.load_state_dict(state["parts"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began = time.monotonic()
    recent: dict[str, list[Any]] = {}
    for step in range(first, args.steps):
        rng = np.random.default_rng([SEED, 0, step % args.same if args.same else step])
        kinds = [kind for kind in KINDS if step % EVERY[kind] == 0]
        batch = make_batch(processor, rng, BATCH, kinds=kinds)
        loss, answered, aside = answer_all(model, heads, processor, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps) * group["share"]
        optimizer.step()
        shares = [
            (kind, [one.loss, one.right.float().mean().item()])
            for (kind, _), one in zip(batch.asked, answered, strict=True)
        ]
        for name, value in [*shares, *aside.items()]:
            recent[name] = [*recent.get(name, [])[-19:], value]
        record: dict[str, Any] = {"step": step}
        record |= {name: np.mean(values, axis=0).round(3).tolist() for name, values in recent.items()}
        last = step + 1 == args.steps
        if (step + 1) % 250 == 0 or last:
            save_state(state_path, {"parts": parts.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
            save(model, processor, args.folder / "shapes")
        if (step + 1) % 500 == 0 or last:
            record |= evaluate(model, heads, processor)
        if step % 10 == 9 or step == first:
            print(json.dumps(record | {"seconds": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
