"""Every option: what is taken, what it becomes, and what is said of the rest."""

from __future__ import annotations

import io
import re
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from PIL import Image

from pillow_nic import options
from pillow_nic.options import DecodeOptions, EncodeOptions, chosen_for_save, rate_point, whole_number


@pytest.mark.parametrize(
    ("value", "quality"),
    [
        (0, 0.0),
        (1.0, 1.0),
        (0.0, 0.0),
        (0.3, 0.3),
        (2, 0.02),
        (85, 0.85),
        (100, 1.0),
        (75.0, 0.75),
        (75.5, 0.755),
        (Fraction(1, 4), 0.25),
        (np.float64(0.25), 0.25),
        (np.float32(0.25), 0.25),
        (np.float32(75), 0.75),
        (np.int64(50), 0.5),
        (np.uint8(0), 0.0),
    ],
)
def test_quality_is_a_number_or_a_percentage(value: float, quality: float) -> None:
    parsed = EncodeOptions(quality=value).quality
    assert type(parsed) is float
    assert parsed == quality
    assert EncodeOptions(quality=parsed).quality == parsed


@pytest.mark.parametrize("value", [1, np.uint8(1)])
def test_the_int_1_is_the_best_and_a_warning_says_so(value: int) -> None:
    with pytest.warns(UserWarning, match=r"quality=1 is the best quality, .* 1 percent is quality=0\.01"):
        assert EncodeOptions(quality=value).quality == 1.0


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        np.True_,
        None,
        "0.5",
        b"5",
        -1,
        101,
        10**400,
        -0.01,
        1.01,
        1.99,
        100.5,
        float("nan"),
        float("inf"),
        Decimal("0.5"),
        0.5j,
        [0.5],
        np.array(0.5),
    ],
)
def test_any_other_quality_is_refused_with_the_range(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"quality must be a number from 0 to 1 or from 2 to 100 \(percent\), not"
    ):
        EncodeOptions(quality=value)


def test_rate_point_spans_16_bits() -> None:
    assert rate_point(0.0) == 0
    assert rate_point(1.0) == 65535
    assert rate_point(EncodeOptions.quality) == 32768
    assert [rate_point(i / 65535) for i in range(65536)] == list(range(65536))


@pytest.mark.parametrize(("value", "effort"), [(0, 0), (1, 1), (np.int64(1), 1), (3, 3)])
def test_effort(value: int, effort: int) -> None:
    assert EncodeOptions(effort=value).effort == effort


@pytest.mark.parametrize("value", [-1, 4, 1.0, True, None, "1", np.float64(1)])
def test_other_efforts_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="effort must be a whole number from 0 to 3, not"):
        EncodeOptions(effort=value)


def test_tunes_have_models_of_their_own() -> None:
    assert [EncodeOptions(tune=tune).tune for tune in options.TUNES] == ["visual", "ms-ssim", "psnr"]
    assert len(set(options.TUNES.values())) == 3


@pytest.mark.parametrize("value", ["ssim", "PSNR", "", None, 1, ["psnr"]])
def test_other_tunes_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="tune must be 'visual' or 'ms-ssim' or 'psnr'"):
        EncodeOptions(tune=value)


@pytest.mark.parametrize("kind", [EncodeOptions, DecodeOptions])
def test_layers(kind: type[EncodeOptions] | type[DecodeOptions]) -> None:
    layers = kind(layers=np.uint8(3)).layers
    assert (type(layers), layers) == (int, 3)
    assert kind(layers=None).layers is None
    for wrong in (0, -1, True, 1.0, "1"):
        with pytest.raises(ValueError, match="layers must be a whole number from 1, not"):
            kind(layers=wrong)  # type: ignore[arg-type]


def test_whole_number_names_the_range() -> None:
    assert whole_number("rows", np.int16(-3), -3, 5) == -3
    with pytest.raises(ValueError, match=r"^rows must be a whole number from -3 to 5, not 6$"):
        whole_number("rows", 6, -3, 5)


def test_region() -> None:
    assert DecodeOptions(region=np.array([0, 1, 2, 3])).region == (0, 1, 2, 3)  # type: ignore[arg-type]
    for wrong in ((0, 0, 5), (0, 0, 5, 5, 5), (0, 0, 5, 2.5), 5, "0055"):
        with pytest.raises(ValueError, match=r"region must be \(left, top, right, bottom\) in pixels, not"):
            DecodeOptions(region=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "keywords"),
    [(EncodeOptions, options.EncodeKeywords), (DecodeOptions, options.DecodeKeywords)],
)
def test_type_checkers_know_the_same_options(kind: type, keywords: type) -> None:
    hints = get_type_hints(kind)
    assert {option.name: hints[option.name] for option in fields(kind)} == get_type_hints(keywords)


@pytest.mark.parametrize("kind", [EncodeOptions, DecodeOptions])
def test_every_option_has_a_sentence(kind: type[EncodeOptions] | type[DecodeOptions]) -> None:
    for name in kind.names():
        default = getattr(kind, name)
        ending = re.escape(str(default)) if default not in (None, False) else ".+"
        assert default is False or re.search(rf"\S \(default: {ending}\)$", kind.sentence(name)), name
        assert f"    {name}: {kind.sentence(name)}\n" in f"{kind.described()}\n"


