"""Published results on C-NMC 2019, each with its test set, its kind of split and its source.

A result is comparable with one of ours only if the split kind is the same and the test set has the same
size and origin; no row here was measured on our splits. Values are as given by the sources.
"""

from dataclasses import dataclass
from enum import StrEnum


class SplitKind(StrEnum):
    """Whether test subjects were seen in training."""

    SUBJECT_DISJOINT = "subject-disjoint"
    LEAKING = "leaking"
    NOT_STATED = "not stated"


SPLIT_TEXTS: dict[SplitKind, str] = {
    SplitKind.SUBJECT_DISJOINT: "no test subject was seen in training.",
    SplitKind.LEAKING: "images of the same subjects are on both sides; the result is inflated.",
    SplitKind.NOT_STATED: "not stated to be by subject, to be read as leaking.",
}


@dataclass(frozen=True)
class PublishedResult:
    """One published figure row.

    Attributes
    ----------
    name
        Method and authors.
    year
        Of publication.
    split, test_set
        Kind of split, and the test set.
    accuracy, f1_weighted, roc_auc, ece
        As published, 0 to 1; None where the source gives none.
    source
        DOI or arXiv number, or the place of the result.
    note
        Notes for the comparison.
    """

    name: str
    year: int | None
    split: SplitKind
    test_set: str
    source: str
    accuracy: float | None = None
    f1_weighted: float | None = None
    roc_auc: float | None = None
    ece: float | None = None
    note: str = ""


PRELIMINARY = "C-NMC preliminary test, 1,867 cells of 28 subjects"
FINAL = "C-NMC final test, 2,586 cells, labels unpublished"

LITERATURE: tuple[PublishedResult, ...] = (
    PublishedResult(
        name="Challenge winner: neighborhood correction (Pan et al.)",
        year=2019,
        split=SplitKind.SUBJECT_DISJOINT,
        test_set=FINAL,
        f1_weighted=0.910,
        source="doi:10.1007/978-981-15-0798-4",
        note="Corrects each call by similar cells of the test set; not possible for one cell alone.",
    ),
    PublishedResult(
        name="ResNeXt with squeeze-and-excitation (Prellberg and Kramer)",
        year=2019,
        split=SplitKind.SUBJECT_DISJOINT,
        test_set=FINAL,
        f1_weighted=0.889,
        source="arXiv:1906.09020",
    ),
    PublishedResult(
        name="ResNeXt with squeeze-and-excitation (Prellberg and Kramer)",
        year=2019,
        split=SplitKind.SUBJECT_DISJOINT,
        test_set=PRELIMINARY,
        roc_auc=0.956,
        source="arXiv:1906.09020",
    ),
    PublishedResult(
        name="SDCT-AuxNet (Gehlot, Gupta and Gupta)",
        year=2020,
        split=SplitKind.SUBJECT_DISJOINT,
        test_set="C-NMC test data, split by subject",
        f1_weighted=0.948,
        source="doi:10.1016/j.media.2020.101661",
        note="By the makers of the data set, who hold its unpublished labels.",
    ),
    PublishedResult(
        name="EfficientNet-B1, leakage-aware benchmark (Albzour)",
        year=2026,
        split=SplitKind.SUBJECT_DISJOINT,
        test_set=PRELIMINARY,
        roc_auc=0.913,
        ece=0.024,
        source="arXiv:2606.24944",
        note="Trained on all three official folds; reports about 0.04 AUC of inflation by random splitting.",
    ),
    PublishedResult(
        name="Reference paper: EfficientNet-B3 in two stages",
        year=None,
        split=SplitKind.LEAKING,
        test_set="600 random images out of 4,200",
        accuracy=0.7583,
        source="the paper's own test table; docs/reference-paper.md",
        note="Images drawn at random without regard to subjects.",
    ),
    PublishedResult(
        name="EfficientNet-B3 with augmentation (Ahmed)",
        year=2025,
        split=SplitKind.NOT_STATED,
        test_set="C-NMC images, own division",
        accuracy=0.9202,
        roc_auc=0.9479,
        source="arXiv:2508.06535",
    ),
    PublishedResult(
        name="Hybrid of VGG-16 and MobileNet (Kassani et al.)",
        year=2019,
        split=SplitKind.NOT_STATED,
        test_set="C-NMC images, own division",
        accuracy=0.9617,
        source="arXiv:1909.11866",
    ),
    PublishedResult(
        name="Further claims of 92 to 99 % accuracy on random image splits",
        year=None,
        split=SplitKind.LEAKING,
        test_set="random images of the training folds",
        source="many; none comparable with a subject-disjoint figure",
        note="Listed so that the range is known; no single value is given.",
    ),
)
