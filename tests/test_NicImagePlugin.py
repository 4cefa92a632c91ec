"""`.nic` through Pillow: open, load, layers, verify, Parser and save."""

from __future__ import annotations

import copy
import io
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo, psnr, saved
from PIL import Image, ImageChops, ImageCms, ImageFile, ImageStat, UnidentifiedImageError

import pillow_nic
from pillow_nic import codec, container
from pillow_nic.header import SIGNATURE, Header
from pillow_nic.NicImagePlugin import NicImageFile
from pillow_nic.options import TUNES, DecodeOptions, EncodeOptions


def opened(data: bytes) -> NicImageFile:
    im = Image.open(io.BytesIO(data))
    assert isinstance(im, NicImageFile)
    return im


@pytest.fixture(scope="module")
def layered() -> bytes:
    return saved(photo(), quality=0.7, layers=3)


# ----------------------------------------------------------------------------------------- open and load


def test_round_trip_through_files(tmp_path: Path) -> None:
    path = tmp_path / "photo.NIC"
    im = photo()
    im.save(path, quality=0.8)
    with Image.open(path) as back:
        assert back.format == "NIC"
        assert back.get_format_mimetype() == "image/x-nic"
        assert (back.mode, back.size) == (im.mode, im.size)
        assert psnr(back, im) > 28


def test_the_accepted_signature_is_the_containers() -> None:
    assert pillow_nic._accept(SIGNATURE + b"\x01\x00")
    assert not pillow_nic._accept(SIGNATURE[:-1])
    assert pillow_nic._accept(saved(photo())[:16])


def test_open_reads_header_and_metadata_only(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    exif = b"Exif\0\0" + bytes(20_000)
    for mode in ("RGB", "RGBA"):
        noise = Image.effect_noise((200, 200), 90).convert(mode)
        if mode == "RGBA":
            noise.putalpha(Image.effect_noise((200, 200), 90))
        file = Counting(saved(noise, quality=1.0, exif=exif))
        assert len(file.getvalue()) > 40_000
        with Image.open(file) as im:
            assert im.size == (200, 200)
            assert im.info["exif"] == exif
            assert file.count <= 4096 + len(exif)


def test_info_tells_what_the_header_says(layered: bytes) -> None:
    im = opened(layered)
    quality = pytest.approx(0.7, abs=1e-5)
    assert im.info == {"layers": 3, "quality": quality, "model": "nic-2-visual", "lossless": False}
    header = pillow_nic.read_header(layered)
    assert header.layers == 3
    assert (header.width, header.height, header.mode, header.model) == (208, 144, "RGB", "nic-2-visual")
    assert pillow_nic.read_header(io.BytesIO(layered)) == header


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 1), (16, 16), (17, 31), (65, 64)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_sizes_and_modes_come_back(mode: str, size: tuple[int, int]) -> None:
    im = photo(mode, size)
    back = opened(saved(im))
    assert (back.mode, back.size) == (mode, size)
    back.load()
    if mode.endswith("A"):
        assert back.getchannel("A").tobytes() == im.getchannel("A").tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("size", [(4, 4), (208, 144)])
