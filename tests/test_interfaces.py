"""The package's own functions: what they take, where they take it from, and what tools see of them."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import user_program
from pictures import PHOTO, photo, pixels, python_says, saved
from PIL import Image

import pillow_nic
from pillow_nic.NicImagePlugin import NicImageFile

# ------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_arrays_pictures_and_tensors_make_the_same_file(mode: str) -> None:
    im, array = photo(mode, (60, 40)), pixels(mode, (60, 40))
    tensor = torch.from_numpy(array)
    data = pillow_nic.encode(array, quality=0.4)
    assert data == saved(im, quality=0.4)
    assert pillow_nic.encode(im, quality=0.4) == data
    assert pillow_nic.encode(tensor if mode == "L" else tensor.permute(2, 0, 1), quality=0.4) == data
    if mode == "L":
        assert pillow_nic.encode(array[..., None], quality=0.4) == data
        assert pillow_nic.encode(tensor[None], quality=0.4) == data


def test_modes_that_pillow_converts() -> None:
    palette = photo(size=(60, 40)).quantize(16)
    assert pillow_nic.encode(palette) == saved(palette)
    black = pixels("L", (60, 40)) > 99
    assert (
        pillow_nic.encode(black)
        == saved(Image.fromarray(black))
        == pillow_nic.encode(torch.from_numpy(black))
    )
    with pytest.raises(OSError, match="cannot write mode I;16 as NIC"):
        pillow_nic.encode(Image.new("I;16", (8, 8)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.zeros(40, 60, 3, dtype=torch.uint8),
            r"shape H×W or C×H×W with C from 1 to 4, not \(40, 60, 3\)",
        ),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"not \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8), "uint8 or bool, not float32"),
        (torch.zeros(3, 8, 8, requires_grad=True), "uint8 or bool, not float32"),
        (np.zeros((8, 8, 3)), "uint8 or bool, not float64"),
        (np.zeros((8, 8, 5), np.uint8), "shape H×W"),
        ([[1, 2], [3, 4]], "uint8 or bool, not int64"),
        (Image.new("RGB", (0, 5)), "size out of range"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pillow_nic.encode(image)


@pytest.mark.parametrize("image", ["photo.png", PHOTO, b"\x89PNG", io.BytesIO(), None])
def test_a_file_is_no_picture(image: Any) -> None:
    message = f"takes an array, a Pillow image or a tensor, not {type(image).__name__}"
    with pytest.raises(TypeError, match=message):
        pillow_nic.encode(image)


def test_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    given = {"icc_profile": b"profile", "exif": exif, "xmp": "<x/>", "dpi": 72, "comment": "hello"}
    data = pillow_nic.encode(pixels(size=(16, 16)), **given)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(data)) as im:
        assert im.getexif()[0x0112] == 6
        wanted = {"icc_profile": b"profile", "xmp": b"<x/>", "dpi": (72, 72), "comment": b"hello"}
        assert {name: im.info[name] for name in wanted} == wanted
        again = pillow_nic.encode(im, comment=None)  # a picture's own metadata come along
    with Image.open(io.BytesIO(again)) as im:
        assert im.info["dpi"] == (72, 72)
        assert "comment" not in im.info
    with pytest.raises(TypeError, match="exif must be bytes"):
        pillow_nic.encode(pixels(size=(16, 16)), exif="text")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- sources


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "photo.nic"
    path.write_bytes(saved(photo(), quality=0.7, layers=3))
    return path


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as found:
        yield found


def sources(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    yield from (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), path, str(path))
    yield io.BytesIO(data)
    with open(path, "rb") as opened:
        yield opened
    with mapped(path) as found:
        yield found
    behind = io.BytesIO(b"before" + data)
    behind.seek(6)
    yield behind


def test_bytes_paths_and_files_are_read_alike(file: Path) -> None:
    data = file.read_bytes()
    expected = pillow_nic.decode(data)
    header = pillow_nic.read_header(data)
    small = pillow_nic.truncate(data, np.int64(2))  # type: ignore[arg-type]
    assert pillow_nic.read_header(small).layers == 2
    for source in sources(file):
        found = pillow_nic.read_header(source)
        assert (found, found.layer_offsets) == (header, header.layer_offsets)
    for source in sources(file):
        assert pillow_nic.truncate(source, 2) == small
    for source in sources(file):
        np.testing.assert_array_equal(pillow_nic.decode(source), expected)


def functions() -> list[Any]:
    return [pillow_nic.decode, pillow_nic.read_header, lambda source: pillow_nic.truncate(source, 1)]


@pytest.mark.parametrize("function", functions())
def test_what_is_no_source_is_refused(function: Any, tmp_path: Path) -> None:
    for source in (None, 5, ["a"], photo()):
        message = f"a .nic file is given as bytes, path or binary file, not as {type(source).__name__}"
        with pytest.raises(TypeError, match=message):
            function(source)
    with pytest.raises(FileNotFoundError, match=r"missing\.nic"):
        function(tmp_path / "missing.nic")
    with pytest.raises(pillow_nic.BitstreamError, match="not a NIC file"):
        function(PHOTO)


class Silent(io.BytesIO):
    """As a pipe that does not block, with nothing in it yet."""

    def read(self, size: int | None = -1, /) -> Any:
        return None


@pytest.mark.parametrize("function", [*functions(), lambda source: pillow_nic.decode_batch([source])])
def test_a_file_that_gives_no_bytes_is_refused(function: Any, file: Path) -> None:
    with open(file, encoding="utf-8") as undecodable, open(file, encoding="latin-1") as text:
        for source in (undecodable, text, io.StringIO("text"), io.StringIO()):
            with pytest.raises(TypeError, match="must be binary, opened with 'rb': it gives str, not bytes"):
                function(source)
    with pytest.raises(BlockingIOError, match="has no bytes yet"):
        function(Silent())


# ------------------------------------------------------------------------------------------- range requests


class Server:
    """Answers range requests for one file, and counts them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.requests, self.sent = data, 0, 0

    def get(self, start: int, stop: int) -> bytes:
        piece = self.data[start:stop]
        self.requests += 1
        self.sent += len(piece)
        return piece


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_first_kilobyte_says_where_every_layer_ends(mode: str, layers: int) -> None:
    data = saved(photo(mode), quality=0.7, layers=3, comment="x" * 300)
    server = Server(data)
    part = server.get(0, 1000)
    while not (header := pillow_nic.read_header(part)).layer_offsets:  # the alpha plane comes first
        assert len(part) < header.needed <= len(data)
        part += server.get(len(part), header.needed)
    assert server.requests <= (1 if mode == "RGB" else 3)
    assert header.layer_offsets == pillow_nic.read_header(data).layer_offsets
    assert header.layer_offsets[-1] == len(data)
    part += server.get(len(part), header.layer_offsets[layers - 1])
    assert server.sent == max(header.layer_offsets[layers - 1], 1000)
    np.testing.assert_array_equal(
        pillow_nic.decode(part, layers=layers), pillow_nic.decode(data, layers=layers)
    )


