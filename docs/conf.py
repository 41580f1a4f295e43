"""Sphinx settings of the site: `make site`. The pages are the repository's own Markdown files and notebooks."""

from typing import Any

from leukoscope import __version__

project, author, release = "leukoscope", "the leukoscope authors", __version__
copyright = "the leukoscope authors; Apache-2.0"  # noqa: A001 - the name is Sphinx's
extensions = ["myst_nb"]

# The source folder is the repository, so that the links which work in a clone work on the site.
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**.md",
    "examples/notebooks/*.ipynb",
]
CONTENTS = {
    "Use": [
        "docs/start",
        "docs/how-to/install",
        "docs/how-to/kinds",
        "docs/how-to/smear",
        "docs/how-to/decide",
        "docs/how-to/serve",
        "docs/how-to/export-and-embed",
        "docs/faq",
    ],
    "Train and classify": [
        "docs/how-to/verify-data",
        "docs/how-to/split",
        "docs/how-to/train",
        "docs/how-to/read-a-report",
        "docs/how-to/your-data",
    ],
    "See": [
        "docs/results",
        "docs/performance",
        "docs/training-performance",
        "docs/gallery",
        "examples/notebooks/explore_and_audit",
        "examples/notebooks/train_small",
        "examples/notebooks/evaluate_and_explain",
    ],
    "Understand": [
        "docs/explanations/subjects-not-cells",
        "docs/explanations/size-shortcut",
        "docs/explanations/abstention",
        "docs/explanations/heat-maps",
        "docs/clinical",
        "docs/reference-paper",
    ],
    "Look up": [
        "docs/README",
        "docs/reference/cli",
        "docs/reference/configuration",
        "docs/reference/result-schema",
        "docs/reference/bundle",
        "docs/reference/python-api",
        "docs/reference/glossary",
    ],
    "Work on it": ["docs/architecture", "docs/decisions/README", "CONTRIBUTING", "SECURITY", "CHANGELOG"],
}
"""Heading of the menu -> its pages. A page that is missing here fails the build."""

myst_heading_anchors = 4  # as GitHub makes them
nb_execution_mode = "off"  # the committed outputs are shown; `make notebooks` executes

html_theme = "furo"
html_title = "leukoscope"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "announcement": "Research use only. Not for diagnostic procedures.",
    "light_css_variables": {"color-brand-primary": "#1B3A57", "color-brand-content": "#0067A5"},
    "dark_css_variables": {"color-brand-primary": "#9CC4E8", "color-brand-content": "#6CB8EE"},
}


def add_contents(_app: Any, name: str, source: list[str]) -> None:
    """Give the first page the menu and the decisions' page its list; in a clone neither is needed."""
    if name == root_doc:
        source[0] += "\n\n" + "\n\n".join(_toctree(pages, caption) for caption, pages in CONTENTS.items())
    elif name == "docs/decisions/README":
        source[0] += "\n\n" + _toctree(["0*"], None)


def _toctree(pages: list[str], caption: str | None) -> str:
    head = f":caption: {caption}" if caption else ":glob:"
    return "\n".join(["```{toctree}", head, ":hidden:", "", *pages, "```"])


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("source-read", add_contents)
