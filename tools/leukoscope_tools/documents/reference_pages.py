"""The pages of settings, result schema, bundle and glossary, from the classes that define them."""

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel

NOTICE_BUNDLE = """\
A bundle is a folder with one model and all files that are needed to use, evaluate and verify it. It contains
only data: no code, no pickle. It is the only interface from training to prediction.

```console
leukoscope bundle show
leukoscope bundle show --card
leukoscope bundle verify
```

`bundle verify` checks the hashes, the schema, the graph against its declaration, that the card is what manifest and
report give, and that the sample cells get the expected answers. A bundle that is opened is checked in the same way,
except for the last two. A file that is not in the list below, a link, or a byte that differs is an error."""

FILE_TEXTS = {
    "MODEL": "The network as an ONNX graph, weights inside; no operators but ONNX's own.",
    "MANIFEST": "Description of the model, below.",
    "DECISION": "The fitted numbers of the decision layer, below.",
    "NOVELTY": "Mean, directions and scales of the training embeddings.",
    "REPORT": "The measured results; left out where the model has not been evaluated.",
    "CARD": "The model card, rendered from manifest, decision and report.",
    "LICENSE": "License of the weights.",
    "DATA_LICENSE": "License and attribution of the training data and of the sample cells.",
    "EXPECTED": "Expected outputs of the sample cells, below; the cells are in the same folder.",
    "SUMS": "SHA-256 of every other file. The bundle's own SHA-256 is that of this file.",
}


def render_configuration() -> str:
    """Return the page of all settings that a file can hold."""
    from leukoscope.training.settings import TrainSettings
    from leukoscope.web.settings import WebSettings

    lines = [
        "# Settings",
        "",
        "## Training",
        "",
        "`leukoscope train --config FILE.toml` reads differences from these defaults; `--set section.key=value` wins",
        "over the file. An unknown key, a wrong type or an impossible value is an error. Recipes lie in `configs/`.",
    ]
    defaults = TrainSettings()
    scalars = [item for item in dataclasses.fields(TrainSettings) if not _is_section(item)]
    lines += ["", *_settings_table(scalars, defaults, {"seed": "Random seed."}, "")]
    for item in dataclasses.fields(TrainSettings):
        if _is_section(item):
            section = getattr(defaults, item.name)
            kind = type(section)
            words = parse_parameters(inspect.getdoc(kind) or "")
            summary = (inspect.getdoc(kind) or "").split("\n\n")[0]
            lines += ["", f"### `[{item.name}]`", "", " ".join(summary.split())]
            lines += ["", *_settings_table(dataclasses.fields(kind), section, words, f"{item.name}.")]
    lines += [
        "",
        "## Web application",
        "",
        "`leukoscope serve --config FILE.toml` reads these; options on the command line win. Better than in the file,",
        "the token is given by `--token-file` or in `LEUKOSCOPE_TOKEN`.",
    ]
    web = WebSettings(data=Path("<the user's data folder>/leukoscope"))
    lines += ["", *_attribute_table(web, skip=("limits",))]
    lines += [
        "",
        "### `[limits]`",
        "",
        "What one client may ask for; all of it is checked before an image is decoded.",
    ]
    lines += ["", *_attribute_table(web.limits)]
    return "\n".join(lines) + "\n"


def render_result_schema() -> str:
    """Return the page of the result schema."""
    from leukoscope.inference.results import CellResult, ModelReference, ReasonDetail, SubjectResult

    lines = [
        "# Results",
        "",
        "One schema for `leukoscope predict --json`, `results.jsonl`, the web API and the exports. As JSON Schema:",
        "[result.schema.json](result.schema.json), which `leukoscope predict --schema` prints.",
    ]
    for model, title in (
        (CellResult, "One image"),
        (ReasonDetail, "A reason"),
        (ModelReference, "The model"),
        (SubjectResult, "One subject"),
    ):
        lines += ["", f"## {title}", "", _first_line(model), "", *_model_table(model)]
    return "\n".join(lines) + "\n"


