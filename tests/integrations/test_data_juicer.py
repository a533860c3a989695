"""The operator as Data-Juicer's own classes see it, within this process. `test_dj_process.py` has whole jobs."""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import EOC, VIDEO

from integrations.conftest import BROKEN
from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import EngineError, MissingExtraError
from reelscribe.operators import video_captioning_from_vlm_mapper as operators
from reelscribe.values import Row, Work

NAME = "video_captioning_from_vlm_mapper"
HERE = {"auto_op_parallelism": False, "num_proc": None}
"""Map in this process."""


@pytest.fixture(scope="module")
def module() -> Any:
    return importlib.import_module("reelscribe.integrations.data_juicer")


@pytest.fixture
def scripted(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make operators whose engine answers "<clip> <candidate>", or that of the given arguments."""

    def say(prepared: Work, number: int) -> str:
        return f"{Path(prepared.requests[0].clip.name).stem} {number}"

    def make(engine: FakeEngine | None = None, **arguments: Any) -> Any:
        monkeypatch.setattr(operators, "load_engine", lambda _: engine or FakeEngine(say))
        return module.VideoCaptioningFromVLMMapper(**arguments)

    module._loaded.clear()
    yield make
    module._loaded.clear()


def batch(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_without_data_juicer_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "data_juicer", None)
    monkeypatch.delitem(sys.modules, "reelscribe.integrations.data_juicer", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs data_juicer: pip install 'reelscribe\[data-juicer\]'"):
        importlib.import_module("reelscribe.integrations.data_juicer")


def test_the_folder_for_recipes_is_a_package() -> None:
    told = CliRunner().invoke(main, ["dj-path"])
    assert told.exit_code == 0
    assert (Path(told.output.strip()) / "__init__.py").is_file()


# What Data-Juicer asks of an operator.


@pytest.mark.data_juicer
def test_it_stands_in_the_place_of_the_published_one(module: Any) -> None:
    from data_juicer.ops import OPERATORS, load_ops
    from data_juicer.ops import mapper as package
    from data_juicer.ops.mapper.video_captioning_from_vlm_mapper import VideoCaptioningFromVLMMapper as InPlace

    assert InPlace is package.VideoCaptioningFromVLMMapper is module.VideoCaptioningFromVLMMapper
    assert OPERATORS.get(NAME) is InPlace
    [op] = load_ops([{NAME: {"hf_model": "shapes"}}])
    assert (type(op), op._name) == (InPlace, NAME)


@pytest.mark.data_juicer
def test_parameters_are_those_of_the_published_one_and_one_more(module: Any) -> None:
    source = Path(sys.modules[f"data_juicer.ops.mapper.{NAME}"].__file__ or "").read_text("utf-8")
    [published] = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    ours = inspect.signature(module.VideoCaptioningFromVLMMapper.__init__).parameters.values()
    positional = [item.name for item in ours if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == [argument.arg for argument in published.args.args]
    assert [item.name for item in ours if item.kind is inspect.Parameter.KEYWORD_ONLY] == ["caption_field"]


@pytest.mark.data_juicer
def test_preflight_takes_all_parameters_and_refuses_others(module: Any) -> None:
    from data_juicer.core.preflight import PipelineConfigError, pre_instantiation_check

    arguments = {
        "hf_model": "shapes",
        "enable_vllm": False,
        "caption_num": 2,
        "keep_candidate_mode": "all",
        "keep_original_sample": False,
        "prompt": "p",
        "prompt_key": "ask",
        "system_prompt": "s",
        "model_params": {},
        "sampling_params": {"temperature": 1},
        "caption_field": "captions",
        "batch_size": 2,
        "skip_op_error": True,
    }
    pre_instantiation_check([{NAME: arguments}])
    with pytest.raises(PipelineConfigError, match=r"Unknown parameter 'capton_num'.*caption_num"):
        pre_instantiation_check([{NAME: {"capton_num": 2}}])
    with pytest.raises(PipelineConfigError, match="'caption_num' expects type 'int'"):
        pre_instantiation_check([{NAME: {"caption_num": "two"}}])


@pytest.mark.data_juicer
@pytest.mark.parametrize(
    ("arguments", "declared"),
    [
        ({}, {"memory": 70.0, "accelerator": "cuda", "batch_size": 10, "text_key": "text", "video_key": "videos"}),
        ({"memory": 0}, {"memory": 70.0}),
        ({"memory": "8GB", "num_proc": 3, "text_key": "words"}, {"memory": 8.0, "num_proc": 3, "text_key": "words"}),
        ({"enable_vllm": True, "num_proc": 3}, {"num_proc": 1}),  # which takes all GPUs
        ({"prompt_key": None}, {"prompt_key": None}),
    ],
    ids=str,
)
def test_schedulers_find_what_it_declares(
    scripted: Callable[..., Any], arguments: dict[str, Any], declared: dict[str, Any]
) -> None:
    op = scripted(**arguments)
    assert {name: getattr(op, name) for name in declared} == declared
    assert op.is_batched_op()


@pytest.mark.data_juicer
def test_constructor_loads_no_model_and_tells_wrong_arguments(module: Any) -> None:
    module.VideoCaptioningFromVLMMapper(hf_model="no/such-model")
    with pytest.raises(ValueError, match="keep_candidate_mode must be one of"):
        module.VideoCaptioningFromVLMMapper(keep_candidate_mode="best")
    with pytest.raises(TypeError, match="unknown arguments: capton_num"):
        module.VideoCaptioningFromVLMMapper(capton_num=2)


@pytest.mark.data_juicer
@pytest.mark.parametrize("pickler", ["dill", "ray.cloudpickle"])
def test_it_travels_without_its_model(scripted: Callable[..., Any], rows: list[Row], pickler: str) -> None:
    op = scripted(prompt="p")
    first = op.process_batched(batch(rows))
    assert [failure.kind for failure in op._captioner.failures] == ["unreadable"]
    library = importlib.import_module(pickler)
    sent = library.dumps(op)
    assert b"FakeEngine" not in sent
    there = library.loads(sent)
    assert there._captioner.failures == []
    assert there.process_batched(batch(rows)) == first


@pytest.mark.data_juicer
def test_operators_of_one_process_share_a_model_until_the_run_ends(
    scripted: Callable[..., Any], module: Any, monkeypatch: pytest.MonkeyPatch, rows: list[Row]
) -> None:
    from data_juicer.core.data import NestedDataset

    op, twin, other = scripted(**HERE), scripted(**HERE), scripted(prompt="p")
    loads: list[FakeEngine] = []

    def load(_: Settings) -> FakeEngine:
        loads.append(FakeEngine(lambda *_: "words"))
        return loads[-1]

    monkeypatch.setattr(operators, "load_engine", load)
    for each in (op, twin, op, other):
        each.process_batched(batch(rows[:1]))
    assert len(loads) == 2
    assert len(op.run(NestedDataset.from_list(rows[:1]))) == 2
    assert len(module._loaded) == 1, "what the operator used is let go, what another uses is not"


@pytest.mark.data_juicer
def test_arrow_table_of_ray_comes_back_as_columns(scripted: Callable[..., Any], rows: list[Row]) -> None:
    import pyarrow as pa

    made = scripted()(pa.table(batch(rows[:2])))
    assert made["text"] == [
        rows[0]["text"],
        f"{VIDEO} clip-0 0 {EOC}",
        rows[1]["text"],
        f"{VIDEO} clip-1 0 {EOC}",
    ]
    assert {len(column) for column in made.values()} == {4}


@pytest.mark.data_juicer
@pytest.mark.parametrize("skip", [True, False])
def test_a_broken_engine_is_no_error_to_skip(scripted: Callable[..., Any], rows: list[Row], skip: bool) -> None:
    op = scripted(FakeEngine(break_after=0), skip_op_error=skip)
    with pytest.raises(EngineError):
        op.process(batch(rows[:1]))


@pytest.mark.data_juicer
def test_cache_knows_an_operator_by_its_arguments_not_by_its_run(scripted: Callable[..., Any], rows: list[Row]) -> None:
    op, twin, other = scripted(work_dir="a"), scripted(work_dir="b"), scripted(prompt="p")
    op.process_batched(batch(rows))
    op._failures_file = "somewhere.jsonl"
    assert op._fingerprint_bytes() == twin._fingerprint_bytes() != other._fingerprint_bytes()


# Data sets of Data-Juicer's.


@pytest.mark.data_juicer
@pytest.mark.parametrize("mode", ["random_any", "all"])
def test_field_of_captions_has_its_type_though_the_first_batch_fails(
    scripted: Callable[..., Any], rows: list[Row], mode: str
) -> None:
    from data_juicer.core.data import NestedDataset
    from loguru import logger

    told: list[str] = []
    sink = logger.add(told.append, level="ERROR", format="{message}")
    op = scripted(caption_field="captions", keep_candidate_mode=mode, caption_num=2, batch_size=1, **HERE)
    data = NestedDataset.from_list([{**row, "captions": None} for row in (rows[BROKEN], rows[0])])
    made = op.run(data).to_list()
    logger.remove(sink)
    assert len(told) == 1
    assert f'sample "row 0, {rows[BROKEN]["videos"][0]}" -- unreadable: no caption; the row stays' in told[0]
    kept = made[1]["captions"]
    assert kept == [["clip-0 0", "clip-0 1"]] if mode == "all" else kept in (["clip-0 0"], ["clip-0 1"])
    assert made[0]["captions"] == [None]
    assert [row["text"] for row in made] == [rows[BROKEN]["text"], rows[0]["text"]]


@pytest.mark.data_juicer
def test_a_failure_names_its_row_of_the_data_set_whatever_the_batch(
    scripted: Callable[..., Any], rows: list[Row]
) -> None:
    from data_juicer.core.data import NestedDataset
    from loguru import logger

    told: list[str] = []
    sink = logger.add(told.append, level="ERROR", format="{message}")
    data = [rows[0], rows[BROKEN], rows[1], {**rows[2], "text": "words without a token"}, rows[BROKEN]]
    made = scripted(batch_size=2, **HERE).run(NestedDataset.from_list(data))
    logger.remove(sink)
    assert [re.findall(r'sample "(row \d)(?:, (\S+))?" --', line) for line in told] == [
        [("row 1", rows[BROKEN]["videos"][0])],
        [("row 3", "")],
        [("row 4", rows[BROKEN]["videos"][0])],
    ]
    assert made.column_names == list(rows[0]), "no column of ours stays"
    assert [row["id"] for row in made.to_list()] == [0, 0, BROKEN, 1, 1, 2, BROKEN]


@pytest.fixture
def shapes(module: Any) -> Callable[..., list[Row]]:
    """Run the built-in model over samples, as a job does. It stays loaded from case to case."""
    from data_juicer.core.data import NestedDataset

    def run(samples: Sequence[Row], **arguments: Any) -> list[Row]:
        op = module.VideoCaptioningFromVLMMapper(hf_model="shapes", **HERE, **arguments)
        made: list[Row] = NestedDataset.from_list(samples).map(op.process, batched=True, batch_size=2).to_list()
        return made

    return run


@pytest.mark.data_juicer
def test_default(
    shapes: Callable[..., list[Row]], rows: list[Row], captioned: Callable[[Sequence[Row]], list[tuple[int, str]]]
) -> None:
    assert [(row["id"], row["text"]) for row in shapes(rows)] == captioned(rows)


@pytest.mark.data_juicer
def test_candidates_of_the_model_are_all_kept_or_one_of_them(shapes: Callable[..., list[Row]], rows: list[Row]) -> None:
    several: dict[str, Any] = {"caption_num": 4, "sampling_params": {"temperature": 3.0, "max_tokens": 12}}
    every = shapes(rows[:2], keep_candidate_mode="all", keep_original_sample=False, **several)
    kept = shapes(rows[:2], keep_candidate_mode="similar_one_simhash", **several)
    counts = [sum(row["id"] == number for row in every) for number in range(2)]
    assert all(2 <= count <= 4 for count in counts), "at this temperature one may be without words, which is left out"
    assert [row["id"] for row in every] == [0] * counts[0] + [1] * counts[1]
    assert [row["id"] for row in kept] == [0, 0, 1, 1]
    for original, one in zip(kept[::2], kept[1::2], strict=True):
        texts = [row["text"] for row in every if row["id"] == one["id"]]
        assert original["text"] == rows[one["id"]]["text"]
        assert len(set(texts)) > 1
        assert one["text"] in texts


@pytest.mark.data_juicer
def test_simhash_keeps_the_candidate_nearest_to_the_text(scripted: Callable[..., Any], rows: list[Row]) -> None:
    texts = ["rain falls on the dark city", "a cat sits on the old red mat", "the dog runs over the green field"]
    engine = FakeEngine(lambda _, number: texts[number])
    op = scripted(engine, caption_num=3, keep_candidate_mode="similar_one_simhash", keep_original_sample=False)
    made = op.process(batch([{**rows[0], "text": f"{VIDEO}a cat sits on a red mat{EOC}"}]))
    assert made["text"] == [f"{VIDEO} {texts[1]} {EOC}"]


@pytest.mark.data_juicer
def test_without_originals(shapes: Callable[..., list[Row]], rows: list[Row]) -> None:
    made = shapes(rows[:BROKEN], keep_original_sample=False)
    assert [row["text"] for row in made] == [f"{VIDEO} {row['truth']} {EOC}" for row in rows[:BROKEN]]


@pytest.mark.data_juicer
def test_several_tokens_in_one_text(shapes: Callable[..., list[Row]], rows: list[Row]) -> None:
    first, second, third = rows[:BROKEN]
    sample = {
        "id": 0,
        "videos": [*first["videos"], *second["videos"], *third["videos"]],
        "text": f"{VIDEO}{VIDEO}two clips{EOC}no clip{EOC}{VIDEO}one more",
    }
    [original, made] = shapes([sample])
    assert original["text"] == sample["text"]
    assert made["text"] == (f"{VIDEO} {first['truth']} {VIDEO} {second['truth']} {EOC}{VIDEO} {third['truth']} {EOC}")
