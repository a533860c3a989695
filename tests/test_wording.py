"""Wordings that captions should not have."""

from pathlib import Path
from typing import get_args

import pytest

from reelscribe.errors import SettingsError
from reelscribe.wording import WordingKind, read_list, ready_wordings

CLEAN = (
    "A man plays the video game on a big screen.",
    "A woman watches a video on her phone.",
    "The window frame is red, and a film of dust lies on it.",
    'A sign reads "I\'m sorry, but I am closed." She cannot see it.',
    "Ein Mann schaut sich auf dem Telefon etwas an. Es tut weh.",
    "一个男人在玩电子游戏,他看着屏幕。",
    "男の人がゲームをしている。",
    "Un homme parle dans la rue ; on dirait qu'il est désolé.",
    "Un hombre mira la cámara de seguridad.",
    "A film of oil covers the water.",
    "A film of thin ice lies on the pond.",
    "A clip of bullets lies on the table.",
    "He pulls the clip out of the rifle.",
    "She fixes the clip in her hair.",
    "The clip holds the papers together.",
    "A painting in the frame on the wall shows a ship.",
    "He welds a tube into the frame of a bicycle.",
    "She leans in the frame of the door.",
    "The camera crew carries a film projector.",
    "He watches the video on his phone and laughs.",
    "She edits the footage on a large screen.",
    "A photographer frames a picture; a boy is in it.",
    "A man films a dog, and a viewer stands behind him.",
    "You seem to see a bird, but the bird is made of wood.",
    "Sure-footed goats climb the film set.",
    "Sie befestigt den Clip an der Tasche.",
    "Er startet die Aufnahme am Mikrofon.",
    "Er sieht sich das Video auf seinem Handy an.",
    "Ein Film aus Öl liegt auf dem Wasser, im Bilderrahmen steht ein Foto.",
    "Ein Kameramann filmt die Szene mit einer Videokamera.",
    "Ella sujeta el clip al papel.",
    "El primer cuadro de la pared es rojo.",
    "Mira el vídeo en su móvil.",
    "La grabación suena en la radio.",
    "Un hombre vende vídeos en la calle.",
    "La première image du livre montre un chat.",
    "Elle regarde la vidéo sur son téléphone.",
    "Un clip tient les feuilles ensemble.",
    "Le film plastique couvre la table.",
    "他在看电视画面中的球赛。",
    "手机镜头里有灰尘。",
    "一个男人用手机拍视频。",
    "她在剪辑影片。",
    "テレビ画面の中で人が話している。",
    "スマホの画面の中に猫がいる。",
    "男の人がビデオカメラを持っている。",
    "クリップで紙をとめる。",
)


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_seen_is_no_wording(text: str) -> None:
    assert [kind for kind in get_args(WordingKind) if ready_wordings().find(kind, text)] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The video shows a man who sits.", "A man who sits."),
        ("This short clip depicts a dog.", "A dog."),
        ("In this video, a dog runs.", "A dog runs."),
        ("In the video we see a dog.", "A dog."),
        ("We can see the sea.", "The sea."),
        ("A video of two cats.", "Two cats."),
        ("Footage of a bird.", "A bird."),
        ("The scene opens with a storm.", "A storm."),
        ("the video clip features Anna.", "Anna."),
        ("A man films a video of a dog.", "A man films a video of a dog."),
        ("The scene of the crime is dark.", "The scene of the crime is dark."),
        ("A dog runs. The video shows it.", "A dog runs. The video shows it."),
        ("The video shows ", "The video shows "),
        ("In the videogame a man jumps.", "In the videogame a man jumps."),
        ("Das Video zeigt einen Hund.", "Einen Hund."),
        ("El vídeo muestra un perro.", "Un perro."),
        ("Dans cette vidéo, on voit un chien.", "Un chien."),
        ("该视频展示了一只狗。", "一只狗。"),
        ("视频中,一只狗在跑。", "一只狗在跑。"),
        ("この動画では、犬が走る。", "犬が走る。"),
    ],
)
def test_openings_that_only_say_that_it_is_a_video(text: str, wanted: str) -> None:
    assert ready_wordings().without_opening(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "I\u2019m sorry, but I can't help with that.",
        "A dog. I cannot identify people.",
        "As an AI language model, I do not see.",
        "Es tut mir leid, aber ich kann das Video nicht ansehen.",
        "Lo siento, no puedo ver el video.",
        "Malheureusement, je n'ai pas accès à la vidéo.",
        "很抱歉,我无法观看视频。",
        "申し訳ありませんが、動画を見ることができません。",
    ],
)
def test_refusals(text: str) -> None:
    assert ready_wordings().find("refusal", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog runs. In this short video he barks.", "this short video"),
        ("A dog enters the\nframe.", "enters the\nframe"),
        ("Ein Hund läuft im Video.", "im Video"),
        ("Un perro al final del vídeo.", "del vídeo"),
        ("Un chien, à la fin de cette vidéo.", "cette vidéo"),
        ("一只狗在这段视频里跑。", "这段视频"),
        ("犬がこの動画で走る。", "この動画"),
        ("A dog runs. At the end of the clip it sits.", "of the clip"),
        ("The clip ends with a dog.", "The clip ends"),
        ("A hand leaves the frame of the video.", "leaves the frame"),
        ("Ein Hund läuft. Die Aufnahme endet.", "Die Aufnahme endet"),
        ("Un perro, y la grabación termina.", "la grabación"),
        ("画面中,一只狗在跑。", "画面中"),
        ("犬が画面の中に入る。", "画面の中"),
    ],
)
def test_mentions_of_the_medium(text: str, words: str) -> None:
    found = ready_wordings().find("mention", text)
    assert found
    assert found[0] == words


@pytest.mark.parametrize(
    "text", ["The clip-clop of a horse.", "He plays the video-game.", "A film of the clip-on tie."]
)
def test_a_hyphen_within_a_word_is_no_edge(text: str) -> None:
    assert not ready_wordings().find("mention", text)
    assert ready_wordings().find("mention", "In the video--a dog runs.")
    assert ready_wordings().find("mention", "A dog runs in the video - twice.")


def test_lists_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "nl.toml"
    file.write_text("openings = ['we zien']\nmentions = ['{medium}\u2019s']\n[parts]\nmedium = 'film|video'\n", "utf-8")
    wordings = ready_wordings().joined(read_list(file), str(file))
    assert wordings.without_opening("We zien: een hond.") == "Een hond."
    assert wordings.find("mention", "Twee video's van een hond")
    assert wordings.without_opening("The video shows a dog.") == "A dog."
    assert not ready_wordings().find("opening", "We zien een hond.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("openings = ", "is not valid TOML"),
        ("opening = ['x']", "unknown key 'opening'; did you mean openings or mentions?"),
        ("openings = 'x'", "openings must be a list of regular expressions"),
        ("refusals = ['x', '(']", "refusals: '(' is no regular expression"),
        ("mentions = ['x*']", "mentions: 'x*' fits a text without a word"),
        ("mentions = ['x']\nspaced = 1", "spaced must be true or false"),
        ("mentions = ['x']\nparts = ['x']", "parts must be a table of texts"),
    ],
)
def test_list_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(content, "utf-8")
    with pytest.raises(SettingsError) as caught:
        ready_wordings().joined(read_list(file), str(file))
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    with pytest.raises(SettingsError, match=r"cannot read the wordings in .*none\.toml"):
        read_list(tmp_path / "none.toml")
