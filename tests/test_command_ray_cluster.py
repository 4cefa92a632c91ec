"""`nic --ray` on a real local cluster, of which a worker is killed in the middle.

Needs the extra ``test-pipelines``: ``pytest -m pipelines tests/test_command_ray_cluster.py``. Linux: it
reads /proc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import pillow_nic
from pillow_nic.command.main import main

pytestmark = pytest.mark.pipelines

PHOTO = Path(__file__).parent / "data" / "photo.png"
ROOT = Path(pillow_nic.__file__).parents[1]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "NIC_DEVICE"},
    "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
    "RAY_worker_niceness": "0",  # Ray's 15 is to wait for ever on a busy machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
NOISE = "RAY_BACKEND_LOG_LEVEL"  # in the line with which Ray's core says that it will be quiet

CLUSTER = """
import sys
import ray
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
RUN = """
import json, os, signal, sys
from functools import partial
from pathlib import Path
from pillow_nic.command import ray_cluster

def start():
    os.environ["STARTED"] = "yes"

def work(folder, job):
    with open(folder / str(job), "a") as trace:
        trace.write("x")
    if job >= 1000 or job == 3 and (folder / "3").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    if job >= 100:
        raise ValueError(f"job {job}")
    return [job * job] + [os.environ.get(name) for name in ("STARTED", "CUDA_VISIBLE_DEVICES", "NIC_DEVICE")]

ray_cluster.connect(sys.argv[1])
jobs = [*range(5), 1000, 100, *range(5, 12)]
for job, answer in ray_cluster.run(jobs, partial(work, Path(sys.argv[2])), None, start):
    print(json.dumps([job, answer if isinstance(answer, list) else repr(answer)]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two processors and what it takes for a GPU."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address
        yield address
        process.stdin.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 40 pictures in `in`, one of them none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with Image.open(PHOTO) as im:
        photo = im.convert("RGB").resize((400, 400))
    for number in range(39):
        photo.crop((4 * number, 0, 4 * number + 208, 208)).save(f"in/{number:02}.png")
    Path("in/bad.png").write_bytes(b"no picture")
    return tmp_path


def nic(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pillow_nic.command.main", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def workers() -> list[int]:
    """The processes of Ray Data's actors that descend from this one."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for line in subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]:
        pid, parent, name = line.split(maxsplit=2)
        parents[int(pid)], names[int(pid)] = int(parent), name

    def mine(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and mine(parents[pid]))

    return [pid for pid, name in names.items() if name.startswith("ray::MapWorker") and mine(pid)]


def test_a_killed_worker_costs_nothing(here: Path, cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "in", "-o", "plain"]) == 1
    expected = capsys.readouterr().out
    process = nic("encode", "in", "-o", "out", "--ray", cluster, "-j", "2", "--device", "cpu")
    deadline = time.monotonic() + 300
    while len(list(Path("out").glob("*.nic"))) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim = workers()[0]
    os.kill(victim, signal.SIGKILL)
    assert len(contents("out")) < 39
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == expected
    lines = [line for line in err.splitlines() if NOISE not in line]
    assert [line.partition("'")[0] for line in lines] == ["nic: in/bad.png: cannot identify image file "]
    assert len(contents("out")) == 39
    assert contents("out") == contents("plain")

    # Back, going on where something is finished already.
    Path("back").mkdir()
    Path("back/07.png").write_bytes(b"finished")
    process = nic("decode", "out", "-o", "back", "--ray", cluster, "--skip-existing", "--device", "cpu")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.startswith("38 files, ")
    assert out.endswith(", 1 skipped\n")
    assert [line for line in err.splitlines() if NOISE not in line] == []
    assert main(["decode", "plain", "-o", "pictures"]) == 0
    assert contents("back") == contents("pictures") | {"07.png": b"finished"}


def test_every_job_has_one_answer(tmp_path: Path, cluster: str) -> None:
    """Job 3 kills its worker once, job 1000 always, job 100 fails."""
    (tmp_path / "run.py").write_text(RUN)
    done = subprocess.run(
        [sys.executable, "run.py", cluster, str(tmp_path)],
        cwd=tmp_path,
        env={**ENVIRONMENT, "NIC_DEVICE": "cuda"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(job for job, _ in answers) == [*range(12), 100, 1000]
    for job, answer in answers:
        if job == 1000:
            assert answer == "WorkerDiedError('its worker died, again')"
        elif job == 100:
            assert answer == "ValueError('job 100')"
        else:
            assert answer == [job * job, "yes", "0", "cuda"]  # the one worker has the cluster's GPU
        assert (tmp_path / str(job)).read_text() == ("xx" if job in (3, 1000) else "x")


def test_no_cluster(here: Path) -> None:
    process = nic("encode", "in", "-o", "out", "--ray", "nowhere")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, "")
    assert "--ray nowhere: Invalid address format: nowhere" in err.splitlines()[-1]