def test_a_header_that_is_not_whole_says_how_much_is_missing(file: Path) -> None:
    data = file.read_bytes()
    with pytest.raises(pillow_nic.TruncatedError) as caught:
        pillow_nic.read_header(data[:20])
    assert 20 < caught.value.needed <= 64


# ------------------------------------------------------------------------------------------------ for tools


def test_mimetypes_know_the_format() -> None:
    ask = "print(mimetypes.guess_type('x.nic')[0], mimetypes.guess_extension('image/x-nic'))"
    for code in (
        f"import pillow_nic, mimetypes; {ask}",
        f"import mimetypes; mimetypes.init(); import pillow_nic; {ask}",
    ):
        assert python_says(code) == "image/x-nic .nic"


def test_one_frame(file: Path) -> None:
    with Image.open(file) as im:
        assert (im.n_frames, im.is_animated) == (1, False)  # type: ignore[attr-defined]
        im.seek(0)
        with pytest.raises(EOFError):
            im.seek(1)


def test_the_class_of_an_opened_picture_is_public(file: Path) -> None:
    assert pillow_nic.NicImageFile is NicImageFile
    with Image.open(file) as im:
        assert isinstance(im, pillow_nic.NicImageFile)


def test_the_program_that_type_checkers_read_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user_program.main(PHOTO, tmp_path / "photo.nic")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "3 True b'from a program'"
    assert second.startswith("(384, 512, 3) 0.29999")
