"""Writes docs/cli.md from the command itself. A test holds the file to it."""

from pathlib import Path

import click

from reelscribe.cli import main
from reelscribe.command import ALL_OPTIONS

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def render() -> str:
    """The page: each command's help, as the terminal shows it."""
    parts = ["# Commands", "", "Rendered from the command by `python tools/render_cli_docs.py`.", ""]
    for command in (main, *(main.commands[name] for names in main.SECTIONS.values() for name in names)):
        name = "reelscribe" if command is main else f"reelscribe {command.name}"
        context = click.Context(
            command, info_name=name, terminal_width=100, max_content_width=100, help_option_names=["-h", "--help"]
        )
        context.meta[ALL_OPTIONS] = True
        parts += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
