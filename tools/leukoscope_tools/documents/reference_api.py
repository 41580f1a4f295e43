"""The page of the Python API, from the docstrings of the public names."""

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import leukoscope

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")
_MARKDOWN_CELL = str.maketrans({"|": "\\|", "\n": " "})

_GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Predict",
        "Needs the light install only.",
        ("load_model", "list_models", "predict", "read_images", "Predictor"),
    ),
    (
        "Results",
        "Results of a prediction.",
        ("Prediction", "Predictions", "CellResult", "SubjectResult", "Source"),
    ),
    ("Smears", "Whole fields: find, outline, measure, count.", ("read_smear",)),
    (
        "Train",
        "Needs the extra `train`.",
        ("import_cohort", "make_splits", "train", "evaluate", "export"),
    ),
    ("Data sets", "", ("datasets",)),
    ("Metrics", "Measures that weigh subjects equally, with intervals over subjects.", ("metrics",)),
    ("Conformal prediction", "", ("conformal",)),
    ("Estimators", "For scikit-learn pipelines; needs the extra `train`.", ("estimators",)),
    ("Errors", "", ("LeukoscopeError",)),
)


def render_api() -> str:
    """Return the page as Markdown.

    Raises
    ------
    ValueError
        A public name is in no group.
    """
    shown = {name for _, _, names in _GROUPS for name in names} | {"__version__", "load"}
    if missing := set(leukoscope.__all__) - shown:
        raise ValueError(f"public names without a group in reference_api.py: {', '.join(sorted(missing))}")
    lines = [
        "# Python API",
        "",
        "```python",
        "import leukoscope",
        "",
        "predictor = leukoscope.load_model()",
        "prediction = predictor.predict(leukoscope.datasets.sample_paths()[0])",
        'print(prediction.decision, prediction.to_dict()["probability"])',
        "```",
        "",
        "Names are imported at first use: `import leukoscope` is fast and loads no torch. `leukoscope.load`",
        "is `load_model`. What this page lists is public; see [deprecation policy](#deprecation-policy).",
    ]
    for title, text, names in _GROUPS:
        lines += ["", f"## {title}", *(["", text] if text else [])]
        for name in names:
            lines += _entry(f"leukoscope.{name}", getattr(leukoscope, name), 3)
    lines += [
        "",
        "## Deprecation policy",
        "",
        "A public name, an option, a column or a key of a result is removed or renamed only after one minor version in",
        "which the old form works and warns (`DeprecationWarning`, or a line on stderr) with the new form. The change",
        "log names it. A new key in a result or a new reason code is no break: read results by name. Bundles of every",
        "released schema version are read. All other names, also those with an underscore, may change at any time.",
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _entry(name: str, value: Any, level: int) -> Iterator[str]:
    if isinstance(value, ModuleType):
        yield from ("", _first_paragraph(value))
        for child in value.__all__:
            yield from _entry(f"{name}.{child}", getattr(value, child), level)
        return
    yield from ("", f"{'#' * level} `{name}`", "", "```text", _signature(name, value), "```", "")
    yield from _docstring(value)
    if inspect.isclass(value) and not issubclass(value, BaseException):
        yield from _members(name, value, level + 1)


def _members(name: str, value: type, level: int) -> Iterator[str]:
    fields = getattr(value, "model_fields", None)
    if fields:
        rows = [f"| `{key}` | {_cell(item.description or '')} |" for key, item in fields.items()]
        yield from ("", "| field | |", "|---|---|", *rows)
    for key, member in vars(value).items():
        if key.startswith("_") or not inspect.getdoc(member):
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(function):
            short = name.rpartition(".")[2]
            yield from (
                "",
                f"{'#' * level} `{short}.{key}`",
                "",
                "```text",
                _signature(f"{short}.{key}", function),
            )
            yield from ("```", "", *_docstring(function))
        elif isinstance(member, property):
            yield from ("", f"- `{key}`: {_first_paragraph(member)}")


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = [item for item in signature.parameters.values() if item.name not in ("self", "cls")]
    shown = [
        str(item).replace("'", "") if isinstance(item.annotation, str) else str(item) for item in parameters
    ]
    star = next((i for i, item in enumerate(parameters) if item.kind is item.KEYWORD_ONLY), None)
    if star is not None and not any(item.kind is item.VAR_POSITIONAL for item in parameters):
        shown.insert(star, "*")
    joined = ", ".join(_clean(text) for text in shown)
    if len(name) + len(joined) > 96:
        joined = "\n    " + ",\n    ".join(_clean(text) for text in shown) + ",\n"
    returns = signature.return_annotation
    arrow = (
        "" if returns is signature.empty or inspect.isclass(value) else f" -> {_clean(_annotation(returns))}"
    )
    return f"{name}({joined}){arrow}"


def _annotation(value: Any) -> str:
    return value.strip("'\"") if isinstance(value, str) else inspect.formatannotation(value)


def _clean(text: str) -> str:
    text = re.sub(r"<function .* at 0x[0-9a-f]+>", "...", re.sub(r"<class '([\w.]+)'>", r"\1", text))
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]\w*)", "", text)


def _docstring(value: Any) -> Iterator[str]:
    text = _ROLE.sub(r"`\1`", inspect.getdoc(value) or "").replace("``", "`")
    pieces = _SECTION.split(text)
    yield from _prose(pieces[0])
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        yield from ("", f"**{title}**", "")
        if title == "Examples":
            yield from ("```pycon", body.strip(), "```")
        elif title in ("Notes", "References", "See Also"):
            yield from _prose(body)
        else:
            yield from _definitions(body)


def _definitions(body: str) -> Iterator[str]:
    name, lines = "", list[str]()
    for line in [*body.strip().splitlines(), "end"]:
        if line.startswith("    ") or not line.strip():
            lines.append(line.strip())
            continue
        if name:
            yield f"- `{name}`: {' '.join(filter(None, lines))}".rstrip(": ")
        name, lines = line.strip(), []


def _prose(text: str) -> Iterator[str]:
    """Paragraphs, with examples between them as blocks."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith(">>>"):
            yield from ("```pycon", paragraph, "```", "")
        else:
            yield from (paragraph, "")


def _first_paragraph(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).replace("``", "`")


def _cell(text: str) -> str:
    return text.translate(_MARKDOWN_CELL)
