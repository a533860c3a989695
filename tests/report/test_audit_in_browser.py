"""The page of an audit, in Chromium."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from reelscribe.cli import main
from report.conftest import Opened, violations

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_and_nothing_runs_off_the_side(
    look: Callable[..., Opened], data: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    file = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["audit", str(data), "--html", str(file), "--common", "1"])
    assert result.exit_code == 0, result.output
    page = look(file.as_uri(), color_scheme=scheme, viewport={"width": width, "height": 800}).page
    assert page.locator("h1").inner_text() == "out.jsonl"
    assert page.get_by_role("heading", name="Openings in more than 1%").is_visible()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
