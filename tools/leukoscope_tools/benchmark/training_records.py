"""Cost of training: the record of ``python -m leukoscope_tools benchmark train`` and its table."""

from pathlib import Path

from pydantic import Field

from leukoscope_tools.benchmark.records import Machine, Record, read_record


class StageSpeed(Record):
    """One stage of a recipe, with plain torch for comparison."""

    stage: int
    unfreeze_layers: int = Field(description="Layers of the backbone that are trained; -1 for all.")
    epochs: int = Field(description="Of the recipe.")
    epochs_timed: int
    seconds_per_epoch: float = Field(description="One-time work per stage is spread over its epochs.")
    seconds_in_every_epoch: float
    seconds_once: float = Field(description="Computing views that are kept, compiling a graph.")
    processor_seconds_per_epoch: float = Field(description="All threads together, without one-time work.")
    plain_seconds_per_epoch: float
    plain_processor_seconds_per_epoch: float


class TrainingSpeed(Record):
    """What ``python -m leukoscope_tools benchmark train`` measured: all of its JSON file.

    Plain torch is the same recipe in float32 with the whole network in every step, nothing kept and no engine.
    """

    machine: Machine
    architecture: str
    input_px: int
    views: int = Field(description="Drawn in advance; 0 for new ones in every epoch.")
    batch_size: int
    precision: str
    frozen_forward: str = Field(description="What computed the frozen layers, and in which precision.")
    device: str
    images_per_epoch: int
    epochs: int
    epochs_timed: int
    seconds_per_epoch: float = Field(description="Mean over the recipe's epochs; without validation.")
    images_per_second: float
    plain_seconds_per_epoch: float
    plain_images_per_second: float
    plain_images_timed: int
    speed_up: float
    stages: tuple[StageSpeed, ...]
    wall_seconds: float
    peak_memory_mb: float


def read_training_speed(path: Path) -> TrainingSpeed:
    """Read what ``benchmark train`` wrote; ``UsageError`` where it is not that."""
    return read_record(TrainingSpeed, path)


def render_training_speed(measured: TrainingSpeed) -> str:
    """Return the table and the conditions as Markdown."""
    lines = [
        "| epochs | as run, s | plain torch, s | ratio | as run, processor s | plain torch, processor s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for stage in measured.stages:
        trained = {0: "the head alone", -1: "everything"}.get(
            stage.unfreeze_layers, f"the head and the last {stage.unfreeze_layers} layers"
        )
        lines.append(
            f"| stage {stage.stage}: {trained} ({stage.epochs_timed} of {stage.epochs} timed) "
            f"| {stage.seconds_per_epoch:.1f} | {stage.plain_seconds_per_epoch:.1f} "
            f"| {stage.plain_seconds_per_epoch / stage.seconds_per_epoch:.1f} "
            f"| {stage.processor_seconds_per_epoch:.0f} | {stage.plain_processor_seconds_per_epoch:.0f} |"
        )
    lines.append(
        f"| **mean of the recipe's {measured.epochs} epochs** | **{measured.seconds_per_epoch:.1f}** "
        f"| {measured.plain_seconds_per_epoch:.1f} | {measured.speed_up:.1f} | | |"
    )
    machine = measured.machine
    views = (
        f"{measured.views} views drawn in advance"
        if measured.views
        else "fresh random changes in every epoch"
    )
    others = "unknown" if machine.others_share is None else f"{machine.others_share:.0%}"
    lines += [
        "",
        f"{measured.architecture} at {measured.input_px} px, {measured.images_per_epoch:,} images per epoch in "
        f"batches of {measured.batch_size}, {measured.precision}; frozen layers: {measured.frozen_forward}; {views}. "
        f"{measured.images_per_second:.1f} images/s, plain torch (float32, timed on "
        f"{measured.plain_images_timed} images) {measured.plain_images_per_second:.1f}. "
        f"Peak memory {measured.peak_memory_mb:,.0f} MB. Measured {machine.created} by `{machine.command}`: "
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads; other programs took {others} of the "
        "processor time meanwhile.",
    ]
    return "\n".join(lines)
