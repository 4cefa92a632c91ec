"""The opt-in import hook: the `.pth` file, what it does in fresh interpreters, install and remove."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

import pillow_nic
from pillow_nic import hook
from pillow_nic.__main__ import main
from pillow_nic.container import Container, dump
from pillow_nic.header import Header

# Where the modules of this process come from: `.pth` files there are not run, as in no folder of PYTHONPATH.
HERE = os.pathsep.join((str(Path(pillow_nic.__file__).parents[1]), *filter(None, sys.path)))


class Environment:
    """A virtual environment that finds the same packages as this process."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=os.name != "nt")
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.folder = folder
        self.path = HERE

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of its Python, which must end with that code."""
        env = {**os.environ, "PYTHONPATH": self.path}
        done = subprocess.run(
            [self.python, *arguments], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    def python_says(self, code: str) -> str:
        """What a program prints; it must have nothing to complain of."""
        out, err = self.run("-c", textwrap.dedent(code))
        assert err == ""
        return out


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the hook, installed as a user does it."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    out, err = made.run("-m", "pillow_nic", "install-hook")
    file = out.splitlines()[0].removeprefix("wrote ")
    assert Path(file).name == hook.NAME
    assert Path(file).is_relative_to(made.python.parents[1])
    assert "python -m pillow_nic remove-hook" in out
    assert err == ""
    return made


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that can be opened; it was made without a model, and there is nothing in its one stream."""
    header = Header("RGB", 40, 30, 0, 0, 0, (1,), 10, "some", bytes(4))
    path = tmp_path_factory.mktemp("pictures") / "x.nic"
    path.write_bytes(dump(Container(header, {}, [[b""]])))
    return str(path)


# -------------------------------------------------------------------------------------------- what it does


def test_nothing_is_imported_at_the_start(environment: Environment) -> None:
    code = """
        import sys
        assert sys.meta_path[0].__name__ == "PillowNicHook"
        late = {"PIL", "PIL.Image", "pillow_nic", "pillow_nic_hook", "imageio", "importlib.util"}
        print(sorted(late & sys.modules.keys()))
    """
    assert environment.python_says(code) == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "from PIL import Image",
        "import PIL.Image; from PIL import Image",
        "import PIL; import PIL.ImageFile; Image = PIL.Image",
        "import pillow_nic; from PIL import Image",
        "import importlib; Image = importlib.import_module('PIL.Image')",
    ],
)
def test_whoever_imports_pillow_opens_nic(environment: Environment, picture: str, imports: str) -> None:
    code = f"{imports}; im = Image.open({picture!r}); print(im.format, im.size)"
    assert environment.python_says(code) == "NIC (40, 30)"


def test_pillows_module_is_left_as_it_is(environment: Environment) -> None:
    code = """
        import inspect, sys
        from importlib.machinery import SourceFileLoader
        from PIL import Image
        assert "pillow_nic" in sys.modules and "pillow_nic_hook" not in sys.modules
        assert type(Image.__loader__) is SourceFileLoader and "exec_module" not in vars(Image.__loader__)
        assert Image.__spec__.loader is Image.__loader__ and Image.__name__ == "PIL.Image"
        assert "def open(" in inspect.getsource(Image)
    """
    assert environment.python_says(code) == ""


@pytest.mark.parametrize("imports", ["import imageio.v3 as iio", "import imageio_nic, imageio.v3 as iio"])
def test_whoever_imports_imageio_reads_nic(environment: Environment, picture: str, imports: str) -> None:
    code = f"""
        {imports}
        with iio.imopen({picture!r}, "r") as file:
            print(type(file).__name__, file.properties().shape)
    """
    assert environment.python_says(code) == "NicPlugin (30, 40, 3)"


def test_threads_that_import_at_once(environment: Environment, picture: str) -> None:
    code = f"""
        from concurrent.futures import ThreadPoolExecutor
        from threading import Barrier
        barrier = Barrier(6)
        def work(number):
            barrier.wait()
            if number % 2:
                import pillow_nic
            from PIL import Image
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        from PIL import Image
        print(Image.open({picture!r}).format)
    """
    assert environment.python_says(code) == "NIC"


