"""Settings: checked as soon as they exist, from wherever they come."""

import pydoc
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import pytest

from reelscribe.captioner import VideoCaptioner
from reelscribe.config import AFFECTS, FailureLimit, Settings, kind_of
from reelscribe.config.groups import GROUPS
from reelscribe.config.keywords import Keywords
from reelscribe.errors import SettingsError


def test_defaults_are_valid_and_every_setting_is_explained() -> None:
    settings = Settings()
    assert (settings.model, settings.fps, settings.num_captions) == ("Qwen/Qwen3-VL-8B-Instruct", 2.0, 1)
    assert all(item.metadata["help"] for item in fields(settings))


def test_help_on_settings_says_what_each_is() -> None:
    text = pydoc.plain(pydoc.render_doc(Settings))
    assert all(f"    {item.name}: {item.metadata['help']} [" in text for item in fields(Settings))


def test_each_setting_has_a_group() -> None:
    grouped = [item.name for group in GROUPS.values() for item in fields(group)]
    assert sorted(grouped) == sorted(item.name for item in fields(Settings))


def test_typed_keywords_of_a_captioner_are_the_settings() -> None:
    kinds = {item.name: item.type for item in fields(Settings)}
    assert {"model": str, **Keywords.__annotations__} == kinds, "run: python tools/render_keywords.py"
    assert get_type_hints(VideoCaptioner.__init__)["settings"] == Unpack[Keywords]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().fps = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("engine", "vlm", "engine must be one of transformers, vllm, openai, fake; got 'vlm'"),
        ("engine", 3, "engine must be one of transformers, vllm, openai, fake; got 3"),
        (
            "keep",
            "best",
            "keep must be one of random_any, similar_one_simhash, consensus, likeliest, judged, scored, all; "
            "got 'best'",
        ),
        (
            "keep",
            ["all"],
            r"keep must be one of random_any, similar_one_simhash, consensus, likeliest, judged, scored, all; "
            r"got \['all'\]",
        ),
        (
            "video_key",
            "caption_meta",
            "the task 'caption' would add a column 'caption_meta', which is that of video_key",
        ),
        ("prompt_key", "caption", "the task 'caption' would add a column 'caption', which is that of prompt_key; give"),
        ("text_key", "caption", "the task 'caption' would add a column 'caption', which is that of text_key; give"),
        ("columns", "text,metadata", "columns must be some of text,candidates,meta,failure; got 'text,metadata'"),
        ("columns", "", "columns must be some of text,candidates,meta,failure; got ''"),
        ("layout", "rows", "layout must be one of auto, interleaved, columns; got 'rows'"),
        ("dtype", "int8", "dtype must be one of auto, bfloat16, float16, float32; got 'int8'"),
        ("min_decoded", 0.0, r"min_decoded must be a number above 0 and at most 1; got 0\.0"),
        ("min_decoded", 1.5, r"min_decoded must be a number above 0 and at most 1; got 1\.5"),
        ("min_decoded", float("nan"), "min_decoded must be a number above 0 and at most 1; got nan"),
        ("num_captions", 0, "num_captions must be a whole number of at least 1; got 0"),
        ("num_captions", 1.5, "num_captions must be a whole number of at least 1; got 1.5"),
        ("num_captions", True, "num_captions must be a whole number of at least 1; got True"),
        ("num_captions", None, "num_captions must be a whole number of at least 1; got None"),
        ("min_frames", 0, "min_frames must be a whole number of at least 1; got 0"),
        ("max_frames", "many", "max_frames must be a whole number of at least 1; got 'many'"),
        ("max_video_tokens", -1, "max_video_tokens must be a whole number of at least 1; got -1"),
        ("runner", "slurm", "runner must be one of local, ray; got 'slurm'"),
        ("actors", "0", "actors must be a number, or the fewest and the most, as 1-64; got '0'"),
        ("actors", "4-2", "actors must be a number, or the fewest and the most, as 1-64; got '4-2'"),
        ("actors", "all", "actors must be a number, or the fewest and the most, as 1-64; got 'all'"),
        ("shard", "0/3", "shard must be a part and the number of all parts, as 3/8; got '0/3'"),
        ("shard", "4/3", "shard must be a part and the number of all parts, as 3/8; got '4/3'"),
        ("shard", "half", "shard must be a part and the number of all parts, as 3/8; got 'half'"),
        ("batch_size", 0, "batch_size must be a whole number of at least 1; got 0"),
        ("prefetch_bytes", 0, "prefetch_bytes must be a whole number of at least 1; got 0"),
        ("decoders", -1, "decoders must be a whole number of at least 0; got -1"),
        ("decode_seconds", 0, "decode_seconds must be a number above 0; got 0"),
        ("decode_seconds", float("inf"), "decode_seconds must be a number above 0; got inf"),
        ("decoder_bytes", 0, "decoder_bytes must be a whole number of at least 1; got 0"),
        ("seed", "x", "seed must be a whole number; got 'x'"),
        ("seed", False, "seed must be a whole number; got False"),
        ("fps", "fast", "fps must be a number; got 'fast'"),
        ("fps", True, "fps must be a number; got True"),
        ("fps", 0, "fps must be a number above 0; got 0"),
        ("fps", -2.0, "fps must be a number above 0; got -2.0"),
        ("fps", float("nan"), "fps must be a number above 0; got nan"),
        ("fps", float("inf"), "fps must be a number above 0; got inf"),
        ("send", "film", "send must be one of frames, images, video; got 'film'"),
        ("max_concurrency", 0, "max_concurrency must be a whole number of at least 1; got 0"),
        ("download_seconds", float("inf"), "download_seconds must be a number above 0; got inf"),
        ("request_timeout", 0, "request_timeout must be a number above 0; got 0"),
        ("retry_seconds", -1, "retry_seconds must be a number of at least 0; got -1"),
        ("price", 0, "price must be a number above 0; got 0"),
        ("price", float("nan"), "price must be a number above 0; got nan"),
        ("budget", -1.0, "budget must be a number above 0; got -1.0"),
        ("budget", 5.0, "a budget needs a price: what a GPU hour costs."),
        ("error_budget", 0, "error_budget must be a whole number of at least 1; got 0"),
        ("max_upload_bytes", 0, "max_upload_bytes must be a whole number of at least 1; got 0"),
        ("model", 3, "model must be a string; got 3"),
        ("model", None, "model must be a string; got None"),
        ("revision", 1, "revision must be a string; got 1"),
        ("prompt", ["Describe."], "prompt must be a string; got"),
        ("prompt", "bad \udcff", r"prompt must be text in UTF-8; got 'bad \\udcff'"),
        ("system_prompt", "\ud800", "system_prompt must be text in UTF-8"),
        ("text_key", None, "text_key must be a string; got None"),
        ("device", 0, "device must be a string; got 0"),
        ("original", "no", "original must be true or false; got 'no'"),
        ("original", 1, "original must be true or false; got 1"),
        ("sampling", "temperature=0.7", "sampling must be a table of names and values; got 'temperature=0.7'"),
        ("sampling", None, "sampling must be a table of names and values; got None"),
        ("model_params", [1], r"model_params must be a table of names and values; got \[1\]"),
    ],
)
def test_wrong_value_is_told_with_what_is_allowed(name: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"engine": "openai", "model_params": {"x": 1}},
            r"model_params are for loading .*; extra_body holds fields for",
        ),
        (
            {"engine": "openai", "show": "images"},
            r"show is for models that run here; send says what a server is sent\.",
        ),
        (
            {"engine": "vllm", "deterministic": True},
            "deterministic is for the engine transformers only; the engine is vllm",
        ),
        ({"engine": "vllm", "extra_body": {"x": 1}}, r"extra_body is for the engine openai only; the engine is vllm\."),
        (
            {"engine": "openai", "extra_body": {"model": "x"}},
            "extra_body must not hold 'model': the setting model names",
        ),
        ({"engine": "openai", "extra_body": {"messages": []}}, "extra_body must not hold 'messages': prompt, system_"),
        ({"engine": "openai", "extra_body": {"n": 3}}, "extra_body must not hold 'n': num_captions says how many"),
        ({"engine": "openai", "extra_body": {"stream": True}}, "extra_body must not hold 'stream': answers are read"),
    ],
)
def test_what_goes_to_an_engine_that_does_not_take_it_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        Settings(**given)


