"""``leukoscope bundle verify``, ``bundle show`` and ``bundle list``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from leukoscope.core.errors import LeukoscopeError, UsageError

if TYPE_CHECKING:
    from leukoscope.models.bundle import Bundle, Check
    from leukoscope.models.finder_bundle import FinderBundle


def verify(directory: Path | None, *, expect: str | None, engines: tuple[str, ...], as_json: bool) -> int:
    """Run all checks, print the results and return the exit code."""
    from leukoscope.models.bundle import Bundle, Check, open_bundle, verify_bundle
    from leukoscope.models.registry import resolve_model
    from leukoscope.models.session import ENGINES

    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise UsageError(f"engine {unknown[0]!r}: expected one of {', '.join(ENGINES)}")
    place = resolve_model(directory)
    checks = verify_bundle(place)
    sha256 = None
    if checks[0].passed:
        bundle = open_bundle(place)
        sha256 = bundle.sha256
        if expect is not None:
            same = expect.lower() == sha256
            checks.append(
                Check("identity", same, f"SHA-256 {sha256}" + ("" if same else f", expected {expect}"))
            )
        from leukoscope.workflows.engine_agreement import reproduce

        if isinstance(bundle, Bundle):
            checks += [reproduce(bundle, engine) for engine in engines]
        else:
            checks.append(_runs(bundle))
    passed = all(check.passed for check in checks)
    if as_json:
        listed = [check._asdict() for check in checks]
        typer.echo(
            json.dumps({"bundle": str(place), "sha256": sha256, "passed": passed, "checks": listed}, indent=2)
        )
        return 0 if passed else 1
    for check in checks:
        mark = typer.style("ok    ", fg="green") if check.passed else typer.style("FAILED", fg="red")
        typer.echo(f"{mark}  {check.name:<10} {check.detail}")
    typer.echo(f"{place}: {'verified' if passed else 'NOT verified: do not use this bundle'}")
    return 0 if passed else 1


def show(directory: Path | None, *, card: bool, as_json: bool) -> None:
    """Print the description of a bundle."""
    from leukoscope.models.bundle import Bundle, open_bundle
    from leukoscope.models.files import CARD
    from leukoscope.models.registry import resolve_model

    bundle = open_bundle(resolve_model(directory))
    if as_json:
        content = {
            "directory": str(bundle.directory),
            "sha256": bundle.sha256,
            "model_sha256": bundle.model_sha256,
            "manifest": bundle.manifest.model_dump(mode="json"),
        }
        if isinstance(bundle, Bundle):
            content["decision"] = bundle.decision.model_dump(mode="json")
        typer.echo(json.dumps(content, indent=2))
        return
    if card:
        sys.stdout.write(bundle.read(CARD).decode("utf-8", "replace"))
        return
    for name, value in _rows(bundle) if isinstance(bundle, Bundle) else _finder_rows(bundle):
        typer.echo(f"{name:<18}{value}")


def list_bundles(*, as_json: bool) -> None:
    """Print name, task, title and folder of every available bundle."""
    from leukoscope.models.bundle import open_bundle
    from leukoscope.models.registry import list_models, resolve_model

    rows: list[tuple[str, ...]] = []
    for name in list_models():
        place = resolve_model(name)
        try:
            manifest = open_bundle(place).manifest
            rows.append(
                (name, manifest.task, f"{manifest.name} {manifest.version}", manifest.title, str(place))
            )
        except LeukoscopeError as error:
            rows.append((name, "-", "damaged", str(error), str(place)))
    if as_json:
        keys = ("name", "task", "model", "title", "folder")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    for name, task, model, title, folder in [("name", "task", "model", "title", "folder"), *rows]:
        typer.echo(f"{name:<12}{task:<8}{model:<26}{title}  ({folder})")


def _place(directory: Path | None) -> Path:
    """Return the folder of a bundle by its folder or name."""
    from leukoscope.models.registry import resolve_model

    return resolve_model(None if directory is None else str(directory))


def _runs(bundle: "FinderBundle") -> "Check":
    """Return whether the engine compiles the network and an empty field holds no cell."""
    import numpy as np

    from leukoscope.models.bundle import Check
    from leukoscope.smear.finder_network import NetworkFinder

    try:
        found = NetworkFinder(bundle).find(
            np.full((256, 256, 3), 235, np.uint8), bundle.manifest.microns_per_pixel
        )
    except LeukoscopeError as error:
        return Check("reproduce", False, str(error))
    return Check("reproduce", not found, f"{len(found)} cells in an empty field")


def _finder_rows(bundle: "FinderBundle") -> list[tuple[str, str]]:
    manifest = bundle.manifest
    return [
        ("bundle", f"{manifest.name} {manifest.version}: {manifest.title}"),
        ("task", manifest.task),
        ("notice", manifest.notice),
        ("intended use", manifest.intended_use),
        ("created", manifest.created),
        ("architecture", manifest.architecture),
        ("size", f"{manifest.parameters:,} parameters"),
        ("scale", f"{manifest.microns_per_pixel:g} um a pixel"),
        ("trained on", "; ".join(manifest.training.data)),
        ("initial weights", manifest.training.initial_weights),
        ("licenses", "; ".join(f"{record.part}: {record.license}" for record in manifest.licenses)),
        ("evaluated", "yes, see --card" if bundle.report is not None else "no"),
        ("sha256", bundle.sha256),
        ("folder", str(bundle.directory)),
    ]


def _called_from(threshold: float | None, positive: str) -> str:
    return "the likeliest class" if threshold is None else f"{positive} at or above {threshold:.3f}"


def _rows(bundle: "Bundle") -> list[tuple[str, str]]:
    manifest, decision = bundle.manifest, bundle.decision
    points = [
        f"{point.name} ({_called_from(point.threshold, manifest.classes.positive_name)}"
        + (", default)" if point.name == decision.default_operating_point else ")")
        for point in decision.operating_points
    ]
    names = ", ".join(entry.title for entry in manifest.classes.classes)
    return [
        ("bundle", f"{manifest.name} {manifest.version}: {manifest.title}"),
        ("task", manifest.task),
        ("notice", manifest.notice),
        ("intended use", manifest.intended_use),
        ("created", manifest.created),
        *([("classes", names)] if manifest.classes.size > 2 else []),
        ("architecture", f"{manifest.architecture}, head {manifest.head}, {manifest.input_px} px"),
        ("size", f"{manifest.parameters:,} parameters, {manifest.flops / 1e9:.2f} GFLOPs per cell"),
        ("trained on", f"{manifest.training.cells:,} cells of {manifest.training.subjects} subjects"),
        ("initial weights", manifest.training.initial_weights),
        ("operating points", "; ".join(points)),
        ("licenses", "; ".join(f"{record.part}: {record.license}" for record in manifest.licenses)),
        ("evaluated", "yes, see --card" if bundle.report is not None else "no"),
        ("sha256", bundle.sha256),
        ("folder", str(bundle.directory)),
    ]
