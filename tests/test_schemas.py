"""Schemas of structured captions: which can be used, what answers come to, and what columns of them are made of."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, request, said

from reelscribe.config import Settings
from reelscribe.dataset.ledger_file import pack, unpack
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import SettingsError
from reelscribe.faults import find_faults, with_value
from reelscribe.outcomes import answer_of, is_faulty, outcome_of
from reelscribe.pipeline import answers_in_order, caption
from reelscribe.schemas import READY, Facts, ReadySchema, Schema
from reelscribe.values import Answer, Candidate, Caption, Failure, Generation, StopReason, Work

HERE = Path()
FACTS = Facts(duration_seconds=5.04, fps=29.97, width=1920, height=1080)
TEXT, COUNT = {"type": "string"}, {"type": "integer"}


def node(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **more}


def schema(properties: dict[str, Any], **more: Any) -> Schema:
    return Schema.of(node(properties, **more), folder=HERE)


FROM_FILE = {
    "long": {"type": "number", "x-from": "duration"},
    "rate": {"type": "number", "x-from": "fps"},
    "w": COUNT | {"x-from": "width"},
    "h": COUNT | {"x-from": "height"},
    "size": node({"H": COUNT, "W": COUNT}) | {"x-from": "resolution"},
}


def example(part: dict[str, Any]) -> Any:
    """A value that fits a ready schema: each text says what it is for, each list has two items."""
    if "enum" in part:
        return part["enum"][0]
    match part["type"]:
        case "object":
            return {name: example(item) for name, item in part["properties"].items()}
        case "array":
            return [example(part["items"])] * 2
        case kind:
            return {"string": part.get("description", "x"), "integer": 2, "boolean": True}[kind]


# Where schemas come from


def test_a_schema_of_ones_own_is_a_file_below_the_folder_or_a_mapping(tmp_path: Path) -> None:
    given = node({"é": TEXT})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my shots.json").write_text(json.dumps(given, indent=2), "utf-8")
    from_file = Schema.of("own/my shots.json", folder=tmp_path)
    assert from_file == Schema.of(given, folder=HERE)
    assert from_file == Schema.of(str(tmp_path / "own" / "my shots.json"), folder=HERE)
    assert (from_file.name, Schema.of(given, folder=HERE).name) == ("my shots", "caption")
    assert from_file.text == '{"type":"object","properties":{"é":{"type":"string"}}}'


def test_schemas_are_equal_if_their_json_is_which_has_an_order() -> None:
    one, same = schema({"a": TEXT, "b": COUNT}), schema({"a": TEXT, "b": COUNT})
    assert one == same
    assert hash(one) == hash(same)
    assert one != schema({"b": COUNT, "a": TEXT})
    assert one != schema({"a": TEXT})
    assert Schema(text=one.text, name="other") == one


def test_a_schema_can_be_sent_to_another_process() -> None:
    one = Schema.of("cosmos", folder=HERE)
    again = pickle.loads(pickle.dumps(one))
    assert (again, again.name, again.default_prompt) == (one, "cosmos", one.default_prompt)
    assert len(pickle.dumps([one] * 100)) < 2 * len(one.text)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("cosmo", r"^there is no schema 'cosmo'; did you mean cosmos\? One of your own is a \.json file, "),
        ("x", r"^there is no schema 'x'; ready ones are cosmos, lingbot, shot\."),
        (7, r"^there is no schema 7; "),
        ("no.json", r"^the schema no\.json cannot be read: No such file or directory\. Check the path\.$"),
        ({"type": "object", "properties": {"a": 1j}}, "^a schema is made of what JSON can hold: Object of type "),
        ({"type": "object", "minProperties": float("nan")}, "^a schema is made of what JSON can hold: Out of range"),
        ({"type": "array"}, r'schema .caption. must be that of an object: its top level needs "type": "object"\.$'),
        ({}, "must be that of an object"),
        (node({"a": {"type": "strin"}}), r"is no JSON Schema: 'strin' is not valid .*\(at properties/a/type\)\.$"),
        (node({"a": {"type": "string", "pattern": "("}}), r"JSON Schema: '\(' is not a 'regex' \(at properties/a/pat"),
        (node({"a": 7}), "is no JSON Schema: 7 is not of type"),
        (node({"a": {"$ref": "#/$defs/b"}}), r"refers to '#/\$defs/b', which is not in it; references have the form"),
        (node({"a": {"$ref": "http://127.0.0.1:9/x.json"}}), r"refers to 'http://127\.0\.0\.1:9/x\.json', which"),
        (node({"a": TEXT | {"x-from": "durations"}}), r"""has "x-from": 'durations'; did you mean duration or"""),
        (node({"a": COUNT | {"x-from": "aspect_ratio"}}), r"'aspect_ratio' must have the type string or number\.$"),
        (node({"a": {"x-from": "fps"}}), r"""a field with "x-from": 'fps' must have the type number or integer\.$"""),
        (node({"a": node({"X": COUNT}) | {"x-from": "resolution"}}), "must have H and W, or height and width"),
        (node({"a": TEXT | {"enum": ["wide"], "x-from": "aspect_ratio"}}), "must be two numbers, such as"),
        (node({"b": TEXT, "a": {"anyOf": [TEXT, node({"c": COUNT | {"x-from": "fps"}})]}}), "where it cannot be"),
        (node({"b": TEXT}, additionalProperties=COUNT | {"x-from": "fps"}), "where it cannot be filled; it can"),
        (node({"a": COUNT | {"x-from": "fps"}}), "asks nothing of the model: each of its fields has"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_an_error_that_says_what_to_do(given: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Schema.of(given, folder=HERE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", r"bad\.json is no JSON: Expecting property name"),
        (b"\xff", r"bad\.json is no JSON: 'utf-8' codec"),
        (b'{"type": "object", "minimum": NaN}', "NaN is no JSON"),
        (b"[" * 100_000, r"bad\.json is no JSON: maximum recursion depth"),
        (b"[]", "must be that of an object"),
    ],
)
def test_a_file_that_holds_no_schema_is_an_error_with_its_name(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        Schema.of("bad.json", folder=tmp_path)


def test_a_text_that_is_no_json_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^the schema 'caption' is no JSON: Expecting value"):
        Schema(text="schema")


# Ready schemas


@pytest.mark.parametrize("name", READY)
class TestReady:
    def test_what_fits_it_is_read(self, name: ReadySchema) -> None:
        ready = Schema.of(name, folder=HERE)
        value = example(ready.asked)
        assert ready.read(json.dumps(value)) == (value, None)
        first = next(iter(value))
        assert ready.read(json.dumps({key: item for key, item in value.items() if key != first})) == (None, "schema")
        assert ready.read(json.dumps(value | {"more": 1})) == (None, "schema")

    def test_every_object_says_that_it_has_all_fields_and_no_others(self, name: ReadySchema) -> None:
        """Servers with a strict mode want that."""

        def look(part: dict[str, Any]) -> None:
            if part["type"] == "object":
                assert part["required"] == list(part["properties"])
                assert part["additionalProperties"] is False
                for item in part["properties"].values():
                    look(item)
            if part["type"] == "array":
                assert part["maxItems"] > 0
                look(part["items"])

        look(Schema.of(name, folder=HERE).asked)

    def test_its_prompt_tells_what_each_field_is_for(self, name: ReadySchema) -> None:
        ready = Schema.of(name, folder=HERE)
        lines = ready.default_prompt.splitlines()
        assert lines[0].startswith("Describe ")
        assert lines[2] == "Answer with one JSON object that has these fields:"
        assert [line.split(":")[0] for line in lines if line.startswith("- ")] == [
            f"- {field}" for field in ready.asked["properties"]
        ]
        assert all(": " in line for line in lines[3:])

    def test_a_column_takes_it(self, name: ReadySchema) -> None:
        pa = pytest.importorskip("pyarrow")
        ready = Schema.of(name, folder=HERE)
        value = ready.filled(example(ready.asked), FACTS)
        column = pa.array([ready.arrow_value(value), None], ready.arrow_type())
        assert column.to_pylist() == [value, None]
        assert ready.arrow_value(value) == value


def test_cosmos_has_its_last_four_fields_from_the_file() -> None:
    cosmos = Schema.of("cosmos", folder=HERE)
    value = example(cosmos.asked)
    assert list(value)[-1] == "audio_description"
    filled = cosmos.filled(value, FACTS)
    told = {"resolution": {"H": 1080, "W": 1920}, "aspect_ratio": "16,9", "duration": "5s", "fps": 30}
    assert filled == value | told
    assert list(filled) == [*value, *told]


# Answers


@pytest.mark.parametrize(
    ("text", "value", "fault"),
    [
        ('{"a":"x","n":1}', {"a": "x", "n": 1}, None),
        (' {"n": 1.0, "a": "\\u00e9\\n"}\n', {"a": "é\n", "n": 1.0}, None),
        ('{"a":"x"}', {"a": "x"}, None),
        ('{"a":"x","n":1', None, "not_json"),
        ('```json\n{"a":"x"}\n```', None, "not_json"),
        ("A woman walks.", None, "not_json"),
        ('{"a":"x","n":NaN}', None, "not_json"),
        ('{"a":"x","n":1e999}', None, "not_json"),
        ('{"a":"x","n":' + "9" * 5000 + "}", None, "not_json"),
        ('{"a":"\\ud800"}', None, "not_json"),
        ('{"a":' + "[" * 100_000, None, "not_json"),
        ('{"a":1}', None, "schema"),
        ('{"n":1}', None, "schema"),
        ('{"a":"x","b":1}', None, "schema"),
        ('{"a":"x","n":1.5}', None, "schema"),
        ('{"a":"x","n":9007199254740992}', None, "schema"),
        ("[]", None, "schema"),
        ("null", None, "schema"),
    ],
)
def test_an_answer_is_a_value_that_fits_or_a_fault(text: str, value: Any, fault: str | None) -> None:
    assert schema({"a": TEXT, "n": COUNT}, required=["a"]).read(text) == (value, fault)


def test_a_schema_that_leads_back_to_itself() -> None:
    tree = schema(
        {"name": TEXT, "parts": {"type": "array", "items": {"$ref": "#"}}}, required=["name"], **{"$defs": {"x": TEXT}}
    )
    value = {"name": "a", "parts": [{"name": "b", "parts": [{"name": "c"}]}]}
    assert tree.read(json.dumps(value)) == (value, None)
    assert tree.read(json.dumps({"name": "a", "parts": [{"parts": []}]})) == (None, "schema")
    assert (
        schema({"a": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}).read('{"a":1}')[1] == "schema"
    )


def test_objects_are_closed_unless_the_schema_says_so_or_puts_several_together() -> None:
    def more_is_fine(given: Schema) -> bool:
        return given.read('{"a":{"b":"x","more":1}}')[1] is None

    inner = node({"b": TEXT})
    assert not more_is_fine(schema({"a": inner}))
    assert not more_is_fine(schema({"a": {"$ref": "#/$defs/i"}}, **{"$defs": {"i": inner}}))
    assert more_is_fine(schema({"a": inner | {"additionalProperties": True}}))
    assert more_is_fine(schema({"a": inner | {"patternProperties": {"^m": COUNT}}}))
    assert more_is_fine(schema({"a": inner | {"allOf": [node({"more": COUNT})]}}))
    assert more_is_fine(schema({"a": inner | {"anyOf": [node({"more": COUNT})]}}))
    assert more_is_fine(schema({"a": {"type": "object"}}))


def test_bounds_of_numbers_are_those_of_the_schema_if_they_are_narrower() -> None:
    numbers = schema(
        {"n": COUNT | {"minimum": 0}, "f": {"type": ["number", "null"], "maximum": 1e30}, "e": COUNT | {"enum": [1, 2]}}
    )
    exact = 2**53 - 1
    assert numbers.enforced["properties"] == {
        "n": {"type": "integer", "minimum": 0, "maximum": exact},
        "f": {"type": ["number", "null"], "maximum": exact, "minimum": -exact, "multipleOf": 1e-6},
        "e": {"type": "integer", "enum": [1, 2]},
    }
    assert numbers.asked["properties"]["n"] == {"type": "integer", "minimum": 0}
    assert numbers.read('{"f":0.12345678901}') == ({"f": 0.12345678901}, None)


def test_a_keyword_s_name_may_be_a_field_s_name_or_stand_in_a_value() -> None:
    odd = {"x-from": TEXT, "properties": TEXT, "$ref": TEXT, "d": {"enum": [{"x-from": "fps"}, {"$ref": "#/nowhere"}]}}
    value = {"x-from": "a", "properties": "b", "$ref": "c", "d": {"$ref": "#/nowhere"}}
    odd_schema = schema(odd, required=list(odd))
    assert odd_schema.read(json.dumps(value)) == (value, None)
    assert odd_schema.filled(value, FACTS) == value


def test_a_prompt_names_choices_and_lists_and_follows_references() -> None:
    own = schema(
        {
            "people": {"type": "array", "items": {"$ref": "#/$defs/p"}, "description": "who is there"},
            "angle": {"anyOf": [{"enum": ["low", "high"]}, {"type": "null"}]},
            "long": COUNT | {"x-from": "duration"},
        },
        **{"$defs": {"p": node({"name": TEXT, "friend": {"$ref": "#/$defs/p", "description": "one more"}})}},
    )
    assert own.default_prompt == (
        "Describe the video. Say only what is seen.\n\nAnswer with one JSON object that has these fields:\n"
        "- people: who is there; a list\n  - name\n  - friend: one more\n- angle: one of low, high"
    )


# Faults


def _find(text: str, stop_reason: StopReason = "stop") -> tuple[Any, tuple[str, ...]]:
    asked = request(schema=schema({"a": TEXT}, required=["a"]))
    candidate = with_value(Candidate(text=text, stop_reason=stop_reason, num_tokens=1), asked, FACTS)
    return candidate.value, find_faults(candidate, asked)


def test_faults_of_an_answer_with_a_schema() -> None:
    assert _find('{"a":"x"}') == ({"a": "x"}, ())
    assert _find('{"b":"x"}') == (None, ("schema",))
    assert _find("A woman walks.") == (None, ("not_json",))
    assert _find('{"a":"x', "length") == (None, ("cut_off", "not_json"))
    assert _find("") == (None, ("empty",))


def test_faults_are_found_whether_the_value_is_there_or_not() -> None:
    asked = request(schema=schema({"a": TEXT}))
    assert find_faults(Candidate(text='{"a":"x"}', stop_reason="stop", num_tokens=1), asked) == ()
    assert find_faults(Candidate(text='{"a":1}', stop_reason="stop", num_tokens=1), asked) == ("schema",)


def test_free_text_has_no_value_and_no_such_fault() -> None:
    candidate = Candidate(text='{"a":', stop_reason="stop", num_tokens=1)
    assert with_value(candidate, request(), FACTS) == candidate
    assert find_faults(candidate, request()) == ()


def test_the_flow_reads_values_and_finds_faults() -> None:
    asked = request(schema=schema({"a": TEXT}, required=["a"]), num_captions=3)
    texts = ('{"b":"x"}', '{"a":"x"}', "A woman walks.")
    made = Generation(
        id=asked.id,
        candidates=tuple(Candidate(text=text, stop_reason="stop", num_tokens=1) for text in texts),
        prompt_tokens=1,
    )
    answer = answer_of(asked, {}, FACTS, made, FakeEngine().info)
    outcome = outcome_of(asked, answer)
    assert isinstance(outcome, Caption)
    assert [candidate.value for candidate in outcome.candidates] == [None, {"a": "x"}, None]
    assert outcome.meta["faults"] == ["schema", "", "not_json"]
    assert (outcome.kept, is_faulty(answer)) == ((1,), False)


def test_the_ledger_gives_back_what_it_was_told() -> None:
    asked = request(schema=schema({"a": {"type": "array", "items": COUNT}} | FROM_FILE))
    facts = replace(FACTS, fps=None)
    candidate = with_value(Candidate(text='{"a":[1,2]}', stop_reason="stop", num_tokens=1), asked, facts)
    assert candidate.value["a"] == [1, 2]
    assert (candidate.value["long"], candidate.value["rate"]) == (5.04, None)
    caption = Caption(id=asked.id, kept=(0,), reason="", candidates=(candidate,), meta={"faults": [""]})
    again = unpack(pack(caption, asked.seed), asked)
    assert not isinstance(again, Failure)
    assert again.candidates == (candidate,)
    assert json.dumps(again.candidates[0].value) == json.dumps(candidate.value)


# What the file says


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ({"type": "number", "x-from": "duration"}, 5.04),
        ({"type": ["integer", "null"], "x-from": "duration"}, 5),
        ({"type": "string", "x-from": "duration"}, "5s"),
        ({"type": "number", "x-from": "fps"}, 29.97),
        ({"type": "integer", "x-from": "fps"}, 30),
        ({"type": "integer", "x-from": "width"}, 1920),
        ({"type": "number", "x-from": "height"}, 1080.0),
        ({"type": "string", "x-from": "resolution"}, "1920x1080"),
        (node({"W": COUNT, "H": COUNT}) | {"x-from": "resolution"}, {"W": 1920, "H": 1080}),
        (node({"height": COUNT, "width": COUNT}) | {"x-from": "resolution"}, {"height": 1080, "width": 1920}),
        ({"type": "string", "x-from": "aspect_ratio"}, "16:9"),
        ({"type": "number", "x-from": "aspect_ratio"}, 1.7778),
        ({"type": "string", "enum": ["1x1", "4x3", "2x1"], "x-from": "aspect_ratio"}, "2x1"),
    ],
)
def test_a_field_is_filled_in_its_own_form(field: dict[str, Any], value: Any) -> None:
    made = schema({"a": TEXT, "f": field, "b": TEXT}, required=["a", "f", "b"])
    assert made.asked["required"] == ["a", "b"]
    assert "f" not in made.asked["properties"]
    assert made.read('{"a":"x","b":"y"}') == ({"a": "x", "b": "y"}, None)
    filled = made.filled({"b": "y", "a": "x"}, FACTS)
    assert list(filled.items()) == [("a", "x"), ("f", value), ("b", "y")]
    assert made.filled({"a": "x", "b": "y"}, Facts()) == {"a": "x", "f": None, "b": "y"}
    pa = pytest.importorskip("pyarrow")
    assert pa.array([made.arrow_value(filled)], made.arrow_type()).to_pylist() == [filled]


def test_fields_are_filled_in_objects_in_lists_and_behind_references() -> None:
    size = node({"of": TEXT, "w": COUNT | {"x-from": "width"}})
    made = schema(
        {
            "one": size,
            "many": {"type": "array", "items": {"$ref": "#/$defs/s"}},
            "maybe": {"anyOf": [{"$ref": "#/$defs/s"}, {"type": "null"}]},
            "open": {"type": "object"},
        },
        **{"$defs": {"s": size}},
    )
    value = {"one": {"of": "a"}, "many": [{"of": "b"}, {"of": "c"}], "maybe": {"of": "d"}, "open": {"w": "e"}}
    assert made.read(json.dumps(value)) == (value, None)
    assert made.filled(value, FACTS) == {
        "one": {"of": "a", "w": 1920},
        "many": [{"of": "b", "w": 1920}, {"of": "c", "w": 1920}],
        "maybe": {"of": "d", "w": 1920},
        "open": {"w": "e"},
    }
    assert made.filled({"maybe": None}, FACTS) == {"maybe": None}


def test_the_flow_fills_in_what_the_file_says() -> None:
    engine = ScriptedEngine(lambda _: said('{"b":"y","a":"x"}'))
    asked = request(schema=schema({"a": TEXT} | FROM_FILE | {"b": TEXT}))
    [outcome] = caption([asked], Settings(), engine)
    assert isinstance(outcome, Caption)
    told = {"a": "x", "long": 1.0, "rate": 8.0, "w": 64, "h": 48, "size": {"H": 48, "W": 64}, "b": "y"}
    assert json.dumps(outcome.candidates[0].value) == json.dumps(told)
    assert outcome.meta["frame_size"] == [64, 64]

    [[answer]] = pickle.loads(pickle.dumps(list(answers_in_order([Work(requests=(asked,))], Settings(), engine))))
    assert isinstance(answer, Answer)
    assert answer.candidates == outcome.candidates


def test_where_an_engine_takes_the_file_nothing_is_known_of_it() -> None:
    engine = ScriptedEngine(lambda _: said('{"a":"x"}'))
    engine.info = replace(engine.info, wants_frames=False)
    [outcome] = caption([request(schema=schema({"a": TEXT} | FROM_FILE))], Settings(), engine)
    assert isinstance(outcome, Caption)
    assert outcome.candidates[0].value == {"a": "x"} | dict.fromkeys(FROM_FILE)


# Columns


@pytest.mark.parametrize(
    ("field", "kind", "value", "held"),
    [
        (TEXT, "string", "x", "x"),
        (COUNT, "int64", 1.0, 1),
        ({"type": "number"}, "double", 1, 1.0),
        ({"type": "boolean"}, "bool", True, True),
        ({"type": ["string", "null"]}, "string", None, None),
        ({"anyOf": [COUNT, {"type": "null"}]}, "int64", 3, 3),
        ({"enum": ["a", "b"]}, "string", "a", "a"),
        ({"enum": ["a", 1]}, "string", 1, "1"),
        ({"type": "array", "items": TEXT}, "list<item: string>", ["x"], ["x"]),
        ({"type": "array", "items": node({"b": COUNT})}, "list<item: struct<b: int64>>", [{"b": 1}, {}],
         [{"b": 1}, {"b": None}]),
        ({"type": "array"}, "string", ["é", 1], '["é",1]'),
        ({"type": "array", "prefixItems": [TEXT]}, "string", ["x"], '["x"]'),
        ({"type": "object"}, "string", {"q": [1]}, '{"q":[1]}'),
        (node({"b": TEXT}, additionalProperties=True), "string", {"c": 1}, '{"c":1}'),
        ({"oneOf": [TEXT, COUNT]}, "string", "x", '"x"'),
        ({"type": ["string", "integer"]}, "string", 1, "1"),
        ({"$ref": "#"}, "string", {}, "{}"),
        ({"const": "x"}, "string", "x", '"x"'),
        (True, "string", [None], "[null]"),
    ],
)  # fmt: skip
def test_types_of_columns(field: Any, kind: str, value: Any, held: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    made = schema({"f": field, "rest": TEXT})
    assert made.read(json.dumps({"f": value})) == ({"f": value}, None)
    assert str(made.arrow_type().field("f").type) == kind
    column = pa.array([made.arrow_value({"f": value})], made.arrow_type())
    assert column.to_pylist() == [{"f": held, "rest": None}]
