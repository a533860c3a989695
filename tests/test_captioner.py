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
from reelscribe.demo import prepare
from reelscribe.errors import ClipError, MissingExtraError, ModelError, SettingsError
from reelscribe.models.shapes.scenes import Scene

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
        VideoCaptioner("shapes", num_caption=2)
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
        text=evil, candidates=(evil, evil), meta=made.meta, video=made.video, clip=made.clip, settings=made.settings
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


# Data sets of Hugging Face's datasets


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
    assert [len(told) for told in made["captions"]] == [2, 0, 2, 0]
    [[told]] = [told for told in made["caption_failures"] if told]
    assert told.startswith("missing: nowhere.mp4: there is no such file")
    assert captioner.map(made)[:] == made[:]


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
