"""Imports point downwards: each module imports from its own floor and those below, and none in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pillow_nic

ROOT = Path(pillow_nic.__file__).parents[1]

# From the ground up; a folder stands for all that is in it.
FLOORS = (
    (
        "errors",
        "options",
        "binary",
        "header",
        "streams",
        "container",
        "metadata",
        "tiling",
        "webp",
        "colour",
        "palette",
        "exact",
        "filling",
        "writing",
    ),
    (
        "workers",
        "memory",
        "blas",
        "gaussian",
        "visual",
        "distortion",
        "targets",
        "blocks",
        "config",
        "context",
        "entropy",
        "entropy_tables",
        "integer_net",
        "hyper_prior",
        "network",
        "winograd",
    ),
    ("entropy_model", "weights", "self_test"),
    ("tile_coding", "refinement"),
    ("cells", "decoding"),
    ("graphics",),
    ("codec",),
    ("batch", "preload"),
    ("training",),
    ("pillow_nic", "NicImagePlugin", "hook", "imageio_nic", "integrations"),
    ("command", "__main__"),
    ("bench",),
)
UPWARDS = {("command.main", "bench.main")}  # when `nic bench` is called


def modules() -> dict[str, Path]:
    """All modules of both packages, by name."""
    files = [*ROOT.glob("pillow_nic/**/*.py"), *ROOT.glob("imageio_nic/**/*.py")]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def short(module: str) -> str:
    return module.removeprefix("pillow_nic.")


def imported(module: str, file: Path) -> Iterator[str]:
    """The full names of what a module imports, anywhere in it: modules, and names inside them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows() -> list[tuple[str, str]]:
    """Who imports whom, by short names."""
    known = modules()
    found = set()
    for module, file in known.items():
        for name in imported(module, file):
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target != module:
                found.add((short(module), short(target)))
    return sorted(found)


def floor(module: str) -> int:
    for number, names in enumerate(FLOORS):
        if module.partition(".")[0] in names:
            return number
    raise AssertionError(f"{module} has no floor: add it to FLOORS, and to the list in the house style")


def test_imports_point_downwards() -> None:
    assert len(arrows()) > 100
    assert {(who, whom) for who, whom in arrows() if floor(whom) > floor(who)} == UPWARDS


def test_there_is_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for who, whom in arrows():
        graph.setdefault(who, set()).add(whom)
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("container") < order.index("codec")


def test_nothing_imports_the_training() -> None:
    assert not [
        who for who, whom in arrows() if whom.startswith("training") and not who.startswith("training")
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..container import dump", "pillow_nic.container.dump"),
        ("from .batch import work", "pillow_nic.command.batch.work"),
        ("from .. import codec", "pillow_nic.codec"),
        ("def f():\n    import pillow_nic.hook", "pillow_nic.hook"),
    ],
)
def test_every_spelling_of_an_import_is_found(source: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "main.py"
    file.write_text(source)
    assert list(imported("pillow_nic.command.main", file)) == [expected]
