"""The item of a sample in the list of each trainer: functions of the sample and the job."""

import uuid
from typing import Final

from reelscribe.export.writers import Job, MakeRow, Placed
from reelscribe.values import Row

DEFAULT_QUESTION: Final = "Describe the video."
"""Question of a conversation if the prompt is not known."""
VIDEO_MARKS: Final = ("<video>", "<image>", "<audio>")
"""Placeholders of videos, images and audio in conversations. Texts must not contain them."""


def path_and_caption(video: str, text: str) -> MakeRow:
    """An item with a path and a caption."""
    return lambda placed, job: {video: placed.video, text: placed.text}


def of_videofolder(placed: Placed, job: Job) -> Row:
    """A row of VideoFolder's metadata."""
    chosen = {name: placed.sample.value(name) for name in job.columns}
    return {"file_name": placed.video, "text": placed.text} | chosen


def of_table(placed: Placed, job: Job) -> Row:
    """A row of a table."""
    start, end = (placed.clip.start_seconds, placed.clip.end_seconds) if placed.is_part else (0.0, None)
    own = {"video": placed.video, "caption": placed.text, "captions": placed.texts, "start": start, "end": end}
    by_task = {item.task: item.text for item in reversed(placed.sample.texts)}
    known = own | dict.fromkeys(job.tasks) | by_task
    return {name: known[name] if name in known else placed.sample.value(name) for name in job.columns}


def of_tar(placed: Placed, job: Job) -> Row:
    """`KEY.json` of a sample in a tar file."""
    chosen = {name: placed.sample.value(name) for name in job.columns}
    return {"captions": placed.texts, "source": placed.sample.entry.video.name} | chosen


def of_simpletuner(placed: Placed, job: Job) -> Row:
    """A row of SimpleTuner's Parquet file."""
    header = placed.header
    return {"filename": placed.video, "caption": placed.texts, "width": header.width, "height": header.height}


def of_cosmos(placed: Placed, job: Job) -> Row:
    """An item of the Cosmos framework's list."""
    entry, header = placed.sample.entry, placed.header
    windows = [
        {
            "start_frame": header.first_frame,
            "end_frame": header.first_frame + header.frames,
            "temporal_interval": 1,
            "caption": item.text,
            "caption_json": item.named.text if item.named.entry.structured else None,
        }
        for item in placed.sample.texts
    ]
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{entry.video.name} {entry.row} {entry.slot}")),
        "duration": header.duration_seconds,
        "width": header.width,
        "height": header.height,
        "vision_path": placed.video,
        "t2w_windows": windows,
    }


def _turns(placed: Placed, *, who: str, what: str, human: str, model: str, behind: str) -> list[dict[str, str]]:
    """A conversation: for each caption, its prompt as the question, and the caption as the answer.

    The first question begins with `<video>` and `behind`. The other arguments are the trainer's keys and roles.
    """
    turns = []
    for number, item in enumerate(placed.sample.texts):
        asked = item.named.entry.meta.get("prompt") or DEFAULT_QUESTION
        for mark in VIDEO_MARKS:
            asked = asked.replace(mark, "")
        turns += [{who: human, what: asked if number else f"<video>{behind}{asked}"}, {who: model, what: item.text}]
    return turns


def of_llama_factory(placed: Placed, job: Job) -> Row:
    """An item for LLaMA-Factory, in ShareGPT's format."""
    turns = _turns(placed, who="from", what="value", human="human", model="gpt", behind="")
    return {"conversations": turns, "videos": [placed.video]}


def of_ms_swift(placed: Placed, job: Job) -> Row:
    """An item for ms-swift."""
    turns = _turns(placed, who="role", what="content", human="user", model="assistant", behind="")
    return {"messages": turns, "videos": [placed.video]}


def of_qwen_vl(placed: Placed, job: Job) -> Row:
    """An item for Qwen's fine-tuning code."""
    turns = _turns(placed, who="from", what="value", human="human", model="gpt", behind="\n")
    return {"video": placed.video, "conversations": turns}
