"""One vocabulary for sampling."""

from typing import Any

import pytest

from reelscribe.errors import SettingsError
from reelscribe.sampling_params import SamplingParams


def test_nothing_told_leaves_everything_to_the_checkpoint() -> None:
    params = SamplingParams.parse({})
    assert params == SamplingParams()
    assert params.told() == {}


def test_values_and_strings_that_hold_them_are_the_same() -> None:
    values = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "max_tokens": 64}
    texts = {name: str(value) for name, value in values.items()}
    assert SamplingParams.parse(values) == SamplingParams.parse(texts)
    assert SamplingParams.parse(texts).told() == values


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_new_tokens": 32}, {"max_tokens": 32}),
        ({"max_tokens": 32.0}, {"max_tokens": 32}),
        ({"max_tokens": 32, "max_new_tokens": "32"}, {"max_tokens": 32}),
        ({"max_tokens": None, "max_new_tokens": 32}, {"max_tokens": 32}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"stop": "."}, {"stop": ["."]}),
        ({"stop_strings": [".", "\n"]}, {"stop": [".", "\n"]}),
        ({"stop": []}, {}),
        ({"eos_token_id": 7}, {"stop_token_ids": [7]}),
        ({"stop_token_ids": "7, 8 9"}, {"stop_token_ids": [7, 8, 9]}),
        ({"stop_token_ids": [7, 8]}, {"stop_token_ids": [7, 8]}),
        ({"seed": -5}, {"seed": -5}),
        ({"temperature": 0, "top_p": 1}, {"temperature": 0.0, "top_p": 1.0}),
        ({"temperature": None}, {}),
    ],
)
def test_names_of_both_libraries_become_one_vocabulary(given: dict[str, Any], told: dict[str, Any]) -> None:
    assert SamplingParams.parse(given).told() == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": "no"}, {"temperature": 0.0}),
        ({"do_sample": 0, "temperature": 0.0}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": True, "temperature": 0}, {"temperature": 0.0}),
        ({"do_sample": "True"}, {"do_sample": True}),
        ({"do_sample": None}, {}),
    ],
)
def test_do_sample_is_said_by_the_temperature_where_there_is_one(given: dict[str, Any], told: dict[str, Any]) -> None:
    assert SamplingParams.parse(given).told() == told


def test_do_sample_against_the_temperature_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"do_sample=False contradicts temperature=0\.7; leave one of them out"):
        SamplingParams.parse({"do_sample": False, "temperature": 0.7})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temprature", "did you mean temperature"),
        ("max_length", "did you mean max_"),
        ("zzzzzz", "known are max_tokens, temperature, top_p"),
    ],
)
def test_unknown_name_is_an_error_even_without_a_value(name: str, hint: str) -> None:
    for value in (1, None):
        with pytest.raises(SettingsError, match=f"unknown sampling parameter '{name}'; {hint}"):
            SamplingParams.parse({name: value})


def test_two_names_that_disagree_are_an_error() -> None:
    with pytest.raises(SettingsError, match="max_tokens is given twice: 32 and 64; leave one of them out"):
        SamplingParams.parse({"max_tokens": 32, "max_new_tokens": 64})


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("max_tokens", [0, -1, 1.5, "x", "1.5", True, [1], float("inf")], "a whole number of at least 1"),
        ("temperature", [-0.1, "hot", float("nan"), float("inf"), True, [0.5], 10**400], "a number of at least 0"),
        ("top_p", [0, 1.1, "x"], "a number above 0 and at most 1"),
        ("top_k", [-2, 0.5, "x"], "a whole number of at least 1, or 0 or -1 for off"),
        ("min_p", [-0.1, 1.1], "a number from 0 to 1"),
        ("repetition_penalty", [0, -1], "a number above 0"),
        ("stop", ["", ["a", ""], [1], 3], "a string or a list of strings, none of them empty"),
        ("stop_token_ids", [-1, "a", 1.5, [True], ["x"]], "a whole number of at least 0 or a list of such"),
        ("do_sample", ["maybe", 2, ""], "true or false"),
        ("seed", ["x", 1.5, True], "a whole number"),
    ],
)
def test_wrong_value_is_told_with_what_is_allowed(name: str, values: list[Any], allowed: str) -> None:
    for value in values:
        with pytest.raises(SettingsError) as caught:
            SamplingParams.parse({name: value})
        assert str(caught.value) == f"sampling parameter {name} must be {allowed}; got {value!r}."
        with pytest.raises(SettingsError, match=f"sampling parameter {name} must be {allowed}"):
            SamplingParams(**{name: value})


def test_error_calls_a_parameter_as_the_user_did() -> None:
    with pytest.raises(SettingsError, match="sampling parameter max_new_tokens must be a whole number"):
        SamplingParams.parse({"max_new_tokens": 0})


def test_values_made_in_python_are_brought_into_form() -> None:
    params = SamplingParams(stop=["."], top_k=-1)  # type: ignore[arg-type]
    assert params == SamplingParams.parse({"stop": ".", "top_k": 0})
    assert hash(params) == hash(SamplingParams(stop=(".",), top_k=0))