def test_a_judge_that_nobody_asks_is_told() -> None:
    tasks = {"who": {"prompt": "Who?", "keep": "judged"}, "where": "Where?"}
    Settings(judge_prompt="Right? {caption}", tasks=tasks).check_checks()
    with pytest.raises(SettingsError, match=r"^judge_prompt is for keep judged, by which no task chooses"):
        Settings(judge_prompt="Right? {caption}").check_checks()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tell_faults": True}, "tell_faults is for second tries"),
        ({"tasks": {"who": {"prompt": "Who?", "tell_faults": True}}}, "tasks.who: tell_faults is for second tries"),
    ],
)
def test_faults_are_told_at_second_tries_alone(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}, and there are none without retry_flagged"):
        Settings(**given).check_checks()
    Settings(**given, retry_flagged=True).check_checks()


def test_settings_that_an_earlier_release_recorded_are_read() -> None:
    recorded = {"engine": "openai", "model_params": {"max_completion_tokens": 9}, "fps": 3.0, "gone": 1}
    assert Settings.of_run(recorded) == Settings(engine="openai", fps=3.0, extra_body={"max_completion_tokens": 9})
    assert Settings.of_run(Settings(model_params={"x": 1}).without_token()) == Settings(model_params={"x": 1})


def test_whole_numbers_do_for_fps_and_none_for_what_has_a_default_elsewhere() -> None:
    settings = Settings(fps=1, min_frames=None, prompt=None, video_key=None, revision=None)
    assert settings.fps == 1


