"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import pillow_nic

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("pillow-nic", deadline=None)
settings.load_profile("pillow-nic")


@pytest.fixture(scope="session", autouse=True)
def new_processes_find_the_same_package() -> Iterator[None]:
    """As this one, wherever it comes from."""
    with pytest.MonkeyPatch.context() as patch:
        path = (str(Path(pillow_nic.__file__).parents[1]), os.environ.get("PYTHONPATH"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        yield
