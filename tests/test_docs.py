"""Documents that a program writes are what it writes."""

import re
import runpy
import tomllib
from pathlib import Path

from engines.test_planning import planned

from reelscribe.export.targets import TARGETS
from reelscribe.values import CAPTION_META

ROOT = Path(__file__).parent.parent


def test_cli_reference_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "render_cli_docs.py"))
    assert tool["PAGE"].read_text("utf-8") == tool["render"](), "run: python tools/render_cli_docs.py"


def test_targets_in_the_page_on_exports_are_those_of_the_code() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "render_export_docs.py"))
    page = tool["PAGE"].read_text("utf-8")
    assert page == tool["render"](page), "run: python tools/render_export_docs.py"
    assert all(f"| `{name}` |" in page for name in TARGETS)


def test_figures_in_the_pages_are_those_of_the_results() -> None:
    tool = runpy.run_path(str(ROOT / "benchmarks" / "render.py"))
    assert len(tool["PAGES"]) == 8
    for page in tool["PAGES"]:
        assert page.read_text("utf-8") == tool["render"](page), "run: python benchmarks/render.py"


def test_the_plan_in_the_page_on_engines_is_what_is_planned() -> None:
    said = f"reelscribe: vLLM runs {planned('8B', 8, 80)}"
    assert said in " ".join((ROOT / "docs" / "engines.md").read_text("utf-8").split())


def test_rooms_in_the_page_on_architecture_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [{name.split(".")[1] for name in layer.split(" | ")} for layer in reversed(contracts[0]["layers"])]
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## The rooms")[2].partition("## ")[0]
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    rooms = [room.removesuffix(".py") for row in rows for room in re.findall(r"`(\w+(?:\.py)?)/?`", row)]
    places = {name: number for number, layer in enumerate(layers) for name in layer}
    assert sorted(rooms) == sorted(places)
    assert [places[room] for room in rooms] == sorted(places.values())


def test_keys_of_the_metadata_in_the_page_on_data_sets_are_those_that_are_written() -> None:
    rows = [f"| `{name}` | {kind} | {text} |" for name, (kind, text) in CAPTION_META.items()]
    page = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    table = page.partition("<!-- keys of the metadata")[2].partition("<!-- end")[0]
    assert table.strip().splitlines()[3:] == rows
