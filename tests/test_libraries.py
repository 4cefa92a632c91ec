"""The table of pipelines.md, row by row: what libraries that go through Pillow or imageio do with `.nic`.

Needs the extra ``test-pipelines``: ``pytest -m pipelines tests/test_libraries.py``."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from PIL import Image, ImageFile

import imageio_nic  # noqa: F401
import pillow_nic
from pillow_nic.options import EncodeOptions

# What other libraries deprecate is not for this package to mend.
pytestmark = [pytest.mark.pipelines, pytest.mark.filterwarnings("default")]

HERE = Path(__file__).parent
PAGE = (HERE.parent / "pillow_nic" / "docs" / "pipelines.md").read_text(encoding="utf-8")
QUALITY = 0.7
SIZE = (128, 96)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    photo = pictures.photo(size=(128, 96), corner=(100, 60))
    photo.save(folder / "photo.png")
    photo.save(folder / "photo.nic", quality=QUALITY)
    return folder


@pytest.fixture
def here(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photo.png, photo.nic and a folder of classes."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photo.nic"):
        shutil.copy(original / name, name)
    for name in ("cats/one.nic", "cats/two.nic", "dogs/one.nic"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("photo.nic", tmp_path / "photos" / name)
    return tmp_path


@pytest.fixture
def photo(here: Path) -> np.ndarray:
    """What photo.nic decodes to: uint8, 96×128×3."""
    return pillow_nic.decode(Path("photo.nic").read_bytes())


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The media folder of a Django site with what the thumbnailers and Wagtail want."""
    import django
    from django.conf import settings

    media = tmp_path_factory.mktemp("media")
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["easy_thumbnails", "sorl.thumbnail"],
        MEDIA_ROOT=str(media),
        SECRET_KEY="none",
        THUMBNAIL_KVSTORE="sorl.thumbnail.kvstores.dbm_kvstore.KVStore",
        THUMBNAIL_DBM_FILE=str(media / "thumbnails"),
        USE_TZ=True,
        WAGTAILIMAGES_EXTENSIONS=["jpg", "nic"],
    )
    django.setup()
    return media


def near(pixels: Any, photo: np.ndarray, limit: float = 9) -> bool:
    """Whether they show the same picture, whatever a resize or another lossy format did to it."""
    pixels = np.asarray(pixels)
    scaled = Image.fromarray(photo).resize(pixels.shape[1::-1], Image.Resampling.LANCZOS)
    return bool(np.abs(pixels.astype(float) - np.asarray(scaled)).mean() < limit)


def saved_options(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Fills with the options of every Image.save from now on."""
    seen: list[dict[str, Any]] = []
    save = Image.Image.save

    def spy(self: Image.Image, fp: Any, format: str | None = None, **options: Any) -> None:
        seen.append({"format": format, **options})
        save(self, fp, format, **options)

    monkeypatch.setattr(Image.Image, "save", spy)
    return seen


# ------------------------------------------------------------------------------------------------ the page


def rows() -> dict[str, str]:
    """The table: what each row is of, and its test."""
    table = re.findall(r"^\| (.+?) \| .+? \| `(test_\w+)` \|$", PAGE, re.MULTILINE)
    return dict(table)


def test_every_row_of_the_table_is_a_test_here() -> None:
    assert len(rows()) == 22
    tests = {name for name in globals() if name.startswith("test_")} - {
        "test_every_row_of_the_table_is_a_test_here"
    }
    assert set(rows().values()) == tests


# ------------------------------------------------------------------------------------------------- the rows


def test_scikit_image(here: Path, photo: np.ndarray) -> None:
    import skimage.io

    np.testing.assert_array_equal(skimage.io.imread("photo.nic"), photo)
    collection = skimage.io.imread_collection("photos/*/*.nic")
    assert len(collection) == 3
    np.testing.assert_array_equal(collection[2], photo)
    skimage.io.imsave("copy.nic", photo)
    assert Path("copy.nic").read_bytes() == pillow_nic.encode(photo)


def test_matplotlib(here: Path, photo: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    np.testing.assert_array_equal(pyplot.imread("photo.nic"), photo)
    pyplot.imsave("copy.nic", photo, pil_kwargs={"quality": 0.9})
    with Image.open("copy.nic") as im:
        assert im.mode == "RGBA"
        assert near(im.convert("RGB"), photo)
    with pytest.raises(ValueError, match="Format 'nic' is not supported"):
        pyplot.figure().savefig("plot.nic")


def test_datasets_column(here: Path, photo: np.ndarray) -> None:
    from datasets import Dataset, Features
    from datasets import Image as Column

    column = Dataset.from_dict({"image": ["photo.nic"]}).cast_column("image", Column())
    np.testing.assert_array_equal(np.asarray(column[0]["image"]), photo)
    # A file that was opened stays what it is; one without a name is encoded again, at the default quality.
    with Image.open("photo.nic") as im:
        kept = Dataset.from_list([{"image": im}], features=Features({"image": Column()}))
    np.testing.assert_array_equal(np.asarray(kept[0]["image"]), photo)
    with Image.open(io.BytesIO(Path("photo.nic").read_bytes())) as im:
        encoded = Column().encode_example(im)["bytes"]
    assert pillow_nic.read_header(encoded).rate_point == round(EncodeOptions.quality * 65535)


def test_datasets_imagefolder(here: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    with pytest.raises(ValueError, match="no data"):
        load_dataset("imagefolder", data_dir="photos", split="train", cache_dir="without")
    monkeypatch.setattr(ImageFolder, "EXTENSIONS", [*ImageFolder.EXTENSIONS, ".nic"])
    found = load_dataset("imagefolder", data_dir="photos", split="train", cache_dir="with")
    assert sorted(found["label"]) == [0, 0, 1]
    np.testing.assert_array_equal(np.asarray(found[0]["image"]), photo)


RAY = """
import sys
import pillow_nic
import ray

hook = {"worker_process_setup_hook": "pillow_nic.register"} if sys.argv[1] == "hook" else None
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=hook)
try:
    print(ray.data.read_images("photos", file_extensions=["nic"]).take(1)[0]["image"].shape)