def render_result_json() -> str:
    """Return the JSON Schema of one image's result, as ``leukoscope predict --schema`` prints it."""
    from leukoscope.inference.results import CellResult

    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **CellResult.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2) + "\n"


def render_bundle() -> str:
    """Return the page of the bundle's files and their fields."""
    from leukoscope.decision import parameters
    from leukoscope.imaging.instances import MAPS
    from leukoscope.models import files, finder_manifest, manifest

    rows = []
    for name, words in FILE_TEXTS.items():
        file = getattr(files, name)
        limit = files.LIMITS[file] // files.MIB
        rows.append([f"`{file}`", words, f"{limit:,} MiB", "no" if file in files.OPTIONAL else "yes"])
    lines = ["# The bundle", "", *NOTICE_BUNDLE.splitlines()]
    lines += ["", "## Files", "", *_table(["file", "holds", "at most", "required"], rows)]
    lines += [
        "",
        f"Sample cells are BMP, PNG or WebP files in `{files.SAMPLE}/`, at most {files.MAX_SAMPLES}, "
        f"{files.SAMPLE_LIMIT // files.MIB} MiB each.",
        "",
        "## Graph",
        "",
        f"Input `{manifest.INPUT_NAME}`: uint8 (N, S, S, 3), RGB on the black canvas, resized as a whole; N is free. "
        "Scaling and normalization are inside the graph. Outputs: `logits` float32 (N, K), or (N, 1) of two classes, "
        "`embedding` float32 (N, D), `activation_map` float32 (N, K, h, w), or (N, 1, h, w), exact "
        "Grad-CAM after ReLU, not normalized.",
    ]
    for model, title in (
        (manifest.Manifest, "`manifest.json`"),
        (manifest.TensorSpec, "`inputs`, `outputs`"),
        (manifest.TrainingRecord, "`training`"),
        (manifest.LicenseRecord, "`licenses`"),
        (parameters.DecisionParameters, "`decision.json`"),
        (parameters.OperatingPoint, "`operating_points`"),
        (parameters.ConformalQuantiles, "`conformal`"),
        (parameters.ClassQuantile, "`conformal.classes`"),
        (parameters.NoveltyLimit, "`novelty`"),
        (parameters.InputLimits, "`input_limits`"),
        (manifest.ExpectedOutputs, "`sample/expected.json`"),
        (manifest.ExpectedCell, "`cells` of `sample/expected.json`"),
    ):
        lines += ["", f"## {title}", "", _first_line(model), "", *_model_table(model)]
    listed = ", ".join(f"`{name}`" for name in sorted(files.OF_EVERY_TASK))
    lines += [
        "",
        "## A finder",
        "",
        f"A bundle of the task `finder` holds {listed} and no other file. Graph: `{finder_manifest.INPUT_NAME}` uint8 "
        f"(N, H, W, 3) in, `{finder_manifest.OUTPUT_NAME}` float32 (N, {len(MAPS)}, H / 2, W / 2) out.",
    ]
    for part, title in (
        (finder_manifest.FinderManifest, "`manifest.json`"),
        (finder_manifest.FinderTraining, "`training`"),
        (finder_manifest.FinderReport, "`report.json`"),
        (finder_manifest.FinderRow, "`rows`"),
        (finder_manifest.ScaleRow, "`scale`"),
        (finder_manifest.FinderMeasure, "a measure"),
    ):
        lines += ["", f"### {title} of a finder", "", _first_line(part), "", *_model_table(part)]
    return "\n".join(lines) + "\n"


def _heading(name: str) -> str:
    """Return the heading of the codes of a class."""
    return name.lower() + ("es" if name.endswith("s") else "s")


