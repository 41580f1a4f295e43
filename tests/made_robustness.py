"""A small ``Robustness`` made by hand, for tests of what shows it."""

from leukoscope.models.report import Measurement, PerturbationResult, Robustness


def measurement(value: float | None, low: float | None = None, high: float | None = None) -> Measurement:
    return Measurement(
        value=value, low=low, high=high, n_cells=40, n_subjects=4, split="cell table", unit="cell", method="m",
        not_estimable=None if low is not None else "made without",
    )  # fmt: skip


def make_robustness() -> Robustness:
    """Return two changes: one that reaches its aim, one without an aim and without an AUC."""
    shares = ("decisions_reversed", "decisions_rejected", "calls_changed", "rejected", "rejected_as_novel")
    others = {name: measurement(0.0) for name in (*shares, "rejected_by_checks")}
    reached = {
        **others,
        "decisions_changed": measurement(0.0075, 0.001, 0.02),
        "logit_change": measurement(0.25, 0.2, 0.3),
        "roc_auc": measurement(0.91, 0.8, 0.95),
        "roc_auc_change": measurement(-0.01, -0.02, 0.0),
    }
    large = {
        **others,
        "decisions_changed": measurement(0.625, 0.5, 0.75),
        "decisions_rejected": measurement(0.5, 0.4, 0.6),
        "logit_change": measurement(1.5, 1.2, 1.8),
        "roc_auc": measurement(None),
        "roc_auc_change": measurement(None),
    }
    return Robustness(
        model="small-test",
        model_version="0.0.1",
        model_sha256="0" * 64,
        decision_sha256="2" * 64,
        novelty_sha256="3" * 64,
        operating_point="balanced",
        cells_sha256="1" * 64,
        fold=None,
        cells=40,
        subjects=4,
        cells_per_subject=10,
        seed=0,
        level=0.95,
        resamples=200,
        in_training="none",
        remarks=("The cells are of subjects that are not in the training set.",),
        unchanged={
            "rejected": measurement(0.0125, 0.0, 0.03),
            "rejected_as_novel": measurement(0.0125, 0.0, 0.03),
            "rejected_by_checks": measurement(0.0),
            "decided": measurement(0.5, 0.4, 0.6),
            "roc_auc": measurement(0.92, 0.8, 0.95),
        },
        perturbations=(
            PerturbationResult(
                name="turn_90",
                title="turned by 90°",
                group="turns and mirrors",
                aim=0.01,
                reached=True,
                measures=reached,
            ),
            PerturbationResult(
                name="blur_2", title="blurred | 2 px", group="focus", aim=None, reached=None, measures=large
            ),
        ),
    )
