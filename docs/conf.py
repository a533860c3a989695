"""How the documentation site is built: `make docs`."""

import re
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring

import reelscribe
from reelscribe.config import Settings
from reelscribe.errors import FailureKind

project = "Reelscribe"
version = release = reelscribe.__version__
copyright = "the authors of Reelscribe"  # noqa: A001 - Sphinx's name for it
language = "en"
smartquotes = False  # what stands in the text may be typed as it is

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
highlight_language = "none"
default_role = "code"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!reelscribe\.[A-Z]).*")]  # types of other packages, and of inner modules

html_theme = "furo"
html_title = "Reelscribe"
html_copy_source = False
html_use_index = html_domain_indices = False
html_theme_options = {"navigation_with_keys": False}
html_static_path = ["_static"]
html_css_files = ["site.css"]

KINDS: Final = str(FailureKind).removeprefix("typing.")
PAGES: Final = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root to the pages that include them."""
FENCED: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def _link(found: re.Match[str]) -> str:
    """A link that holds from the root of the repository, as one that holds on the site; or its words alone."""
    words, target, anchor = found[1], found[2], found[3] or ""
    page = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    return f"[{words}]({page}{anchor})" if page else words


def _turn_links(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """In what is included, but not in its code."""
    parts = FENCED.split(content[0])
    content[0] = "".join(part if number % 2 else LINK.sub(_link, part) for number, part in enumerate(parts))


def _read_google_style(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn sections as "Args:" into fields, and the kinds of failures into a list.

    Napoleon's own hook takes what stands before a colon, in what is said of an attribute, for a type.
    """
    if name.endswith(".FailureKind"):
        lines[:] = [re.sub(r"^(\w+): ", r"- `\1`: ", line) for line in lines]
    elif what not in {"attribute", "property"}:
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj, options=options).lines()


def _shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Say settings once, in the list below, and the name of a closed set in place of all that is in it."""
    if obj is Settings:
        return "(*, ...)", None
    return (signature.replace(KINDS, "FailureKind") if signature else signature), returned


def _home(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Where a public name is meant under the module that defines it, as annotations do: its place in the reference."""
    target = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if node.get("refdomain") != "py" or not target.startswith("reelscribe.") or name not in reelscribe.__all__:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"reelscribe.{name}", node, content)


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("include-read", _turn_links)
    app.connect("autodoc-process-docstring", _read_google_style)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("missing-reference", _home)
