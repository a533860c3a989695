"""Captions against references, from the command to what it says."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flow import ScriptedEngine, put_clip, put_rows, said

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.evaluation.evaluate import Evaluation, evaluate
from reelscribe.runners.local import run
from reelscribe.values import Row

RIGHT = {
    "a.mp4": "A man walks a dog on the beach.",
    "b.mp4": "Two children play football in a park.",
    "c.mp4": "A red car drives down a wet street.",
    "d.mp4": "A chef cuts onions in a kitchen.",
}
WRONG = {**RIGHT, "a.mp4": "A woman reads.", "b.mp4": "Two dogs play in a park."}


def _captioned(folder: Path, name: str, texts: dict[str, str], rows: list[Row] | None = None, **settings: Any) -> Path:
    """An output whose captions are these, by the name of the video."""
    for video in RIGHT:
        put_clip(folder / "in" / video)
    data = put_rows(folder / "in" / "rows.jsonl", rows or [{"video": video} for video in texts])
    engine = ScriptedEngine(lambda asked: said(*[texts[asked.clip.path.name]] * asked.requests[0].num_captions))
    run([data], folder / name, Settings(**{"decoders": 0} | settings), engine=engine)
    return folder / name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two outputs, and references in several forms."""
    folder = tmp_path_factory.mktemp("evaluated")
    _captioned(folder, "right.jsonl", RIGHT)
    _captioned(folder, "wrong.jsonl", WRONG)
    put_rows(
        folder / "list.jsonl", [{"video": video, "references": [text, "A film."]} for video, text in RIGHT.items()]
    )
    return folder


def _scored(data: Path, *outputs: str, references: str = "list.jsonl", **given: Any) -> Evaluation:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    return evaluate([data / output for output in outputs], data / references, samples=200, **given)


def _type(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def test_scores_are_those_of_the_libraries(data: Path) -> None:
    found = _scored(data, "wrong.jsonl")
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    scores = {name: score.value for name, score in found.outputs[0].scores.items()}
    texts, references = list(WRONG.values()), [[RIGHT[video] for video in WRONG], ["A film."] * 4]
    assert scores["bleu"] == pytest.approx(BLEU().corpus_score(texts, references).score)
    each = [CHRF().sentence_score(text, list(of)).score for text, *of in zip(texts, *references, strict=True)]
    assert scores["chrf"] == pytest.approx(sum(each) / 4)
    rouge = RougeScorer(["rougeL"])
    longest = [
        max(rouge.score(reference, text)["rougeL"].fmeasure for reference in (RIGHT[video], "A film."))
        for video, text in WRONG.items()
    ]
    assert scores["rouge_l"] == pytest.approx(25 * sum(longest))
    assert (found.clips, found.references, found.tokenizer) == (4, 8, "13a")
    assert found.outputs[0].scores["bleu"].low < scores["bleu"] < found.outputs[0].scores["bleu"].high


def test_two_outputs_are_compared_on_the_same_clips(data: Path) -> None:
    found = _scored(data, "wrong.jsonl", "right.jsonl")
    assert found.difference is not None
    for metric, score in found.difference.items():
        wrong, right = (each.scores[metric].value for each in found.outputs)
        assert score.value == pytest.approx(right - wrong)
        assert score.low <= score.value <= score.high
        assert score.low >= 0, "no choice of these clips makes the right captions the worse ones"
        assert score.p is not None
        assert 0.05 < score.p < 0.5, "2 of 4 clips are equal"
    same = _scored(data, "right.jsonl", "right.jsonl")
    assert same.difference is not None
    assert {(score.value, score.p) for score in same.difference.values()} == {(0.0, 1.0)}
    assert _scored(data, "wrong.jsonl", "right.jsonl") == found, "seeded"
    assert _scored(data, "wrong.jsonl", "right.jsonl", seed=1).difference != found.difference


def test_references_in_other_forms_are_the_same(data: Path) -> None:
    one = [
        {"path": str(data / "in" / video), "words": words}
        for video, text in RIGHT.items()
        for words in (text, "A film.")
    ]
    put_rows(data / "rows.jsonl", one)
    lines = ["video,caption", *(f"in/{video},{words}" for video, text in RIGHT.items() for words in (text, "A film."))]
    (data / "rows.csv").write_text("\n".join(lines), "utf-8")
    wanted = _scored(data, "wrong.jsonl").outputs[0].scores
    rows = _scored(data, "wrong.jsonl", references="rows.jsonl", reference_key="words", video_key="path")
    assert rows.outputs[0].scores == wanted
    assert _scored(data, "wrong.jsonl", references="rows.csv").outputs[0].scores == wanted


@pytest.mark.parametrize("name", ["references", "reference", "captions", "caption", "text", "written"])
@pytest.mark.parametrize("listed", [False, True])
def test_references_are_in_any_column_of_parquet(data: Path, tmp_path: Path, name: str, listed: bool) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"video": str(data / "in" / video), name: [text] if listed else text} for video, text in RIGHT.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    file, key = str(tmp_path / "rows.parquet"), "written" if name == "written" else None
    scores = _scored(data, "right.jsonl", references=file, reference_key=key).outputs[0].scores
    assert scores["bleu"].value == pytest.approx(100)