def test_the_docstrings_list_the_options() -> None:
    from pillow_nic import decode, encode

    assert EncodeOptions.described() in str(encode.__doc__)
    assert DecodeOptions.described() in str(decode.__doc__)


# ---------------------------------------------------------------------------------------- unknown options

# What Pillow 13, pillow-heif, pillow-jxl and imageio take when they save other formats.
OTHERS = set(
    """
    alpha_only alpha_quality append append_images autotiling allow_mixed background big_tiff
    bitmap_format blend bits cicp chroma codec compress_level compression copyright date_time decoder
    description dictionary disposal duration enc_params exact existing_pdf extra_info format fps
    include_color_table interlace irreversible is_batch keyframes kmax kmin loop matrix_coefficients
    max_threads method minimize_size mct mode nclx_profile no_jp2 num_resolutions offset optimize
    orientation palette pnginfo plt premultiplied_alpha primary_index progression progressive producer
    qmax qmin qtables quality_layers quality_mode range resolution resolution_unit restart_marker_blocks
    restart_marker_rows rle save_all signed sizes software speed storage_info streamtype strip_size
    subsampling tile_cols tile_offset tile_rows tile_size tiffinfo title transparency use_container
    x_resolution y_resolution
    """.split()  # noqa: SIM905 # one a line would be seventy
)


def test_options_of_other_formats_are_ignored() -> None:
    assert chosen_for_save(dict.fromkeys(OTHERS, 1) | {"quality": 30}) == EncodeOptions(quality=0.3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qualty", "quality"),
        ("Quality", "quality"),
        ("efort", "effort"),
        ("layer", "layers"),
        ("icc_profil", "icc_profile"),
        ("comments", "comment"),
    ],
)
def test_a_misspelt_option_is_a_warning_that_names_the_near_one(name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=f"there is no option '{name}', and it is ignored: is it '{meant}'"):
        assert chosen_for_save({name: 1}) == EncodeOptions()


def test_the_quality_of_a_lossless_file_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="quality means nothing to a lossless file") as caught:
        assert chosen_for_save({"lossless": True, "quality": 0.3}).lossless
    assert caught[0].filename == __file__
    assert chosen_for_save({"lossless": False, "quality": 0.3}) == EncodeOptions(0.3)


def test_graphics_is_one_of_three_words() -> None:
    with pytest.raises(ValueError, match="graphics must be 'auto', 'always', 'never', not 'yes'"):
        EncodeOptions(graphics="yes")


def save_with_pillow(path: Path, **keywords: Any) -> None:
    Image.new("RGB", (16, 16), "teal").save(path, **keywords)


def save_with_imageio(path: Path, **keywords: Any) -> None:
    import imageio.v3 as iio

    import imageio_nic  # noqa: F401

    iio.imwrite(path, np.asarray(Image.new("RGB", (16, 16), "teal")), **keywords)


@pytest.mark.parametrize("save", [save_with_pillow, save_with_imageio])
def test_pillow_and_imageio_treat_unknown_options_alike(save: Any, tmp_path: Path) -> None:
    plain, other = tmp_path / "plain.nic", tmp_path / "other.nic"
    save(plain, quality=0.3)
    with pytest.warns(UserWarning, match="is it 'effort'") as caught:
        save(other, quality=30.0, optimize=True, progressive=True, subsampling=0, method=6, speed=4, efort=0)
    assert [warning.filename for warning in caught] == [__file__]
    assert other.read_bytes() == plain.read_bytes()


def test_the_array_function_takes_no_others() -> None:
    from pillow_nic import encode

    pixels = np.zeros((8, 8), np.uint8)
    with pytest.raises(TypeError, match=r"encode\(\) has no option 'qualty': is it 'quality'\?"):
        encode(pixels, qualty=0.3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"encode\(\) has no option 'optimize'$"):
        encode(pixels, optimize=True)  # type: ignore[call-arg]


def test_reading_takes_no_others(tmp_path: Path) -> None:
    import imageio.v3 as iio

    import imageio_nic  # noqa: F401
    from pillow_nic import decode

    path = tmp_path / "a.nic"
    save_with_imageio(path)
    readers: list[tuple[str, Any]] = [
        ("decode", decode),
        ("imread", lambda path, **options: iio.imread(path, plugin="nic", **options)),
    ]
    for name, read in readers:
        with pytest.raises(TypeError, match=rf"^{name}\(\) has no option 'layer': is it 'layers'\?$"):
            read(path, layer=1)
        with pytest.raises(TypeError, match=rf"^{name}\(\) has no option 'foo'$"):
            read(path, foo=1)


def test_numpy_numbers_reach_the_file() -> None:
    file = io.BytesIO()
    im = Image.new("RGB", (32, 32), "teal")
    im.save(file, "NIC", quality=np.float32(75), layers=np.int64(1), network_width=np.uint8(4), dpi=72)
    with Image.open(file) as back:
        assert back.info["quality"] == pytest.approx(0.75, abs=1e-5)
        assert back.info["dpi"] == (72, 72)
