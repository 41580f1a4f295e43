"""Jobs without a request: the caller hands over the memory that it holds for the images."""

import time
from functools import partial

import pytest

from leukoscope.web.context import services
from leukoscope.web.memory import Memory
from leukoscope.web.problems import Problem
from leukoscope.web.uploads import Upload
from web_fixtures import cells


def _uploads():
    return [Upload(name, partial(bytes, content)) for name, content in cells(2)]


def test_a_reservation_is_handed_over_whole():
    memory = Memory(100)
    first = memory.reserve(60)
    second = first.hand_over()
    first.release()
    assert memory.held_bytes == 60
    with pytest.raises(Problem):
        memory.reserve(50)
    second.release()
    assert memory.held_bytes == 0


def test_a_job_takes_its_memory_from_the_caller_and_releases_it(app):
    with app.app_context():
        jobs, memory = services().jobs, services().memory
    images = _uploads()
    held = memory.reserve(1000)
    job = jobs.create(images, held, subject=None, more=True, heat_map=False)
    held.release()  # as at the end of a request: nothing is left to release
    more = memory.reserve(500)
    jobs.add(job.job, images[:1], more, more=False)
    more.release()
    deadline = time.monotonic() + 60
    while jobs.get(job.job).is_open and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (job.state, job.done) == ("done", 3)
    assert memory.held_bytes == 0


def test_images_that_a_job_refuses_leave_the_memory_with_the_caller(make_app):
    from leukoscope.web.settings import Limits

    app = make_app(limits=Limits(job_files=1))
    with app.app_context():
        jobs, memory = services().jobs, services().memory
    held = memory.reserve(1000)
    with pytest.raises(Problem):
        jobs.create(
            _uploads(),
            held,
            subject=None,
            more=False,
            heat_map=False,
        )
    assert memory.held_bytes == 1000
    held.release()
    assert memory.held_bytes == 0
