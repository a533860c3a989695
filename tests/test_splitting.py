"""Videos to clips: where each begins and ends, and rows for them in every format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from click.testing import CliRunner
from clips import cut, read_numbers, write_clip
from flow import ScriptedEngine, put_rows, read_rows_of, said

from reelscribe import VideoCaptioner
from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.layouts import clips_of
from reelscribe.plan.survey import survey
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.runners.split import split
from reelscribe.runners.status import ledger_of
from reelscribe.splitting import Splitting
from reelscribe.values import Clip, Row, Work
from reelscribe.video import prefetch
from reelscribe.video.scenes import Scene, find_scenes


def _times(start: float, end: float, scenes: list[tuple[float, float]] | None = None, **settings: Any) -> list[Any]:
    splitting = Splitting.of(Settings(**settings))
    assert splitting
    pieces = splitting.pieces(start, end, scenes or [])
    return [(piece.start, piece.end) for piece in pieces if splitting.is_long_enough(piece)]


@pytest.mark.parametrize(
    ("seconds", "settings", "found"),
    [
        (30.0, {"split": "10"}, [(0, 10), (10, 20), (20, 30)]),
        (25.0, {"split": "10"}, [(0, 10), (10, 20), (20, 25)]),
        (20.3, {"split": "10"}, [(0, 10), (10, 20)]),
        (20.3, {"split": "10", "min_seconds": 0.0}, [(0, 10), (10, 20), (20, 20.3)]),
        (4.0, {"split": "10"}, [(0, 4)]),
        (4.0, {"split": "10", "min_seconds": 5.0}, []),
        (25.0, {"split": "10", "overlap": 5.0}, [(0, 10), (5, 15), (10, 20), (15, 25)]),
        (20.0, {"split": "10", "overlap": 2.0}, [(0, 10), (8, 18), (16, 20)]),
        (
            1.0,
            {"split": "0.1", "min_seconds": 0.0},
            [(pytest.approx(n / 10), pytest.approx((n + 1) / 10)) for n in range(10)],
        ),
    ],
)
def test_clips_of_one_length(seconds: float, settings: dict[str, Any], found: list[Any]) -> None:
    assert _times(0.0, seconds, **settings) == found


def test_scenes_are_divided_evenly_where_they_are_long() -> None:
    scenes = [(0.0, 4.0), (4.0, 4.2), (4.2, 29.2), (29.2, 40.0)]
    assert _times(0.0, 40.0, scenes, split="scenes") == [(0, 4), (4.2, 29.2), (29.2, 40)]
    divided = _times(0.0, 40.0, scenes, split="scenes", max_seconds=10.0)
    assert divided == [(0, 4), *[pytest.approx((4.2 + 25 * n / 3, 4.2 + 25 * (n + 1) / 3)) for n in range(3)],
                       *[pytest.approx((29.2 + 5.4 * n, 34.6 + 5.4 * n)) for n in range(2)]]  # fmt: skip


def test_scenes_of_a_stretch_are_its_parts_of_them() -> None:
    assert _times(3.0, 6.0, [(0.0, 4.0), (4.0, 10.0)], split="scenes") == [(3, 4), (4, 6)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"split": "often"}, "split must be scenes, or a length in seconds"),
        ({"overlap": 1.0}, "overlap is for clips that split makes"),
        ({"nested": True}, "nested is for clips that split makes"),
        ({"split": "0"}, "split must be scenes, or a length in seconds"),
        ({"split": "5", "overlap": 5.0}, "must be less than a clip"),
        ({"split": "scenes", "overlap": 1.0}, "scenes do not overlap"),
        ({"split": "5", "max_seconds": 4.0}, "max_seconds is for scenes"),
        ({"split": "5", "min_seconds": 6.0}, "must not exceed"),
        ({"split": "5", "start_key": ""}, "start_key and end_key must be set"),
        ({"split": "5", "nested": True, "stretches_key": ""}, "stretches_key must be set"),
    ],
)
def test_what_does_not_go_together_is_said(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Splitting.of(Settings(**settings))


# Rows


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """200 frames at 25 a second, each with its number."""
    return write_clip(tmp_path / "film.mp4", range(200), size=(64, 64))


def _split(folder: Path, rows: list[Row], output: str = "clips.jsonl", **settings: Any) -> list[Row]:
    data = put_rows(folder / "in.jsonl", rows)
    split([data], folder / output, Settings(decoders=0, **{"split": "3", **settings}))
    return read_rows_of(folder / output) if output.endswith(".jsonl") else []


def test_each_clip_has_a_row_with_all_other_columns(film: Path) -> None:
    made = _split(film.parent, [{"id": 1e5, "video": "film.mp4", "tags": ["a", None]}])
    times = [(0.0, 3.0), (3.0, 6.0), (6.0, 8.0)]
    assert made == [
        {"id": 1e5, "video": "film.mp4", "tags": ["a", None], "start": start, "end": end, "clip": number}
        for number, (start, end) in enumerate(times)
    ]


def test_a_stretch_is_split_within_its_bounds(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4", "start": 1, "end": 6}, {"video": "film.mp4#t=5"}]
    found = [(row["video"], row["start"], row["end"]) for row in _split(film.parent, rows)]
    assert found == [("film.mp4", *each) for each in ((1.0, 4.0), (4.0, 6.0), (5.0, 8.0))]


def test_each_video_of_a_list_is_split(film: Path) -> None:
    (film.parent / "copy.mp4").write_bytes(film.read_bytes())
    made = _split(film.parent, [{"videos": ["film.mp4", "gone.mp4", "copy.mp4"]}], split="5")
    assert [(row["videos"], row.get("start"), row.get("clip")) for row in made] == [
        (["film.mp4"], 0.0, 0), (["film.mp4"], 5.0, 1), (["gone.mp4"], None, None),
        (["copy.mp4"], 0.0, 0), (["copy.mp4"], 5.0, 1),
    ]  # fmt: skip


def test_what_cannot_be_split_keeps_its_row_and_is_listed(film: Path) -> None:
    rows: list[Row] = [
        {"video": "gone.mp4", "id": 1},
        {"video": "film.mp4", "start": "soon"},
        {"id": 3},
        {"video": "film.mp4"},
    ]
    made = _split(film.parent, rows, split="100")
    assert made[:3] == rows[:3]
    assert (made[3]["start"], made[3]["end"]) == (0.0, 8.0)
    failures = read_rows_of(film.parent / "clips.failures.jsonl")
    assert [(failure["row"], failure["video"], failure["kind"]) for failure in failures] == [
        (0, "gone.mp4", "missing"),
        (1, None, "row"),
    ]


def test_rows_of_another_folder_lead_to_the_same_videos(film: Path) -> None:
    (film.parent / "data").mkdir()
    rows = put_rows(
        film.parent / "data" / "in.jsonl", [{"video": "../film.mp4"}, {"video": str(film)}, {"video": "no.mp4"}]
    )
    split([rows], film.parent / "out" / "clips.jsonl", Settings(decoders=0, split="8"))
    made = read_rows_of(film.parent / "out" / "clips.jsonl")
    assert [row["video"] for row in made] == ["../film.mp4", str(film), "../data/no.mp4"]


def test_what_cannot_be_split_names_its_own_clip_alone(film: Path) -> None:
    rows: list[Row] = [
        {"videos": ["gone.mp4", "film.mp4"], "start": [0, 1], "end": [1, 2]},
        {"video": "film.mp4", "stretches": [[0, 1], [9, 10]]},
    ]
    made = _split(film.parent, rows, split="100")
    assert [(row.get("videos", row.get("video")), row["start"], row["end"]) for row in made] == [
        (["gone.mp4"], 0.0, 1.0), (["film.mp4"], 1.0, 2.0), ("film.mp4", 0.0, 1.0), ("film.mp4", 9.0, 10.0),
    ]  # fmt: skip
    assert [row.get("stretches") for row in made] == [None] * 4


def test_clips_of_one_video_are_numbered_on(film: Path) -> None:
    made = _split(film.parent, [{"video": "film.mp4", "stretches": [[0, 4], [4, 8]]}], split="2")
    assert [row["clip"] for row in made] == [0, 1, 2, 3]


def test_a_video_that_is_too_short_keeps_its_row(film: Path) -> None:
    made = _split(film.parent, [{"video": "film.mp4", "end": 2}], split="5", min_seconds=3.0)
    assert made == [{"video": "film.mp4", "start": 0.0, "end": 2.0}]
    [failure] = read_rows_of(film.parent / "clips.failures.jsonl")
    assert (failure["kind"], failure["video"]) == ("too_short", "film.mp4#t=0,2")


def test_paths_in_tables_are_split_too(film: Path) -> None:
    made = _split(film.parent, [{"video": {"bytes": None, "path": "film.mp4#t=1,5"}}], split="2")
    assert [(row["video"]["path"], row["start"], row["end"]) for row in made] == [
        ("film.mp4", 1.0, 3.0),
        ("film.mp4", 3.0, 5.0),
    ]


def test_text_with_tokens_for_several_videos_is_not_split(film: Path) -> None:
    token = "<__dj__video>"
    rows: list[Row] = [{"videos": ["film.mp4", "film.mp4"], "text": token * 2}, {"videos": ["film.mp4"], "text": token}]
    made = _split(film.parent, rows, split="4")
    assert made[0] == rows[0]
    assert len(made) == 3


def test_what_makes_no_rows_splits_nothing() -> None:
    with pytest.raises(SettingsError, match="a VideoCaptioner splits no videos"):
        VideoCaptioner("shapes", engine="fake", split="2")


def test_a_length_may_be_a_number_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("split = 10\n")
    assert Settings.load(tmp_path / "a.toml").split == "10"


@pytest.mark.parametrize("start", [["0", "00:00:01"], [[0, 1], [1]], [0, 1]])
def test_columns_of_all_types_hold_times(start: list[Any], film: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    videos: list[Any] = ["film.mp4", "gone.mp4"]
    if isinstance(start[0], list):
        videos = [["film.mp4", "film.mp4"], ["gone.mp4"]]
    pq.write_table(pa.table({"video": videos, "start": start}), film.parent / "in.parquet")
    split([film.parent / "in.parquet"], film.parent / "out.parquet", Settings(decoders=0, split="8"))
    made = pq.read_table(film.parent / "out.parquet").to_pylist()
    assert [row["start"] for row in made] in ([0.0, 1.0], ["0", "1"], [0.0, 1.0, 1.0])
    assert made[-1]["video"] in ("gone.mp4", ["gone.mp4"])


def test_nested_makes_one_row_a_video(film: Path) -> None:
    [made] = _split(film.parent, [{"video": "film.mp4", "id": 7}], nested=True)
    assert made == {
        "video": "film.mp4",
        "id": 7,
        "stretches": [{"start": 0.0, "end": 3.0}, {"start": 3.0, "end": 6.0}, {"start": 6.0, "end": 8.0}],
    }


def test_nested_rows_name_their_clips_in_one_way(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4#t=1,5"}, {"video": "film.mp4", "start": 2}]
    made = _split(film.parent, rows, split="2", nested=True)
    assert [[clip.start_seconds for clip in clips_of(row, Settings())] for row in made] == [[1.0, 3.0], [2.0, 4.0, 6.0]]


def test_columns_that_would_be_replaced_end_it(film: Path) -> None:
    with pytest.raises(DatasetError, match="a column 'clip' already"):
        _split(film.parent, [{"video": "film.mp4", "clip": "x"}])


def test_an_output_that_is_there_is_kept(film: Path) -> None:
    (film.parent / "clips.jsonl").write_text("mine")
    with pytest.raises(DatasetError, match="is there already"):
        _split(film.parent, [{"video": "film.mp4"}])
    assert (film.parent / "clips.jsonl").read_text() == "mine"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("given", [".jsonl", ".parquet", ".csv", "folder"])
@pytest.mark.parametrize("made", [".jsonl", ".parquet"])
def test_every_format_goes_to_every_other(made: str, given: str, nested: bool, film: Path) -> None:
    pq: Any = pytest.importorskip("pyarrow.parquet") if ".parquet" in (given, made) else None
    inputs = film.parent / f"in{given}"
    if given == ".parquet":
        import pyarrow as pa

        table = pa.table({"video": ["film.mp4"], "n": pa.array([5], pa.uint8()), "start": pa.array([1], pa.int64())})
        pq.write_table(table, inputs)
    elif given == ".csv":
        inputs.write_text("video,n,start\nfilm.mp4,5,1\n")
    elif given == ".jsonl":
        put_rows(inputs, [{"video": "film.mp4", "n": 5, "start": 1}])
    else:
        inputs = film.parent
    output = film.parent / f"clips{made}"
    split([inputs], output, Settings(decoders=0, split="4", nested=nested))
    rows = read_rows_of(output) if made == ".jsonl" else pq.read_table(output).to_pylist()
    begin = 0.0 if given == "folder" else 1.0
    times = [{"start": begin, "end": begin + 4.0}, {"start": begin + 4.0, "end": 8.0}]
    found = rows[0]["stretches"] if nested else [{name: row[name] for name in ("start", "end")} for row in rows]
    assert found == times
    if given == made == ".parquet":
        assert pq.read_schema(output).field("n").type == pa.uint8()


def test_captions_of_clips_come_in_one_step_or_in_two(film: Path) -> None:
    data = put_rows(film.parent / "in.jsonl", [{"video": "film.mp4", "id": 1}, {"video": "gone.mp4"}])
    settings: dict[str, Any] = {"decoders": 0, "fps": 25}

    def say(work: Work) -> Any:
        return said(f"{read_numbers(work.frames.pixels)[0]} to {read_numbers(work.frames.pixels)[-1]}")

    split([data], film.parent / "clips.jsonl", Settings(split="3", decoders=0))
    engine = ScriptedEngine(say)
    run([data], film.parent / "one.jsonl", Settings(**settings, split="3"), engine=engine)
    run([film.parent / "clips.jsonl"], film.parent / "two.jsonl", Settings(**settings), engine=engine)
    one, two = (read_rows_of(film.parent / f"{name}.jsonl") for name in ("one", "two"))
    assert [row["caption"] for row in one] == ["0 to 74", "75 to 149", "150 to 199", None]
    assert one[3]["caption_failure"].startswith("missing: gone.mp4: there is no such file")
    assert one == two
    entries = [each for each in CaptionedData(film.parent / "one.jsonl").entries() if isinstance(each, Entry)]
    assert [entry.video.name for entry in entries][:2] == ["film.mp4#t=0,3", "film.mp4#t=3,6"]


def test_a_run_that_is_cut_up_otherwise_makes_what_is_new(film: Path) -> None:
    asked: list[str] = []

    def say(work: Work) -> Any:
        asked.append(work.clip.name)
        return said("a")

    engine = ScriptedEngine(say)
    for length in ("4", "2", "4"):
        run([film], film.parent / "out.jsonl", Settings(decoders=0, split=length), engine=engine)
    assert asked == [f"film.mp4#t={start},{end}" for start, end in ((0, 4), (4, 8), (0, 2), (2, 4), (4, 6), (6, 8))]


def test_a_plan_counts_clips(film: Path) -> None:
    seen = survey([film], Settings(decoders=0, split="3", overlap=1.0))
    assert (seen.rows, seen.total(lambda header: header.duration_seconds).value) == (4, 11.0)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes, of 2, 4 and 3 seconds: a camera that pans over three textures."""
    textures = np.random.default_rng(0).integers(0, 255, (3, 24, 80, 3), np.uint8).repeat(8, 1).repeat(8, 2)

    def paint(number: int, width: int, height: int) -> VideoFrame:
        texture = textures[0 if number < 50 else 1 if number < 150 else 2]
        return VideoFrame.from_ndarray(np.ascontiguousarray(texture[:height, number : number + width]), format="rgb24")

    return write_clip(tmp_path / "scenes.mp4", range(225), size=(320, 180), paint=paint)


