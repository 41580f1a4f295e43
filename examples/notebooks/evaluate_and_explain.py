# %% [markdown]
# # Evaluate a model and explain its predictions
#
# The performance of the shipped model on unseen subjects, and the details of a single prediction: heat map,
# probability, decision, the most similar cells in the embedding space, and the faithfulness of the heat map.
#
# **Research use only. Not for diagnostic procedures.**
#
# The same with commands: `leukoscope bundle show --card`, `evaluate`, `predict`, `explain-check`.

# %%
from io import BytesIO

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from PIL import Image as Pictures

from leukoscope import assets
from leukoscope.data.cnmc import parse_name
from leukoscope.evaluation import figure_style as style
from leukoscope.evaluation.figures import draw_baselines, draw_reliability, draw_roc, draw_subjects
from leukoscope.imaging.canvas import place_on_canvas
from leukoscope.imaging.overlay import contact_sheet
from leukoscope.inference.cells import Source
from leukoscope.inference.explain import check_explanations
from leukoscope.inference.html_sheet import sheet_item
from leukoscope.inference.neighbors import NeighborIndex
from leukoscope.inference.predictor import Predictor
from leukoscope.models.report import format_measurement

predictor = Predictor.open()  # the shipped bundle; Predictor.open(folder) for another
report = predictor.bundle.report
print(f"{predictor.model.name} {predictor.model.version}: {predictor.bundle.manifest.architecture}")


def show(drawn: Figure | np.ndarray, width_px: int = 900) -> None:
    """Show a figure or a picture, reduced."""
    buffer = BytesIO()
    if isinstance(drawn, Figure):
        with style.styled():
            drawn.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    else:
        picture = Pictures.fromarray(drawn)
        picture.thumbnail((width_px, 10 * width_px))
        picture.save(buffer, "JPEG", quality=85)
    display(Image(buffer.getvalue()))


# %% [markdown]
# ## Performance
#
# From `report.json` of the bundle: held-out subjects, thresholds fitted without them,
# intervals over subjects.

# %%
measured = report.headline
with style.styled():
    figures = [draw(measured) for draw in (draw_baselines, draw_roc, draw_reliability)]
for figure in figures:
    show(figure)

# %% [markdown]
# One line per subject. A mean over cells hides that for some subjects all calls are wrong.

# %%
with style.styled():
    figure = draw_subjects(measured)
show(figure)

# %%
for caveat in report.caveats:
    display(Markdown(f"- {caveat}"))

# %% [markdown]
# ## Single cells
#
# The 60 shipped cells belong to the cohort of the model, and many of them were trained on. They
# show how to inspect a prediction; they are not a test set.

# %%
paths = sorted(assets.sample_cells_directory().rglob("UID_*"))
sources = [Source(path.stem, path, parse_name(path.name).subject) for path in paths]
labels = {path.stem: "blast" if path.parent.name == "all" else "normal" for path in paths}
scored = [one for one in predictor.stream(sources) if one.embedding is not None]
index = NeighborIndex.of(scored)
counts = pd.Series([one.result.decision for one in scored]).value_counts()
print(f"{len(paths)} cells:", counts.to_dict())

# %% [markdown]
# `explain` shows all details of one cell in one figure.
#
# - **Decision, probability, heat map**, as on the command line and in the web application.
# - **Neighbors**: the nearest cells of *other* subjects in the embedding space of the network, with their label. If
#   they do not look like the cell, the network uses other features than you do.
# - **Faithfulness**: the decrease of the logit if the pixels that the map marks most are removed first, compared with
#   least marked first and random order. If the map ranks pixels as the model weights them, the first number is the
# largest; below   zero the logit rises, because a cell with holes has more texture. Also shown: the share of the map
# on the cell   (the mask of the cell alone reaches as much), and the correlation with the map of shuffled weights:
# near 0 is good.


