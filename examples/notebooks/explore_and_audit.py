# %% [markdown]
# # Explore and audit a cohort
#
# The content of a cohort of cell images, its subjects, and possible sources of inflated results.
# This notebook uses the 60 cells of C-NMC 2019 that are shipped with leukoscope and runs in seconds. For the whole
# cohort change only the name of the folder.
#
# **Research use only. Not for diagnostic procedures.**
#
# The same with commands: `leukoscope data verify`, `data import`, `data audit`, `data split`.

# %%
import shutil
from io import BytesIO
from pathlib import Path

import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure

from leukoscope import assets
from leukoscope.data.audit import audit_cells, find_leaks
from leukoscope.data.importing import import_cohort
from leukoscope.data.splits import make_splits
from leukoscope.data.table import read_cells, resolve_paths
from leukoscope.data.verify import verify_files
from leukoscope.evaluation import figure_style as style
from leukoscope.evaluation.baselines import area_baseline, nine_scalars_baseline
from leukoscope.imaging.canvas import place_on_canvas
from leukoscope.imaging.decode import decode_image
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import format_measurement

cohort = Path("work/C-NMC_sample")
shutil.copytree(assets.sample_cells_directory(), cohort, dirs_exist_ok=True)


def show(figure: Figure) -> Image:
    """Draw a figure in the common style."""
    buffer = BytesIO()
    with style.styled():
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return Image(buffer.getvalue())


# %% [markdown]
# ## Compare with the official data
#
# Files are compared by content with the 15,114 official images; names do not matter. The sample is stored as
# WebP, so it counts as *converted*: another format with exactly the official pixels.

# %%
verification = verify_files(cohort)
pd.Series([file.status.value for file in verification.files]).value_counts().rename("files").to_frame()

# %% [markdown]
# ## One row per cell
#
# The import reads digest, label, subject, fold and measures of size, color and focus. Subjects that share a
# byte-identical image become one *group*.

# %%
table = cohort / "cells.csv"
report = import_cohort(cohort, table)
cells = read_cells(table)
print(f"{report.cells} cells of {report.subjects} subjects in {report.groups} groups")
print("odd:", report.issue_counts() or "nothing")
cells[["cell", "label", "subject", "group", "area_px", "focus"]].head().round(1)

# %% [markdown]
# Blasts above, normal precursors below, all at one scale. The blasts are larger.

# %%
SIDE_PX = 300
with style.styled():
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    panes = figure.subplots(2, 6)
    for row, label in zip(panes, ("blast", "normal"), strict=True):
        chosen = cells[cells["label"] == label].drop_duplicates("subject").head(len(row))
        for pane, path, subject in zip(row, resolve_paths(chosen, table), chosen["subject"], strict=True):
            pane.imshow(place_on_canvas(decode_image(path), SIDE_PX))
            pane.set_title(f"{label}, subject {subject}", fontsize=8, fontweight="normal")
            pane.axis("off")
show(figure)

# %% [markdown]
# ## Subjects
#
# The statistical unit is the subject, not the cell. In C-NMC every subject has only one label: any other
# difference between the two groups of subjects, such as stain, day or camera, is confounded with the disease.

# %%
audit = audit_cells(cells)
subjects = pd.DataFrame([vars(subject) for subject in audit.subjects])
both = ((subjects["blast"] > 0) & (subjects["normal"] > 0)).sum()
print(
    f"{len(subjects)} subjects: {(subjects['blast'] > 0).sum()} with blasts, {both} with both kinds of cells"
)
print("merged because they share an image:", ", ".join(audit.merged_groups) or "none")
print("sets of identical files:", audit.duplicate_counts["sets"])
pd.DataFrame(audit.folds).T

# %% [markdown]
# The merged groups come from the official list as well as from these files. On the whole cohort the audit finds
# 106 sets of identical images and turns 73 subject names into 66 groups
# ([Subjects, not cells](../../docs/explanations/subjects-not-cells.md)).
#
# ## Leakage of the split
#
# The reference paper divides images at random. This measures how many test cells come from subjects that were also
# trained on.

# %%
plans = {
    "paper (random images)": make_splits(cells, "paper", per_class=28),
    "official (folds held out)": make_splits(cells, "official"),
    "grouped (3 parts)": make_splits(cells, "grouped", k=3),
}
rows = []
for name, plan in plans.items():
    leaks = {(leak.split, leak.first, leak.second): leak for leak in find_leaks(cells, plan)}
    for split in plan.splits:
        leak = leaks.get((split.name, "train", "test"))
        rows.append(
            {
                "protocol": name,
                "split": split.name,
                "test cells": len(split.test),
                "of subjects also trained on": leak.cells if leak else 0,
            }
        )
pd.DataFrame(rows).set_index(["protocol", "split"])

# %% [markdown]
# Here each subject has one or two cells, and still the random split puts some subjects on both sides. In the whole
# cohort a subject has about 150 cells, so that nearly every test cell has cells of the same subject in training.
#
# ## Baselines: size and color
#
# Before any network is trained: how well do the area of the cell, and nine scalars of size and color, separate the
# classes on unseen subjects?

# %%
with style.styled():
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for label, color in (("normal", style.NORMAL), ("blast", style.BLAST)):
        areas = cells.loc[cells["label"] == label, "area_px"] / 1000
        axes.hist(areas, bins=range(5, 75, 5), color=color, alpha=0.55, label=f"{label}, {len(areas)} cells")
    axes.set(title="Foreground area of the shipped cells", xlabel="Area, thousand pixels", ylabel="Cells")
    axes.legend()
show(figure)

# %%
rows = []
for split in plans["official (folds held out)"].splits:
    for name, baseline in (("area alone", area_baseline), ("nine scalars", nine_scalars_baseline)):
        auc = baseline(cells, (*split.train, *split.validation), split.test).auc
        rows.append(
            {"split": split.name, "baseline": name, "test cells": len(split.test), "AUC": round(auc, 3)}
        )
pd.DataFrame(rows).set_index(["split", "baseline"])

# %% [markdown]
# Sixty cells are too few: an AUC changes by tenths with the choice of cells. The report of the shipped model has the
# same baselines on all cells of the folds, compared with the model, with intervals over subjects:

# %%
measured = Bundle.open(assets.default_bundle_path()).report.headline
rows = {"model": format_measurement(measured.cell.measures["roc_auc"])}
rows |= {one.title.lower(): format_measurement(one.measures["roc_auc"]) for one in measured.baselines}
counts = measured.parts["test"]
pd.Series(rows, name=f"AUC, {counts.cells:,} cells of {counts.subjects} subjects").to_frame()

# %% [markdown]
# Compare a network with these values, not with 0.5. Next: [train_small](train_small.ipynb).
