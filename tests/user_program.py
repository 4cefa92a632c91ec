"""What a user may write; .ci/run checks it with mypy --strict and pyright, test_interfaces.py runs it."""

import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

import imageio_nic
import pillow_nic


def main(source: Path, target: Path) -> None:
    with Image.open(source) as picture:
        target.write_bytes(pillow_nic.encode(picture, quality=0.6, layers=3, comment="from a program"))
    with Image.open(target) as im:
        assert isinstance(im, pillow_nic.NicImageFile)
        im.layers, im.fast = 2, True
        im.load()
    pixels = pillow_nic.decode(pillow_nic.truncate(target, layers=2), fast=True, device="cpu")
    assert np.array_equal(np.asarray(im), pixels)
    tensor = pillow_nic.decode_batch([target], as_tensor=True, layers=2, fast=True)[0]
    assert tensor.permute(1, 2, 0).shape == pillow_nic.decode_batch([target])[0].shape
    header = pillow_nic.read_header(target)
    print(header.layers, header.layer_offsets[-1] == target.stat().st_size, im.info["comment"])
    imageio_nic.register()
    iio.imwrite(target, pixels, quality=30.0)
    print(iio.imread(target, layers=1).shape, iio.immeta(target)["quality"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
