"""Training pictures, decoded once into memory and cropped on the device; KLT of their patches."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pillow_jxl  # noqa: F401  (registers .jxl with Pillow)
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".jxl", ".tif", ".tiff", ".bmp"}


def read_files(sources: list[Path]) -> Iterator[bytes]:
    """The bytes of every picture in the given tars, folders and files, in a fixed order."""
    for source in sources:
        if source.suffix == ".tar":
            with tarfile.open(source) as tar:
                for member in tar:
                    stream = tar.extractfile(member) if Path(member.name).suffix.lower() in SUFFIXES else None
                    if stream is not None:
                        yield stream.read()
        elif source.is_dir():
            yield from read_files(
                sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES | {".tar"})
            )
        else:
            yield source.read_bytes()


def decode_picture(data: bytes) -> np.ndarray:
    """HxWx3 uint8."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


class Pictures:
    """All pictures on one device, cropped at random there. Memory: three bytes a pixel."""

    def __init__(
        self,
        sources: list[Path],
        device: torch.device,
        least_side: int = 1,
        screens: list[Path] | None = None,
        screen_share: float = 0.0,
    ) -> None:
        """Photographs, and ``screens`` from which this share of the crops is drawn. ValueError if there are
        no pictures in one of them, or one is smaller than ``least_side`` pixels."""
        self.pictures: list[Tensor] = []
        weights: list[np.ndarray] = []
        for files, share in ((sources, 1 - screen_share), (screens or [], screen_share)):
            if not share:
                continue
            with ThreadPoolExecutor() as pool:
                arrays = list(pool.map(decode_picture, read_files(files)))
            if not arrays:
                raise ValueError(f"no pictures in {', '.join(map(str, files)) or 'no files'}")
            if min(min(a.shape[:2]) for a in arrays) < least_side:
                raise ValueError(f"a picture is smaller than the crops of {least_side} pixels")
            self.pictures += [torch.from_numpy(a).to(device) for a in arrays]
            sizes = np.array([a.shape[0] * a.shape[1] for a in arrays], float)
            weights.append(share * sizes / sizes.sum())
        self.weights = np.concatenate(weights)
        self.megapixels = sum(p.shape[0] * p.shape[1] for p in self.pictures) / 1e6

    def crops(self, rng: np.random.Generator, count: int, side: int) -> Tensor:
        """(count, 3, side, side) float in 0…1: a uniform position in a picture drawn by its area among its
        kind, flipped and transposed at random."""
        out = []
        for index in rng.choice(len(self.pictures), count, p=self.weights):
            picture = self.pictures[index]
            top = rng.integers(picture.shape[0] - side + 1)
            left = rng.integers(picture.shape[1] - side + 1)
            crop = picture[top : top + side, left : left + side]
            if rng.random() < 0.5:
                crop = crop.flip(1)
            if rng.random() < 0.5:
                crop = crop.transpose(0, 1)
            out.append(crop)
        return torch.stack(out).permute(0, 3, 1, 2).float() / 255


def klt(pictures: Pictures, channels: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors of the patches' second moment about mid-grey: basis (channels, 3, patch, patch),
    deviation (channels,)."""
    moment = torch.zeros(3 * patch * patch, 3 * patch * patch, dtype=torch.float64)
    count = 0
    for _ in range(40):
        crops = pictures.crops(rng, 32, 16 * patch).cpu() - 0.5
        patches = (
            torch.nn.functional.unfold(crops, patch, stride=patch)
            .transpose(1, 2)
            .reshape(-1, 3 * patch * patch)
        )
        patches = patches.double()
        moment += patches.T @ patches
        count += len(patches)
    values, vectors = torch.linalg.eigh(moment / count)
    basis = vectors.T.flip(0)[:channels].reshape(channels, 3, patch, patch)
    return basis.float(), values.flip(0)[:channels].clamp_min(1e-8).sqrt().float()
