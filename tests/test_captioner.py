"""Captions as a notebook has them, with the built-in model."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow import clip_bytes, put_clip

from reelscribe import Failure, VideoCaption, VideoCaptioner
from reelscribe import captioner as captioner_module
from reelscribe.demo import prepare
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import ClipError, MissingExtraError, ModelError, SettingsError
from reelscribe.models.shapes.scenes import Scene
from reelscribe.values import Work

pytestmark = pytest.mark.transformers


@pytest.fixture(scope="module")
def captioner() -> Iterator[VideoCaptioner]:
    with VideoCaptioner(
        "shapes", num_captions=2, sampling={"temperature": 0.8, "max_tokens": 32}, device="cpu"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Scene]]:
    """The demo's clips, and what is in them."""
    folder = tmp_path_factory.mktemp("clips")
    return folder, prepare(folder)[1]


def test_text_is_the_caption(captioner: VideoCaptioner, clips: tuple[Path, dict[str, Scene]]) -> None:
    folder, scenes = clips
    made = captioner(folder / "clip-00.mp4")
    assert str(made) == made.text == scenes["clip-00.mp4"].caption
    assert made.text in made.candidates
    assert len(made.candidates) == 2
    assert made.meta["video_tokens"] == 48
    assert repr(made) == f"VideoCaption({str(folder / 'clip-00.mp4')!r}: {made.text!r})"


def test_several_cost_each_other_nothing(captioner: VideoCaptioner, clips: tuple[Path, dict[str, Scene]]) -> None:
    folder, scenes = clips
    name = str(folder / "clip-01.mp4")
    first, missing, second = captioner([name, "nowhere.mp4", (folder / "clip-02.mp4").read_bytes()])
    assert isinstance(missing, Failure)
    assert missing.kind == "missing"
    assert [str(first), str(second)] == [scenes[f"clip-0{number}.mp4"].caption for number in (1, 2)]
    assert captioner([]) == []
    assert captioner(name).candidates == captioner([name])[0].candidates  # type: ignore[union-attr]


def test_one_that_fails_raises(captioner: VideoCaptioner) -> None:
    with pytest.raises(ClipError, match=r"nowhere\.mp4: there is no such file; paths start from") as caught:
        captioner("nowhere.mp4")
    assert caught.value.kind == "missing"


def test_prompt_in_place_of_the_setting(captioner: VideoCaptioner) -> None:
    assert captioner(clip_bytes(), prompt="What moves?").meta["prompt"] == "What moves?"
    assert captioner(clip_bytes()).meta["prompt"] != "What moves?"


@pytest.mark.parametrize(
    ("video", "got"),
    [
        (3, "int"),
        (None, "NoneType"),
        ("", "an empty str"),
        (b"", "an empty bytes"),
        ([None], "None"),
        ({"path": "a.mp4", "bytes": None}, "dict"),
        (bytearray(b"x"), "bytearray"),
    ],
)
def test_what_is_no_video(captioner: VideoCaptioner, video: Any, got: str) -> None:
    with pytest.raises(SettingsError, match=rf"a video is a path.*; got {got}"):
        captioner(video)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'num_caption'; did you mean num_captions"):
        VideoCaptioner("shapes", num_caption=2)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=r"layout must be columns in a VideoCaptioner; got 'interleaved'"):
        VideoCaptioner("shapes", layout="interleaved")
    with pytest.raises(ModelError, match="'no-such-model' cannot be loaded"):
        VideoCaptioner("no-such-model")


def test_closed() -> None:
    with VideoCaptioner("shapes", engine="fake") as captioner:
        assert "4 frames" in captioner(clip_bytes()).text
    with pytest.raises(SettingsError, match=r"this VideoCaptioner is closed; make another one\."):
        captioner(clip_bytes())
    captioner.close()


# In Jupyter


def test_jupyter_shows_the_frames(captioner: VideoCaptioner, clips: tuple[Path, dict[str, Scene]]) -> None:
    made = captioner(clips[0] / "clip-00.mp4")
    page = made._repr_html_()
    assert page.count("<img ") == len(made.meta["frame_timestamps"]) == 8
    assert page.count('src="data:image/jpeg;base64,') == 8
    assert "0.36 s" in page
    assert "<summary>2 candidates</summary>" in page


def test_jupyter_takes_nothing_for_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    file = put_clip(tmp_path / "a<b>&'\".mp4")
    made = VideoCaptioner("shapes", engine="fake")(file)
    told = VideoCaption(
        text=evil,
        value=None,
        candidates=(evil, evil),
        meta=made.meta,
        video=made.video,
        clip=made.clip,
        settings=made.settings,
    )
    page = told._repr_html_()
    assert set(re.findall(r"</?(\w+)", page)) == {
        *("div", "figure", "img", "figcaption", "p", "details", "summary", "ol", "li")
    }
    assert page.count("&lt;script&gt;") == 3
    assert "a&lt;b&gt;&amp;&#x27;&quot;.mp4" in page
    file.unlink()
    gone = told._repr_html_()
    assert "The frames cannot be shown: " in gone
    assert "<b>" not in gone


