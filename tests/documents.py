"""What the documents show: their fenced blocks, and which of them say that they are not run, and why."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from reelscribe.cli import main
from reelscribe.command import given_of
from reelscribe.config import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
OPERATORS = frozenset({"|", "||", "&&", ";", "&", "(", ")"})


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    document: Path
    line: int
    """Where its code begins, from 1."""
    language: str
    code: str
    not_run: str | None
    """Why it is not run; None where it is. The document says it right before the block: `<!-- not run: why -->`."""

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = document.read_text("utf-8")
    return [
        Block(
            document=document,
            line=text.count("\n", 0, found.start("code")) + 1,
            language=found["language"],
            code=found["code"],
            not_run=found["reason"],
        )
        for found in FENCE.finditer(text)
    ]


def commands(code: str, name: str) -> Iterator[list[str]]:
    """The words behind a command's name, wherever it stands in a piece of Bash.

    Raises:
        ValueError: it is no valid Bash.
    """
    checked = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
    if checked.returncode:
        raise ValueError(checked.stderr)
    for line in code.replace("\\\n", " ").splitlines():
        words: list[str] = []
        rest = iter([*_words(line), ";"])
        for word in rest:
            if word in {">", ">>", "<"}:
                next(rest)
            elif word not in OPERATORS:
                words.append(word)
            else:
                while words and re.fullmatch(r"\w+=.*", words[0]):  # variables that are set for it
                    del words[0]
                if words[:1] == [name]:
                    yield words[1:]
                words = []


def parse(words: list[str]) -> tuple[dict[str, Any], Settings | None]:
    """Let Click parse a command without running it.

    Returns:
        What it is given, and, for `caption`, the settings that come of that.

    Raises:
        click.UsageError: there is no such command or option, or it does not take this.
        SettingsError: a setting cannot hold this.
    """
    whole = click.Context(main, **main.context_settings)
    name, command, rest = main.resolve_command(whole, words)
    assert command is not None
    given = command.make_context(name, rest, parent=whole).params
    if name != "caption":
        return given, None
    told = {item.name: given.get(item.name) for item in fields(Settings)}
    return given, Settings.load(None, **given_of(told))


def _words(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return iter(lexer)
