"""The examples in the documents, run one after the other as a reader would; what is not run is looked through."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from documents import DOCUMENTS, ROOT, Block, blocks, commands, parse
from openai_server import OpenAIServer

from reelscribe import Settings
from reelscribe.demo import prepare

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
RUN = [block for block in BLOCKS if block.language in {"bash", "python"} and block.not_run is None]
NOT_RUN = [block for block in BLOCKS if block.not_run is not None]
SHOWN = frozenset({"text", "json", "toml", "yaml"})
"""Languages of what is looked at, and not run."""
DIRECTIVES = frozenset({"{include} ", "{toctree}"})
"""How blocks begin that are for the documentation site alone."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reelscribe demo` leaves, from which recipes start; rendered once, and never written to."""
    folder = tmp_path_factory.mktemp("demo")
    prepare(folder)
    return folder


def _marks(document: Path) -> list[pytest.MarkDecorator]:
    juicer = any("dj-process" in block.code for block in RUN if block.document == document)
    return [pytest.mark.transformers, *([pytest.mark.data_juicer] if juicer else [])]


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(item, id=str(item.relative_to(ROOT)), marks=_marks(item))
        for item in dict.fromkeys(block.document for block in RUN)
    ],
)
def test_every_example_runs(document: Path, tmp_path: Path, demo: Path) -> None:
    if document.parent.name == "recipes":
        shutil.copytree(demo, tmp_path / "reelscribe-demo")
    with OpenAIServer() as server:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SERVER": server.url,
            "DATA_JUICER_CACHE_HOME": str(tmp_path / "cache"),
        }
        for block in (block for block in RUN if block.document == document):
            words = ["bash", "-euo", "pipefail"] if block.language == "bash" else [sys.executable]
            done = subprocess.run(
                [*words, "-c", block.code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block}\n{block.code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_what_is_not_run_is_valid(block: Block) -> None:
    """Valid Bash, with commands and options that there are; or valid Python."""
    if block.language == "python":
        compile(block.code, str(block), "exec")
        return
    assert block.language == "bash", f"{block}: a block that could be run is bash or python; got {block.language!r}"
    for words in commands(block.code, "reelscribe"):
        parse(words)


def test_every_block_is_run_or_says_why_not() -> None:
    silent = [
        str(block)
        for block in BLOCKS
        if block.language not in {"bash", "python", *SHOWN}
        and not any(block.language.startswith(start) for start in DIRECTIVES)
    ]
    assert not silent, (
        f"{', '.join(silent)}: a block is bash or python, and is run unless <!-- not run: why --> stands right before "
        f"it; or it is one of {', '.join(sorted(SHOWN))}"
    )


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_settings_in_documents_are_settings(block: Block) -> None:
    Settings.load(None, **tomllib.loads(block.code))


def test_wrong_examples_are_found(tmp_path: Path) -> None:
    text = "<!-- not run: because -->\n```bash\nreelscribe caption a -o b \\\n  --fsp 2\n```\n\n```sh\nls\n```\n"
    (tmp_path / "wrong.md").write_text(text, "utf-8")
    first, second = blocks(tmp_path / "wrong.md")
    assert (first.line, first.not_run, second.language, second.not_run) == (3, "because", "sh", None)
    with pytest.raises(click.NoSuchOption, match="--fsp"):
        parse(*commands(first.code, "reelscribe"))
    assert list(commands("A=1 reelscribe status 'a b' && x | reelscribe view c # d", "reelscribe")) == [
        ["status", "a b"],
        ["view", "c"],
    ]
    with pytest.raises(ValueError, match="syntax error"):
        list(commands("if then", "reelscribe"))


@pytest.mark.transformers
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda item: item.name)
def test_example_program_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