@pytest.mark.parametrize("decoders", [0, 1])
def test_a_film_is_split_by_its_scenes(scenes: Path, decoders: int) -> None:
    split([scenes], scenes.parent / "clips.jsonl", Settings(split="scenes", max_seconds=2.0, decoders=decoders))
    found = [
        tuple(row[name] for name in ("scene", "clip", "start", "end"))
        for row in read_rows_of(scenes.parent / "clips.jsonl")
    ]
    assert found == [(0, 0, 0.0, 2.0), (1, 1, 2.0, 4.0), (1, 2, 4.0, 6.0), (2, 3, 6.0, 7.5), (2, 4, 7.5, 9.0)]


def test_scenes_of_stretches_have_the_numbers_that_they_have_in_the_film(scenes: Path) -> None:
    rows: list[Row] = [{"video": "scenes.mp4", "start": 3}, {"video": "scenes.mp4", "end": 3}]
    made = _split(scenes.parent, rows, split="scenes", nested=True)
    assert [row["stretches"] for row in made] == [
        [{"start": 3.0, "end": 6.0, "scene": 1}, {"start": 6.0, "end": 9.0, "scene": 2}],
        [{"start": 0.0, "end": 2.0, "scene": 0}, {"start": 2.0, "end": 3.0, "scene": 1}],
    ]


