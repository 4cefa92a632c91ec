"""`.nic` through imageio: v3 and v2, pixels, layers, options, metadata, errors and registration."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as iio2
import imageio.v3 as iio
import numpy as np
import pytest
from imageio.config import extension_list, known_extensions, known_plugins
from imageio.core.request import InitializationError, Request
from pictures import PHOTO, psnr
from pictures import pixels as photo
from PIL import Image

import imageio_nic
import pillow_nic
from imageio_nic.plugin import NicPlugin

SHAPE = (144, 208)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


METADATA: dict[str, Any] = {
    "exif": exif(6),
    "xmp": "<x:xmpmeta/>",
    "icc_profile": bytes(16) + b"RGB " + bytes(108),
    "dpi": (300, 150),
    "comment": "a comment",
}


@pytest.fixture(scope="module")
def data() -> bytes:
    """Three layers, with all kinds of metadata."""
    return pillow_nic.encode(
        photo(),
        quality=0.7,
        layers=3,
        **METADATA,
    )


@pytest.fixture
def path(data: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "photo.nic"
    file.write_bytes(data)
    return file


@pytest.fixture(scope="module")
def pixels(data: bytes) -> np.ndarray:
    return pillow_nic.decode(data)


class Pipe(io.RawIOBase):
    """A file object that can only be read, from front to end, and counts."""

    def __init__(self, data: bytes) -> None:
        self.inner, self.count = io.BytesIO(data), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self.inner.readinto(buffer)
        self.count += size
        return size


# ------------------------------------------------------------------------------------------------- reading


def test_read_gives_the_pixels_of_decode(path: Path, data: bytes, pixels: np.ndarray) -> None:
    for source in (path, str(path), path.as_uri()):
        got = iio.imread(source)
        assert got.dtype == np.uint8
        assert got.flags.writeable
        np.testing.assert_array_equal(got, pixels)
    for resource in (data, io.BytesIO(data)):
        np.testing.assert_array_equal(iio.imread(resource, extension=".nic"), pixels)
        np.testing.assert_array_equal(iio.imread(io.BytesIO(data), plugin="nic"), pixels)


def test_without_a_name_it_is_read_through_pillow(data: bytes, pixels: np.ndarray) -> None:
    with iio.imopen(data, "r") as file:
        assert type(file).__name__ == "PillowPlugin"
        np.testing.assert_array_equal(file.read(), pixels)


def test_a_file_in_a_zip_archive(tmp_path: Path, data: bytes, pixels: np.ndarray) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.nic", data)
    np.testing.assert_array_equal(iio.imread(archive / "photo.nic"), pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_shape(mode: str) -> None:
    before = photo(mode)
    encoded = iio.imwrite("<bytes>", before, extension=".nic", quality=0.7)
    after = iio.imread(encoded, extension=".nic")
    assert after.shape == before.shape
    assert psnr(after, before) > 25
    assert iio.improps(encoded, extension=".nic").shape == before.shape
    assert iio.immeta(encoded, extension=".nic")["mode"] == mode


def test_index(path: Path, pixels: np.ndarray) -> None:
    for index in (None, 0, np.int64(0)):
        with iio.imopen(path, "r") as file:
            np.testing.assert_array_equal(file.read(index=index), pixels)
            assert file.properties(index=index).shape == pixels.shape
    np.testing.assert_array_equal(iio.imread(path, index=...), pixels[np.newaxis])
    for index in (1, -1, 7):
        with pytest.raises(ValueError, match="holds one image"):
            iio.imread(path, index=index)
        with pytest.raises(ValueError, match="holds one image"):
            iio.improps(path, index=index)


def test_layers_and_fast(path: Path, data: bytes, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(iio.imread(path, layers=2), pillow_nic.decode(data, layers=2))
    assert (iio.imread(path, layers=1) != pixels).any()
    np.testing.assert_array_equal(iio.imread(path, fast=True), pillow_nic.decode(data, fast=True))
    region = (3, 5, 20, 40)
    np.testing.assert_array_equal(iio.imread(path, region=region), pillow_nic.decode(data, region=region))
    for layers in (0, 4):
        with pytest.raises(ValueError, match="layers must be a whole number from 1"):
            iio.imread(path, layers=layers)


def test_iter_gives_the_layers(path: Path, data: bytes, pixels: np.ndarray) -> None:
    frames = list(iio.imiter(path))
    assert len(frames) == 3
    for count, frame in enumerate(frames, 1):
        np.testing.assert_array_equal(frame, pillow_nic.decode(data, layers=count))
    np.testing.assert_array_equal(frames[-1], pixels)
    grey = list(iio.imiter(path, layers=2, mode="L"))
    assert [frame.shape for frame in grey] == [SHAPE, SHAPE]


def test_mode_converts_as_pillow_does(path: Path, pixels: np.ndarray) -> None:
    for mode in ("L", "RGBA", "F", "1"):
        converted = iio.imread(path, mode=mode)
        expected = np.asarray(Image.fromarray(pixels).convert(mode))
        assert converted.dtype == expected.dtype
        np.testing.assert_array_equal(converted, expected)
    with pytest.raises(ValueError, match="mode"):
        iio.imread(path, mode="nonsense")


def test_rotate_follows_the_orientation(path: Path, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(iio.imread(path, rotate=True), np.rot90(pixels, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so as well
@pytest.mark.parametrize("damaged", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_exif_that_cannot_be_read_says_nothing_of_an_orientation(damaged: bytes) -> None:
    encoded = iio.imwrite("<bytes>", photo()[:32, :48], extension=".nic", exif=damaged)
    assert iio.imread(encoded, extension=".nic", rotate=True).shape == (32, 48, 3)


def test_device(path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown device 'toaster'"):
        iio.imread(path, device="toaster")
    with pytest.raises(ValueError, match="unknown device 'toaster'"):
        iio.imwrite("<bytes>", photo(), extension=".nic", device="toaster")
    monkeypatch.setenv("NIC_DEVICE", "toaster")
    assert iio.imread(path, device="cpu").shape == pixels.shape


def test_a_file_object_is_read_from_where_it_stands(data: bytes, pixels: np.ndarray) -> None:
    file = io.BytesIO(b"something before it" + data)
    file.seek(19)
    np.testing.assert_array_equal(iio.imread(file, plugin="nic"), pixels)
    assert not file.closed


def test_a_pipe_is_read_no_further_than_the_layers_need(
    pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillow_nic.container.LAYER_BLOCK", 256)
    data = pillow_nic.encode(photo(), quality=0.7, layers=3)
    ends = pillow_nic.read_header(data).layer_offsets
    pipe = Pipe(data)
    with iio.imopen(pipe, "r", plugin="nic") as file:
        assert file.properties().shape == pixels.shape
        assert pipe.count < 300
        frames = file.iter()
        for end in ends:
            assert next(frames).shape == pixels.shape
            assert end <= pipe.count < end + 256


def test_one_opened_file_answers_everything_in_any_order(data: bytes, pixels: np.ndarray) -> None:
    with iio.imopen(Pipe(data), "r", plugin="nic") as file:
        np.testing.assert_array_equal(file.read(), pixels)
        assert file.metadata()["layers"] == 3
        assert file.read(layers=1).shape == pixels.shape
        assert file.properties().shape == pixels.shape
        assert len(list(file.iter())) == 3
        np.testing.assert_array_equal(file.read(), pixels)


# ------------------------------------------------------------------------------- properties and metadata


def test_properties(path: Path) -> None:
    props = iio.improps(path)
    assert (props.shape, props.dtype, props.n_images, props.is_batch) == ((*SHAPE, 3), np.uint8, None, False)
    assert props.spacing == (25.4 / 150, 25.4 / 300, 1.0)
    batch = iio.improps(path, index=...)
    assert (batch.shape, batch.n_images, batch.is_batch) == ((1, *SHAPE, 3), 1, True)
    assert batch.spacing == (1.0, 25.4 / 150, 25.4 / 300, 1.0)


def test_properties_without_dpi() -> None:
    encoded = pillow_nic.encode(np.zeros((8, 9), np.uint8))
    props = iio.improps(encoded, extension=".nic")
    assert (props.shape, props.spacing) == ((8, 9), None)


def test_metadata(path: Path, data: bytes) -> None:
    metadata = iio.immeta(path)
    assert metadata == {
        "mode": "RGB",
        "layers": 3,
        "quality": pytest.approx(0.7, abs=1e-4),
        "model": "nic-2-visual",
        "lossless": False,
        "exif": b"Exif\0\0" + METADATA["exif"].tobytes().removeprefix(b"Exif\0\0"),
        "xmp": b"<x:xmpmeta/>",
        "icc_profile": METADATA["icc_profile"],
        "dpi": (300, 150),
        "comment": b"a comment",
    }
    with Image.open(io.BytesIO(data)) as im:
        assert {key: value for key, value in metadata.items() if key != "mode"} == im.info
    assert iio.immeta(path, index=...) == iio.immeta(path, index=2, exclude_applied=False) == metadata
    with pytest.raises(ValueError, match="holds one image"):
        iio.immeta(path, index=3)


def test_metadata_needs_no_pixels(data: bytes) -> None:
    cut = data[: pillow_nic.read_header(data).layer_offsets[0] - 1]
    assert iio.immeta(cut, extension=".nic")["layers"] == 3
    assert iio.improps(cut, extension=".nic").shape == (*SHAPE, 3)


# ------------------------------------------------------------------------------------------------- writing


def test_write_to_every_kind_of_target(tmp_path: Path) -> None:
    before = photo()
    expected = pillow_nic.encode(before)
    assert iio.imwrite(tmp_path / "a.NIC", before) is None
    assert (tmp_path / "a.NIC").read_bytes() == expected
    assert iio.imwrite("<bytes>", before, extension=".nic") == expected
    assert iio.imwrite("<bytes>", before, plugin="nic") == expected
    file = io.BytesIO(b"")
    assert iio.imwrite(file, before, extension=".nic") is None
    iio.imwrite(file, before, plugin=NicPlugin)
    assert file.getvalue() == 2 * expected
    iio.imwrite(tmp_path / "b.bin", before, extension=".nic")
    assert (tmp_path / "b.bin").read_bytes() == expected
    iio.imwrite(f"{tmp_path}/c.zip/c.nic", before)
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert archive.read("c.nic") == expected


def test_every_option_of_write() -> None:
    before = photo()
    for options in (
        {"quality": 0.2},
        {"quality": 20},
        {"effort": 0},
        {"tune": "psnr"},
        {"layers": 2},
        {"layers": 1, "network_width": 2, "quality": 0.1, "device": "cpu"},
    ):
        expected = pillow_nic.encode(before, **options)
        assert iio.imwrite("<bytes>", before, extension=".nic", **options) == expected, options


def test_metadata_is_written(data: bytes) -> None:
    assert iio.imwrite("<bytes>", photo(), extension=".nic", quality=0.7, layers=3, **METADATA) == data
    image = io.BytesIO()
    Image.fromarray(photo()).save(image, "NIC", quality=0.7, layers=3, **METADATA)
    assert image.getvalue() == data
    plain = iio.imwrite("<bytes>", photo()[:16, :16], extension=".nic", exif=None, comment=b"")
    assert set(iio.immeta(plain, extension=".nic")) == {"mode", "layers", "quality", "model", "lossless"}


def test_what_may_be_written() -> None:
    def write(image: Any, **options: Any) -> np.ndarray:
        return iio.imread(iio.imwrite("<bytes>", image, extension=".nic", **options), extension=".nic")

    grey = photo("L")[:40, :56]
    expected = write(grey)
    np.testing.assert_array_equal(write(grey[..., np.newaxis]), expected)
    np.testing.assert_array_equal(write([grey]), expected)
    np.testing.assert_array_equal(write((grey,)), expected)
    np.testing.assert_array_equal(write(grey[np.newaxis]), expected)
    np.testing.assert_array_equal(write(grey[np.newaxis], is_batch=True), expected)
    np.testing.assert_array_equal(write(grey[np.newaxis, ..., np.newaxis]), expected)
    np.testing.assert_array_equal(write(np.asfortranarray(grey)), expected)
    assert write(photo("RGBA")[np.newaxis, ::4, ::4]).shape == (36, 52, 4)
    assert write(np.zeros((1, 6, 3), np.uint8), is_batch=False).shape == (1, 6, 3)
    mask = grey > 100
    np.testing.assert_array_equal(write(mask), write(mask * np.uint8(255)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint16), "uint8 or bool, not uint16"),
        (np.zeros((8, 8, 3)), "uint8 or bool, not float64"),
        (np.zeros((2, 8, 8, 3), np.uint8), "one image, not 2"),
        (np.zeros((3, 8, 8), np.uint8), "one image, not 3"),
        ([np.zeros((8, 8), np.uint8)] * 2, "one image, not 2"),
        ([], "one image, not 0"),
        (np.zeros((8, 8, 1, 3), np.uint8)[np.newaxis], "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((8, 0), np.uint8), "size out of range"),
    ],
)
def test_what_may_not_be_written(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iio.imwrite("<bytes>", image, extension=".nic")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"quality": 1.5}, ValueError),
        ({"effort": 9}, ValueError),
        ({"tune": "ssim"}, ValueError),
        ({"layers": 99}, ValueError),
        ({"network_width": 0}, ValueError),
        ({"dpi": "72"}, TypeError),
        ({"exif": "text"}, TypeError),
        ({"is_batch": False}, ValueError),
        ({"graphics": "some"}, ValueError),
    ],
)
def test_a_bad_option_leaves_the_file_as_it_is(path: Path, options: Any, error: type[Exception]) -> None:
    before = path.read_bytes()
    with pytest.raises(error):
        iio.imwrite(path, photo()[np.newaxis], **options)
    assert path.read_bytes() == before


def test_a_second_image_is_refused(tmp_path: Path) -> None:
    small = photo()[:16, :16]
    with iio.imopen(tmp_path / "a.nic", "w") as file:
        file.write(small)
        with pytest.raises(ValueError, match="holds one image, and this one has been written"):
            file.write(small)
        with pytest.raises(ValueError, match="open for writing"):
            file.read()
        with pytest.raises(ValueError, match="open for writing"):
            file.metadata()
    assert iio.imread(tmp_path / "a.nic").shape == small.shape
    with iio.imopen(tmp_path / "a.nic", "r") as file, pytest.raises(ValueError, match="open for reading"):
        file.write(small)


# --------------------------------------------------------------------------- damaged and foreign files


def test_a_cut_file(path: Path, data: bytes) -> None:
    ends = pillow_nic.read_header(data).layer_offsets
    path.write_bytes(data[: ends[2] - 1])
    with pytest.raises(pillow_nic.TruncatedError, match="2 of 3 layers are whole"):
        iio.imread(path)
    expected = pillow_nic.decode(data, layers=2)
    np.testing.assert_array_equal(iio.imread(path, layers=2), expected)
    np.testing.assert_array_equal(iio.imread(path, partial=True), expected)
    assert len(list(iio.imiter(path, partial=True))) == 2
    frames = iio.imiter(path)
    np.testing.assert_array_equal([next(frames), next(frames)][1], expected)
    with pytest.raises(pillow_nic.TruncatedError, match="2 of 3 layers are whole"):
        next(frames)
    path.write_bytes(data[: ends[0] - 1])
    with pytest.raises(pillow_nic.TruncatedError, match="0 of 3 layers are whole"):
        list(iio.imiter(path, partial=True))


def test_damage_is_an_oserror(path: Path, data: bytes) -> None:
    for position, message in ((20, "header"), (len(data) - 3, "CRC mismatch")):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(pillow_nic.BitstreamError, match=message):
            iio.imread(path)
    path.write_bytes(data[:12])
    with pytest.raises(pillow_nic.TruncatedError):
        iio.improps(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # imageio asks its deprecated plugins too
def test_foreign_data_are_left_to_others(path: Path) -> None:
    png = PHOTO.read_bytes()
    for content in (png, b"", b"\x89NIC", b"\x89NIC\r\n\x1a\r more"):
        request = Request(content, "r")
        with pytest.raises(InitializationError, match="not a NIC file"):
            NicPlugin(request)
        request.finish()
    file = io.BytesIO(png)
    with pytest.raises(OSError, match="can not handle the given uri"):
        iio.imread(file, plugin="nic")
    assert file.tell() == 0
    # A picture by a wrong name is what it is, as everywhere in imageio.
    path.write_bytes(png)
    assert iio.imread(path).shape == iio.imread(PHOTO).shape
    assert iio.imread(png, extension=".nic").shape == iio.imread(PHOTO).shape
    with pytest.raises(OSError, match="Could not find a backend"):
        iio.imread(b"neither this nor that", extension=".nic")


def test_other_formats_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="can not handle the given uri"):
        iio.imwrite(tmp_path / "a.png", photo(), plugin="nic")
    iio.imwrite(tmp_path / "a.png", photo())
    with Image.open(tmp_path / "a.png") as im:
        assert im.format == "PNG"


def test_pillows_limit_on_pixels_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SHAPE[0] * SHAPE[1] // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        iio.imread(path)
    with pytest.raises(Image.DecompressionBombError):
        next(iio.imiter(path))
    assert iio.improps(path).shape == (*SHAPE, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SHAPE[0] * SHAPE[1] - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        iio.imread(path, layers=1)


# ------------------------------------------------------------------------------------------------------ v2


def test_v2_read(path: Path, data: bytes, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(iio2.imread(path), pixels)
    for name in ("nic", "NIC", ".nic"):
        np.testing.assert_array_equal(iio2.imread(data, format=name, layers=1), iio.imread(path, layers=1))
    with pytest.raises(RuntimeError, match="can not handle the given uri"):
        iio2.imread(PHOTO, format="nic")


def test_v2_write(tmp_path: Path) -> None:
    before = photo()
    expected = pillow_nic.encode(before, quality=0.2)
    iio2.imwrite(tmp_path / "a.nic", before, quality=0.2)
    assert (tmp_path / "a.nic").read_bytes() == expected
    for name in ("nic", "NIC", ".nic"):
        assert iio2.imwrite("<bytes>", before, format=name, quality=0.2) == expected
    file = io.BytesIO()
    iio2.imwrite(file, before, format="nic", quality=0.2)
    assert file.getvalue() == expected


def test_v2_several_images(path: Path, tmp_path: Path) -> None:
    layers = list(iio.imiter(path))
    for got, layer in zip(iio2.mimread(path), layers, strict=True):
        np.testing.assert_array_equal(got, layer)
    iio2.mimwrite(tmp_path / "a.nic", [photo()], quality=0.2)
    assert iio.imread(tmp_path / "a.nic").shape == (*SHAPE, 3)
    with pytest.raises(ValueError, match="one image, not 2"):
        iio2.mimwrite(tmp_path / "b.nic", [photo()] * 2)
    assert not (tmp_path / "b.nic").exists()
    with pytest.raises(ValueError, match="shape"):
        iio2.volwrite(tmp_path / "b.nic", np.zeros((9, 8, 7), np.uint8))


def test_v2_reader(path: Path, pixels: np.ndarray) -> None:
    with iio2.get_reader(path, layers=1) as reader:
        assert len(reader) == 1
        np.testing.assert_array_equal(reader.get_data(0), iio.imread(path, layers=1))
        assert reader.get_data(0).meta["comment"] == b"a comment"
        assert reader.get_meta_data()["layers"] == 3
        frames = list(reader)
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[-1], pixels)
    assert frames[-1].meta["layers"] == 3


def test_v2_writer(tmp_path: Path) -> None:
    with iio2.get_writer(tmp_path / "a.nic", quality=0.2) as writer:
        writer.append_data(photo())
        with pytest.raises(ValueError, match="has been written"):
            writer.append_data(photo())
    assert (tmp_path / "a.nic").read_bytes() == pillow_nic.encode(photo(), quality=0.2)


# ------------------------------------------------------------------------------------- v3 and v2 side by side

PAGE = (Path(pillow_nic.__file__).parent / "docs" / "pipelines.md").read_text(encoding="utf-8")
CALLS = re.findall(r"^\| `(.*iio\..*)` \| `(.*iio\..*)` \| .* \|$", PAGE, re.MULTILINE)


def expected_results(data: bytes) -> list[Any]:
    """What the calls of the table in pipelines.md give, or leave in copy.nic or the file, row by row."""
    layers = [pillow_nic.decode(data, layers=count) for count in (1, 2, 3)]
    grey = np.asarray(Image.fromarray(layers[2]).convert("L"))
    small, default = pillow_nic.encode(photo(), quality=0.3), pillow_nic.encode(photo())
    reduced = pillow_nic.decode(data, reduce=4)
    pictures = [layers[2], layers[0], reduced, grey, layers[0], layers[2][np.newaxis], layers]
    return [*pictures, (*SHAPE, 3), 3, small, small, default, default, ValueError]


@pytest.mark.parametrize("version", [0, 1], ids=["v3", "v2"])
@pytest.mark.parametrize("row", range(14))
def test_the_calls_of_the_table(
    row: int, version: int, path: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = expected_results(data)
    assert len(CALLS) == len(expected) == 14
    names = {"iio": (iio, iio2)[version], "pixels": photo(), "data": data, "file": io.BytesIO()}
    call = CALLS[row][version]
    if expected[row] is ValueError:
        with pytest.raises(ValueError, match="holds one image"):
            eval(call, names)
        assert not (tmp_path / "copy.nic").exists()
        return
    result = eval(call, names)
    if "copy.nic" in call:
        assert result is None
        result = (tmp_path / "copy.nic").read_bytes()
    elif "(file," in call:
        result = names["file"].getvalue()
    np.testing.assert_array_equal(result, expected[row])


# -------------------------------------------------------------------------------------------- registration


@pytest.fixture
def unregistered() -> Iterator[None]:
    imageio_nic.unregister()
    try:
        yield
    finally:
        pillow_nic.register()
        imageio_nic.register()


def entries() -> tuple[list[str], list[str], list[str]]:
    return list(known_plugins), list(known_extensions), [e.extension for e in extension_list]


@pytest.mark.usefixtures("unregistered")
def test_register_and_unregister(path: Path) -> None:
    without = entries()
    assert "nic" not in known_plugins
    assert ".nic" not in known_extensions
    imageio_nic.unregister()
    assert entries() == without
    for _ in range(2):
        imageio_nic.register()
    assert entries() == tuple(
        [*names, new] for names, new in zip(without, ("nic", ".nic", ".nic"), strict=True)
    )
    with iio.imopen(path, "r") as file:
        assert isinstance(file, NicPlugin)
    imageio_nic.unregister()
    assert entries() == without


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # imageio asks its deprecated plugins too
@pytest.mark.usefixtures("unregistered")
def test_without_it_pillow_serves_imageio_as_long_as_it_knows_nic(data: bytes, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(iio.imread(data), pixels)
    pillow_nic.unregister()
    with pytest.raises(OSError, match="Could not find a backend"):
        iio.imread(data)


@pytest.mark.usefixtures("unregistered")
def test_somebody_elses_entries_stay() -> None:
    other = object()
    known_plugins["nic"] = other
    known_extensions[".nic"] = [other]
    try:
        imageio_nic.unregister()
        assert known_plugins["nic"] is other
        assert known_extensions[".nic"] == [other]
    finally:
        del known_plugins["nic"], known_extensions[".nic"]
