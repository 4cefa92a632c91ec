"""warm_up: nothing is left to load for the first picture, here or in a forked worker."""

from __future__ import annotations

import os

import pytest
from pictures import PHOTO, python_says

import pillow_nic
from pillow_nic import weights

BEGIN = f"""
import sys, threading
import pillow_nic
assert "torch" not in sys.modules
pillow_nic.warm_up(device="cpu")
from pillow_nic import weights, workers
loaded, threads, models = {{*sys.modules}}, {{*threading.enumerate()}}, {{*weights._models}}
def picture():
    from PIL import Image
    file = pillow_nic.encode(Image.open({str(PHOTO)!r}).convert("RGB"), device="cpu", layers=2)
    whole = pillow_nic.decode(file, device="cpu")
    assert abs(pillow_nic.decode_batch([file], device="cpu")[0].astype(int) - whole).max() <= 1
    return whole.shape
"""


def test_the_first_picture_loads_nothing() -> None:
    code = f"""{BEGIN}
picture()
new = [name for name in {{*sys.modules}} - loaded if name.startswith(("torch", "numpy", "constriction"))]
print(sorted(models), {{*weights._models}} == models, {{*threading.enumerate()}} == threads, new)
"""
    assert python_says(code) == "[('nic-2-visual', 'cpu')] True True []"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_worker_forked_afterwards_has_it_all() -> None:
    code = f"""{BEGIN}
import os
def no_weights(*_):
    os._exit(2)
weights._read = no_weights
child = os.fork()
if child == 0:
    os._exit(0 if picture() == (384, 512, 3) else 1)
print(os.waitpid(child, 0)[1], picture())
"""
    assert python_says(code) == "0 (384, 512, 3)"


def test_data_loader_workers_forked_afterwards() -> None:
    code = f"""{BEGIN}
from torch.utils.data import DataLoader
options = {{"num_workers": 2, "multiprocessing_context": "fork"}}
loader = DataLoader(range(4), 2, collate_fn=lambda _: picture(), **options)
print(list(loader))
"""
    assert python_says(code) == "[(384, 512, 3), (384, 512, 3)]"


def test_tunes_and_models() -> None:
    pillow_nic.warm_up("psnr", "nic-2-ms", device="cpu")
    assert {("nic-2", "cpu"), ("nic-2-ms", "cpu")} <= {*weights._models}
    with pytest.raises(pillow_nic.UnsupportedModelError, match="'nic-9' is not installed"):
        pillow_nic.warm_up("nic-9")
