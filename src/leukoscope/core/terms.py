"""The vocabulary of the project: one word for one thing, from images to reports.

All modules, messages, pages and tables use these terms. The documentation prints ``GLOSSARY``.
"""

from enum import IntEnum, StrEnum

RESEARCH_USE = "Research use only. Not for diagnostic procedures."
"""Notice that is shown with every result."""


class Label(IntEnum):
    """Ground truth of one cell image."""

    NORMAL = 0
    BLAST = 1


class Status(StrEnum):
    """Whether a cell image got a class."""

    CALLED = "called"
    UNCERTAIN = "uncertain"
    REJECTED = "rejected"


STATUS_TITLES: dict[str, str] = {
    Status.CALLED: "Called",
    Status.UNCERTAIN: "Uncertain",
    Status.REJECTED: "Not classified",
}
STATUS_TEXTS: dict[Status, str] = {
    Status.CALLED: "The evidence leaves exactly one class, the one called.",
    Status.UNCERTAIN: "Uncertain: the evidence does not leave exactly one class, or not the one called",
    Status.REJECTED: "Not classified",
}


class Reason(StrEnum):
    """Why an image was refused, or why a cell is uncertain. Codes are stable; texts may improve."""

    # The file could not be read as one image.
    NOT_FOUND = "not_found"
    NOT_A_FILE = "not_a_file"
    EMPTY_FILE = "empty_file"
    FILE_TOO_LARGE = "file_too_large"
    UNKNOWN_FORMAT = "unknown_format"
    UNREADABLE = "unreadable"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    MULTIPLE_FRAMES = "multiple_frames"
    UNSUPPORTED_MODE = "unsupported_mode"
    # The image was read but cannot be classified.
    BLANK = "blank"
    NOT_SEGMENTED = "not_segmented"
    WRONG_SCALE = "wrong_scale"
    CUT_OFF = "cut_off"
    BLURRED = "blurred"
    SEVERAL_OBJECTS = "several_objects"
    NOVEL = "novel"
    # A field was read but cannot be searched for cells.
    NO_SCALE = "no_scale"
    NOT_A_SMEAR = "not_a_smear"
    NO_CELLS = "no_cells"
    # The model's evidence does not decide.
    BOTH_PLAUSIBLE = "both_plausible"
    NEITHER_PLAUSIBLE = "neither_plausible"
    SEVERAL_PLAUSIBLE = "several_plausible"
    NONE_PLAUSIBLE = "none_plausible"
    CONTRADICTS_OPERATING_POINT = (
        "contradicts_operating_point"  # only in records stored by versions before 0.2
    )


class WarningCode(StrEnum):
    """What a user should know of an image that was classified all the same. Codes are stable; texts may improve."""

    NOISY_GROUND = "noisy_ground"
    OTHER_LABORATORY = "other_laboratory"
    PHOTOGRAPH = "photograph"
    ASSUMED_SCALE = "assumed_scale"


WARNING_TEXTS: dict[WarningCode, str] = {
    WarningCode.NOISY_GROUND: "The black around the cell held the noise of lossy compression (JPEG) and was set to "
    "exact black; give the lossless original, since compression changes the cell, too.",
    WarningCode.OTHER_LABORATORY: "The training cells of the model come from one laboratory, and this photograph is "
    "from an unknown one: the probability may be wrong.",
    WarningCode.ASSUMED_SCALE: "The scale is unknown and no cell was found, so the image was taken as one cell, 30 um "
    "from side to side; give the scale with --microns-per-pixel.",
    WarningCode.PHOTOGRAPH: "Scale, stain, light or focus of the photograph is outside the usual range.",
}