def test_scenes_of_a_film_are_looked_for_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def find(clip: Clip) -> list[Scene]:
        looked.append(clip.name)
        return find_scenes(clip)

    monkeypatch.setattr(prefetch, "find_scenes", find)
    engine = ScriptedEngine(lambda work: said(work.clip.fragment))
    output = scenes.parent / "out.jsonl"
    for longest in (None, 2.0):
        settings = Settings(split="scenes", max_seconds=longest, sidecar="txt", decoders=0)
        run([scenes], output, settings, engine=engine)
    assert looked == ["scenes.mp4"]
    assert [row["caption"] for row in read_rows_of(output)][:2] == ["#t=0,2", "#t=2,4"]
    merged = scenes.parent / "merged.jsonl"
    run([scenes], merged, Settings(split="scenes", decoders=0), engine=engine, adopt=[ledger_of(output)])
    assert looked == ["scenes.mp4"]


def test_a_damaged_film_has_no_scenes(scenes: Path) -> None:
    cut(scenes, scenes.parent / "cut.mp4", keep=0.5)
    [made] = _split(scenes.parent, [{"video": "cut.mp4"}], split="scenes")
    assert made == {"video": "cut.mp4"}
    assert (scenes.parent / "clips.failures.jsonl").is_file()


def test_the_command_splits(film: Path) -> None:
    output = film.parent / "clips.jsonl"
    made = CliRunner().invoke(main, ["split", str(film), "-o", str(output), "--every", "4", "--overlap", "1"])
    assert made.exit_code == 0, made.output
    assert [json.loads(line)["end"] for line in output.read_text().splitlines()] == [4.0, 7.0, 8.0]
    for words, says in (([], "give every, or scenes"), (["--every", "3", "--scenes"], "not both")):
        refused = CliRunner().invoke(main, ["split", str(film), "-o", str(film.parent / "other.jsonl"), *words])
        assert refused.exit_code == 2
        assert says in refused.output


