"""Many jobs on the machines of a Ray cluster, of which each job may fail and some workers may die."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

# Ray reads these when it is imported. It would tell of every worker's death, at length, on stdout and stderr.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import pyarrow as pa
import ray
import ray.data

from .processes import WorkerDiedError

Job = TypeVar("Job")
Result = TypeVar("Result")

_ATTEMPTS = 2  # at a job that its worker did not survive
_TASKS = 10_000  # at most: Ray's driver keeps some kilobytes for each


def connect(address: str) -> None:
    """Join the cluster there: "auto" is the one that runs, "local" one of this machine's own, for this once.

    ConnectionError or ValueError if there is none; RuntimeError if its Python or Ray is another version."""
    ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the others write Ray's log files
            handler.setLevel(logging.CRITICAL)


def run(
    jobs: Sequence[Job], action: Callable[[Job], Result], workers: int | None, start: Callable[[], None]
) -> Iterator[tuple[Job, Result | Exception]]:
    """Each job with what ``action`` returned or raised for it, in the order in which they end.

    As ``processes.run``, on the cluster that this process has joined, and leaves at the end. ``workers``: as
    many actors, by default one per GPU of the cluster, or per CPU if it has none or NIC_DEVICE says cpu; they
    get this process's NIC_DEVICE.

    When an actor dies, Ray starts it again, and with it the task, for as long as it takes: an action must
    bear that a job has been done already. What kills its worker twice gets a WorkerDiedError."""
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        device = os.environ.get("NIC_DEVICE", "")
        resources = ray.cluster_resources()
        gpus = 0 if device.startswith("cpu") else int(resources.get("GPU", 0))
        size = min(workers or gpus or int(resources.get("CPU", 1)), len(jobs))
        attempts = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        rows = [{"number": number, "job": pickle.dumps(job)} for number, job in enumerate(jobs)]
        dataset = ray.data.from_items(rows, override_num_blocks=min(_TASKS, len(rows)))
        answers = dataset.map_batches(
            _Worker,
            fn_constructor_args=(action, start, device, attempts),
            batch_format="pyarrow",
            batch_size=1,  # a call's; with GPUs Ray insists on a number
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
            num_gpus=1 if gpus else None,
        )
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            for number, answer in zip(batch["number"].to_pylist(), batch["answer"].to_pylist(), strict=True):
                yield jobs[number], pickle.loads(answer)
    finally:
        ray.shutdown()


class _Attempts:
    """An actor that counts how often each job has been begun and not ended."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self.begun[number] += 1
        return self.begun[number]

    def end(self, number: int) -> None:
        del self.begun[number]


class _Worker(Generic[Job, Result]):
    """An actor; its process keeps the model that its first job has loaded."""

    def __init__(
        self, action: Callable[[Job], Result], start: Callable[[], None], device: str, attempts: Any
    ) -> None:
        if device:
            os.environ["NIC_DEVICE"] = device
        start()
        self.action = action
        self.attempts = attempts

    def __call__(self, batch: Any) -> Any:
        """From a table of numbers and pickled jobs to one of numbers and pickled answers."""
        pairs = zip(batch["number"].to_pylist(), batch["job"].to_pylist(), strict=True)
        answers = [pickle.dumps(self._answer(number, pickle.loads(job))) for number, job in pairs]
        return pa.table({"number": batch["number"], "answer": pa.array(answers, pa.large_binary())})

    def _answer(self, number: int, job: Job) -> Result | Exception:
        if ray.get(self.attempts.begin.remote(number)) > _ATTEMPTS:
            return WorkerDiedError("its worker died, again")
        try:
            return self.action(job)
        except Exception as error:  # whatever it is: who gave the job counts it or raises it
            return error
        finally:
            self.attempts.end.remote(number)
