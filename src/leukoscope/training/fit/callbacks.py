"""Progress callbacks of training, for instance for the progress bars of the command line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``log.jsonl``.

    Parameters
    ----------
    model
        ``final``, or ``inner-<number>``.
    stage
        Of the configuration: 1 for ``stage1``, 2 for ``stage2``.
    epoch
        From 1, within the stage.
    learning_rate
        The head's, at the end of the epoch.
    loss, accuracy, auc
        Of the training cells as they were shown (augmented, dropout on); AUC by cell.
    validation_loss, validation_accuracy, validation_auc
        Of the held-out cells, unchanged; None without any.
    seconds
        Training including its preparation, without validation.
    cached_seconds
        Of which for one-time work: computing cached views, compiling a graph.
    images_per_second
        Training cells by ``seconds``.
    processor_seconds
        Processor time of this process over all threads, without one-time work.
    """

    model: str
    stage: int
    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    auc: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    validation_auc: float | None
    seconds: float
    cached_seconds: float
    images_per_second: float
    processor_seconds: float


class TrainingCallback:
    """Progress callbacks that do nothing; the command line overrides them."""

    def begin(self, task: str, total: int) -> None:
        """A task with so many cells starts."""

    def advance(self, count: int, loss: float | None = None) -> None:
        """So many more cells of the task are done."""

    def end(self) -> None:
        """The task is over."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is over and its checkpoint written."""

    def say(self, message: str) -> None:
        """A message for the user."""
