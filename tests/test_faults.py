"""What is wrong with generated texts, and above all what is not."""

from dataclasses import replace
from typing import Any

import pytest
from flow import request

from reelscribe.faults import Fault, find_faults
from reelscribe.values import Candidate

GOOD = [
    "a red car, a red bus and a red bike drive by",
    "A dog runs.",
    "狗",
    "42",
    "🙂",
    "no, no, no, no",
    "let it snow, let it snow, let it snow",
    "The dancer steps left, right, left, right, left, right, left, right, and bows.",
    "A sign reads: ha ha ha ha ha ha ha ha ha ha ha ha.",
    "A display counts down: 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0.",
    "The board shows 0101010101010101010101010101010101010101.",
    "It counts: " + ", ".join(map(str, range(200))) + ".",
    "Car 1 is red, car 2 is red, car 3 is red, car 4 is red, car 5 is red, car 6 is red.",
    "".join(f"At {number / 2} seconds the ball is at rest on the table.\n" for number in range(20)),
    "- a red car\n- a blue car\n- a green car\n- a black car\n- a white car\n- a grey car",
    "| time | what |\n| ---- | ---- |\n| 0 s | a car |\n| 1 s | a car and a bus |\n"
    + "-" * 40
    + "\nThat is all there is.",
    """Row, row, row your boat
    Gently down the stream,
    Merrily, merrily, merrily, merrily,
    Life is but a dream.
    Row, row, row your boat
    Gently down the stream,
    Merrily, merrily, merrily, merrily,
    Life is but a dream.""",
    """Happy birthday to you, happy birthday to you, happy birthday, dear sheep, happy birthday to you. Happy birthday
    to you, happy birthday to you, happy birthday, dear sheep, happy birthday to you.""",
    "一辆红色的汽车、一辆红色的公共汽车和一辆红色的自行车驶过。",
    "哈哈哈哈哈哈、一个男人在笑。",
    "鸡、鸭、鹅、鸡、鸭、鹅、鸡、鸭、鹅都在院子里走来走去、旁边还有一只狗在看着它们。",
    "รถสีแดง รถบัสสีแดง และจักรยานสีแดงวิ่งผ่านไป",
    "白い犬が走って、黒い犬が走って、茶色い犬も走っている。",
]
LOOPS = [
    "The man walks. " * 4,
    "The man walks to the left. " * 30,
    "A kitchen. A woman stirs a pot, " + "and then stirs the pot, " * 12,
    "A kitchen. "
    + "and stirs " * 20
    + "The end, in which nothing more of this is to be seen, as far as anyone can tell.",
    "a " * 200,
    "x!" * 100,
    "ha" * 100,
    "A man (he smiles, too) (he smiles, too) (he smiles, too) (he smiles, too)",
    "First a long sentence that says nothing of the second one. Then the second one, which is no shorter. " * 4,
    "一个男人在走路。" * 4,
    "男人走路、" * 5,
    "一只羊在草地上。" + "它在吃草、" * 30,
    "犬が走っている。" * 4,
    "ผู้ชายกำลังเดิน" * 5,
    "남자가 걷고 있다. " * 5,
    "Мужчина идёт. " * 6,
    "The Man walks. the man  walks.\nThe man walks. THE MAN WALKS.",
]


def _find(text: str, *, length: bool = False, **asked: Any) -> tuple[Fault, ...]:
    candidate = Candidate(text=text, stop_reason="length" if length else "stop", num_tokens=9)
    return find_faults(candidate, request(**asked))


@pytest.mark.parametrize("text", GOOD)
def test_good_texts_have_no_faults(text: str) -> None:
    assert _find(text) == ()


@pytest.mark.parametrize("text", LOOPS)
def test_phrase_over_and_over_is_a_loop(text: str) -> None:
    assert _find(text) == ("loop",)


@pytest.mark.parametrize("text", ["", " \n", "...", "!!!!!!!!!!!!!!!!!!!!!!!!", "。。。", "- - -", "\u200b"])
def test_text_without_words_is_empty(text: str) -> None:
    assert _find(text, length=True) == ("empty",)


def test_thought_without_an_end_is_unclosed_and_nothing_else() -> None:
    candidate = Candidate(text="", stop_reason="length", num_tokens=9, thought="The man walks. " * 9, unclosed=True)
    assert find_faults(candidate, request()) == ("unclosed",)
    assert find_faults(replace(candidate, unclosed=False), request()) == ("empty",)


def test_thought_may_say_what_it_likes() -> None:
    candidate = Candidate(text="A sheep.", stop_reason="stop", num_tokens=9, thought="What happens? " * 20)
    assert find_faults(candidate, request()) == ()


def test_text_that_ends_at_the_limit_is_cut_off() -> None:
    assert _find("a sheep", length=True) == ("cut_off",)
    assert _find("The man walks. " * 9, length=True) == ("cut_off", "loop")


@pytest.mark.parametrize(
    "text",
    [
        "Describe the video in one sentence.",
        "describe the video in  ONE sentence. A sheep talks.",
        "user\nDescribe the video in one sentence.\nassistant\nA sheep talks.",
        "A sheep talks.\nuser\nDescribe the video in one sentence.",
        "Describe the video in one",
    ],
)
def test_prompt_in_the_answer_is_an_echo(text: str) -> None:
    assert _find(text, prompt="Describe the video in one sentence.") == ("echo",)
    assert _find(text, system_prompt="Describe the video in one sentence.") == ("echo",)


def test_prompt_in_a_language_without_spaces_is_seen_as_well() -> None:
    assert _find("请用一句话描述这个视频。一只羊。", prompt="请用一句话描述这个视频。") == ("echo",)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("dog", "a dog runs"),
        ("The video shows", "The video shows a dog."),
        ("Answer with one of these: a man who runs fast, a man who walks slowly", "a man who walks slowly"),
        ("Describe the video in one sentence.", "Describe"),
        ("Say it better: a dog that runs through the snow", "A dog that runs through the snow"),
    ],
)
def test_words_of_the_prompt_are_no_echo(prompt: str, text: str) -> None:
    assert _find(text, prompt=prompt) == ()


def test_phrase_of_several_sentences_is_found_up_to_a_bound() -> None:
    sentences = " ".join(f"sentence {number} of very many" for number in range(14))
    assert 250 < len("".join(sentences.split())) < 300
    assert _find(sentences * 4) == ("loop",)
    assert _find(sentences * 2 * 4) == ("loop",), "half of it comes eight times"
    longer = " ".join(f"sentence {number} of very many" for number in range(18))
    assert _find(longer * 4) == (), "the time that a letter takes is bounded by this"
