"""A folder in which the documents' commands can be executed: the shipped sample stands in for whatever they name.

Data, tables, runs, reports and bundles are real, made by the program itself out of the 60 shipped cells. Recipes
are the project's own files with a tiny network and one epoch; ``SMALLER`` adds what 60 cells on two cores need.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from contextlib import chdir
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from documents import ROOT
from leukoscope.assets import other_images_directory, sample_cells_directory, sample_table_path
from leukoscope.cli.main import app
from leukoscope.core.config import apply_overrides, read_toml
from leukoscope.training.run_folder import to_toml

TINY = (
    "network.arch=test_efficientnet", "network.weights=none", "network.input_px=64", "augment.views=1",
    "data.inner_folds=2", "stage1.epochs=1", "stage2.epochs=0", "engine.batch_size=8",
    "batch_norm.reestimate_cells=0", "score.tta=1", "engine.accelerator=cpu", "engine.threads=1",
)  # fmt: skip

SMALLER = (
    (r"leukoscope (evaluate|compare|leakage) ", "--replicates 200"),
    (r"leukoscope cross-validate ", "--folds 2 --replicates 200"),
    (r"leukoscope data split .*--protocol paper", "--per-class 20"),
    (r"leukoscope leakage --config", "--per-class 20"),
    (r"leukoscope explain-check", "--limit 2"),
    (r"leukoscope novelty ", "--limit 50"),
    (r"leukoscope robustness ", "--cells-per-subject 1 --replicates 200"),
    (r"leukoscope data sample ", "--count 40"),
    (r"leukoscope tune ", "--trials 2 --folds 2"),
)
"""Line of a document -> what is added to it; of an option given twice the command line takes the last."""

RUN_NAMES = {
    "forth": ("20260131-default-1a2b3c4d", "RUN", "RUN_1", "fold_0_to_1", "b3", "paper"),
    "back": ("RUN_0", "fold_1_to_0"),
    "leaking": ("paper_split",),
    "other": ("resnet50",),
}


def smaller(line: str) -> str:
    """Return a line of a document with what the small cohort needs beside."""
    extra = [options for pattern, options in SMALLER if re.search(pattern, line)]
    command, *comment = re.split(r"\s+# ", line, maxsplit=1)
    return " ".join([command, *extra, *(f"# {text}" for text in comment)])


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a process in ``folder``: the program of this tree, no network, no files of the user."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LEUKOSCOPE_", "XDG_")) or name == "LEUKOSCOPE_CACHE"
    }
    return {
        **kept,
        "PATH": f"{folder / '.programs'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tools'}",
        "HOME": str(folder / ".home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def run_line(line: str, folder: Path) -> tuple[int, str]:
    """Execute one line of shell in ``folder``; return its exit code and output.

    A plain call of the program runs in this process, where everything is loaded already; the rest in bash.
    """
    if re.fullmatch(r"leukoscope [^|<>;&$`*]+", line):
        with chdir(folder):
            result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        return result.exit_code, result.output
    answer = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def build_stage(folder: Path) -> Path:
    """Make everything once; pages work in copies."""
    for name, module in (("leukoscope", "-m leukoscope.cli.main "), ("python", "")):
        program = folder / ".programs" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        program.chmod(0o755)
    (folder / ".home").mkdir()
    (folder / "src").symlink_to(ROOT / "src", target_is_directory=True)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "README.md", folder)
    (folder / "configs").mkdir()
    for recipe in (ROOT / "configs").glob("*.toml"):
        content = read_toml(recipe)
        tiny = (
            (*TINY, "stage1.epochs=0", "head_fit.views=1")
            if "penalties" in content.get("head_fit", {})
            else TINY
        )
        settings = apply_overrides(content, tiny)
        (folder / "configs" / recipe.name).write_text(to_toml(settings))
    _write_images(folder)
    _write_tables(folder)
    _write_runs(folder)
    return folder


def copy_stage(stage: Path, folder: Path) -> Path:
    """Return a copy of the stage to work in."""
    shutil.copytree(stage, folder, symlinks=True, dirs_exist_ok=True)
    return folder


def _write_images(folder: Path) -> None:
    cells = sample_cells_directory()
    for name in ("C-NMC_Leukemia", "C-NMC_training_data"):
        for fold in ("fold_0", "fold_1"):
            shutil.copytree(cells / fold, folder / name / fold)
    normal = sorted((cells / "fold_1" / "hem").iterdir())
    blasts = sorted((cells / "fold_1" / "all").iterdir())
    with Image.open(blasts[0]) as image:
        image.save(folder / "cell.bmp")
    for name in ("cells", "my-cells"):
        (folder / name).mkdir()
        for path in (*normal[:3], *blasts[:3]):
            shutil.copy(path, folder / name)
    field = ROOT / "tests" / "data" / "smear_fields" / "BloodImage_00176.jpg"
    (folder / "tests" / "data" / "smear_fields").mkdir(parents=True)
    shutil.copy(field, folder / "tests" / "data" / "smear_fields")
    (folder / "fields").mkdir()
    copies = [
        folder / "fields" / f"field_{number}.jpg" for number in range(12)
    ]  # 24 cells: what a profile needs
    for place in (folder / "field.jpg", folder / "fields" / "field.jpg", *copies):
        shutil.copy(field, place)
    corrected = [f"fields/{copy.name},{cell},lymphocyte" for copy in copies for cell in (1, 2)]
    (folder / "corrected.csv").write_text("\n".join(["image,cell,label", *corrected]) + "\n")
    with zipfile.ZipFile(folder / "batch.zip", "w") as archive:
        for path in normal[:3]:
            archive.write(path, path.name)
    other = other_images_directory()
    shutil.copytree(other / "bccd", folder / "bccd")
    for name in ("pbc_normal_cells", "photographs"):
        shutil.copytree(other / "pbc", folder / name)


def _write_tables(folder: Path) -> None:
    with sample_table_path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "lab.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "subject"))
        for row in rows:
            word = "leukaemic" if row["label"] == "blast" else "reactive"
            table.writerow((f"C-NMC_Leukemia/{row['file']}", word, f"P-{row['subject']}"))
    with (folder / "subjects.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("source", "subject"))
        for name in ("cells", "my-cells"):
            for number, path in enumerate(sorted((folder / name).iterdir())):
                table.writerow((f"{name}/{path.name}", f"P-00{number // 3 + 1}"))


def _write_runs(folder: Path) -> None:
    prepare = "leukoscope train --cells cells.csv --config configs/default.toml"
    other = prepare.replace("default", "paper")
    steps = (
        "leukoscope data import C-NMC_Leukemia --out cells.csv",
        "leukoscope data split cells.csv --protocol official --out splits.json",
        "leukoscope data split cells.csv --protocol paper --per-class 20 --out paper-splits.json",
        f"{prepare} --splits splits.json --split hold-out-fold_1 --out made/forth",
        f"{prepare} --splits splits.json --split hold-out-fold_0 --out made/back",
        f"{prepare} --splits paper-splits.json --out made/leaking",
        f"{other} --splits splits.json --split hold-out-fold_1 --out made/other",
    )
    for step in steps:
        _do(step, folder)
    for kind, names in RUN_NAMES.items():
        (run,) = (path.parent for path in (folder / "made" / kind).glob("*/scores.csv"))
        for name in names:
            shutil.copytree(run, folder / "runs" / name)
    shutil.rmtree(folder / "made")
    _do("leukoscope evaluate runs/b3 --out reports/b3 --replicates 200", folder)
    shutil.copytree(folder / "reports" / "b3", folder / "out")
    _do("leukoscope export runs/b3 --report reports/b3/report.json --out my-bundle", folder)


def _do(line: str, folder: Path) -> None:
    code, text = run_line(line, folder)
    assert code == 0, f"{line}: {text[-2000:]}"
