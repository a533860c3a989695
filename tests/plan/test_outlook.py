"""What a run would take, as the command tells it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from clips import write_clip
from engines.test_planning import FAMILY
from flow import put_clip, put_rows, read_rows_of

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.engines.base import USUAL_LIMITS
from reelscribe.engines.planning import ModelSize
from reelscribe.engines.prospects import Prospect, look_at_model
from reelscribe.errors import ModelError, SettingsError
from reelscribe.plan import outlook
from reelscribe.plan.outlook import look_ahead
from reelscribe.video.sampling import VisionLimits


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put_clip(tmp_path / "a.mp4")
    return put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}] * 12 + [{"video": "none.mp4"}])


def _plan(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["plan", *words])
    assert result.exit_code == code, result.output
    return result


def test_a_table(data: Path) -> None:
    told = _plan(str(data), "--engine", "fake", "--rate", "2", "--price", "3600").stdout.splitlines()
    assert told == [
        "rows        13",
        "clips       12, 12.0 seconds of video",
        "codecs      12 h264",
        "broken      1 missing",
        f"            missing: row 12: none.mp4: there is no such file; paths start from {data.parent}.",
        "model       Qwen/Qwen3-VL-8B-Instruct; limits: the fake engine's",
        "tokens      at 2 fps  8 a clip  96 in all  (as set)",
        "            at 1 fps  8 a clip  96 in all",
        "            at 4 fps  8 a clip  96 in all",
        "GPU         not planned: the model does not run here",
        "rate        2 clips/s on one GPU, from --rate",
        "time        6.0 seconds; 0.00 GPU hours",
        "cost        6.00 at 3600 a GPU hour",
    ]


def test_no_rate_no_hours(data: Path) -> None:
    words = _plan(str(data), "--engine", "fake", "--price", "2").stdout
    assert "time        not known: no rate was measured." in words
    assert "cost" not in words.partition("not known")[2]
    told = json.loads(_plan(str(data), "--engine", "fake", "--json").stdout)
    assert told["rate"] is told["gpu_hours"] is told["cost"] is None
    assert told["tokens"][0] == {"fps": 2.0, "total": {"value": 96, "error": 0.0}, "per_clip": 8.0}
    assert told["failures"] == {"missing": 1}
    assert told["tokens_are_exact"] is True


def test_tokens_are_those_of_the_run(data: Path) -> None:
    CliRunner().invoke(main, ["caption", str(data), "-o", "out.jsonl", "--engine", "fake", "--fps", "8"])
    metas = [row["caption_meta"] for row in read_rows_of(Path("out.jsonl"))]
    spent = sum(meta["video_tokens"] or 0 for meta in metas)
    told = json.loads(_plan(str(data), "--engine", "fake", "--fps", "8", "--json").stdout)
    assert told["tokens"][0]["total"]["value"] == spent > 0


@pytest.mark.parametrize("decoders", ["0", "1"])
def test_clips_that_the_budget_cuts_down_are_counted_before_and_after_and_flagged(data: Path, decoders: str) -> None:
    put_rows(data, [{"video": "wide.mp4"}, {"video": "a.mp4"}])
    write_clip(Path("wide.mp4"), range(30), size=(640, 480), rate=10)
    options = [str(data), "--engine", "fake", "--fps", "5", "--max-frames", "8", "--max-video-tokens", "8"]
    told = json.loads(_plan(*options, "--json").stdout)
    assert (told["thinned"]["value"], told["shrunk"]["value"]) == (1, 1)
    words = _plan(*options).stdout.splitlines()
    assert "thinned     1, fewer than 5 frames a second; see --max-frames, --max-video-tokens" in words
    assert "shrunk      1, less than a quarter of their pixels; see --max-video-tokens, or lower --fps" in words
    done = CliRunner().invoke(main, ["caption", *options, "-o", "out.jsonl", "--decoders", decoders])
    hint = "; allow more with --max-frames N and --max-video-tokens N"
    assert f"flagged captions: shrunk 1, thinned 1{hint}" in done.stderr.splitlines()
    wide, plain = (row["caption_meta"] for row in read_rows_of(Path("out.jsonl")))
    assert (wide["flags"], wide["clip_flags"], wide["fps"]) == ("shrunk thinned", "thinned shrunk", 2.667)
    assert (plain["flags"], plain["clip_flags"], plain["fps"]) == ("", "", 4.0)


TASKS = """
sampling = {max_tokens = 100}
[tasks.short]
prompt = "In 5 words."
sampling = {max_tokens = 10}
num_captions = 2
[tasks.long]
prompt = "Tell all."
[tasks.checked]
prompt = "Is this right? {long}"
after = ["long"]
[tasks.summed_up]
prompt = "Sum up: {long}"
after = ["long"]
video = false
"""


def test_several_tasks_are_told_one_by_one(data: Path) -> None:
    Path("run.toml").write_text(TASKS)
    words = (str(data), "--engine", "fake", "--config", "run.toml")
    lines = _plan(*words).stdout.splitlines()
    at = lines.index("            at 4 fps  8 a clip  96 in all")
    assert lines[at + 1 : at + 6] == [
        "tasks       short      12 requests, at most 240 tokens of answers",
        "            long       12 requests, at most 1,200 tokens of answers",
        "            checked    12 requests, at most 1,200 tokens of answers",
        "            summed_up  12 requests, at most 1,200 tokens of answers",
        "            each clip is read 2 times; tokens are of one time",
    ]
    told = json.loads(_plan(*words, "--json").stdout)
    assert told["readings"] == 2, "once for both that can be asked at once, and once for the one that comes after"
    assert told["tasks"][0] == {
        "name": "short",
        "requests": {"value": 12, "error": 0.0},
        "answer_tokens": {"value": 240, "error": 0.0},
    }
    assert json.loads(_plan(*words[:1], "--engine", "openai", *words[3:], "--json").stdout)["readings"] == 3
    one = json.loads(_plan(str(data), "--engine", "fake", "--json").stdout)
    assert not one.keys() & {"tasks", "readings", "judged", "verified"}


def test_candidates_to_judge_are_counted_and_what_a_server_reads_again(data: Path) -> None:
    words = (str(data), "--keep", "judged", "--num-captions", "3", "--engine")
    lines = _plan(*words, "fake").stdout.splitlines()
    at = lines.index("judged      36 candidates, each by one more question and one token")
    assert lines[at + 1] == "            each clip is read once"
    assert json.loads(_plan(*words, "openai", "--json").stdout)["readings"] == 4


def test_texts_whose_claims_are_judged_are_counted_and_what_a_server_reads_at_least(data: Path) -> None:
    words = (str(data), "--verify", "--num-captions", "3", "--engine")
    lines = _plan(*words, "fake").stdout.splitlines()
    at = lines.index("verified    36 texts, each claim by one more question and one token")
    assert lines[at + 1] == "            each clip is read once"
    assert "each clip is read at least 4 times; tokens are of one time" in _plan(*words, "openai").stdout


def test_tokens_of_answers_that_nobody_limits_are_not_made_up(data: Path) -> None:
    words = (str(data), "--task", "long=Tell all.", "--task", "short=In 5 words.")
    lines = _plan(*words, "--engine", "fake").stdout.splitlines()
    assert "tasks       long   12 requests, tokens of answers not known: set max_tokens in sampling" in lines
    assert "            each clip is read once for all tasks" in lines


@pytest.mark.transformers
def test_tokens_of_answers_are_limited_by_the_checkpoint(data: Path) -> None:
    words = (str(data), "--task", "long=Tell all.", "--task", "short=In 5 words.", "--model", "shapes")
    assert "            short  12 requests, at most 768 tokens of answers" in _plan(*words).stdout.splitlines()


def test_the_rate_of_a_run_goes_into_the_next_plan(data: Path) -> None:
    CliRunner().invoke(main, ["caption", str(data), "-o", "out.jsonl", "--engine", "fake"])
    told = json.loads(_plan(str(data), "--engine", "fake", "--measured", "out.run.json", "--json").stdout)
    assert told["rate"]["clips_per_second"] == json.loads(Path("out.run.json").read_text())["clips_per_second"]
    hours = told["gpu_hours"]["value"]
    assert hours == pytest.approx(12 / told["rate"]["clips_per_second"] / 3600)
    per_candidate = json.loads(Path("out.run.json").read_text())["tokens"]
    found = [[each["candidates"], each["answer_tokens"]["value"]] for each in told["candidates"]]
    assert found == [[count, pytest.approx(count * per_candidate)] for count in (1, 4, 8)]
    bounds = [(each["least_hours"]["value"], each["most_hours"]["value"]) for each in told["candidates"]]
    assert bounds == [pytest.approx((hours, count * hours)) for count in (1, 4, 8)]
    words = _plan(str(data), "--engine", "fake", "--measured", "out.run.json", "--num-captions", "2").stdout
    assert f"2: {2 * per_candidate:,} tokens of answers" in words


def test_an_estimate_says_its_error(data: Path) -> None:
    put_rows(data, [{"videos": ["a.mp4"] * (number % 2)} for number in range(200)])
    made = look_ahead([data], Settings(engine="fake", price=1.0), rate=1.0, most_rows=50)
    assert made.clips.error > 0
    assert made.cost
    assert made.cost.error == pytest.approx(made.clips.error / 3600)
    assert not made.tokens_are_exact


def test_the_model_on_gpus(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ModelSize.estimated(FAMILY["32B"])
    prospect = Prospect(limits=VisionLimits(), size=size, source="a test's", exact=True)
    monkeypatch.setattr(outlook, "look_at_model", lambda _: prospect)
    words = _plan(str(data), "--gpu", "A100", "--rate", "1").stdout
    assert "GPU         2 x a100 (tp=2, dp=1, with --engine vllm), " in words
    assert "GB of 72.0 GB that can be used on each" in words
    told = json.loads(_plan(str(data), "--engine", "vllm", "--gpu", "a100", "--gpus", "8", "--json").stdout)["gpu_plan"]
    assert (told["tp"], told["dp"], told["gpus"], told["needs_vllm"]) == (2, 4, 8, False)
    assert told["needed_bytes"] < told["usable_bytes"] == 72 * 10**9
    # 33.4 billion weights of 2 bytes, 4 clips of 10,240 tokens of 256 KiB, and 2 GB to work in
    assert "GPU         79.5 GB on one; --gpu names one of h100," in _plan(str(data)).stdout
    with pytest.raises(SettingsError, match="the model does not fit"):
        look_ahead([data], Settings(), gpu="l4", gpus=1)


def test_wrong_usage(data: Path) -> None:
    assert "gpu must be one of h100, h200, " in _plan(str(data), "--gpu", "h1000", code=2).stderr
    assert "gpus must be a whole number of at least 1; got 0." in _plan(str(data), "--gpus", "0", code=2).stderr
    assert "there is no nowhere.jsonl" in _plan("nowhere.jsonl", code=2).stderr


# What is known of a model


def test_a_server_s_own_frames_are_not_ours_to_count() -> None:
    assert look_at_model(Settings(engine="openai")).exact
    assert look_at_model(Settings(engine="openai", audio=True)).limits.hearing
    assert not look_at_model(Settings(engine="fake", audio=True)).limits.hearing
    found = look_at_model(Settings(engine="openai", send="video"))
    assert not found.exact
    assert found.source.endswith("; it is sent whole files, and chooses frames its own way")


@pytest.mark.transformers
def test_the_built_in_model_needs_no_hub() -> None:
    found = look_at_model(Settings(model="shapes"))
    assert found.exact
    assert found.size
    assert found.size.text_bytes + found.size.vision_bytes < 10**8


@pytest.mark.transformers
def test_what_cannot_be_read(tmp_path: Path) -> None:
    found = look_at_model(Settings(model="nobody/nothing"))
    assert (found.limits, found.size, found.exact) == (USUAL_LIMITS, None, False)
    assert found.source.startswith("the family's usual ones, since the model 'nobody/nothing' cannot be loaded: ")
    with pytest.raises(ModelError, match="cannot be loaded"):
        look_at_model(Settings(model=str(tmp_path)))


@pytest.mark.transformers
def test_a_model_whose_weights_cannot_be_counted_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from reelscribe.engines.planning import ModelSize

    def refused(*_: object, **__: object) -> None:
        raise ModelError("the size of this model is not known.")

    monkeypatch.setattr(ModelSize, "of", refused)
    found = look_at_model(Settings(model="shapes"))
    assert (found.size, found.exact) == (None, True)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr("importlib.import_module", missing)
    found = look_at_model(Settings(model="shapes"))
    assert not found.exact
    assert "transformers is not installed (pip install 'reelscribe[transformers]')" in found.source