def test_columns_that_are_not_there_are_told_with_those_that_are(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    files = [put_rows(data / "named.jsonl", [{"clip": "a.mp4", "said": "A dog."}]).name]
    with contextlib.suppress(ModuleNotFoundError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"clip": ["a.mp4"], "said": ["A dog."]}), "named.parquet")
        files.append("named.parquet")
    for file in files:
        for keys, wanted in (
            (("--reference-key", "foo", "--video-key", "clip"), "has no column 'foo'; it has clip, said."),
            (("--reference-key", "sad", "--video-key", "clip"), "has no column 'sad'; did you mean said?"),
            (("--reference-key", "said", "--video-key", "foo"), "has no column 'foo'; it has clip, said."),
            (
                ("--reference-key", "said"),
                "has no column video or videos; name that of the clips with --video-key: it has",
            ),
        ):
            told = _type("eval", "right.jsonl", "--references", file, *keys, code=2).stderr
            assert f"{file} {wanted}" in told
            assert ".." not in told


def test_stretches_are_clips_of_their_own(data: Path, tmp_path: Path) -> None:
    rows: list[Row] = [{"video": "a.mp4", "start": 0, "end": 0.5}, {"video": "a.mp4", "start": 0.5, "end": 1}]
    output = _captioned(tmp_path, "parts.jsonl", RIGHT, rows)
    written = [{"video": "a.mp4#t=0,0.5", "text": RIGHT["a.mp4"]}, {**rows[1], "text": "Nothing."}]
    put_rows(tmp_path / "written.jsonl", written)
    found = _scored(tmp_path, "parts.jsonl", references="written.jsonl")
    assert found.clips == 2
    assert found.outputs[0].scores["rouge_l"].value == pytest.approx(50), output


def test_what_has_no_match_is_counted(data: Path, tmp_path: Path) -> None:
    output = _captioned(tmp_path, "out.jsonl", RIGHT, [{"video": name} for name in (*RIGHT, "gone.mp4")])
    rows = [{"video": name, "text": "words"} for name in ("a.mp4", "b.mp4", "other.mp4")]
    put_rows(
        tmp_path / "some.jsonl", [*rows, {"video": "c.mp4", "text": " "}, {"video": ["a.mp4", "b.mp4"], "text": "x"}]
    )
    found = _scored(tmp_path, "out.jsonl", references="some.jsonl")
    scored = found.outputs[0]
    assert (found.clips, scored.failed, scored.without_references, scored.examples) == (2, 1, 2, ["c.mp4", "d.mp4"])
    assert (found.unmatched_references, found.unmatched_examples) == (1, ["other.mp4"])
    assert found.unusable_references == 2
    said = _type("eval", str(output), "--references", str(tmp_path / "some.jsonl")).stdout
    assert "1 clip with references, but no caption" in said
    assert "other.mp4" in said
    assert "column 'text' holds no words" in said
    assert "it names 2 clips" in said


def test_table_and_json(data: Path) -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    words = ("eval", str(data / "wrong.jsonl"), str(data / "right.jsonl"), "--references", str(data / "list.jsonl"))
    lines = _type(*words).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if str(data) not in line)
    assert "  CIDEr-D" in "\n".join(lines)
    assert sum("   p 0." in line for line in lines) == 4
    told = json.loads(_type(*words, "--json").stdout)
    assert told["outputs"][1]["scores"]["bleu"]["value"] == pytest.approx(100)
    assert told["difference"]["chrf"]["p"] < 0.5