def test_fewest_frames_cannot_exceed_most() -> None:
    with pytest.raises(SettingsError, match=r"min_frames \(9\) must not exceed max_frames \(8\)"):
        Settings(min_frames=9, max_frames=8)
    assert Settings(min_frames=8, max_frames=8).min_frames == 8


def test_sampling_is_checked_with_the_settings() -> None:
    with pytest.raises(SettingsError, match="unknown sampling parameter 'temprature'; did you mean temperature"):
        Settings(sampling={"temprature": 0.7})
    assert Settings(sampling={"max_new_tokens": 64}).sampling_params().max_tokens == 64


def test_each_setting_says_what_it_affects() -> None:
    """A new setting belongs into `AFFECTS`: whether captions that are there hold when it changes."""
    named = [name for names in AFFECTS.values() for name in names]
    assert sorted(named) == sorted(item.name for item in fields(Settings))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "100%", "-1%", "nan%", "5%%", "5 percent", "%", "5% "])
def test_most_failures_are_a_number_or_a_share(text: str) -> None:
    if text.strip() == "5%":
        assert Settings(max_failures=text).failure_limit() == FailureLimit(share=0.05)
        return
    with pytest.raises(SettingsError, match="max_failures must be a whole number, or a share below 100%, as 5%; got"):
        Settings(max_failures=text)


@pytest.mark.parametrize(
    ("text", "within", "beyond"),
    [
        ("0", (0, 9), (1, 1)),
        ("10", (10, 10), (11, 1000)),
        ("5%", (99, 99), (6, 100)),
        ("5%", (50, 1000), (51, 1000)),
        ("0%", (0, 100), (1, 100)),
    ],
)
def test_too_many_failures(text: str, within: tuple[int, int], beyond: tuple[int, int]) -> None:
    limit = Settings(max_failures=text).failure_limit()
    assert limit is not None
    assert str(limit) == text
    assert not limit.exceeded_by(*within)
    assert limit.exceeded_by(*beyond)


def test_any_number_may_fail_by_default() -> None:
    assert Settings().failure_limit() is None


def test_kind_of_a_setting() -> None:
    kinds = {item.name: kind_of(item) for item in fields(Settings)}
    assert kinds["prompt"] == (str, True)
    assert kinds["max_frames"] == (int, True)
    assert kinds["fps"] == (float, False)
    assert kinds["original"] == (bool, False)
    assert kinds["sampling"][0] is kinds["model_params"][0]


def _toml(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, "utf-8")
    return file


def test_toml_file_holds_settings_and_keywords_win(tmp_path: Path) -> None:
    file = _toml(tmp_path, 'model = "shapes"\nfps = 4\noriginal = false\n[sampling]\ntemperature = 0.5\ntop_k = 20\n')
    settings = Settings.load(file, fps=1.0)
    assert settings == Settings(model="shapes", fps=1.0, original=False, sampling={"temperature": 0.5, "top_k": 20})


def test_tables_of_file_and_keywords_are_merged(tmp_path: Path) -> None:
    file = _toml(tmp_path, "[sampling]\ntemperature = 0.5\ntop_k = 20\n")
    assert Settings.load(file, sampling={"top_k": "5"}).sampling == {"temperature": 0.5, "top_k": "5"}


def test_a_table_does_not_hide_a_wrong_value_in_the_file(tmp_path: Path) -> None:
    assert Settings.load(_toml(tmp_path, "sampling = 3"), sampling={"top_k": 5}).sampling == {"top_k": 5}
    with pytest.raises(SettingsError, match="sampling must be a table of names and values; got 3"):
        Settings.load(_toml(tmp_path, "sampling = 3"))


def test_without_a_file_keywords_are_all() -> None:
    assert Settings.load(seed=3) == Settings(seed=3)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max-frames", "did you mean max_frames"),
        ("num_caption", "did you mean num_captions"),
        ("qqqqqq", "known are model, revision, engine"),
    ],
)
def test_unknown_key_names_the_near_misses(tmp_path: Path, key: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting '{key}'; {hint}"):
        Settings.load(_toml(tmp_path, f"{key} = 1"))
    with pytest.raises(SettingsError, match=f"unknown setting '{key}'; {hint}"):
        Settings.load(None, **{key: 1})


def test_wrong_type_in_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^fps must be a number; got 'fast'"):
        Settings.load(_toml(tmp_path, 'fps = "fast"'))


def test_file_that_is_not_there_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings in .*no\.toml: No such file"):
        Settings.load(tmp_path / "no.toml")
    with pytest.raises(SettingsError, match=r"cannot read the settings in .*: Is a directory"):
        Settings.load(tmp_path)


@pytest.mark.parametrize("content", [b"fps = = 2", b"\xff\xfe", b"fps = 1\nfps = 2"])
def test_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings\.toml is not valid TOML: "):
        Settings.load(file)
