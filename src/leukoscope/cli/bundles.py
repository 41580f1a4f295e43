"""``leukoscope bundle verify`` and ``bundle show``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from leukoscope.core.errors import UsageError

if TYPE_CHECKING:
    from leukoscope.models.bundle import Bundle


def verify(directory: Path | None, *, expect: str | None, engines: tuple[str, ...], as_json: bool) -> int:
    """Run all checks, print the results and return the exit code."""
    from leukoscope.models.bundle import Bundle, Check, verify_bundle
    from leukoscope.models.registry import resolve_model
    from leukoscope.models.session import ENGINES

    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise UsageError(f"engine {unknown[0]!r}: expected one of {', '.join(ENGINES)}")
    place = resolve_model(directory)
    checks = verify_bundle(place)
    sha256 = None
    if checks[0].passed:
        bundle = Bundle.open(place)
        sha256 = bundle.sha256
        if expect is not None:
            same = expect.lower() == sha256
            checks.append(
                Check("identity", same, f"SHA-256 {sha256}" + ("" if same else f", expected {expect}"))
            )
        from leukoscope.workflows.engine_agreement import reproduce

        checks += [reproduce(bundle, engine) for engine in engines]
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
    from leukoscope.models.bundle import Bundle
    from leukoscope.models.files import CARD
    from leukoscope.models.registry import resolve_model

    bundle = Bundle.open(resolve_model(directory))
    if as_json:
        content = {
            "directory": str(bundle.directory),
            "sha256": bundle.sha256,
            "model_sha256": bundle.model_sha256,
            "manifest": bundle.manifest.model_dump(mode="json"),
            "decision": bundle.decision.model_dump(mode="json"),
        }
        typer.echo(json.dumps(content, indent=2))
        return
    if card:
        sys.stdout.write(bundle.read(CARD).decode("utf-8", "replace"))
        return
    for name, value in _rows(bundle):
        typer.echo(f"{name:<18}{value}")


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