def render_glossary() -> str:
    """Return the page of words, decisions and reasons."""
    from leukoscope.core.terms import GLOSSARY, REASON_TEXTS, STATUS_TEXTS

    lines = ["# Glossary", "", "One word for one thing, in code, messages, pages and reports.", ""]
    lines += _table(["word", "meaning"], [[word, text] for word, text in GLOSSARY.items()])
    lines += ["", "## Statuses", ""]
    lines += _table(["code", "words"], [[f"`{code}`", text] for code, text in STATUS_TEXTS.items()])
    lines += ["", "## Reasons", "", "Codes are stable; texts may improve.", ""]
    lines += _table(["code", "words"], [[f"`{code}`", text] for code, text in REASON_TEXTS.items()])
    return "\n".join(lines) + "\n"


def parse_parameters(doc: str) -> dict[str, str]:
    """Return name -> text of the section *Parameters* of a NumPy docstring; names that share a text each get it."""
    _, found, section = doc.partition("Parameters\n----------\n")
    words: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines() if found else ():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.split(",")]
        elif names and line.strip():
            for name in names:
                words[name] = f"{words.get(name, '')} {line.strip()}".strip()
    return words


def _is_section(item: Any) -> bool:
    return dataclasses.is_dataclass(item.type)


def _settings_table(items: Iterable[Any], defaults: Any, words: Mapping[str, str], prefix: str) -> list[str]:
    rows = []
    for item in items:
        kind, default = _type_text(item.type), _toml(getattr(defaults, item.name))
        rows.append([f"`{prefix}{item.name}`", kind, default, _rst_to_markdown(words[item.name])])
    return _table(["key", "type", "default", "meaning"], rows)


def _attribute_table(defaults: Any, skip: tuple[str, ...] = ()) -> list[str]:
    """Document a dataclass whose fields are followed by their docstrings."""
    words = _attribute_text(type(defaults))
    rows = [
        [
            f"`{item.name}`",
            _type_text(item.type),
            _toml(getattr(defaults, item.name)),
            _rst_to_markdown(words.get(item.name, "")),
        ]
        for item in dataclasses.fields(defaults)
        if item.name not in skip
    ]
    return _table(["key", "type", "default", "meaning"], rows)


def _attribute_text(kind: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    words = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            words[field.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return words


def _type_text(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(f"`{_plain(part)}`" for part in parts)
    if origin in (UnionType, typing.Union):
        return " or ".join(_type_text(part) for part in parts if part is not NoneType) + ", or left out"
    if origin is tuple:
        return f"list of {_plural(_type_text(parts[0]))}"
    return {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}[kind]


def _toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False) if isinstance(value, str | Path) else repr(value)


def _rst_to_markdown(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _model_table(model: type[BaseModel]) -> list[str]:
    schema = model.model_json_schema(mode="serialization")
    definitions = schema.get("$defs", {})
    rows = []
    for name, entry in schema["properties"].items():
        rows.append(
            [f"`{name}`", _json_text(entry, definitions), entry.get("description", "").replace("|", "\\|")]
        )
    return _table(["field", "type", "meaning"], rows)


def _json_text(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        codes = definitions[name].get("enum")
        return (
            f"object ({name})" if codes is None else f"text, a code of [{name}](glossary.md#{_heading(name)})"
        )
    if "anyOf" in entry:
        return " or ".join(_json_text(part, definitions) for part in entry["anyOf"])
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if entry.get("type") == "array":
        inner = entry.get("items")
        return f"list of {_plural(_json_text(inner, definitions))}" if inner else "list"
    names = {
        "integer": "whole number",
        "string": "text",
        "null": "null",
        "object": "object",
        "boolean": "boolean",
    }
    word = names.get(entry.get("type", ""), "number")
    if {"minimum", "maximum"} <= entry.keys():
        return f"{word}, {entry['minimum']:g} to {entry['maximum']:g}"
    return word


def _plural(words: str) -> str:
    return f"{words}s" if words.endswith("number") else words


def _first_line(model: type[BaseModel]) -> str:
    return _rst_to_markdown(" ".join((inspect.getdoc(model) or "").split("\n\n")[0].split()))


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
