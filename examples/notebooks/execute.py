"""Execute the notebooks and write each ``.ipynb`` next to its ``.py``: python examples/notebooks/execute.py [NAME...].

The scripts are the sources (jupytext, percent format). The outputs contain no times, counters of this machine or
widget states, so that a second run changes only what the code or the bundle has changed.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from leukoscope.assets import default_bundle_path
from leukoscope.models.bundle import Bundle

HERE = Path(__file__).resolve().parent
NAMES = ("explore_and_audit", "train_small", "evaluate_and_explain")
TIMEOUT_S = 600
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_source(name: str) -> nbformat.NotebookNode:
    """Return the notebook of a script, without outputs."""
    notebook = jupytext.read(HERE / f"{name}.py")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "jupytext": {"formats": "ipynb,py:percent"}}
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number}"
        cell.metadata = nbformat.from_dict({})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder; its first error is raised.

    Returns
    -------
    notebook
        With outputs, and the digest of the bundle that made them.
    """
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata["leukoscope"] = {"bundle": Bundle.open(default_bundle_path()).sha256}
    notebook.metadata.pop("language_info", None)
    nbformat.validate(notebook)
    return notebook


def main(names: list[str]) -> None:
    """Execute and write the notebooks named, or all."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    for name in names or NAMES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read_source(name), Path(folder))
        target = HERE / f"{name}.ipynb"
        nbformat.write(notebook, target)
        print(f"{target.name}: {time.monotonic() - began:.0f} s, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