def test_a_file_opened_by_its_path_shows_its_own_pixels(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    # Pillow maps a file of raw pixels into memory when it knows its name.
    file = tmp_path / "x.nic"
    photo(mode, size).save(file)
    expected = pillow_nic.decode(file)
    with Image.open(file) as im:
        assert (np.asarray(im) == expected).all()


def test_grey_is_grey() -> None:
    back = opened(saved(photo("L"), quality=0.8))
    assert back.mode == "L"
    assert psnr(back, photo("L")) > 28


@pytest.mark.parametrize(
    ("mode", "stored"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB")]
)
def test_other_modes_are_converted(mode: str, stored: str) -> None:
    im = photo().convert(mode)
    data = saved(im, quality=0.5)
    assert opened(data).mode == stored
    assert data == saved(im.convert(stored), quality=0.5)


def test_palette_transparency_is_kept() -> None:
    im = photo().quantize(8)
    im.info["transparency"] = 0
    back = opened(saved(im))
    assert back.mode == "RGBA"
    assert back.getchannel("A").tobytes() == im.convert("RGBA").getchannel("A").tobytes()


def test_colours_under_transparency_are_not_coded() -> None:
    hidden, plain = photo(), Image.new("RGB", (208, 144))
    for box in ((0, 0, 208, 144), (50, 40, 170, 100)):
        alpha = Image.new("L", plain.size, 255)
        alpha.paste(0, box)
        plain.paste(photo(), mask=alpha)
        hidden.putalpha(alpha)
        plain.putalpha(alpha)
        assert saved(hidden) == saved(plain)
        hidden, plain = hidden.convert("RGB"), plain.convert("RGB")


def test_offset_of_the_file_in_a_stream_is_respected(layered: bytes) -> None:
    file = io.BytesIO(b"12345" + layered)
    file.seek(5)
    assert NicImageFile(file).tobytes() == opened(layered).tobytes()


def test_bytes_after_the_picture_are_ignored(layered: bytes) -> None:
    assert opened(layered + b"more").tobytes() == opened(layered).tobytes()


@pytest.mark.parametrize("block", [1, 1000])
def test_short_reads(layered: bytes, block: int) -> None:
    class Socket(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, block) if size and size > 16 else size)

    with Image.open(Socket(layered)) as im:
        assert im.tobytes() == opened(layered).tobytes()


def test_one_lazy_image_in_many_threads(layered: bytes) -> None:
    expected = opened(layered).tobytes()
    im = opened(layered)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: im.tobytes(), range(12)))
    assert set(results) == {expected}


def test_copies_and_pickles(layered: bytes) -> None:
    im = opened(layered)
    for twin in (copy.copy(opened(layered)), pickle.loads(pickle.dumps(opened(layered)))):
        assert twin.tobytes() == im.tobytes()


# ------------------------------------------------------------------------------------------------ layers


def test_layers_sharpen(layered: bytes) -> None:
    quality = []
    for layers in (1, 2, 3, None):
        im = opened(layered)
        im.layers = layers
        assert im.layers == layers
        quality.append(psnr(im, photo()))
    assert quality[0] < quality[1] < quality[2] == quality[3]


def test_only_the_bytes_of_the_wanted_layers_are_needed(layered: bytes) -> None:
    first = layered[: container.parse_header(layered).layer_offsets[0]]
    im = opened(first)
    im.layers = 1
    whole = opened(layered)
    whole.layers = 1
    assert im.tobytes() == whole.tobytes()


