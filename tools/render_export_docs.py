"""Writes the tables in docs/export.md from what the code says of its targets. A test holds the page to it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reelscribe.export.targets import TARGETS, Target
from reelscribe.export.where import VALUES

PAGE = Path(__file__).parent.parent / "docs" / "export.md"


def render(text: str) -> str:
    """The page with its tables as they are now."""
    for name, lines in {"targets": _targets(), "rules": _rules(), "names": _names()}.items():
        before, mark, rest = text.partition(f"<!-- {name}: rendered by tools/render_export_docs.py -->\n")
        end = f"<!-- end of {name} -->"
        text = f"{before}{mark}{''.join(lines)}{end}{rest.partition(end)[2]}"
    return text


def _targets() -> Iterator[str]:
    yield "| `--as` | for | `--form` | writes | `--videos` | `--newlines` | captions of a video |\n"
    yield "| --- | --- | --- | --- | --- | --- | --- |\n"
    for name, target in TARGETS.items():
        alike: dict[Any, list[str]] = {}
        for kind, form in target.forms.items():
            alike.setdefault((form.placings, form.newlines, form.several), []).append(kind)
        for number, (rules, kinds) in enumerate(alike.items()):
            placings, newlines, several = rules
            first = ["", ""] if number else [f"`{name}`", target.title]
            files = ", ".join(target.forms[kind].files for kind in kinds)
            captions = "several" if several else "one"
            yield _line([*first, _names_of(kinds), files, _names_of(placings), _names_of(newlines), captions])
    yield _line(
        ["`vtt`, `srt`", "players", "", "a file of subtitles for each video", "", "", "[Subtitles](tasks.md#subtitles)"]
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _names_of(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rules() -> Iterator[str]:
    for name, target in TARGETS.items():
        facts = [f"Facts: {target.source}."] if target.source else []
        yield f"- **{target.title}** (`{name}`): {' '.join([target.says, *_limits(target), *facts])}\n"


def _limits(target: Target) -> Iterator[str]:
    if target.max_tokens:
        yield f"A caption has at most {target.max_tokens:,} tokens."
    if target.rules:
        refused = [rule.words for rule in target.rules if rule.refuses]
        trimmed = [rule.words for rule in target.rules if not rule.refuses]
        if refused:
            yield f"It does not take clips that {' or '.join(refused)}."
        if trimmed:
            yield f"Warned of are clips that {' or '.join(trimmed)}."
    if target.suffixes:
        yield f"It reads {', '.join(f'`{suffix}`' for suffix in sorted(target.suffixes))}."
    if target.forbidden:
        yield f"Captions that hold {', '.join(f'`{mark}`' for mark in target.forbidden)} are left out."


def _names() -> Iterator[str]:
    yield "| name | what it is |\n| --- | --- |\n"
    for name, (meaning, _) in VALUES.items():
        yield f"| `{name}` | {meaning} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
