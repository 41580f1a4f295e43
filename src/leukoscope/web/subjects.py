"""Pool stored cells by subject, with the same rule as the command line."""

from collections.abc import Iterable

from leukoscope.inference.results import CellResult, SubjectResult
from leukoscope.inference.subject_pool import SubjectPool
from leukoscope.web.model import ServedModel


def subject_result(subject: str, results: Iterable[CellResult], model: ServedModel) -> SubjectResult:
    """Pool the results of one subject; those of earlier models do not count."""
    return _pool(results, model).result(subject)


def by_subject(results: Iterable[CellResult], model: ServedModel) -> list[SubjectResult]:
    """Pool results for every subject named in them, in order of the names."""
    return sorted(_pool(results, model).results(), key=lambda result: result.subject)


def _pool(results: Iterable[CellResult], model: ServedModel) -> SubjectPool:
    pool = SubjectPool(model.decision, model.reference, classes=model.classes)
    for result in results:
        pool.add(result)
    return pool