def test_jupyter_shows_text_without_the_extra(captioner: VideoCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    made = captioner(clip_bytes())
    monkeypatch.delitem(sys.modules, "reelscribe.report.thumbnails", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    page = made._repr_html_()
    assert "pip install 'reelscribe[report]'" in page
    assert made.text in page


# Several tasks

TASKS: dict[str, Any] = {
    "about": {"prompt": "What moves in {duration} s?"},
    "short": {"prompt": "Shorten: {about}", "after": "about", "video": False},
}


def _say(work: Work, number: int) -> str:
    return f"{number}: {work.requests[0].prompt}"


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> VideoCaptioner:
    """A captioner of two tasks, whose engine answers with the prompt."""
    monkeypatch.setattr(captioner_module, "load_engine", lambda settings: FakeEngine(_say))
    return VideoCaptioner("shapes", tasks=TASKS, decoders=0)


def test_ask_gives_the_answer_to_each_task(asking: VideoCaptioner) -> None:
    made = asking.ask(clip_bytes())
    assert {name: str(answer) for name, answer in made.items()} == {
        "about": "0: What moves in 1 s?",
        "short": "0: Shorten: 0: What moves in 1 s?",
    }
    about, short = made.values()
    assert isinstance(about, VideoCaption)
    assert isinstance(short, VideoCaption)
    assert len(about.meta["frame_timestamps"]) == 4
    assert (short.meta["frame_timestamps"], short.meta["video_tokens"]) == (None, None), "it is shown none"
    assert "0 frames" in short._repr_html_()


def test_ask_of_several_costs_each_other_nothing(asking: VideoCaptioner) -> None:
    first, missing, second = asking.ask([clip_bytes(), "nowhere.mp4", clip_bytes()])
    assert str(first["short"]) == str(second["short"]) == "0: Shorten: 0: What moves in 1 s?"
    about, short = missing["about"], missing["short"]
    assert isinstance(about, Failure)
    assert isinstance(short, Failure)
    assert (about.kind, short.kind) == ("missing", "after")
    assert asking.ask([]) == []
    assert [*asking.ask("nowhere.mp4")] == ["about", "short"], "that of one is told, too, not raised"
    with pytest.raises(SettingsError, match=r"a video is a path.*; got int"):
        asking.ask([3])  # type: ignore[list-item]


def test_ask_gives_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"seconds": {"type": "number", "x-from": "duration"}, "what": {"type": "string"}}
    tasks = {"form": {"schema": {"type": "object", "properties": fields}}, "plain": "What?"}
    said = lambda work, number: '{"what": "a sheep"}'  # noqa: E731
    monkeypatch.setattr(captioner_module, "load_engine", lambda settings: FakeEngine(said))
    made = VideoCaptioner("shapes", tasks=tasks, decoders=0).ask(clip_bytes())
    form, text = made["form"], made["plain"]
    assert isinstance(form, VideoCaption)
    assert isinstance(text, VideoCaption)
    assert (form.value, form.text) == ({"seconds": 1.0, "what": "a sheep"}, '{"what": "a sheep"}')
    assert (text.value, text.text) == (None, form.text)


def test_call_is_for_one_task(asking: VideoCaptioner) -> None:
    for videos in (clip_bytes(), [clip_bytes()]):
        with pytest.raises(SettingsError, match=r"has several tasks: ask\(videos\) gives the answer to each"):
            asking(videos)
    one = VideoCaptioner("shapes", tasks={"about": TASKS["about"]}, decoders=0)
    assert str(one(clip_bytes())) == str(one.ask(clip_bytes())["about"]) == "0: What moves in 1 s?"


def test_several_tasks_look_at_a_clip_once(captioner: VideoCaptioner, clips: tuple[Path, dict[str, Scene]]) -> None:
    """With the built-in model: each task says what it says alone."""
    folder, scenes = clips
    tasks = {"first": {}, "second": {"num_captions": 2, "sampling": {"temperature": 0.8}}}
    with VideoCaptioner("shapes", sampling={"max_tokens": 32}, tasks=tasks, device="cpu") as both:
        made = both.ask(folder / "clip-00.mp4")
    assert str(made["first"]) == scenes["clip-00.mp4"].caption
    alone = captioner(folder / "clip-00.mp4")
    second = made["second"]
    assert isinstance(second, VideoCaption)
    assert second.candidates == alone.candidates


# Data sets of Hugging Face's datasets


def test_map_adds_the_columns_of_each_task(asking: VideoCaptioner) -> None:
    datasets = pytest.importorskip("datasets")
    before = datasets.Dataset.from_dict({"videos": [[clip_bytes(), b"no video"], []], "id": [1, 2]})
    made = asking.map(before)
    names = [f"{task}{end}" for task in TASKS for end in ("", "_candidates", "_meta", "_failure")]
    assert made.column_names == ["videos", "id", *names]
    assert made["about"][:] == [["0: What moves in 1 s?", None], []]
    assert made["short"][:] == [["0: Shorten: 0: What moves in 1 s?", None], []]
    assert [told.partition(":")[0] for told in made["about_failure"][0]] == ["", "unreadable"]
    assert [told.partition(":")[0] for told in made["short_failure"][0]] == ["", "after"]
    few = VideoCaptioner("shapes", tasks=TASKS, decoders=0, columns="text,failure").map(before.to_iterable_dataset())
    assert [*next(iter(few))] == ["videos", "id", "about", "about_failure", "short", "short_failure"]


def test_map_has_a_column_for_values(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    schema = {"type": "object", "properties": {"what": {"type": "string"}, "count": {"type": "integer"}}}
    said = lambda work, number: '{"what": "a sheep", "count": 2}'  # noqa: E731
    monkeypatch.setattr(captioner_module, "load_engine", lambda settings: FakeEngine(said))
    made = VideoCaptioner("shapes", tasks={"form": {"schema": schema}}, decoders=0).map(
        datasets.Dataset.from_dict({"video": [b"no video", clip_bytes()]}), batch_size=1
    )
    assert made.features["form"] == {"what": datasets.Value("string"), "count": datasets.Value("int64")}
    assert made["form"][:] == [None, {"what": "a sheep", "count": 2}]


def test_map_leaves_columns_that_are_there(asking: VideoCaptioner) -> None:
    datasets = pytest.importorskip("datasets")
    there = datasets.Dataset.from_dict({"video": [clip_bytes()], "short_failure": ["mine"]})
    told = "have a column 'short_failure' already, which would be lost; give the task another name"
    with pytest.raises(SettingsError, match=told):
        asking.map(there)

    def rows() -> Iterator[dict[str, Any]]:
        yield {"video": clip_bytes(), "short_failure": "mine"}

    unknown = datasets.IterableDataset.from_generator(rows)
    assert unknown.column_names is None
    with pytest.raises(SettingsError, match=told):
        next(iter(asking.map(unknown)))


def test_map_keeps_every_row(captioner: VideoCaptioner, clips: tuple[Path, dict[str, Scene]]) -> None:
    datasets = pytest.importorskip("datasets")
    folder, scenes = clips
    videos = [str(folder / "clip-00.mp4"), "nowhere.mp4", str(folder / "clip-01.mp4"), None]
    before = datasets.Dataset.from_dict({"id": [1, 2, 3, 4], "video": videos}).with_format("numpy")
    made = captioner.map(before, batch_size=3)
    assert made.format["type"] == "numpy"
    made = made.with_format(None)
    assert (
        made.remove_columns([name for name in made.column_names if "caption" in name])[:] == before.with_format(None)[:]
    )
    assert made["caption"][:] == [scenes["clip-00.mp4"].caption, None, scenes["clip-01.mp4"].caption, None]
    assert [len(told) for told in made["caption_candidates"]] == [2, 0, 2, 0]
    [told] = [told for told in made["caption_failure"] if told]
    assert told.startswith("missing: nowhere.mp4: there is no such file")


def test_map_takes_all_kinds_of_data_sets(captioner: VideoCaptioner) -> None:
    datasets = pytest.importorskip("datasets")
    pairs = datasets.Dataset.from_dict({"videos": [[clip_bytes(), clip_bytes()], []]})
    [[first, second], none] = captioner.map(pairs)["caption"]
    assert first
    assert second
    assert none == []
    typed = datasets.Dataset.from_dict({"clip": [{"bytes": clip_bytes(), "path": None}]})
    typed = typed.cast_column("clip", datasets.Video(decode=False))
    with VideoCaptioner("shapes", engine="fake", video_key="clip") as fake:
        made = fake.map(datasets.DatasetDict(train=typed))
        assert made["train"].features["clip"] == typed.features["clip"]
        assert "4 frames" in made["train"][0]["caption"]
        [row] = fake.map(typed.to_iterable_dataset())
        assert row["caption"] == made["train"][0]["caption"]


def test_map_looks_again_for_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_dict({"video": ["a.mp4"]}).save_to_disk(tmp_path / "data")
    data = datasets.load_from_disk(tmp_path / "data")
    with VideoCaptioner("shapes", engine="fake") as fake:
        assert fake.map(data)["caption"][:] == [None]
        put_clip(tmp_path / "a.mp4")
        assert "4 frames" in fake.map(data)[0]["caption"]


def test_map_says_what_it_cannot_take(captioner: VideoCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    with pytest.raises(SettingsError, match=r"map takes a data set of Hugging Face's datasets; got list\."):
        captioner.map([{"video": "a.mp4"}])
    with pytest.raises(SettingsError, match=r"no column video or videos, only clip; name that .* with video_key\."):
        captioner.map(datasets.Dataset.from_dict({"clip": ["a.mp4"]}))
    with (
        VideoCaptioner("shapes", engine="fake", prompt_key="ask") as asking,
        pytest.raises(SettingsError, match="no column 'ask', which prompt_key names"),
    ):
        asking.map(datasets.Dataset.from_dict({"video": ["a.mp4"]}))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"VideoCaptioner\.map needs datasets: pip install datasets"):
        captioner.map([])


def test_loading_it_is_light() -> None:
    code = "import sys; from reelscribe import VideoCaptioner; print({'torch', 'datasets', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"