def test_no_more_is_read_than_the_wanted_layers_need(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(photo(), quality=1.0)
    ends = pillow_nic.read_header(data).layer_offsets
    monkeypatch.setattr("pillow_nic.container.LAYER_BLOCK", 1000)
    for layers in (1, 4):
        file = io.BytesIO(data)
        im = Image.open(file)
        assert isinstance(im, NicImageFile)
        im.layers = layers
        im.load()
        assert ends[layers - 1] <= file.tell() < ends[layers - 1] + 1000
    assert not file.closed  # it is the caller's


def test_fast_is_another_network_for_the_same_layers(layered: bytes) -> None:
    images = {}
    for fast in (False, True):
        for layers in (1, 3):
            im = opened(layered)
            im.layers, im.fast = layers, fast
            assert im.fast is fast
            images[fast, layers] = np.asarray(im, int)
    np.testing.assert_array_equal(images[True, 3], images[False, 3])  # all groups: only one network has them
    assert (images[True, 1] != images[False, 1]).any()
    assert psnr(images[True, 1], images[False, 1]) > 20
    with pytest.raises(ValueError, match="before the pixels are loaded"):
        im.fast = False


@pytest.mark.parametrize("layers", [0, 4, -1, 1.0, True, "1"])
def test_wrong_layers_are_refused(layered: bytes, layers: Any) -> None:
    im = opened(layered)
    with pytest.raises(ValueError, match="layers must be"):
        im.layers = layers
    assert im.layers is None


def test_layers_after_load_are_refused(layered: bytes) -> None:
    im = opened(layered)
    im.load()
    with pytest.raises(ValueError, match="before the pixels are loaded"):
        im.layers = 1


# ------------------------------------------------------------------------------- damaged and foreign data


@pytest.mark.parametrize("data", [b"", b"\x89NIC", b"some text\n" * 10, b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_foreign_data_is_not_ours(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SyntaxError, match="not a NIC file"):
        NicImageFile(io.BytesIO(data))
    path = tmp_path / "x.nic"
    path.write_bytes(data)
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


def test_cut_header(layered: bytes) -> None:
    end = layered.index(b"DATA") + 4
    for size in range(8, end):
        with pytest.raises(pillow_nic.TruncatedError):
            Image.open(io.BytesIO(layered[:size]))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_cut_file(layered: bytes, keep: float) -> None:
    cut = layered[: int(len(layered) * keep)]
    whole = sum(end <= len(cut) for end in container.parse_header(layered).layer_offsets)
    im = opened(cut)
    for _ in range(2):  # as often as it is asked for
        with pytest.raises(pillow_nic.TruncatedError, match=f"truncated file, {whole} of 3 layers are whole"):
            im.load()


def test_cut_file_with_load_truncated_images(layered: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    ends = container.parse_header(layered).layer_offsets
    for layers in (1, 2):
        whole = opened(layered)
        whole.layers = layers
        assert opened(layered[: ends[layers] - 1]).tobytes() == whole.tobytes()
    with pytest.raises(pillow_nic.TruncatedError):
        opened(layered[: ends[0] - 1]).load()


@pytest.fixture(scope="module")
def tiny() -> bytes:
    """A small file with all kinds of parts."""
    return saved(photo("LA", (33, 20)), quality=0.3, layers=3, comment=b"on a lawn", dpi=(72, 72))


def test_every_flipped_bit_is_found(tiny: bytes) -> None:
    opened(tiny).verify()
    for bit in range(8 * len(tiny)):
        damaged = bytearray(tiny)
        damaged[bit // 8] ^= 1 << bit % 8
        foreign = bit < 8 * len(SIGNATURE)
        error = UnidentifiedImageError if foreign else pillow_nic.BitstreamError
        with pytest.raises(error):
            Image.open(io.BytesIO(damaged)).verify()
        with pytest.raises(error):
            Image.open(io.BytesIO(damaged)).load()


def test_every_cut_is_found(tiny: bytes) -> None:
    for length in range(len(tiny)):
        error = UnidentifiedImageError if length < len(SIGNATURE) else pillow_nic.TruncatedError
        with pytest.raises(error):
            Image.open(io.BytesIO(tiny[:length])).load()
        with pytest.raises(error):
            Image.open(io.BytesIO(tiny[:length])).verify()


def test_decompression_bombs(tiny: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 33 * 20 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        opened(tiny)
    with pytest.warns(Image.DecompressionBombWarning):
        pillow_nic.decode(tiny)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 33 * 20 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        opened(tiny)
    with pytest.raises(Image.DecompressionBombError):
        pillow_nic.decode(tiny)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pillow_nic.decode(tiny).shape == (20, 33, 2)


def test_unknown_model(layered: bytes) -> None:
    file = container.parse(layered)
    for change in ({"model": "nic-9"}, {"model_hash": bytes(4)}):
        header = Header(**{**vars(file.header), **change})
        data = container.dump(container.Container(header, file.chunks, file.streams))
        im = opened(data)
        with pytest.raises(pillow_nic.UnsupportedModelError, match=r"nic-[29]"):
            im.load()


def test_file_that_changed_since_it_was_opened() -> None:
    file = io.BytesIO(saved(photo(size=(40, 30))))
    im = Image.open(file)
    file.seek(0)
    file.write(saved(photo(size=(30, 40)), quality=1.0))
    with pytest.raises(OSError, match="changed"):
        im.load()


def test_verify(layered: bytes) -> None:
    opened(layered).verify()
    opened(layered + b"more").verify()
    with pytest.raises(pillow_nic.TruncatedError):
        opened(layered[: len(layered) * 3 // 4]).verify()
    im = opened(layered)
    im.verify()
    with pytest.raises(OSError, match="its file has been closed"):
        im.load()
    with pytest.raises(RuntimeError, match="directly after open"):
        im.verify()


def test_verify_closes_the_file(tmp_path: Path, layered: bytes) -> None:
    path = tmp_path / "x.nic"
    for data in (layered, layered[:-1]):
        path.write_bytes(data)
        im = Image.open(path)
        file = im.fp
        if data is layered:
            im.verify()
        else:
            with pytest.raises(pillow_nic.TruncatedError):
                im.verify()
        assert file is not None
        assert file.closed


# ------------------------------------------------------------------------------------------------ Parser


def test_a_parser_does_not_check_the_metadata_anew_with_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, exif = bytes(range(256)) * 1000, b"II*\0" + bytes(300_000)
    data = saved(photo(size=(32, 16)), icc_profile=profile, exif=exif)
    checked = 0

    def crc32(payload: bytes, value: int = 0) -> int:
        nonlocal checked
        checked += len(payload)
        return zlib.crc32(payload, value)

    monkeypatch.setattr(container, "crc32", crc32)
    parser = ImageFile.Parser()
    for start in range(0, len(data), 1 << 12):
        parser.feed(data[start : start + (1 << 12)])
    assert parser.close().info["icc_profile"] == profile
    assert checked < 8 * len(data)  # to open, to find the layers, to decode: 5


@pytest.mark.parametrize("length", [(1 << 25) + 1, 1 << 25])
def test_a_parser_refuses_too_much_metadata_before_it_has_come(length: int) -> None:
    head = saved(photo(size=(16, 16)))
    head = head[: head.index(b"DATA")]
    full = b"zzzz" + (1 << 25).to_bytes(4, "little") + bytes(1 << 25)
    full += zlib.crc32(full).to_bytes(4, "little")
    before = b"" if length > 1 << 25 else full * 2  # all the room that there is
    with pytest.raises(pillow_nic.BitstreamError, match="more than the limit"):
        Image.open(io.BytesIO(head + before + b"zzzz" + length.to_bytes(4, "little") + bytes(8)))


@pytest.mark.parametrize("block", [1, 1 << 10, 1 << 16])
@pytest.mark.parametrize("mode", ["RGB", "LA"])
def test_parser_sharpens_layer_by_layer(block: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what `layers=k` decodes as soon as k layers are there, and decodes nothing in between."""
    data = saved(photo(mode), quality=0.7, layers=3) + b"trailing"
    ends = pillow_nic.read_header(data).layer_offsets
    expected = [Image.fromarray(pillow_nic.decode(data, layers=k)).tobytes() for k in (1, 2, 3)]
    decode, decoded = codec.decode_bytes, []

    def counting(data: bytes, options: DecodeOptions) -> codec.Pixels:
        decoded.append(options.layers)
        return decode(data, options)

    monkeypatch.setattr(codec, "decode_bytes", counting)
    parser, seen_at = ImageFile.Parser(), None
    for start in range(0, len(data), block):
        parser.feed(data[start : start + block])
        there = min(start + block, len(data))
        if parser.image is not None and seen_at is None:
            seen_at = there
            assert parser.image.size == (208, 144)
        whole = sum(end <= there for end in ends)
        if whole and start:  # Parser only opens with the first piece that is enough for that
            assert parser.image is not None
            assert decoded[-1] == whole
            assert parser.image.tobytes() == expected[whole - 1]
        else:
            assert not decoded
    assert seen_at is not None
    assert seen_at <= max(block, 100)
    assert decoded == sorted(set(decoded))
    if block == 1:
        assert decoded == [1, 2, 3]
    assert parser.close().tobytes() == expected[-1]


def test_size_as_django_reads_it() -> None:
    """django.core.files.images feeds 1024 bytes, 2048 … to a Parser until it has an image; it asks for the
    size only."""
    data = saved(photo(), quality=1.0, exif=b"Exif\0\0" + bytes(5000))
    file, parser, chunk_size = io.BytesIO(data), ImageFile.Parser(), 1024
    while chunk := file.read(chunk_size):
        parser.feed(chunk)
        if parser.image:
            break
        chunk_size *= 2
    assert parser.image is not None
    assert parser.image.size == (208, 144)
    assert file.tell() < 8 * 1024


def test_parser_of_a_cut_file(layered: bytes) -> None:
    parser = ImageFile.Parser()
    parser.feed(layered[:-1])
    with pytest.raises(OSError, match="image was incomplete"):
        parser.close()
    assert parser.image is not None
    assert parser.image.tobytes() == Image.fromarray(pillow_nic.decode(layered, layers=2)).tobytes()


def test_parser_of_a_damaged_file(layered: bytes) -> None:
    damaged = bytearray(layered)
    damaged[pillow_nic.read_header(layered).layer_offsets[0] - 1] ^= 1
    parser = ImageFile.Parser()
    parser.feed(bytes(damaged))  # the first call only opens
    with pytest.raises(pillow_nic.BitstreamError, match="CRC"):
        parser.feed(b"")


# -------------------------------------------------------------------------------------------------- save


def test_quality_means_what_it_says() -> None:
    im = photo()
    sizes = [len(saved(im, quality=quality)) for quality in (0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(set(sizes))
    assert saved(im) == saved(im, quality=0.5) == saved(im, quality=50)
    assert saved(im, quality=100.0) == saved(im, quality=1.0) == saved(im, quality=100)
    assert saved(im, quality=85) == saved(im, quality=0.85)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    im = photo("RGBA")
    im.save(tmp_path / "x.nic", quality=0.4)
    assert (tmp_path / "x.nic").read_bytes() == saved(im, quality=0.4)


def test_tunes_differ_and_are_found_again() -> None:
    im = photo()
    files = {tune: saved(im, tune=tune) for tune in TUNES}
    assert files[EncodeOptions.tune] == saved(im)
    assert [opened(data).info["model"] for data in files.values()] == list(TUNES.values())
    differences = [ImageChops.difference(opened(data), im) for data in files.values()]
    squares = dict(zip(TUNES, (ImageStat.Stat(d).rms[1] for d in differences), strict=True))
    assert squares["psnr"] < squares["visual"] < 20 > squares["ms-ssim"] > squares["psnr"]


def test_layers_and_width() -> None:
    im = photo()
    for layers in (1, 2):
        assert opened(saved(im, quality=0.8, layers=layers)).info["layers"] == layers
    narrow = saved(im, quality=0.8, network_width=1)
    assert narrow != saved(im, quality=0.8)
    assert psnr(opened(narrow), im) > 20


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quality": -1}, ValueError, "quality must be"),
        ({"quality": 101}, ValueError, "quality must be"),
        ({"quality": 1.5}, ValueError, "quality must be"),
        ({"quality": True}, ValueError, "quality must be"),
        ({"quality": None}, ValueError, "quality must be"),
        ({"quality": float("nan")}, ValueError, "quality must be"),
        ({"quality": "high"}, ValueError, "quality must be"),
        ({"effort": 4}, ValueError, "effort must be"),
        ({"tune": "vmaf"}, ValueError, "tune must be"),
        ({"layers": 0}, ValueError, "layers must be"),
        ({"layers": 1000}, ValueError, "layers must be"),
        ({"layers": 1.5}, ValueError, "layers must be"),
        ({"network_width": 0}, ValueError, "network_width must be"),
        ({"network_width": 1000}, ValueError, "network_width must be"),
        ({"network_width": True}, ValueError, "network_width must be"),
        ({"exif": 5}, TypeError, "exif"),
        ({"icc_profile": "sRGB"}, TypeError, "icc_profile"),
        ({"dpi": "72"}, TypeError, "dpi"),
    ],
)
def test_wrong_options_are_refused_before_a_byte_is_written(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = io.BytesIO()
    with pytest.raises(error, match=message):
        photo().save(file, "NIC", **options)
    assert file.getvalue() == b""
    with pytest.raises(error, match=message):
        photo().save(tmp_path / "new.nic", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B"])
def test_more_than_8_bits_is_refused_before_a_byte_is_written(mode: str) -> None:
    file = io.BytesIO()
    with pytest.raises(OSError, match=f"cannot write mode {mode} as NIC: convert it to 8 bits first"):
        Image.new(mode, (20, 20)).save(file, "NIC")
    assert file.getvalue() == b""


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_empty_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot write empty image as NIC"):
        saved(Image.new("RGB", size))


def test_only_write_is_needed_of_the_target() -> None:
    class Pipe:
        data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    photo().save(pipe, "NIC", quality=0.2)  # type: ignore[arg-type]
    assert pipe.data == saved(photo(), quality=0.2)


def test_metadata_from_options_and_from_info() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a kitten"
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    given = {
        "exif": exif,
        "xmp": b"<x:xmpmeta/>",
        "icc_profile": icc,
        "dpi": (300, 299.5),
        "comment": b"on a lawn",
    }
    im = photo()
    first = opened(saved(im, **given))
    assert first.getexif()[0x010E] == "a kitten"
    assert first.getexif()[0x0112] == 6
    assert first.size == im.size  # the orientation is a tag: pixels are never turned
    assert {key: first.info[key] for key in given if key != "exif"} == {
        key: value for key, value in given.items() if key != "exif"
    }
    second = opened(saved(first))
    assert {key: second.info[key] for key in given} == {key: first.info[key] for key in given}
    third = opened(saved(first, exif=None, xmp=b"", icc_profile=None, dpi=None, comment=None))
    assert not set(given) & set(third.info)


def test_overhead_of_a_small_picture(tmp_path: Path) -> None:
    data = saved(photo(size=(64, 64)))
    streams = container.parse(data).streams
    assert len(data) - sum(len(stream) for layer in streams for stream in layer) < 64


def test_thumbnail_and_convert_load_the_pixels(layered: bytes) -> None:
    im = opened(layered)
    im.thumbnail((50, 50))
    assert im.size == (50, 35)
    assert opened(layered).convert("L").tobytes() == opened(layered).copy().convert("L").tobytes()


def test_checksum_is_not_what_hides_damage(layered: bytes) -> None:
    """With every CRC made right again, altered streams give a BitstreamError or a picture of the size."""
    file = container.parse(layered)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        streams = [[bytearray(stream) for stream in layer] for layer in file.streams]
        stream = streams[seed % len(streams)][0]
        for _ in range(3):
            stream[rng.integers(len(stream))] ^= int(rng.integers(1, 256))
        payloads = [[bytes(stream) for stream in layer] for layer in streams]
        im = opened(container.dump(container.Container(file.header, file.chunks, payloads)))
        try:
            im.load()
        except pillow_nic.BitstreamError:
            continue
        assert im.size == (208, 144)


def test_zlib_bomb_in_the_alpha_plane_is_not_unpacked() -> None:
    file = container.parse(saved(photo("RGBA", (40, 30))))
    file.chunks["ALPH"] = (b"\x01" + zlib.compress(bytes(10**8), 9))[: 2 * 40 * 30 + 4096]
    with pytest.raises(pillow_nic.BitstreamError, match="alpha plane"):
        opened(container.dump(file)).load()
