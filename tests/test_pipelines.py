"""The recipes of pipelines.md, each run as it stands against the real library.

Needs the extra ``test-pipelines`` and the package installed:
``pytest -m pipelines tests/test_pipelines.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pictures
import pytest

import pillow_nic

pytestmark = pytest.mark.pipelines

HERE = Path(__file__).parent
PAGE = (HERE.parent / "pillow_nic" / "docs" / "pipelines.md").read_text(encoding="utf-8")
RECIPES = {
    f"{title} {number}": code
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    if title not in ("Sphinx", "thumbor")  # configuration files: test_libraries.py
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL), 1)
}

DATASET = """
import numpy as np
import pillow_nic
from pathlib import Path
from PIL import Image
from torch.utils.data import Dataset

class Photos(Dataset):
    def __init__(self, folder):
        self.files = sorted(Path(folder).rglob("*.nic"))
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        return np.array(Image.open(self.files[index]))
"""
SITE = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["easy_thumbnails"])
django.setup()
"""
BEFORE = {
    "Django thumbnails 1": SITE,
    "Willow and Wagtail 1": SITE,  # Willow asks Django's settings where there is Django
    "Django 1": SITE
    + """
from pathlib import Path
from django.core.files.uploadedfile import SimpleUploadedFile
uploaded = SimpleUploadedFile("photo.nic", Path("photo.nic").read_bytes())
""",
}
NEAR = (
    "assert np.asarray(pixels).shape == (96, 128, 3) and np.abs(np.asarray(pixels, float) - photo).mean() < 9"
)
STORE = """
array[0] = photo
array = zarr.open_array(array.store, mode="r")
pixels = array[0]
assert not array[1].any()
"""
AFTER = {
    "torch DataLoader 1": "assert pixels.shape == (1, 96, 128, 3)",
    "torch DataLoader 2": "assert pixels.shape == (1, 3, 96, 128) and label == 0",
    "torch DataLoader 3": "assert pixels.shape == (3, 3, 96, 128); pixels = pixels[0].permute(1, 2, 0); "
    + NEAR,
    "keras 1": NEAR + "; assert Image.open('copy.nic').size == (128, 96)",
    "Office files 1": """
import zipfile
pixels = Image.open(zipfile.ZipFile("report.docx").open("word/media/image1.png"))
"""
    + NEAR,
    "matplotlib 1": "assert np.abs(pixels - photo).mean() < 9 and Image.open('copy.nic').mode == 'RGBA'",
    "Django 1": """
assert pixels == (128, "image/x-nic")
from django.core.exceptions import ValidationError
cut = SimpleUploadedFile("photo.nic", Path("photo.nic").read_bytes()[:-9])
try:
    ImageField().clean(cut)
except ValidationError:
    pass
else:
    raise AssertionError("a cut upload was accepted")
""",
    "Django thumbnails 1": """
thumbnail = Image.open(thumbnail)
assert thumbnail.format == "JPEG"
small = Image.open("photo.png").resize(thumbnail.size)
assert thumbnail.size == (64, 48) and np.abs(np.asarray(thumbnail, float) - np.asarray(small)).mean() < 9
""",
    "zarr and numcodecs 1": STORE + NEAR,
    "zarr and numcodecs 2": STORE + NEAR,
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with what the page says there is."""
    photo = pictures.photo(size=(128, 96), corner=(100, 60))
    photo.save(tmp_path / "photo.png")
    photo.save(tmp_path / "photo.nic", quality=0.7)
    for name in ("cats/one.nic", "cats/two.nic", "dogs/one.nic"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / "photos" / name, quality=0.7)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photo.nic", "one.nic")
    (tmp_path / "dataset.py").write_text(DATASET)
    return tmp_path


def test_every_recipe_is_short() -> None:
    assert len(RECIPES) == 19
    for title, code in RECIPES.items():
        lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
        assert len(lines) <= 5, title
    assert set(BEFORE) | set(AFTER) <= set(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title: str, here: Path) -> None:
    body = "\n".join(
        (
            "import numpy as np",
            "from PIL import Image",
            "photo = np.asarray(Image.open('photo.png'), float)",
            BEFORE.get(title, ""),
            RECIPES[title],
            AFTER.get(title, NEAR),
        )
    )
    # Spawned workers import the script again.
    (here / "recipe.py").write_text('if __name__ == "__main__":\n' + textwrap.indent(body, "    "))
    done = subprocess.run(
        [sys.executable, "recipe.py"],
        cwd=here,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_codecs_are_found_without_an_import() -> None:
    code = (
        "import numcodecs, zarr; assert numcodecs.get_codec({'id': 'nic'}).codec_id == 'nic'; "
        "from zarr.registry import get_codec_class; print(get_codec_class('nic').__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "NicSerializer\n", done.stderr


def test_what_is_no_image_is_refused() -> None:
    import numpy as np

    from pillow_nic.integrations.numcodecs import NicChunks

    codec = NicChunks(quality=0.5)
    for chunk in (np.zeros((8, 8), np.uint16), np.zeros((2, 8, 8, 3), np.uint8), np.zeros(9, np.uint8)):
        with pytest.raises(ValueError, match="chunk"):
            codec.encode(chunk)
    data = codec.encode(np.full((1, 1, 8, 9, 3), 90, np.uint8))
    assert pillow_nic.read_header(data).layers == 1
    assert codec.decode(data).shape == (8, 9, 3)
    assert codec.get_config() == {"id": "nic", "quality": 0.5, "effort": 1, "tune": "visual", "layers": 1}
    with pytest.raises(pillow_nic.BitstreamError):
        codec.decode(data[:-1] + b"?")


def test_a_chunk_of_another_shape_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import zarr

    from pillow_nic import codec
    from pillow_nic.integrations.numcodecs import NicChunks
    from pillow_nic.integrations.zarr import NicSerializer

    large = NicChunks().encode(np.zeros((64, 96, 3), np.uint8))
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        shape=(1, 8, 9, 3),
        chunks=(1, 8, 9, 3),
        dtype="uint8",
        serializer=NicSerializer(),
        compressors=None,
    )
    array[:] = 200
    assert np.asarray(NicChunks().decode(large, np.empty((1, 64, 96, 3), np.uint8))).shape[1] == 64
    key = next(key for key in store._store_dict if key.startswith("c/"))
    store._store_dict[key] = type(store._store_dict[key]).from_bytes(large)
    monkeypatch.setattr(codec, "decode", None)
    with pytest.raises(
        pillow_nic.BitstreamError, match=r"in a chunk of shape \(1, 8, 9, 3\) is \(64, 96, 3\)"
    ):
        array[:]
    with pytest.raises(pillow_nic.BitstreamError, match="in a chunk of shape"):
        NicChunks().decode(large, np.empty((8, 9, 3), np.uint8))
