"""Answers for many files at once: which of them are decoded together, and by how many threads.

Pictures of one shape run through the networks as one batch: small ones leave a network's weights no time to
pay for being fetched (256×256: 1.3 times faster in fours, little more in sixteens). Each batch is computed by
one thread from end to end, so that the threads never wait for each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from . import weights, workers
from .binary import Buffer, Source, whole
from .decoding import Part, Pixels, as_array, choose, decode_together
from .errors import NicError
from .header import region_inside
from .memory import within_memory
from .network import PATCH
from .options import DecodeKeywords, DecodeOptions, chosen_for_decode

TOGETHER = 512 * 512
"""Pixels of the pictures that one thread decodes together."""


@overload
def decode_batch(
    files: Iterable[Source], *, as_tensor: Literal[False] = False, **keywords: Unpack[DecodeKeywords]
) -> list[Pixels]: ...


@overload
def decode_batch(
    files: Iterable[Source], *, as_tensor: Literal[True], **keywords: Unpack[DecodeKeywords]
) -> list[Tensor]: ...


def decode_batch(
    files: Iterable[Source], *, as_tensor: bool = False, **keywords: Unpack[DecodeKeywords]
) -> list[Pixels] | list[Tensor]:
    """Decode many ``.nic`` files, each given as bytes, path or binary file, faster than one after the other:
    the pixels of each as :func:`decode` gives them, to ±1 level; single samples to ±2 in bfloat16, where both
    are within ±1 of float32.

    ``as_tensor``: uint8 tensors of torch instead, C×H×W, on the device where they were computed. A region is
    the same one of every picture. Errors as for decode; those of a file say its place in ``files``, and its
    path if it has one, and nothing is returned then. Options:

    """
    options = chosen_for_decode("decode_batch", keywords)
    if isinstance(files, Buffer | str | PathLike) or hasattr(files, "read"):
        raise TypeError(
            "decode_batch() takes several files, as a list or any other iterable; decode() takes one"
        )
    sources: list[tuple[str, Buffer]] = []
    for number, file in enumerate(files):
        name = f"files[{number}]" + (f" ({file})" if isinstance(file, str | PathLike) else "")
        with _naming(name):
            sources.append((name, whole(file)))
    device = weights.pick_device(options.device)

    def decode_on(name: str, side: int) -> list[Pixels] | list[Tensor]:
        chosen = replace(options, device=name)
        pictures, threads = _decode(sources, chosen, side), workers.thread_count(options.threads)
        if as_tensor:
            return workers.each(lambda picture: _channels_first(picture).to(device), pictures, threads)
        return [as_array(picture) for picture in pictures]

    return within_memory(device, f"decode {len(sources)} files", decode_on)


decode_batch.__doc__ = f"{decode_batch.__doc__}{DecodeOptions.described()}"


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors about a file say which."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, whose number stays
            error.strerror = f"{name}: {error.strerror}"
        else:
            error.args = (f"{name}: {error}",)
        raise


@torch.inference_mode(False)
def _channels_first(picture: Tensor) -> Tensor:
    """H×W×C → C×H×W in memory of its own; made outside of inference mode, for whatever comes after."""
    return picture.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)


def _decode(sources: list[tuple[str, Buffer]], options: DecodeOptions, side: int) -> list[Tensor]:
    """uint8 H×W×C of every file, on the device."""
    parts: list[Part] = []
    for name, data in sources:
        with _naming(name):
            parts.append(choose(data, options))
    pictures: dict[int, Tensor] = {}

    def decode(job: list[int]) -> None:
        try:
            found = decode_together([parts[number] for number in job], options, side)
        except NicError:  # whose?
            for number in job:
                with _naming(sources[number][0]):
                    decode_together([parts[number]], options, side)
            raise
        pictures.update(zip(job, found, strict=True))

    # Several threads may feed a CUDA device, so that all of them decode symbols; MPS is fed by one.
    threads = 1 if options.device == "mps" else workers.thread_count(options.threads)
    apart, together = _jobs(parts, options, threads, side)
    for number in apart:
        decode([number])
    workers.each(decode, together, threads)
    return [pictures[number] for number in range(len(parts))]


def _jobs(
    parts: list[Part], options: DecodeOptions, threads: int, side: int
) -> tuple[list[int], list[list[int]]]:
    """The files of which all threads decode one at a time, and those that each thread decodes together."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, (file, groups) in enumerate(parts):
        header = file.header
        shape = (header.width, header.height, header.mode, header.tile_log2)
        key = (*shape, header.model, header.width_index, header.delta, groups)
        alike.setdefault(key, []).append(number)
    piece = (side * PATCH) ** 2
    most = TOGETHER if options.device == "cpu" else piece
    apart: list[int] = []
    together: list[list[int]] = []
    for numbers in alike.values():
        left, top, right, bottom = region_inside(options.region, parts[numbers[0]].file.header)
        pixels = (right - left) * (bottom - top)
        if pixels > piece or (pixels >= TOGETHER and len(parts) < threads):
            apart += numbers
            continue
        jobs = -(-len(numbers) * pixels // most)
        jobs = min(-(-jobs // threads) * threads, len(numbers))  # an even load
        together += [numbers[job::jobs] for job in range(jobs)]
    return apart, together
