"""One answer about a film from those about its clips: a text stage over the video."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from clips import read_numbers, write_clip
from flow import ScriptedEngine, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.errors import SettingsError
from reelscribe.films import Film, Passage
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.splitting import Splitting
from reelscribe.values import Caption, Failure, RequestId, Row, Work

FILM: dict[str, Any] = {"prompt": "Sum up.\n{clips}", "after": ["caption"], "video": False, "over": "video"}
TASKS: dict[str, Any] = {"caption": "What?", "film": FILM}


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """200 frames at 25 a second, each with its number."""
    return write_clip(tmp_path / "film.mp4", range(200), size=(64, 64))


class Asked:
    """An engine that says which frames it sees, and of text how many lines it has; it keeps what it was asked."""

    def __init__(
        self, fail: tuple[str, ...] = (), stop_after: int | None = None, said_of_clips: str | None = None
    ) -> None:
        self._said = said_of_clips
        self.names: list[str] = []
        self.prompts: list[str] = []
        self._fail, self._stop_after = fail, stop_after
        self.engine = ScriptedEngine(self._answer)

    def _answer(self, work: Work) -> Any:
        [request] = work.requests
        if self._stop_after is not None and len(self.names) >= self._stop_after:
            raise KeyboardInterrupt
        self.names.append(f"{request.id.task} {request.clip.fragment or 'film'}")
        if any(name in self.names[-1] for name in self._fail):
            return Failure.of(request, "no")
        if request.video:
            numbers = read_numbers(work.frames.pixels)
            return said(self._said or f"{numbers[0]} to {numbers[-1]}")
        self.prompts.append(request.prompt)
        return said(f"{len(request.prompt.splitlines()) - 1} lines")


def _captioned(film: Path, asked: Asked, output: str = "out.jsonl", **settings: Any) -> list[Row]:
    told: dict[str, Any] = {"split": "2", "nested": True, "tasks": TASKS, "decoders": 0, "fps": 25}
    run([film], film.parent / output, Settings(**told | settings), engine=asked.engine)
    return read_rows_of(film.parent / output) if output.endswith("jsonl") else []


def test_a_film_is_asked_about_once_all_its_clips_are_answered(film: Path) -> None:
    asked = Asked()
    [made] = _captioned(film, asked)
    assert asked.names[-1] == "film film"
    assert asked.prompts == [
        "Sum up.\n0.0-2.0 s: 0 to 49\n2.0-4.0 s: 50 to 99\n4.0-6.0 s: 100 to 149\n6.0-8.0 s: 150 to 199"
    ]
    assert made["film"] == "4 lines"
    assert made["caption"] == ["0 to 49", "50 to 99", "100 to 149", "150 to 199"]
    assert (made["film_failure"], made["film_candidates"], made["film_meta"]["try"]) == ("", ["4 lines"], 1)


def test_a_film_that_is_too_long_is_asked_about_in_parts(film: Path) -> None:
    asked = Asked()
    tasks = {**TASKS, "film": {**FILM, "part_chars": 45}}
    [made] = _captioned(film, asked, split="1", tasks=tasks)
    spans = [[line.partition(":")[0] for line in prompt.splitlines()[1:]] for prompt in asked.prompts]
    assert spans == [
        *[[f"{n}.0-{n + 1}.0 s", f"{n + 1}.0-{n + 2}.0 s"] for n in (0, 2, 4, 6)],
        ["0.0-2.0 s", "2.0-4.0 s"],
        ["4.0-6.0 s", "6.0-8.0 s"],
        ["0.0-4.0 s", "4.0-8.0 s"],
    ]
    assert made["film"] == "2 lines"
    assert len(made["caption"]) == 8


def test_a_run_that_was_killed_asks_only_what_is_left(film: Path) -> None:
    tasks = {**TASKS, "film": {**FILM, "part_chars": 45}}
    [whole] = _captioned(film, Asked(), output="whole.jsonl", split="1", tasks=tasks)
    seen: list[str] = []
    for stop_after in (3, 3, 3, 3, 3, 3, 3, None):
        asked = Asked(stop_after=stop_after)
        with contextlib.suppress(KeyboardInterrupt):
            _captioned(film, asked, split="1", tasks=tasks)
        seen += asked.names
    assert read_rows_of(film.parent / "out.jsonl") == [whole]
    clips = [name for name in seen if name.startswith("caption")]
    assert len(clips) == len(set(clips)) == 8
    assert seen.count("film film") == 7, "four parts, two of these, and the film"


def test_clips_without_an_answer_are_left_out(film: Path) -> None:
    asked = Asked(fail=("#t=2,4",))
    [made] = _captioned(film, asked)
    assert asked.prompts == ["Sum up.\n0.0-2.0 s: 0 to 49\n4.0-6.0 s: 100 to 149\n6.0-8.0 s: 150 to 199"]
    assert made["caption"][1] is None
    assert made["film"] == "3 lines"


def test_without_any_answer_there_is_none_about_the_film(film: Path) -> None:
    [made] = _captioned(film, Asked(fail=("caption",)))
    assert made["film"] is None
    assert made["film_failure"].startswith("after: of none of the clips is there an answer: no")
    failures = read_rows_of(film.parent / "out.failures.jsonl")
    assert [(failure["task"], failure["video"]) for failure in failures][-1] == ("film", "film.mp4")


def test_a_part_without_an_answer_costs_the_film_alone(film: Path) -> None:
    [made] = _captioned(film, Asked(fail=("film",)), split="1", tasks={**TASKS, "film": {**FILM, "part_chars": 45}})
    assert made["film_failure"].startswith("after: part 1 of what was said of its clips: no")
    assert None not in made["caption"]


def test_several_tasks_are_told_apart_and_others_may_follow(film: Path) -> None:
    tasks = {
        "short": "What?",
        "long": "Tell all.",
        "film": {**FILM, "after": ["short", "long"]},
        "title": {"prompt": "A title for: {film}", "after": ["film"], "video": False, "over": "clip"},
        "best": {"prompt": "{film}{clips}", "after": ["film", "short"], "video": False, "over": "video"},
    }
    asked = Asked()
    [made] = _captioned(film, asked, split="4", tasks=tasks)
    assert (
        asked.prompts[0]
        == "Sum up.\n0.0-4.0 s:\nshort: 0 to 99\nlong: 0 to 99\n4.0-8.0 s:\nshort: 100 to 199\nlong: 100 to 199"
    )
    assert sorted(asked.prompts[1:]) == [
        "6 lines0.0-4.0 s: 0 to 99\n4.0-8.0 s: 100 to 199", "A title for: 6 lines", "A title for: 6 lines",
    ]  # fmt: skip
    assert made["title"] == ["0 lines", "0 lines"]
    assert made["best"] == "1 lines"


def test_a_row_of_one_clip_has_a_film_of_one(film: Path) -> None:
    [made] = _captioned(film, Asked(), split=None, nested=False)
    assert (made["caption"], made["film"]) == ("0 to 199", "1 lines")


def test_a_row_of_several_videos_has_none(film: Path) -> None:
    (film.parent / "b.mp4").write_bytes(film.read_bytes())
    data = put_rows(film.parent / "in.jsonl", [{"videos": ["film.mp4", "b.mp4"]}, {"videos": []}])
    made = _captioned(data, Asked(), split=None, nested=False)
    assert made[0]["film_failure"] == "row: a task over the video is about one, but the row has several."
    assert made[0]["caption"] == ["0 to 199"] * 2
    assert (made[1]["film"], made[1]["caption"]) == (None, [])


def test_times_of_events_are_those_of_the_film(film: Path) -> None:
    asked = Asked(said_of_clips="0.0-1.0 s: it begins\n1.0-2.0 s: it ends")
    tasks = {"events": {"prompt": "What?", "times": True}, "film": {**FILM, "after": ["events"], "times": True}}
    [made] = _captioned(film, asked, split="4", tasks=tasks)
    assert asked.prompts == [
        "Sum up.\n0.0-4.0 s:\n0.0-1.0 s: it begins\n1.0-2.0 s: it ends\n"
        "4.0-8.0 s:\n4.0-5.0 s: it begins\n5.0-6.0 s: it ends"
    ]
    assert [event["start"] for event in made["events"][1]] == [4.0, 5.0]
    assert made["film_meta"]["faults"] == ["times"]


@pytest.mark.parametrize("output", ["out.parquet", "out.tar"])
def test_every_format_has_one_answer_beside_a_list(output: str, film: Path) -> None:
    if output.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    data = put_rows(film.parent / "in.jsonl", [{"video": "film.mp4", "stretches": [[0, 4], [4, 8]]}, {"id": 1}])
    _captioned(data, Asked(), output=output, split=None, nested=False)
    entries = [each for each in CaptionedData(film.parent / output).entries() if isinstance(each, Entry)]
    assert [(entry.task, entry.slot, entry.captions) for entry in entries] == [
        ("film", -1, ("2 lines",)), ("caption", 0, ("0 to 99",)), ("caption", 1, ("100 to 199",)),
    ]  # fmt: skip
    clip = entries[0].video.clip
    assert clip is not None
    assert (clip.source if isinstance(clip.source, bytes) else clip.path.read_bytes()) == film.read_bytes()


def test_parquet_to_parquet_keeps_lists_for_clips_and_text_for_films(film: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    table = pa.table({"video": ["film.mp4", "gone.mp4"], "stretches": [[[0.0, 4.0], [4.0, 8.0]], None]})
    pq.write_table(table, film.parent / "in.parquet")
    _captioned(film.parent / "in.parquet", Asked(), output="out.parquet", split=None, nested=False)
    rows = pq.read_table(film.parent / "out.parquet").to_pylist()
    assert [(row["film"], row["caption"]) for row in rows] == [("2 lines", ["0 to 99", "100 to 199"]), (None, None)]


def test_sidecars_of_films_lie_beside_them(film: Path) -> None:
    for kind in ("txt", "json"):
        _captioned(film, Asked(), sidecar=kind, split="4")
    texts = {path.name: path.read_text() for path in film.parent.glob("film.*.txt")}
    assert texts == {
        "film.film.txt": "2 lines\n",
        "film.00000.0-00004.0.caption.txt": "0 to 99\n",
        "film.00004.0-00008.0.caption.txt": "100 to 199\n",
    }
    assert json.loads((film.parent / "film.film.json").read_text())["film"] == "2 lines"
    assert "film" not in json.loads((film.parent / "film.00000.0-00004.0.json").read_text())


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"film": {**FILM, "video": True}}, "is not shown it"),
        ({"film": {**FILM, "after": []}}, "comes after tasks of its clips"),
        ({"film": {**FILM, "prompt": "Sum up."}}, "comes after tasks of its clips"),
        ({"film": {**FILM, "over": "row"}}, "over must be clip or video"),
        ({"film": {**FILM, "part_chars": 0}}, "part_chars must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_over_a_video_is_said(tasks: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        _ = Settings(tasks={"caption": "What?", **tasks}).all_tasks


def test_clips_in_rows_of_their_own_have_no_film() -> None:
    with pytest.raises(SettingsError, match="set nested, too"):
        Splitting.of(Settings(split="2", tasks=TASKS))


# Parts


def _texts(count: int, most: int, length: int = 10) -> list[int]:
    """How many prompts each round has."""
    film = Film([Passage(start=n, end=n + 1, text="x" * length) for n in range(count)], most)
    rounds = []
    while True:
        texts = film.texts()
        rounds.append(len(texts))
        if 0 in texts:
            return rounds
        for number in texts:
            film.take(number, Caption(id=RequestId(0), kept=(0,), reason="", candidates=said("y" * length), meta={}))


def test_parts_come_to_an_end_however_little_fits() -> None:
    assert _texts(1, 5) == [1]
    assert _texts(8, 1) == [4, 2, 1]
    assert _texts(9, 1) == [5, 3, 2, 1]
    assert _texts(720, 20_000) == [1]
    assert _texts(7200, 20_000) == [10, 1]
