"""The README's examples, run one after the other as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SET_UP = re.compile(r"^\s*(make|pip|git|cd) ", re.MULTILINE)
"""Set-up commands, which CI runs from a fresh clone."""


def _blocks(document: Path) -> list[tuple[str, str]]:
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if not SET_UP.search(code)]


@pytest.mark.transformers
@pytest.mark.parametrize("document", [item for item in DOCUMENTS if _blocks(item)], ids=lambda item: item.name)
def test_every_example_runs(document: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, code in _blocks(document):
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.transformers
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda item: item.name)
def test_example_program_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
