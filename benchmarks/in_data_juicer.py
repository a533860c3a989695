"""Data-Juicer's published operator against ours: rows a second, and what one broken clip in a hundred does to the rest.

The published operator does not run as it is. Here it is repaired from outside, in five places: its batches return what
was made; a limit of tokens is given once, and no setting that Transformers refuses; what it shows the model is decoded
by this package, at the size that ours is, since Transformers needs FFmpeg on the system for that; videos that it opens
and does not use are closed as PyAV does it now; its model has the checkpoint's number format. What is left is its
method.
"""

from pathlib import Path
from typing import Any

import data_juicer.ops.mapper.video_captioning_from_vlm_mapper as published
import datasets
import torch
from baseline_serial import SerialBaseline
from common import arguments, build_model, interleaved, render_clips, save_result, workspace
from data_juicer.core.data import NestedDataset

from reelscribe.config import Settings
from reelscribe.values import Clip
from reelscribe.video.decode import decode

PUBLISHED: Any = published.VideoCaptioningFromVLMMapper  # before ours takes its place
if not PUBLISHED.__module__.startswith("data_juicer."):
    raise SystemExit(
        "reelscribe-data-juicer is installed: uninstall it, so that the published operator can be measured."
    )

from reelscribe.integrations.data_juicer import VideoCaptioningFromVLMMapper  # noqa: E402


class RepairedProcessor:
    """Takes messages with the path of a video; frames and inputs are made as for the other baseline."""

    def __init__(self, serial: SerialBaseline) -> None:
        self._serial = serial
        self.batch_decode = serial.processor.batch_decode

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> Any:
        parts = {part["type"]: part[part["type"]] for part in messages[-1]["content"]}
        return self._serial.inputs(decode(Clip(source=parts["video"]), self._serial.budget), prompt=parts["text"])


class RepairedModel:
    """Generates no more tokens than were asked for."""

    def __init__(self, serial: SerialBaseline, max_tokens: int) -> None:
        self._model, self._max_tokens = serial.model, max_tokens
        self.device = serial.model.device

    def generate(self, **arguments: Any) -> Any:
        return self._model.generate(**(arguments | {"max_new_tokens": self._max_tokens}))


class RepairedOperator(PUBLISHED):  # type: ignore[misc]
    """Its batches return what was made of them."""

    def process_batched(self, samples: Any, rank: int | None = None, context: bool = False) -> dict[str, list[Any]]:
        made = []
        for values in zip(*samples.values(), strict=True):
            row = dict(zip(samples, values, strict=True))
            made += [row, *self._process_single_sample(row, rank=rank, context=context)]
        return {name: [row[name] for row in made] for name in samples}


def load_published(serial: SerialBaseline, model: str, max_tokens: int, **options: Any) -> Any:
    """The published operator, repaired."""
    pair = RepairedModel(serial, max_tokens), RepairedProcessor(serial)
    published.get_model = lambda *_, **__: pair
    published.close_video = lambda container: container.close()
    operator = RepairedOperator(hf_model=model, **options)
    operator.sampling_params = {"do_sample": True, "temperature": 1.0}
    return operator


def samples_of(files: list[Path]) -> list[dict[str, Any]]:
    return [{"videos": [str(file)], "text": f"<__dj__video>clip {file.stem}<|__dj__eoc|>"} for file in files]


def run(operator: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a job does with an operator in one process, without loading the model anew."""
    made = NestedDataset.from_list(samples).map(operator.process, batched=True, batch_size=operator.batch_size)
    rows: list[dict[str, Any]] = made.to_list()
    return rows


def survivors(operator: Any, samples: list[dict[str, Any]]) -> dict[str, int]:
    """How many of the samples, one of them broken, come out, and how many captions."""
    texts = [row["text"] for row in run(operator, samples)]
    originals = {sample["text"] for sample in samples}
    kept = sum(text in originals for text in texts)
    return {"samples": kept, "captions": len(texts) - kept}


def main() -> None:
    args = arguments(
        __doc__,
        **{"model": "tiny", "clips": 16, "candidates": 4, "tokens": 64, "rounds": 3, "batch_size": 10},
        **{"width": 320, "height": 240, "seconds": 4.0, "rows_with_one_broken": 100},
    )
    datasets.disable_caching()
    datasets.disable_progress_bars()
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    with workspace() as folder:
        size = {"width": args.width, "height": args.height, "seconds": args.seconds}
        files = render_clips(folder, args.clips, **size)
        model = str(build_model(args.model, folder, dtype=getattr(torch, dtype)))
        serial = SerialBaseline(Settings(model=model))
        options = {"caption_num": args.candidates, "batch_size": args.batch_size, "skip_op_error": True}
        theirs = load_published(serial, model, args.tokens, **options)
        sampling = {"max_tokens": args.tokens, "temperature": 1.0}
        ours = VideoCaptioningFromVLMMapper(hf_model=model, sampling_params=sampling, **options)
        samples = samples_of(files)
        for operator in (ours, theirs):
            assert len(run(operator, samples)) == 2 * args.clips
        timed = interleaved(
            {"reelscribe": lambda: run(ours, samples), "published_operator": lambda: run(theirs, samples)},
            rounds=args.rounds,
        )
        many = samples_of([folder / f"{number:05d}.mp4" for number in range(args.rows_with_one_broken)])
        for number, sample in enumerate(many):
            sample["videos"] = [str(files[number % len(files)])]
        (folder / "broken.mp4").write_bytes(b"this is no video")
        many[len(many) // 2]["videos"] = [str(folder / "broken.mp4")]
        broken = {
            "rows": len(many),
            "reelscribe": survivors(ours, many),
            "published_operator": survivors(theirs, many),
        }
    for item in timed.values():
        item["rows_per_second"] = round(args.clips / item["median_seconds"], 2)
    ratio = timed["published_operator"]["median_seconds"] / timed["reelscribe"]["median_seconds"]
    result: dict[str, Any] = {"settings": vars(args) | {"dtype": dtype}, **timed, "speedup": round(ratio, 2)}
    save_result(f"data-juicer-{args.model}-{args.candidates}", result | {"one_broken": broken})


if __name__ == "__main__":
    main()
