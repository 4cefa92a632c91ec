"""Meets a target: the quality at which a file has the size, or a picture the fidelity, that was asked for.

Qualities, and beyond their ends the header's Δ, are one axis, along which bytes and fidelity rise. How they
rise hardly differs between pictures but for a constant, so that the first attempt says where the second is
to be, and a line through two of them where the third. What counts is always the real file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any, NamedTuple

from . import distortion, workers
from .distortion import Pixels
from .options import TARGETS, EncodeOptions, Progress

SHARE = 0.98
"""A file is at least so much of the size that was asked for, where the range of qualities allows it."""
EXCESS = 0.1
"""Fidelity exceeds a target by so many dB at most."""
EXACT = 200.0  # dB, for infinity
ATTEMPTS = 6
MOST_ATTEMPTS = 24  # where six have not met the target from the right side
DRAWN_ATTEMPTS = 9
"""For a size of a picture with text or drawings: where these become exact, bytes jump."""

STEP = 1 / 43
"""What 1/8 octave of Δ is on the axis: λ, the square of a step, spans 10.7 octaves over the qualities."""
NUDGE = 0.002  # on the axis
LOWEST, HIGHEST = -16 * STEP, 1 + 8 * STEP

# Means over Kodak at nine qualities of the tune "ms-ssim": where the first attempt looks.
_BITS = (0.040, 0.073, 0.133, 0.236, 0.403, 0.682, 1.139, 1.786, 2.562)  # per pixel
_PSNR = (24.00, 25.43, 26.97, 28.70, 30.64, 32.96, 35.78, 38.69, 40.95)  # dB
_SSIM = (8.51, 10.32, 12.32, 14.52, 16.78, 19.07, 21.49, 23.87, 25.85)  # dB


class Place(NamedTuple):
    """A place on the axis as the header has it: a quality, and Δ in 1/8 octaves."""

    quality: float
    delta: int


def place(position: float) -> Place:
    """0 to 1 are the qualities; below them steps get larger, above them smaller."""
    beyond = math.ceil(max(-position, position - 1, 0) / STEP - 1e-9)
    if position < 0:
        return Place(max(position + beyond * STEP, 0.0), beyond)
    return Place(min(position - beyond * STEP, 1.0), -beyond)


@dataclass(frozen=True)
class Goal:
    """What is asked for. ``limit`` and ``other`` enclose what is accepted: the score of a file is its bytes'
    logarithm, at most the limit, or its fidelity in dB, at least. ``typical``: scores at nine qualities."""

    option: str
    limit: float
    other: float
    aim: float
    typical: Sequence[float]
    show: Callable[[float], str]

    @property
    def of_size(self) -> bool:
        return self.other < self.limit

    def holds(self, score: float) -> bool:
        return score <= self.limit if self.of_size else score >= self.limit

    def met(self, score: float) -> bool:
        return self.holds(score) and (score >= self.other if self.of_size else score <= self.other)


def goal_of(options: EncodeOptions, pixels: int) -> Goal:
    """What the options ask of a picture of so many pixels."""
    name = options.target or ""
    value = getattr(options, name)
    option = f"{name}={value:g}" if name != "target_size" else f"{name}={value}"
    if name in ("target_size", "target_bpp"):
        size = value if name == "target_size" else math.floor(value * pixels / 8)
        limit = math.log(max(size, 1))
        typical = [math.log(bits * pixels / 8 + 60) for bits in _BITS]  # with a header

        def bytes_of(score: float) -> str:
            found = round(math.exp(score))
            bpp = f", {8 * found / pixels:.4f} bpp" if name == "target_bpp" else ""
            return f"the smallest file has {found} bytes{bpp}"

        return Goal(option, limit, limit + math.log(SHARE), limit + math.log(SHARE) / 3, typical, bytes_of)
    if name == "target_psnr":
        return Goal(option, value, value + EXCESS, value + EXCESS / 3, _PSNR, _best("PSNR"))
    decibels = value if value > 1 else -10 * math.log10(1 - value)
    return Goal(option, decibels, decibels + EXCESS, decibels + EXCESS / 3, _SSIM, _best("MS-SSIM"))


def _best(metric: str) -> Callable[[float], str]:
    return lambda score: f"at the best quality the picture has {score:.2f} dB of {metric}"


class Picture(NamedTuple):
    """Colours H×W×3 and alpha H×W; ``drawn``: parts of it may be stored exactly, so that bytes jump."""

    colours: Pixels
    alpha: Pixels | None
    drawn: bool = False


def meet(
    options: EncodeOptions,
    picture: Picture,
    encode: Callable[[EncodeOptions, int, Progress | None], bytes],
    decode: Callable[[bytes], Pixels],
    progress: Progress | None,
) -> bytes:
    """The file that meets the options' target; where the range ends before it, the smallest that exceeds a
    fidelity, the best that stays below a size. ``encode``: options, Δ and progress → file; ``decode``: file →
    colours. ValueError for what cannot be."""
    goal = goal_of(options, picture.colours.shape[0] * picture.colours.shape[1])
    threads = workers.thread_count(options.threads)

    def fidelity(data: bytes) -> float:
        return min(distortion.psnr(picture.colours, decode(data), picture.alpha), EXACT)

    def score(data: bytes) -> float:
        if goal.of_size:
            return math.log(len(data))
        if options.target == "target_psnr":
            return fidelity(data)
        return min(distortion.decibels(distortion.similarity(picture.colours, decode(data), threads)), EXACT)

    nothing: dict[str, Any] = dict.fromkeys(TARGETS)
    tried: list[tuple[bytes, float]] = []

    def attempts(options: EncodeOptions) -> Attempt:
        numbers = count()

        def attempt(position: float) -> tuple[bytes, float]:
            quality, delta = place(position)
            at = replace(options, quality=quality, **nothing)
            data = encode(at, delta, progress and part_of(progress, next(numbers)))
            tried.append((data, score(data)))
            return tried[-1]

        return attempt

    def search(options: EncodeOptions, most: int = ATTEMPTS) -> tuple[bytes, float]:
        # What effort 1 takes in little time lies near.
        quick = attempts(replace(options, effort=min(options.effort, 1)))
        start = _search(goal, quick, None, most)[0] if options.effort > 1 else None
        _, data, found = _search(goal, attempts(options), start, most)
        return data, found

    drawn = goal.of_size and options.graphics == "auto" and picture.drawn
    data, found = search(options, DRAWN_ATTEMPTS if drawn else ATTEMPTS)
    if drawn and not goal.met(found) and fidelity(data) < EXACT:
        _, painted = search(replace(options, graphics="never"))
        found = min(found, painted)
        if goal.holds(found):
            return max((data for data, its in tried if goal.holds(its)), key=fidelity)
    if not goal.holds(found):
        raise ValueError(f"{goal.option} cannot be met: {goal.show(found)}")
    return data


def part_of(progress: Progress, number: int) -> Progress:
    """The progress of an attempt as that of all, of which nobody knows how many there will be: the first
    counts for a half, the next for half of the rest."""
    return lambda done: progress(1 - 0.5**number * (1 - done / 2))


Attempt = Callable[[float], tuple[bytes, float]]
"""The file of a position on the axis, and its score."""


def _search(
    goal: Goal, attempt: Attempt, start: float | None, most: int = ATTEMPTS
) -> tuple[float, bytes, float]:
    """Position, file and score: the nearest found on the right side of the limit, if any."""
    position = _position(goal, goal.aim) if start is None else start
    points: list[tuple[float, float]] = []
    best: tuple[float, bytes, float] | None = None

    def lost(found: tuple[float, bytes, float]) -> tuple[bool, float]:
        return not goal.holds(found[2]), abs(found[2] - goal.limit)

    while True:
        data, score = attempt(position)
        points.append((position, score))
        best = min((best or (position, data, score), (position, data, score)), key=lost)
        if goal.met(score) or len(points) >= (most if goal.holds(best[2]) else MOST_ATTEMPTS):
            return best
        position, away = _next(goal, points), NUDGE
        while any(place(position) == place(tried) for tried, _ in points):
            # Nothing new: so near to a limit that is not kept yet, it lies further off.
            if goal.holds(best[2]) or not LOWEST < position < HIGHEST:
                return best
            position = min(max(position - away if goal.of_size else position + away, LOWEST), HIGHEST)
            away *= 2


def _next(goal: Goal, points: Sequence[tuple[float, float]]) -> float:
    """Where the aim should be, after what was found: on a parabola or a line through the nearest points."""
    near = sorted(points, key=lambda point: abs(point[1] - goal.aim))
    typical = [(_score(goal, position), score) for position, score in near]
    below = max((x for x, score in typical if score < goal.aim), default=-math.inf)
    above = min((x for x, score in typical if score >= goal.aim), default=math.inf)
    one_sided = math.isinf(above - below)
    if one_sided and len(points) > ATTEMPTS // 2:  # ever further: is there another side?
        away = (goal.aim - typical[0][1]) * 4 ** (len(points) - ATTEMPTS // 2)
        return _position(goal, typical[0][0] + away)
    for few in _nearest(typical, below, above):
        x = _through(few, goal.aim)
        if x is not None and below < x < above:
            return _position(goal, x)
    return _position(goal, typical[0][0] + goal.aim - typical[0][1] if one_sided else (below + above) / 2)


def _nearest(
    points: Sequence[tuple[float, float]], below: float, above: float
) -> Iterator[Sequence[tuple[float, float]]]:
    """The points through which to look, the best guess first: where three have not helped, scores do not
    rise as smoothly as a parabola, and the two that enclose the aim are left."""
    enclosing = [point for point in points if point[0] in (below, above)]
    if len(points) > ATTEMPTS // 2 and len(enclosing) == 2:
        yield enclosing
    else:
        yield from (points[:most] for most in (3, 2) if len(points) >= most)


def _through(points: Sequence[tuple[float, float]], score: float) -> float | None:
    """Where a polynomial of the score through the points (x, score) has that score; None if there is none
    that rises all the way, no slower than half and no faster than twice as fast as x."""
    rising = sorted(points)
    slopes = [(d - b) / (c - a) if c > a else 0 for (a, b), (c, d) in pairwise(rising)]
    if not slopes or not all(0.2 < slope < 5 for slope in slopes):
        return None
    found = 0.0
    for x, own in points:
        for _, other in points:
            if other != own:
                x *= (score - other) / (own - other)
        found += x
    return found


def _score(goal: Goal, position: float) -> float:
    """What is typical there; beyond the qualities along the first or last of the lines."""
    steps = len(goal.typical) - 1
    low = min(max(math.floor(position * steps), 0), steps - 1)
    a, b = goal.typical[low : low + 2]
    return a + (position * steps - low) * (b - a)


def _position(goal: Goal, score: float) -> float:
    """Where that score is typical, inside of the range."""
    steps = len(goal.typical) - 1
    low = next((i for i, (_, b) in enumerate(pairwise(goal.typical)) if score < b), steps - 1)
    a, b = goal.typical[low : low + 2]
    return min(max((low + (score - a) / (b - a)) / steps, LOWEST), HIGHEST)