except Exception as error:
    print(*str(error).split())
"""


def test_ray_data(here: Path) -> None:
    def run(how: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", RAY, how],
            env={**os.environ, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert "PIL couldn't load image file" in run("import on the driver alone")
    assert run("hook") == "(96, 128, 3)"


def test_webdataset(here: Path, photo: np.ndarray) -> None:
    import webdataset

    with tarfile.open("photos.tar", "w") as tar:
        tar.add("photo.nic", "one.nic")
    plain = webdataset.WebDataset("photos.tar", shardshuffle=False).decode("pil")
    assert next(iter(plain))["nic"] == Path("photo.nic").read_bytes()
    handler = webdataset.imagehandler("pil", extensions=["nic"])
    decoded = webdataset.WebDataset("photos.tar", shardshuffle=False).decode(handler)
    np.testing.assert_array_equal(np.asarray(next(iter(decoded))["nic"]), photo)


def test_django(here: Path, django: Path) -> None:
    from django.core.exceptions import ValidationError
    from django.core.files.images import get_image_dimensions
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.forms import ImageField

    data = Path("photo.nic").read_bytes()

    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            block = super().read(size)
            self.read_bytes += len(block)
            return block

    file = Counting(data)
    assert get_image_dimensions(file) == SIZE  # feeds an ImageFile.Parser with 1024, 2048 … bytes
    assert file.read_bytes == min(1024, len(data))
    cleaned = ImageField().clean(SimpleUploadedFile("photo.nic", data))
    assert cleaned.content_type == "image/x-nic"
    damaged = data[:-9] + b"?" + data[-8:]
    for wrong in (data[:-9], damaged):
        assert get_image_dimensions(io.BytesIO(wrong)) == SIZE
        with pytest.raises(ValidationError):
            ImageField().clean(SimpleUploadedFile("photo.nic", wrong))


def test_sorl_thumbnail(here: Path, photo: np.ndarray, django: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sorl.thumbnail import base, get_thumbnail

    shutil.copy("photo.nic", django / "photo.nic")
    with Image.open(django / get_thumbnail("photo.nic", "64x48").name) as im:
        assert (im.format, im.size) == ("JPEG", (64, 48))
        assert near(im, photo)
    monkeypatch.setitem(base.EXTENSIONS, "NIC", "nic")  # its list of formats is fixed
    seen = saved_options(monkeypatch)
    with Image.open(django / get_thumbnail("photo.nic", "64x48", format="NIC").name) as im:
        assert (im.format, im.size) == ("NIC", (64, 48))
        assert im.info["quality"] == pytest.approx(0.95, abs=1e-4)
        assert near(im, photo)
    assert {"format": "NIC", "quality": 95, "optimize": 1}.items() <= seen[0].items()


def test_easy_thumbnails(here: Path, photo: np.ndarray, django: Path) -> None:
    from easy_thumbnails.files import get_thumbnailer

    for extension, format_name in (("jpg", "JPEG"), ("nic", "NIC")):
        with open("photo.nic", "rb") as file:
            thumbnailer = get_thumbnailer(file, relative_name="photo.nic")
            thumbnailer.thumbnail_extension = extension
            thumbnail = thumbnailer.generate_thumbnail({"size": (64, 48)})
        assert thumbnail.name.endswith(f".{extension}")
        with Image.open(thumbnail) as im:
            assert (im.format, im.size) == (format_name, (64, 48))
            assert near(im, photo)


def test_pilkit(here: Path, photo: np.ndarray) -> None:
    from pilkit.processors import ResizeToFit
    from pilkit.utils import extension_to_format, save_image

    with Image.open("photo.nic") as im:
        small = ResizeToFit(64, 64).process(im)
    assert extension_to_format(".nic") == "NIC"
    file = save_image(small, io.BytesIO(), "NIC", {"quality": 80})
    with Image.open(file) as im:
        assert (im.format, im.size) == ("NIC", (64, 48))
        assert im.info["quality"] == pytest.approx(0.8, abs=1e-4)
        assert near(im, photo)


@pytest.fixture
def willow(django: Path) -> Iterator[Any]:
    """Willow as it is without this package's plugin, at the end as well. It asks Django's settings."""
    import filetype
    from willow import image
    from willow.registry import registry

    sys.modules.pop("pillow_nic.integrations.willow", None)  # so that it is imported as for the first time
    kinds, classes = list(filetype.TYPES), dict(image.INITIAL_IMAGE_CLASSES)
    converters = dict(registry._registered_converters)
    yield registry
    filetype.TYPES[:] = kinds
    image.INITIAL_IMAGE_CLASSES.clear()
    image.INITIAL_IMAGE_CLASSES.update(classes)
    registry._registered_converters = converters


def test_willow(here: Path, photo: np.ndarray, willow: Any) -> None:
    from willow.image import Image as WillowImage
    from willow.image import UnrecognisedImageFormatError

    with open("photo.nic", "rb") as file:
        with pytest.raises(UnrecognisedImageFormatError):
            WillowImage.open(file)
        willow.register_plugin(import_module("pillow_nic.integrations.willow"))
        image = WillowImage.open(file)
        assert (type(image).__name__, image.mime_type) == ("NicImageFile", "image/x-nic")
        assert image.get_size() == SIZE
        output = io.BytesIO()
        image.auto_orient().resize((64, 48)).save_as_png(output)
    with Image.open(output) as im:
        assert near(im, photo)


def test_wagtail(here: Path, django: Path, willow: Any) -> None:
    from django.core.exceptions import ValidationError
    from django.core.files.uploadedfile import SimpleUploadedFile
    from wagtail.images.fields import WagtailImageField

    data = Path("photo.nic").read_bytes()
    with pytest.raises(ValidationError):
        WagtailImageField().clean(SimpleUploadedFile("photo.nic", data))
    willow.register_plugin(import_module("pillow_nic.integrations.willow"))
    cleaned = WagtailImageField().clean(SimpleUploadedFile("photo.nic", data))
    assert cleaned.content_type == "image/x-nic"
    for wrong in (data[:-9], Path("photo.png").read_bytes()):
        with pytest.raises(ValidationError):
            WagtailImageField().clean(SimpleUploadedFile("photo.nic", wrong))


def test_ipython(here: Path, photo: np.ndarray) -> None:
    from IPython.core.formatters import DisplayFormatter

    with Image.open("photo.nic") as im:
        shown, _ = DisplayFormatter().format(im, include=["image/png"])
    with Image.open(io.BytesIO(shown["image/png"])) as im:
        np.testing.assert_array_equal(np.asarray(im), photo)


def test_torchvision_imagefolder(here: Path, photo: np.ndarray) -> None:
    from torchvision.datasets import ImageFolder

    with pytest.raises(FileNotFoundError, match="Found no valid file"):
        ImageFolder("photos")
    found = ImageFolder("photos", is_valid_file=lambda path: path.endswith(".nic"))
    assert [label for _, label in found.samples] == [0, 0, 1]
    np.testing.assert_array_equal(np.asarray(found[2][0]), photo)


def test_torchvision_io(here: Path) -> None:
    from torchvision.io import decode_image

    with pytest.raises(RuntimeError, match="Unsupported image file"):
        decode_image("photo.nic")


def test_imageio(here: Path, photo: np.ndarray) -> None:
    import imageio.v2 as iio2
    import imageio.v3 as iio

    np.testing.assert_array_equal(iio.imread("photo.nic"), photo)
    np.testing.assert_array_equal(iio2.imread("photo.nic"), photo)
    assert iio.imwrite("<bytes>", photo, extension=".nic", quality=0.3) == pillow_nic.encode(
        photo, quality=0.3
    )


def test_imagefile_parser(here: Path, photo: np.ndarray) -> None:
    data = Path("photo.nic").read_bytes()
    parser = ImageFile.Parser()
    for start in range(0, len(data), 100):
        parser.feed(data[start : start + 100])
    np.testing.assert_array_equal(np.asarray(parser.close()), photo)


def recipe(title: str) -> str:
    """The page's only recipe of that title."""
    match = re.search(rf"^## {title}\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert match
    return match[1]


def test_timm(here: Path, photo: np.ndarray) -> None:
    from timm.data import create_dataset
    from timm.data.readers import add_img_extensions, del_img_extensions

    with pytest.raises(RuntimeError, match="Found 0 images"):
        create_dataset("", root="photos")
    add_img_extensions(".nic")
    try:
        found = create_dataset("", root="photos")
    finally:
        del_img_extensions(".nic")
    assert [label for _, label in found] == [0, 0, 1]
    np.testing.assert_array_equal(np.asarray(found[0][0]), photo)


def test_keras(here: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    np.testing.assert_array_equal(np.asarray(keras.utils.load_img("photo.nic")), photo)
    keras.utils.save_img("copy.nic", photo, scale=False)
    assert near(pillow_nic.decode(Path("copy.nic").read_bytes()), photo)
    with pytest.raises(ValueError, match="No images found"):
        keras.utils.image_dataset_from_directory("photos")


def test_sphinx(here: Path, photo: np.ndarray) -> None:
    Path("text").mkdir()
    shutil.copy("photo.nic", "text/photo.nic")
    Path("text/index.rst").write_text("Title\n=====\n\n.. image:: photo.nic\n")
    for conf, result in (("", "photo.nic"), (recipe("Sphinx"), "photo.png")):
        Path("text/conf.py").write_text(conf)
        command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", "html", "text", result + "-html"]
        subprocess.run(command, check=True, timeout=300)
        assert f'src="_images/{result}"' in Path(result + "-html", "index.html").read_text()
    with Image.open("photo.png-html/_images/photo.png") as im:
        np.testing.assert_array_equal(np.asarray(im), photo)


@pytest.mark.parametrize("known", [False, True])
def test_thumbor(here: Path, photo: np.ndarray, known: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("thumbor.conf").write_text(
        (recipe("thumbor") if known else "")
        + "LOADER = 'thumbor.loaders.file_loader'\nFILE_LOADER_ROOT_PATH = '.'\n"
        + "STORAGE = 'thumbor.storages.no_storage'\nALLOW_UNSAFE_URL = True\n"
    )
    command = [
        sys.executable,
        "-m",
        "thumbor.server",
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "-c",
        "thumbor.conf",
    ]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/healthcheck").close()
                break
            except OSError:
                time.sleep(0.1)
        if not known:
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(f"{address}/unsafe/64x48/photo.nic")
            return
        for path, name in (("64x48", "JPEG"), ("64x48/filters:format(png)", "PNG")):
            with urllib.request.urlopen(f"{address}/unsafe/{path}/photo.nic") as answer:
                im = Image.open(io.BytesIO(answer.read()))
            assert (im.format, im.size) == (name, (64, 48))
            assert near(im, photo)
    finally:
        server.terminate()
        server.wait()


def test_office(here: Path) -> None:
    from docx import Document
    from docx.image.exceptions import UnrecognizedImageError
    from openpyxl import Workbook
    from openpyxl.drawing.image import Image as Drawing
    from pptx import Presentation

    with pytest.raises(UnrecognizedImageError):
        Document().add_picture("photo.nic")
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    with pytest.raises(ValueError, match="unsupported image format"):
        slide.shapes.add_picture("photo.nic", 0, 0)
    book = Workbook()
    book.active.add_image(Drawing("photo.nic"))
    book.save("book.xlsx")
    with zipfile.ZipFile("book.xlsx") as parts:
        assert "xl/media/image1.nic" in parts.namelist()
