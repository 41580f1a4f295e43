"""The parts of the application in one object, for every request."""

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from leukoscope.web.batching import Batcher
from leukoscope.web.jobs import JobQueue
from leukoscope.web.memory import Memory
from leukoscope.web.metrics import Metrics
from leukoscope.web.model import ServedModel
from leukoscope.web.security import AccessControl
from leukoscope.web.service import Service
from leukoscope.web.settings import WebSettings
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.history import History

EXTENSION = "leukoscope"


@dataclass(slots=True)
class Services:
    """The parts of one running application."""

    settings: WebSettings
    model: ServedModel
    database: Database
    history: History
    metrics: Metrics
    batcher: Batcher
    service: Service
    jobs: JobQueue
    access: AccessControl
    memory: Memory

    def close(self) -> None:
        """Stop the threads and close the records; acknowledged results are already stored."""
        self.jobs.close()
        self.batcher.close()
        self.database.close()


def services(app: Flask | None = None) -> Services:
    """Return the parts of ``app``, or of the application that answers the present request."""
    return cast(Services, (app or current_app).extensions[EXTENSION])