def test_spawned_workers_open_nic(environment: Environment, picture: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import multiprocessing
            from PIL import Image

            def size(path):
                return Image.open(path).size

            if __name__ == "__main__":
                for method in multiprocessing.get_all_start_methods():
                    with multiprocessing.get_context(method).Pool(1) as pool:
                        print(method, *pool.map(size, [{picture!r}]))
        """)
    )
    out, err = environment.run(str(program))
    assert err == ""
    lines = out.splitlines()
    assert "spawn (40, 30)" in lines
    assert all(line.endswith(" (40, 30)") for line in lines)


def test_an_error_of_ours_does_not_reach_who_imports_pillow(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "pillow_nic").mkdir()
    (tmp_path / "pillow_nic/__init__.py").write_text("raise RuntimeError('broken')")
    before, environment.path = environment.path, os.pathsep.join((str(tmp_path), environment.path))
    try:
        out, err = environment.run("-c", "from PIL import Image; print(Image.new('L', (1, 2)).size)")
    finally:
        environment.path = before
    assert out == "(1, 2)"
    assert err == "import hook of pillow-nic: RuntimeError: broken"


def test_a_program_that_cannot_import_us_is_left_alone(environment: Environment, tmp_path: Path) -> None:
    """The file of the hook is there, but the package is not on this program's path."""
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL/__init__.py").touch()
    (tmp_path / "PIL/Image.py").write_text("answer = 42")
    before, environment.path = environment.path, str(tmp_path)
    try:
        assert environment.python_says("from PIL import Image; print(Image.answer)") == "42"
    finally:
        environment.path = before


def test_once_uninstalled_it_does_nothing(environment: Environment, tmp_path: Path) -> None:
    line = hook.text().replace(ascii(hook.__file__), ascii(str(tmp_path / "gone" / "hook.py")))
    assert "gone" in line
    (tmp_path / hook.NAME).write_text(line, encoding="ascii")
    code = f"""
        import site, sys
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "PillowNicHook"]
        site.addsitedir({str(tmp_path)!r})
        assert sys.meta_path[0].__name__ == "PillowNicHook"
        from PIL import Image
        import imageio.v3
        print("pillow_nic" in sys.modules)
    """
    assert environment.python_says(code) == "False"


def test_a_process_that_has_imported_pillow_before(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / hook.NAME).write_text(hook.text(), encoding="ascii")
    code = f"""
        import site, sys
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "PillowNicHook"]
        from PIL import Image
        assert "NIC" not in Image.OPEN
        site.addsitedir({str(tmp_path)!r})
        assert "NIC" in Image.OPEN and "imageio" not in sys.modules
        site.addsitedir({str(tmp_path)!r})  # twice: in two folders of packages
        import imageio
        print("nic" in imageio.config.known_plugins)
    """
    assert environment.python_says(code) == "True"


def test_it_costs_the_start_of_python_less_than_a_millisecond() -> None:
    line = hook.text().splitlines()[-1]
    code = f"""
        import sys, time
        line, times = {line!r}, []
        for _ in range(9):
            start = time.process_time()
            exec(line)
            times.append(time.process_time() - start)
            del sys.meta_path[0]
        print(min(times))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=True
    ).stdout
    assert float(out) < 0.001


# -------------------------------------------------------------------------------------- install and remove


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The environment's packages and the user's; the latter are not there yet."""
    found = [tmp_path / "environment", tmp_path / "user" / "packages"]
    found[0].mkdir()
    monkeypatch.setattr(hook, "directories", lambda: [str(folder) for folder in found])
    return found


def test_install_and_remove_are_idempotent(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = folders[0] / hook.NAME
    assert main(["install-hook"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {file}\n")
    assert os.listdir(folders[0]) == [hook.NAME]
    content = file.read_text(encoding="ascii")
    comments = [line for line in content.splitlines() if line.startswith("#")]
    (code,) = (line for line in content.splitlines() if not line.startswith("#"))
    assert code.startswith("import ")
    assert "remove-hook" in comments[0]
    assert main(["install-hook"]) == 0
    assert capsys.readouterr().out.startswith(f"already there: {file}\n")
    assert file.read_text(encoding="ascii") == content

    (folders[0] / "other.pth").touch()
    assert main(["remove-hook"]) == 0
    assert capsys.readouterr().out == f"removed {file}\n"
    assert os.listdir(folders[0]) == ["other.pth"]
    assert main(["remove-hook"]) == 0
    assert capsys.readouterr().out.startswith("nothing to remove: there is no pillow_nic_hook.pth in ")


def test_an_older_file_of_ours_is_replaced(folders: list[Path]) -> None:
    file = folders[0] / hook.NAME
    file.write_text(hook.text().splitlines()[0] + "\nimport this\n", encoding="ascii")
    assert hook.install() == (str(file), True)
    assert file.read_text(encoding="ascii") == hook.text()


def test_where_the_environment_cannot_be_written_the_users_packages_serve(folders: list[Path]) -> None:
    folders[0].rmdir()
    folders[0].touch()
    file = folders[1] / hook.NAME
    assert hook.install() == (str(file), True)
    assert hook.install() == (str(file), False)
    assert hook.remove() == [str(file)]
    assert os.listdir(folders[1]) == []


def test_where_nothing_can_be_written_it_says_so(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders[0].rmdir()
    for file in (folders[0], folders[1].parent):
        file.touch()
    assert main(["install-hook"]) == 1
    assert capsys.readouterr().err.startswith("pillow_nic: ")


def test_somebody_elses_file_stays(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = folders[0] / hook.NAME
    file.write_text("# not ours: é", encoding="utf-8")
    for command in ("install-hook", "remove-hook"):
        assert main([command]) == 1
        assert "was not written by this program" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "# not ours: é"


def test_the_folders_are_those_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("site.ENABLE_USER_SITE", True)
    packages, user = hook.directories()
    assert Path(packages).name in ("site-packages", "dist-packages")
    assert Path(user).name in ("site-packages", "dist-packages")
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    assert hook.directories() == [packages]


def test_remove_in_a_real_environment(environment: Environment, picture: str) -> None:
    """The last test of this file, because it ends what the fixture has made."""
    out, _ = environment.run("-m", "pillow_nic", "remove-hook")
    file = Path(out.removeprefix("removed "))
    assert file.name == hook.NAME
    assert not file.exists()
    _, err = environment.run("-c", f"from PIL import Image; Image.open({picture!r})", code=1)
    assert "UnidentifiedImageError" in err
