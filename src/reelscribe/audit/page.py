"""Renders an audit as an HTML page in the style of a report."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reelscribe.audit.findings import FINDINGS
from reelscribe.audit.table import clips_of, lengths_of, seconds_of, summary_of
from reelscribe.dataset.files import write_whole
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.report.write import needs_report

_LISTED: Final = 15
"""Maximum number of openings, and of phrases, that are listed."""
_MOST_DRAWN: Final = 20_000
"""Maximum number of captions in the histogram. If there are more, all bars are scaled down by the same factor."""


def check_page(file: Path) -> None:
    """Check that a page can be made.

    Raises:
        SettingsError: the file is not named as HTML.
        MissingExtraError: the extra `report` is not installed.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"a page is HTML, so its name must end in .html; got {str(file)!r}.")
    with needs_report():
        import jinja2  # noqa: F401


def write_page(file: Path, told: Mapping[str, Any], lengths: Mapping[str, Counter[int]]) -> None:
    """Write a page.

    Args:
        file: the file to write.
        told: the result of `Audit.told`.
        lengths: for each task, the number of captions by number of words.

    Raises:
        DatasetError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _render(told, lengths))
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc


def _render(told: Mapping[str, Any], lengths: Mapping[str, Counter[int]]) -> str:
    from markupsafe import Markup

    from reelscribe.report.assets import environment, text_of

    several = len(told["tasks"]) > 1
    tasks = [
        {
            "name": name if several else "Captions",
            "summary": summary_of(figures),
            "lengths": lengths_of(figures["words"]) if figures["words"] else "",
            "plot": Markup(_histogram(lengths[name], lengths_of(figures["words"]))) if lengths[name] else "",
            "sections": list(_sections(figures, told["common"])),
        }
        for name, figures in told["tasks"].items()
    ]
    return (
        environment("audit")
        .get_template("audit.html.j2")
        .render(
            title=Path(told["output"]).name,
            style=Markup(text_of("report", "page.css")),
            tasks=tasks,
        )
    )


_Row = tuple[str, str, str, Mapping[str, str]]
"""Name, remark in small letters, value, and the names and values under "Details"."""


def _sections(figures: Mapping[str, Any], common: float) -> Iterator[tuple[str, list[_Row]]]:
    """Heading and rows of each table."""
    found = figures["findings"].items()
    yield (
        "Found in single captions",
        [(_plain(name), FINDINGS.get(name, ""), _share(each), _details(name, each)) for name, each in found],
    )
    yield "Flags", [(_plain(name), "", f"{count:,}", {}) for name, count in figures["flags"].items()]
    for name in ("openings", "phrases"):
        listed = figures[name][:_LISTED]
        yield (
            f"{name.capitalize()} in more than {100 * common:g}%",
            [(each["text"], "", _share(each), {}) for each in listed],
        )
    for name in ("scripts", "languages"):
        yield name.capitalize(), [(kind, "", f"{count:,}", {}) for kind, count in figures[name].items()]
    if figures["tokens"]:
        yield "Tokens of a caption", [("mean", lengths_of(figures["tokens"]), f"{figures['tokens']['mean']:,}", {})]
    correlation = "" if figures["correlation"] is None else f", correlation {figures['correlation']:.2f}"
    yield f"Words by length of clip{correlation}", list(_durations(figures["durations"]))
    yield "Words", list(_words(figures["vocabulary"]))


def _durations(told: Sequence[Mapping[str, Any]]) -> Iterator[_Row]:
    for each in told:
        yield seconds_of(each), f"{each['captions']:,} captions", f"{each['mean_words']:,}", {}


def _words(told: Mapping[str, Any]) -> Iterator[_Row]:
    if told["words"]:
        yield "in all", "", f"{told['words']:,}", {}
        yield "different", "" if told["is_exact"] else "at least", f"{told['different']:,}", {}
        yield "type-token ratio", "", f"{told['type_token_ratio']:.4f}", {}
    yield from ((word, "", f"{count:,}", {}) for word, count in told["top"])


def _details(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    rows = ", ".join(map(str, found["rows"])) + (", ..." if found["captions"] > len(found["rows"]) else "")
    return {"clips": clips_of(found), "their rows, from 0": rows, "for --mark and --fail-on": name}


def _share(found: Mapping[str, Any]) -> str:
    return f"{found['captions']:,} · {found['share']:.2%}"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _histogram(counts: Counter[int], said: str) -> str:
    from reelscribe.report.plots import histogram

    scale = max(counts.total() / _MOST_DRAWN, 1)
    values = [length for length, count in counts.items() for _ in range(max(round(count / scale), 1))]
    return histogram(values, title="Words of a caption", said=said)
