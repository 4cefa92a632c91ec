"""What `import pillow_nic` costs and changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import python_says
from PIL import Image

import pillow_nic
from pillow_nic import container
from pillow_nic.header import Header

HEAVY = ("torch", "numpy", "constriction", "safetensors", "imageio", "tqdm", "scipy", "matplotlib")


@pytest.mark.parametrize(
    "statement",
    [
        "import pillow_nic",
        "import pillow_nic.command.main; pillow_nic.command.main._parser()",
        "from pillow_nic.bench.main import arguments; arguments(['kodak'])",
        "import pillow_nic.hook, pillow_nic.__main__",
        "import pillow_nic.NicImagePlugin",
        "import pillow_nic; pillow_nic.NicError",
        "import pillow_nic.container, pillow_nic.metadata, pillow_nic.options, pillow_nic.errors",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert python_says(f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_nothing_heavy_is_loaded_to_open_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.nic"
    Image.new("RGB", (40, 30), "teal").save(path)
    code = f"import sys, pillow_nic; from PIL import Image; im = Image.open({str(path)!r}); im.verify(); "
    code += (
        f"header = pillow_nic.read_header({str(path)!r}); pillow_nic.truncate({str(path)!r}, header.layers)"
    )
    assert python_says(f"{code}; print(im.size, [m for m in {HEAVY} if m in sys.modules])") == "(40, 30) []"


def test_imageio_nic_loads_what_imageio_and_pillow_do_and_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "x.nic"
    header = Header("RGB", 40, 30, 0, 0, 0, (1,), 10, "some", bytes(4))
    path.write_bytes(container.dump(container.Container(header, {}, [[b""]])))
    code = (
        "import sys, imageio.v3 as iio, PIL.Image; before = {*sys.modules}; import imageio_nic; "
        "new = [m for m in sys.modules if m not in before]; "
        f"shape = iio.improps({str(path)!r}).shape; layers = iio.immeta({str(path)!r})['layers']; "
        "print(sorted(new), shape, layers, 'imageio_nic.plugin' in sys.modules, "
        "[m for m in ('torch', 'constriction', 'safetensors', 'tqdm') if m in sys.modules])"
    )
    assert python_says(code) == "['imageio_nic', 'mimetypes', 'pillow_nic'] (30, 40, 3) 1 True []"


def test_import_takes_a_third_of_what_pillow_takes() -> None:
    """That is 10 ms where PIL.Image takes 30: of processor time, which does not count other processes."""
    code = (
        "from time import process_time as now; start = now(); import PIL.Image; between = now(); "
        "import pillow_nic; print((now() - between) / (between - start))"
    )
    assert min(float(python_says(code)) for _ in range(5)) < 1 / 3


def test_register_and_unregister_are_idempotent() -> None:
    before = list(Image.ID)
    try:
        for _ in range(2):
            pillow_nic.unregister()
            assert "NIC" not in Image.ID
            assert not {"NIC"} & {*Image.OPEN, *Image.SAVE, *Image.MIME}
            assert ".nic" not in Image.EXTENSION
    finally:
        for _ in range(2):
            pillow_nic.register()
    assert sorted(Image.ID) == sorted(before)
    assert Image.EXTENSION[".nic"] == "NIC"
    assert Image.MIME["NIC"] == "image/x-nic"


def test_public_names() -> None:
    for name in pillow_nic.__all__:
        assert name in dir(pillow_nic)
        assert callable(getattr(pillow_nic, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pillow_nic.nothing