# %%
def explain(name: str) -> None:
    """Show the details of the prediction for one of the cells."""
    prediction = next(one for one in scored if one.result.source == name)
    display(Markdown(f"### {name}: labeled {labels[name]}, subject {prediction.result.subject}"))
    (nearest,) = index.nearest(prediction.embedding, 1, without_subjects={prediction.result.subject})
    answers = [sheet_item(prediction), sheet_item(scored[nearest.row])]
    show(contact_sheet(answers, title="The cell, and the nearest cell of another subject"), 760)
    show(draw_neighbors(prediction))
    display(measure_map(name))


def draw_neighbors(prediction) -> Figure:
    """Draw the cell and the nearest cells of other subjects, each with its label and distance."""
    near = index.nearest(prediction.embedding, 6, without_subjects={prediction.result.subject})
    with style.styled():
        figure = Figure(figsize=(10, 1.9), layout="constrained")
        panes = figure.subplots(1, 1 + len(near))
        pictures = [(prediction.canvas, "the cell")]
        for one in near:
            other = scored[one.row]
            label = labels[other.result.source]
            pictures.append((other.canvas, f"{label}, {one.distance:.4f}\nsubject {other.result.subject}"))
        for pane, (rgb, title) in zip(panes, pictures, strict=True):
            pane.imshow(place_on_canvas(rgb, 300))
            pane.set_title(title, fontsize=8, fontweight="normal")
            pane.axis("off")
    return figure


def measure_map(name: str) -> pd.DataFrame:
    """Measure the faithfulness of the cell's heat map."""
    source = next(one for one in sources if one.name == name)
    check = check_explanations(predictor, [predictor.prepare(source)]).measures[0]
    rows = {
        "fall of the logit, marked most removed first": check.most_relevant_drop,
        "fall of the logit, marked least removed first": check.least_relevant_drop,
        "fall of the logit, random order": check.random_drop,
        "share of the map on the cell": check.energy_inside,
        "share that a uniform map would have there": check.area_share,
        "share that the mask of the cell would have there": check.mask_energy,
        "rank correlation with the map of shuffled weights": check.shuffled_all,
    }
    return pd.DataFrame({"measured": rows}).round(3)


# %% [markdown]
# The cell with the highest probability of blast, and the one nearest to the threshold. A rejected cell
# has no probability.

# %%
called = [one for one in scored if one.result.probability is not None]
surest = max(called, key=lambda one: one.result.probability)
explain(surest.result.source)

# %%
hardest = min(called, key=lambda one: abs(one.result.probability - one.result.threshold))
explain(hardest.result.source)

# %% [markdown]
# ### Select a cell
#
# With a running kernel and `ipywidgets` there is a list below. Without it, call `explain("UID_11_1_2_all")`.

# %%
try:
    from ipywidgets import interact_manual
except ModuleNotFoundError:
    print("pip install ipywidgets, or call explain(name) with one of:", *sorted(labels)[:4], "...")
else:
    interact_manual(explain, name=sorted(one.result.source for one in scored))

# %% [markdown]
# ## Faithfulness of the heat maps
#
# One cell is no evidence. `leukoscope explain-check` measures many cells, with an interval over subjects, and its
# result is included in the report. *Relevance gap* is the first decrease minus the second; it should be above zero.
# The map should also have a low correlation with the map of shuffled weights (*shuffled all* near 0), and rotate
# with the cell (*rotation* near 1).

# %%
explanations = [supplement for supplement in report.supplements if supplement.name == "explanations"]
if explanations:
    measures = explanations[0].measures
    display(
        pd.Series({name: format_measurement(one) for name, one in measures.items()}, name="mean").to_frame()
    )
    gap = measures["relevance_gap"]
    faithful = gap.low is not None and gap.low > 0
    verdict = "order pixels as the model weighs them" if faithful else "are **not shown to be faithful**"
    display(Markdown(f"The maps of this bundle {verdict}: relevance gap {format_measurement(gap)}."))
    others = {"shuffled_all": "of shuffled weights", "rotation": "of the turned cell, turned back"}
    for name, words in others.items():
        display(Markdown(f"Rank correlation with the map {words}: {format_measurement(measures[name])}."))
else:
    print("This bundle carries no measurement of its maps: run leukoscope explain-check")

# %% [markdown]
# What a heat map can and cannot show: [heat maps](../../docs/explanations/heat-maps.md).
