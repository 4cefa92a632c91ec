"""Many jobs in several processes: each gets one answer, whatever becomes of the processes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from pillow_nic.command.processes import WorkerDiedError, run


def start() -> None:
    os.environ["STARTED"] = "yes"


def work(folder: Path, job: int) -> int:
    """Jobs of 100 and more fail, those of 1000 and more kill their process; each leaves a trace."""
    assert os.environ["STARTED"] == "yes"
    with open(folder / str(job), "a") as trace:
        trace.write("x")
    if job >= 1000:
        os._exit(1)
    if job >= 100:
        raise ValueError(f"job {job}")
    return job * job


def test_every_job_has_one_answer(tmp_path: Path) -> None:
    jobs = [*range(10), 100, *range(10, 20)]
    answers = list(run(jobs, partial(work, tmp_path), 2, start))
    assert sorted(job for job, _ in answers) == sorted(jobs)
    for job, answer in answers:
        if job == 100:
            assert isinstance(answer, ValueError)
            assert str(answer) == "job 100"
        else:
            assert answer == job * job
        assert (tmp_path / str(job)).read_text() == "x"
    assert "STARTED" not in os.environ


@pytest.mark.parametrize("deadly", [[1000], [1000, 1001]])
def test_a_process_that_dies_takes_no_other_job_along(tmp_path: Path, deadly: list[int]) -> None:
    jobs = [*range(6), *deadly, *range(6, 12)]
    answers = dict(run(jobs, partial(work, tmp_path), 2, start))
    assert sorted(answers) == sorted(jobs)
    for job in jobs:
        if job in deadly:
            assert isinstance(answers[job], WorkerDiedError)
        else:
            assert answers[job] == job * job


def test_no_jobs(tmp_path: Path) -> None:
    assert list(run([], partial(work, tmp_path), 2, start)) == []