def test_the_command_says_what_could_not_be_split(film: Path) -> None:
    data = put_rows(film.parent / "in.jsonl", [{"video": "film.mp4"}, {"video": "gone.mp4"}])
    made = CliRunner().invoke(main, ["split", str(data), "-o", str(film.parent / "clips.jsonl"), "--every", "4"])
    assert made.exit_code == 3
    assert "1 video could not be split" in made.output


def test_what_lies_beside_a_stretch_is_the_text_of_that_clip(film: Path) -> None:
    folder = film.parent
    (folder / "film.txt").write_text("of all of it")
    (folder / "film.00004.0-00008.0.txt").write_text("of this clip\n")
    (folder / "film.00004.0-00008.0.json").write_text('{"id": 7, "start": 1, "video": "another"}')
    (folder / "film.00000.0-00003.0.txt").write_text("of no clip")
    settings = Settings(decoders=0, split="4", sidecar="txt", overwrite_sidecars=True)
    for _ in range(2):  # what the first run wrote is nobody's text
        run([folder], folder / "out.jsonl", settings, engine=ScriptedEngine(lambda work: said("made")))
        rows = read_rows_of(folder / "out.jsonl")
        told = [tuple(row.get(name) for name in ("video", "start", "end", "text", "id", "caption")) for row in rows]
        assert told == [
            ("film.mp4", 0, 4, "of all of it", None, "made"),
            ("film.mp4", 4, 8, "of this clip", 7, "made"),
        ]
    assert (folder / "film.00004.0-00008.0.txt").read_text() == "made\n"
    assert (folder / "film.00000.0-00003.0.txt").read_text() == "of no clip"
    run([f"{film}#t=4,8"], folder / "named.jsonl", Settings(decoders=0), engine=ScriptedEngine(lambda work: said("x")))
    [row] = read_rows_of(folder / "named.jsonl")
    assert (row["text"], row["id"], row["video"], row["caption"]) == ("made", 7, "film.mp4#t=4,8", "x")


def test_what_cannot_be_read_beside_a_stretch_costs_that_clip(film: Path) -> None:
    (film.parent / "film.00004.0-00008.0.json").write_text("[]")
    settings = Settings(decoders=0, split="4")
    run([film.parent], film.parent / "out.jsonl", settings, engine=ScriptedEngine(lambda work: said("made")))
    first, second = read_rows_of(film.parent / "out.jsonl")
    assert (first["caption"], second["caption"]) == ("made", None)
    assert "film.00004.0-00008.0.json must hold a JSON object" in second["caption_failure"]