def test_languages_without_spaces(tmp_path: Path) -> None:
    texts = {"a.mp4": "一只狗在海滩上奔跑。", "b.mp4": "两个孩子在公园里踢足球。"}
    _captioned(tmp_path, "out.jsonl", {"a.mp4": "一只猫在海滩上奔跑。", "b.mp4": texts["b.mp4"]})
    put_rows(tmp_path / "zh.jsonl", [{"video": video, "text": text} for video, text in texts.items()])
    found = _scored(tmp_path, "out.jsonl", references="zh.jsonl")
    assert found.tokenizer == "zh"
    assert found.outputs[0].scores["rouge_l"].value == pytest.approx((800 / 9 + 100) / 2), (
        "one of nine characters is wrong"
    )
    put_rows(
        tmp_path / "ja.jsonl", [{"video": "a.mp4", "text": "犬が走る。"}, {"video": "b.mp4", "text": "子供が遊ぶ。"}]
    )
    assert _scored(tmp_path, "out.jsonl", references="ja.jsonl").tokenizer == "char"
    assert _scored(tmp_path, "out.jsonl", references="ja.jsonl", tokenizer="13a").tokenizer == "13a"


def test_several_kept_captions_count_as_their_mean(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "in", tmp_path / "in")
    _captioned(tmp_path, "all.jsonl", WRONG, num_captions=3, keep="all")
    shutil.copy(data / "list.jsonl", tmp_path)
    found = _scored(tmp_path, "all.jsonl").outputs[0].scores
    for metric, score in _scored(data, "wrong.jsonl").outputs[0].scores.items():
        assert found[metric].value == pytest.approx(score.value)


def test_task_must_be_clear(tmp_path: Path) -> None:
    tasks = {"short": {"prompt": "Who?"}, "long": {"prompt": "What?"}, "events": {"prompt": "When?", "times": True}}
    texts = dict.fromkeys(RIGHT, "0.0-0.5 s: a dog")
    output = _captioned(tmp_path, "out.jsonl", texts, tasks=tasks)
    put_rows(tmp_path / "list.jsonl", [{"video": video, "text": text} for video, text in RIGHT.items()])
    for task, said_of_it in (
        (None, "has the tasks short, long, events"),
        ("shrt", "did you mean short"),
        ("events", "JSON"),
    ):
        with pytest.raises(SettingsError, match=said_of_it):
            evaluate([output], tmp_path / "list.jsonl", task=task)
    assert _scored(tmp_path, "out.jsonl", task="long").task == "long"


def test_what_cannot_be_scored_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    put_rows(data / "others.jsonl", [{"video": "x.mp4", "text": "words"}])
    put_rows(data / "columns.jsonl", [{"video": "a.mp4", "said": "words"}])
    put_rows(data / "numbers.jsonl", [{"video": "a.mp4", "text": 3}])
    for references, wanted in (
        ("others.jsonl", "0 clips have both references in others.jsonl and a caption in right.jsonl"),
        ("columns.jsonl", "name that of the references with --reference-key. It has video, said."),
        ("numbers.jsonl", "row 0 of numbers.jsonl: column 'text' must hold a text, or a list of texts; it holds int."),
        ("none.jsonl", "none.jsonl"),
    ):
        told = _type("eval", "right.jsonl", "--references", references, code=2).stderr
        assert wanted in told
        assert ".." not in told
    assert "two to compare; got 3" in _type("eval", *["right.jsonl"] * 3, "--references", "list.jsonl", code=2).stderr


def test_an_output_that_failed_throughout_is_told(data: Path, tmp_path: Path) -> None:
    output = _captioned(tmp_path, "out.jsonl", {}, [{"video": "gone.mp4"}, {"video": "lost.mp4"}])
    told = _type("eval", str(output), "--references", str(data / "list.jsonl"), code=2).stderr
    assert f"at least 2 are needed. In {output} 2 clips have no caption." in told


def test_without_the_extra_it_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'reelscribe\[eval\]'"):
        evaluate([data / "right.jsonl"], data / "list.jsonl")