REASON_TEXTS: dict[Reason, str] = {
    Reason.NOT_FOUND: "There is no such file.",
    Reason.NOT_A_FILE: "This is not a regular file.",
    Reason.EMPTY_FILE: "The file is empty.",
    Reason.FILE_TOO_LARGE: "The file is larger than the limit.",
    Reason.UNKNOWN_FORMAT: "The content is not a BMP, PNG, JPEG, TIFF or WebP image.",
    Reason.UNREADABLE: "The image is damaged or cut short.",
    Reason.TOO_MANY_PIXELS: "The image has more pixels than the limit.",
    Reason.TOO_SMALL: "The image is too small to hold a cell.",
    Reason.MULTIPLE_FRAMES: "The file holds more than one image.",
    Reason.UNSUPPORTED_MODE: "The pixel format is not 8-bit color.",
    Reason.BLANK: "The frame is empty: no cell on the black canvas.",
    Reason.NOT_SEGMENTED: "The background is not black: the cell has not been cut out.",
    Reason.WRONG_SCALE: "The object's size is outside that of cells the model was trained on.",
    Reason.CUT_OFF: "The cell is cut off at the border of the image.",
    Reason.BLURRED: "The image is too blurred to be classified.",
    Reason.SEVERAL_OBJECTS: "The frame holds several separate objects instead of one cell.",
    Reason.NOVEL: "The image does not look like the cells the model was trained on.",
    Reason.NO_SCALE: "The scale is unknown: not given, not in the file, and too few red cells to measure it.",
    Reason.NOT_A_SMEAR: "The image does not look like a stained blood smear in bright light.",
    Reason.NO_CELLS: "No white cell was found in the photograph.",
    Reason.BOTH_PLAUSIBLE: "Both classes remain plausible at the chosen error rate.",
    Reason.NEITHER_PLAUSIBLE: "The cell is unusual for either class at the chosen error rate.",
    Reason.SEVERAL_PLAUSIBLE: "Several classes remain plausible at the chosen error rate.",
    Reason.NONE_PLAUSIBLE: "The cell is unusual for every class at the chosen error rate.",
    Reason.CONTRADICTS_OPERATING_POINT: "The operating point calls one class, only the other remains plausible.",
}

GLOSSARY: dict[str, str] = {
    "cell image": "One nucleated cell on a black canvas.",
    "field": "Field of view: one photograph through the microscope, with many cells.",
    "smear": "The blood film of one subject; many fields.",
    "subject": "The person whose blood was photographed; the statistical unit. In clinical text: patient.",
    "group": "Subjects merged because they share identical images; never split between training and test.",
    "fold": "One of the data set's own parts (fold_0, fold_1, fold_2).",
    "split": "A division of cells into train, validation and test parts.",
    "blast": "A leukemic lymphoblast (the data set's class ALL).",
    "normal": "A normal B-lymphoid precursor, hematogone (the data set's class HEM).",
    "logit": "The log-odds of the positive group ('blast') before calibration.",
    "class schema": "The classes of a model in order, with titles, colors, hierarchy and the positive group.",
    "positive group": "The classes whose joint probability is reported; of the shipped model: blast.",
    "status": "Whether an image got a class: called, uncertain or rejected.",
    "probability": "The calibrated probability of the positive group: softmax(logits / temperature + bias).",
    "operating point": "A threshold on the probability with the rule it was chosen by.",
    "sensitivity": "Share of blasts that are called blast; recall.",
    "specificity": "Share of normal cells that are called normal.",
    "PPV": "Positive predictive value, precision: share of blast calls that are right, at a stated prevalence.",
    "NPV": "Negative predictive value: share of normal calls that are right, at a stated prevalence.",
    "balanced accuracy": "Mean of sensitivity and specificity.",
    "weighted F1": "F1 of each class, averaged with the classes' shares as weights; the C-NMC challenge's measure.",
    "novelty": "Distance of an image's embedding from those of the training cells.",
    "attribution": "Map of the influence of each region on the logit (here: Grad-CAM), as numbers.",
    "heat map": "The drawing of an attribution over the cell.",
    "bundle": "The folder with the exported model, its decision rules, its report and its hashes.",
    "report": "The measured results as data (report.json); every published number is rendered from it.",
    "card": "The model card, rendered from the manifest and the report.",
}
