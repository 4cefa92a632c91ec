"""Whatever the caller has set of torch's, numpy's and Python's settings: the same bytes, the same pixels, and
nothing of it is changed afterwards."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo, pixels, saved
from PIL import Image

import pillow_nic
from pillow_nic import weights, workers

FILES = Path(__file__).parent


def outcome() -> list[bytes]:
    """Files and pixels of everything that computes, with models that are loaded anew."""
    weights._models.clear()
    workers._after_fork()  # a new pool, too
    im = photo("RGBA", size=(90, 60))
    found = [pillow_nic.encode(np.array(im), quality=0.9, threads=2), saved(im, quality=0.3)]
    found.append(pillow_nic.decode(found[0], reduce=2).tobytes())
    with Image.open(io.BytesIO(found[1])) as opened:
        found.append(opened.tobytes())
    tensors = pillow_nic.decode_batch(found[:2], as_tensor=True)
    for tensor in tensors:
        assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (torch.uint8, "cpu", False)
        assert not tensor.is_inference()
        found.append(tensor.numpy().tobytes())
    return found


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return outcome()


Setting = Callable[[], AbstractContextManager[Any]]


def setting(change: Callable[[Any], None], before: Callable[[], Any], value: Any) -> Setting:
    @contextmanager
    def changed() -> Iterator[None]:
        old = before()
        change(value)
        try:
            yield
        finally:
            change(old)

    return changed


@contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


SETTINGS: dict[str, Setting] = {
    "float64": setting(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "bfloat16": setting(torch.set_default_dtype, torch.get_default_dtype, torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomalies": lambda: torch.autograd.detect_anomaly(check_nan=True),
    "deterministic": setting(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    ),
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": warnings_are_errors,
}


def snapshot() -> dict[str, Any]:
    """Everything of the caller's that a codec could change by mistake."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": str(np.random.get_state()),  # noqa: NPY002 # what old programs use
        "random": random.getstate(),
        "numpy errors": np.geterr(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_change_nothing_and_stay_as_they_are(name: str, expected: list[bytes]) -> None:
    with SETTINGS[name]():
        before = snapshot()
        found = outcome()
        assert snapshot() == before
    assert [a == b for a, b in zip(found, expected, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_of_products_is_at_most_one_level(precision: str) -> None:
    # torch keeps this one for the whole process: it reaches the codec's threads, too.
    picture = pixels()
    data = pillow_nic.encode(picture, quality=0.9)
    right = pillow_nic.decode(data).astype(int)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert np.abs(pillow_nic.decode(data) - right).max() <= 1
        other = pillow_nic.encode(picture, quality=0.9)
        there = pillow_nic.decode(other).astype(int)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.abs(pillow_nic.decode(other) - there).max() <= 1


PROGRAM = """
import sys, hashlib
sys.path.insert(0, {tests!r})
import test_settings
print(sys.flags.optimize, *(hashlib.sha256(part).hexdigest() for part in test_settings.outcome()))
"""


@pytest.mark.parametrize("flags", [("-OO",), ("-W", "error", "-X", "dev", "-bb")])
def test_flags_of_python(flags: tuple[str, ...], expected: list[bytes], tmp_path: Path) -> None:
    """And nothing is written: not beside the package, in the home folder or in the working one."""
    package = Path(pillow_nic.__file__).parent
    before = {file: file.stat().st_mtime_ns for file in package.rglob("*")}
    program = PROGRAM.format(tests=str(FILES))
    # Warnings of what others do when they are imported are not ours.
    program = f"import torch, numpy, pytest\n{program}" if "-W" in flags else program
    done = subprocess.run(
        [sys.executable, *flags, "-c", program],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path / "nowhere")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    optimize, *digests = done.stdout.split()
    assert int(optimize) == (2 if "-OO" in flags else 0)
    assert digests == [sha256(part).hexdigest() for part in expected]
    assert not list(tmp_path.iterdir())
    assert {file: file.stat().st_mtime_ns for file in package.rglob("*")} == before
