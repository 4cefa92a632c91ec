"""What the README and the pages show: every Python block runs, their commands are those of the program, their
links lead somewhere, and the README is short. The recipes of pipelines.md are run by test_pipelines.py."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from PIL import Image

import pillow_nic  # noqa: F401
from pillow_nic.bench.main import arguments as bench_arguments
from pillow_nic.command.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "pillow_nic" / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "pillow_nic" / "FORMAT.md",
    *sorted(DOCS.glob("*.md")),
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README, COMMAND, BROWSERS = (
    TEXTS[page] for page in (ROOT / "README.md", DOCS / "command.md", DOCS / "browsers.md")
)


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PYTHON = {
    f"{page.stem}-{number}": block
    for page, text in TEXTS.items()
    if page.stem not in ("FORMAT", "pipelines")  # test_format.py, test_pipelines.py
    for number, block in enumerate(blocks("python", text), 1)
}
FLASK, WSGI, SPAWNED = "browsers-3", "browsers-2", "servers-1"
SH = blocks("sh", README)
NIC_LINE = r"^    (nic (?:encode|decode|info|truncate) .*?)(?: *#.*)?$"
NIC = {
    name: re.findall(NIC_LINE, text, re.MULTILINE)
    for name, text in (("README", README), ("command", COMMAND), ("browsers", BROWSERS))
}
BENCH = re.findall(r"^    (nic bench .*?)(?: *#.*)?$", COMMAND, re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/data/photo.png", "photo.png")
    return tmp_path


def photos() -> None:
    Path("photos").mkdir()
    with Image.open("photo.png") as im:
        im.crop((0, 0, 200, 160)).save("photos/photo.nic")


def run(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": name}
    exec(compile(PYTHON[name], name, "exec"), found)
    return found


# --------------------------------------------------------------------------------------------------- Python


@pytest.mark.parametrize("name", PYTHON.keys() - {FLASK, WSGI, SPAWNED})
def test_python(name: str, here: Path) -> None:
    photos()
    run(name)


def test_a_spawned_worker_knows_the_format(here: Path) -> None:
    Path("page.py").write_text(PYTHON[SPAWNED])
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "(512, 384)\n", done.stderr


def test_the_wsgi_application(here: Path) -> None:
    photos()
    Path("secret.nic").write_bytes(Path("photos/photo.nic").read_bytes())
    application = run(WSGI)["application"]

    def get(path: str, query: str = "", accept: str = "") -> tuple[str, dict[str, str], bytes]:
        environ = {"PATH_INFO": path, "QUERY_STRING": query, "HTTP_ACCEPT": accept}
        setup_testing_defaults(environ)
        answer: list[Any] = []
        body = b"".join(application(environ, lambda status, headers: answer.extend((status, dict(headers)))))
        return answer[0], answer[1], body

    status, headers, jpeg = get("/photo.jpg")
    assert (status, headers["Content-Type"]) == ("200 OK", "image/jpeg")
    assert jpeg.startswith(b"\xff\xd8")
    assert int(headers["Content-Length"]) == len(jpeg)
    status, headers, webp = get("/photo.jpg", accept="image/webp,*/*")
    assert headers["Content-Type"] == "image/webp"
    assert webp[8:12] == b"WEBP"
    with Image.open(io.BytesIO(get("/photo.jpg", "width=160")[2])) as im:
        assert im.size == (160, 128)
    assert get("/photo.jpg", "width=99")[2] == jpeg
    for path in ("/none.jpg", "/../secret.jpg", "/", "//etc/passwd"):
        assert get(path)[0] == "404 Not Found"


@pytest.mark.pipelines
def test_the_flask_application(here: Path) -> None:
    photos()
    client = run(FLASK)["app"].test_client()
    answer = client.get("/photo.jpg", headers={"Accept": "image/webp,*/*;q=0.8"})
    assert (answer.status_code, answer.content_type) == (200, "image/webp")
    answer = client.get("/photo.jpg", headers={"Accept": "image/*"})
    assert answer.content_type == "image/jpeg"
    assert answer.data.startswith(b"\xff\xd8")
    assert client.get("/none.jpg").status_code == 404


# ------------------------------------------------------------------------------------------------- commands


def test_the_first_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "tests/data").mkdir(parents=True)
    (here / "photo.png").rename("tests/data/photo.png")
    commands = [command.split() for command in re.split(r"&&", SH[0])]
    nic = [arguments for command, *arguments in commands if command == "nic"]
    assert [arguments[0] for arguments in nic] == ["encode", "decode"]
    for arguments in nic:
        assert main(arguments) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1 file, \d+ bytes, \d\.\d+ bpp, ratio \d+\.\d+, PSNR \d\d\.\d\d dB", first)


def test_the_second_command_runs_the_tests() -> None:
    # .ci/run runs this block as it stands.
    assert len(SH) == 2
    assert re.search(r"pip install '\.\[test\]' && pytest$", SH[1].strip())


@pytest.mark.parametrize(("page", "count"), [("README", 4), ("command", 15), ("browsers", 1)])
def test_the_examples_of_the_command(page: str, count: int, here: Path) -> None:
    Path("pictures").mkdir()
    shutil.copy("photo.png", "pictures/one.png")
    with Image.open("photo.png") as im:
        im.save("two.jpg")
    photos()
    assert len(NIC[page]) == count
    for line in NIC[page]:
        assert main(shlex.split(line)[1:]) == 0, line


@pytest.mark.skipif(shutil.which("bash") is None, reason="this system has no bash")
def test_the_pipes_of_the_command(here: Path) -> None:
    (pipes,) = blocks("sh", COMMAND)
    python = shlex.quote(sys.executable)
    script = f'set -eo pipefail\nnic() {{ {python} -m pillow_nic "$@"; }}\n{pipes}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, first, *described = done.stdout.splitlines()
    assert int(size) > 1000
    assert first == "standard input"
    assert sum(line.startswith("  layer") for line in described) == 2


def test_the_options_of_the_benchmark() -> None:
    assert len(BENCH) == 9
    for line in BENCH:
        assert bench_arguments(shlex.split(line)[2:]).title in ("kodak", "photos", "photo.png")


# ---------------------------------------------------------------------------------------------------- pages


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", TEXTS[page])):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_linked() -> None:
    assert {page.name for page in PAGES[1:]} <= set(re.findall(r"([\w-]+\.md)\)", README))


def test_the_description_of_the_package_has_no_relative_links(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = "hatchling.metadata.plugin.interface"
    for end in range(4):  # what builds the package need not be installed
        name = ".".join(interface.split(".")[: end + 1])
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(MetadataHookInterface=object))
    hook = runpy.run_path(str(ROOT / ".ci" / "pypi_readme.py"))
    text = hook["without_relative_links"](README)
    assert not re.search(r"\]\((?!https?:)", text)
    assert "Which quality should I take? (`pillow_nic/docs/quality.md`)" in text
    assert "[Pillow](https://python-pillow.github.io)" in text
