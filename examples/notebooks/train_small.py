# %% [markdown]
# # Train a small network, evaluate it, and use it
#
# All steps in two minutes on a laptop, on the 60 shipped cells: cohort, split by subject, two-stage training,
# report, bundle, prediction. The network starts from random weights, so that nothing is downloaded. The data are far
# too few for a good model; the steps are the same for
# [a real training](../../docs/how-to/train.md).
#
# **Research use only. Not for diagnostic procedures.**
#
# The same with commands: `leukoscope data import`, `data split`, `train`, `evaluate`, `export`, `predict`.

# %%
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from PIL import Image as Pictures

from leukoscope import assets
from leukoscope.core.config import apply_overrides, build
from leukoscope.data.importing import import_cohort
from leukoscope.data.splits import make_splits, write_splits
from leukoscope.data.table import read_cells
from leukoscope.evaluation.protocol import evaluate
from leukoscope.evaluation.report import write_outputs
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.imaging.overlay import contact_sheet
from leukoscope.inference.html_sheet import sheet_item
from leukoscope.inference.predictor import Predictor
from leukoscope.models.metric_info import MEASURES
from leukoscope.models.report import format_measurement
from leukoscope.stats.intervals import BootstrapSettings
from leukoscope.training.run import start_run
from leukoscope.training.settings import TrainSettings
from leukoscope.workflows.export_run import Identity, export_run

work = Path("work/small")
shutil.rmtree(work, ignore_errors=True)
shutil.copytree(assets.sample_cells_directory(), work / "cells")


def show(rgb: np.ndarray, width_px: int) -> Image:
    """Show a picture, reduced."""
    picture = Pictures.fromarray(rgb)
    picture.thumbnail((width_px, 10 * width_px))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return Image(buffer.getvalue())


# %% [markdown]
# ## Cohort and split
#
# The official folds contain different subjects. One whole fold is held out and not used until the end.

# %%
import_cohort(work / "cells", work / "cells.csv")
cells = read_cells(work / "cells.csv")
plan = make_splits(cells, "official", validation_share=0)
write_splits(plan, cells, work / "splits.json")
split = plan.named("hold-out-fold_1")
parts = cells.set_index("cell").assign(part="")
for name, keys in split.parts().items():
    parts.loc[list(keys), "part"] = name
parts[parts["part"] != ""].groupby(["part", "label"])["subject"].agg(cells="size", subjects="nunique")

# %% [markdown]
# ## Settings
#
# Only differences from the defaults. All keys and defaults: [Settings](../../docs/reference/configuration.md).
# Three inner models, each trained without a third of the subjects, score every training cell out of fold; calibration
# and thresholds are fitted on those scores.

# %%
settings = build(
    TrainSettings,
    apply_overrides(
        {},
        [
            "network.arch=resnet10t",
            "network.weights=none",
            "network.input_px=64",
            "data.inner_folds=3",
            "augment.views=0",
            "stage1.epochs=1",
            "stage2.epochs=8",
            "stage2.unfreeze_layers=-1",
            "stage2.learning_rate=0.002",
            "stage2.patience=8",
            "batch_norm.unfrozen=train",
            "engine.batch_size=8",
            "engine.accelerator=cpu",
            "engine.threads=1",
        ],
    ),
)

# %% [markdown]
# ## Train

# %%
run = start_run(
    work / "cells.csv",
    work / "splits.json",
    "hold-out-fold_1",
    settings,
    out=work / "runs",
    run_name="small",
)
sorted(path.name for path in run.iterdir())

# %%
log = pd.read_json(run / "log.jsonl", lines=True)
final = log[log["model"] == "final"]
print(f"{len(log)} epochs of {log['model'].nunique()} models")
final[["stage", "epoch", "loss", "auc", "learning_rate"]].tail(4).round(4)

# %% [markdown]
# The curves of one inner model, with the third of the subjects that it is not trained on.

# %%
with Pictures.open(run / "curves-inner-0.png") as curves:
    picture = np.array(curves.convert("RGB"))
show(picture, 900)

# %% [markdown]
# ## Evaluate
#
# By subject, compared with the baselines. Every value has an interval or the reason why there is none.

# %%
report = evaluate([run], settings=EvaluationSettings(bootstrap=BootstrapSettings(replicates=500)))
write_outputs(report, work / "report")
result = report.headline
rows = {
    MEASURES[name].title: format_measurement(result.cell.measures[name], percent=MEASURES[name].percent)
    for name in ("roc_auc", "sensitivity", "specificity", "balanced_accuracy", "ece")
}
for baseline in result.baselines:
    difference = format_measurement(baseline.differences["roc_auc"], signed=True)
    rows[f"AUC minus {baseline.title.lower()}"] = difference
test = result.parts["test"]
pd.Series(rows, name=f"{test.cells} cells of {test.subjects} subjects").to_frame()

# %%
print(*report.caveats, sep="\n")

# %% [markdown]
# First read the line *AUC minus area alone*: a network this small learns from so few subjects
# mostly the size of the cell. With three normal test subjects intervals are wide or cannot be estimated.
# More epochs would not change that, more subjects would. `report.html` is the readable form of `report.json`.
#
# ## Make a bundle and use it
#
# The bundle contains the network with Grad-CAM in its graph, the fitted decision rules, the report, the card and
# hashes. It runs without torch.

# %%
bundle = export_run(
    run,
    work / "bundle",
    Identity("small", "0.0.1", "Small notebook model"),
    report=work / "report" / "report.json",
)
predictor = Predictor.open(bundle.directory)
held_out = [work / cell for cell in split.test[::7]]
predictions = [predictor.predict(path, name=path.name) for path in held_out]
show(contact_sheet([sheet_item(one) for one in predictions], columns=3, title="Held-out cells"), 1000)

# %% [markdown]
# *Uncertain* means that the prediction set does not contain exactly one class, or contradicts the threshold. Next:
# [evaluate_and_explain](evaluate_and_explain.ipynb) with the shipped model.
