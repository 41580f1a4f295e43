"""``python -m leukoscope_tools``: benchmarks, published numbers and reference pages of this repository."""

from typing import Any

import typer
import typer.core

from leukoscope.core.errors import LeukoscopeError
from leukoscope_tools.benchmark.predict import app as benchmark
from leukoscope_tools.documents.publish_command import publish
from leukoscope_tools.documents.reference import docs
from leukoscope_tools.documents.words_command import words
from leukoscope_tools.finder_bundle import finder_bundle


class ToolGroup(typer.core.TyperGroup):
    """A group whose expected errors are one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; print an expected error without a traceback."""
        try:
            return super().main(*args, **extra)
        except LeukoscopeError as error:
            typer.echo(f"Error: {error}", err=True)
            raise SystemExit(error.exit_code) from None


app = typer.Typer(cls=ToolGroup, no_args_is_help=True, add_completion=False, help=__doc__)
app.command(epilog="Example: python -m leukoscope_tools docs --check")(docs)
app.command(epilog="Example: python -m leukoscope_tools publish README.md docs/results.md --check")(publish)
app.command(epilog="Example: python -m leukoscope_tools words --write")(words)
app.command(
    epilog="Example: python -m leukoscope_tools finder-bundle src/leukoscope/assets/finder/model.onnx "
    "--report docs/reports/smear-fields.json --out src/leukoscope/assets/finder"
)(finder_bundle)
app.add_typer(benchmark, name="benchmark")

if __name__ == "__main__":
    app()
