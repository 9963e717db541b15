"""scripts/setup.sh refuses what it cannot work with, and always ends with whole environments.

It runs in a copy of its own, without a network: the requirement files there name packages on this disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live import until
from tests.web import Server

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
IMPORTED = ["cv2", "dbos", "faster_coco_eval", "label_studio_ml", "label_studio_sdk", "torch", "torchvision"]


def run_setup(house: Path, output: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [house / "scripts" / "setup.sh"],
        env={"PATH": os.environ["PATH"], "HOME": str(house)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        text=True,
    )


def write_wheel(folder: Path, name: str, files: dict[str, str], entry_points: str = "") -> Path:
    """A wheel as small as pip takes it: `files` and, if given, console scripts."""
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in files.items():
            wheel.writestr(inside, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A repository with nothing but the set-up, in a folder whose name has a space."""
    house = tmp_path / "a house"
    (house / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS / "setup.sh", house / "scripts")
    (house / "scripts" / "label_studio.py").write_text("open('database-made', 'a').write('x')\n")
    imported = {f"{name}/__init__.py": "" for name in IMPORTED} | {"label_studio_ml/model.py": ""}
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "stubs", imported)
    for name in ["requirements.txt", "scripts/requirements-patched.txt", "scripts/requirements-benchmark.txt"]:
        (house / name).write_text(f"--no-index\n--find-links {wheels.as_uri()}\nstubs==1\n")
    (house / "scripts" / "requirements-label-studio.txt").write_text("--no-index\n")
    return house


def fake_python(folder: Path, before: str) -> str:
    """This Python, except that each `-c` program runs after `before`."""
    path = folder / "fake-python"
    path.write_text(f"#!{sys.executable}\nimport sys\n{before}\nexec(sys.argv[2])\n")
    path.chmod(0o755)
    return str(path)


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0), (4, 0, 0)])
def test_an_unsupported_python_is_refused(house: Path, tmp_path: Path, version: tuple[int, ...]) -> None:
    name = ".".join(map(str, version))
    before = f"import platform; sys.version_info = {version}; platform.python_version = lambda: {name!r}"
    python = fake_python(tmp_path, before)
    line = the_one_line(run_setup(house, PYTHON=python))
    assert f"Python 3.10 to 3.13 is needed, {python} is Python {name}" in line
    assert not (house / ".venv").exists()


def test_a_python_whose_sqlite_is_too_old_for_the_job_engine_is_refused(house: Path, tmp_path: Path) -> None:
    before = "import sqlite3; sqlite3.sqlite_version = '3.40.1'; sys.version_info = (3, 12, 1)"
    line = the_one_line(run_setup(house, PYTHON=fake_python(tmp_path, before)))
    assert "with SQLite 3.40.1, from 3.12 on it needs 3.42" in line
    assert not (house / ".venv").exists()


def test_a_python_that_is_not_there_is_refused(house: Path) -> None:
    line = the_one_line(run_setup(house, PYTHON="/no/such/python"))
    assert "/no/such/python is nothing that runs" in line


def test_a_python_without_venv_is_refused(house: Path, tmp_path: Path) -> None:
    python = fake_python(tmp_path, "sys.modules['ensurepip'] = None")
    assert "apt-get install python3-venv" in the_one_line(run_setup(house, PYTHON=python))
    assert not (house / ".venv").exists()


def test_a_full_disk_is_refused(house: Path, tmp_path: Path) -> None:
    full = tmp_path / "bin"
    full.mkdir()
    (full / "df").write_text("#!/bin/sh\necho header\necho /dev/x 100000000 98951424 1048576 99% /\n")
    (full / "df").chmod(0o755)
    done = run_setup(house, PYTHON=sys.executable, PATH=f"{full}:{os.environ['PATH']}")
    assert "13 GB of disk are needed" in the_one_line(done)
    assert "1 GB are left" in done.stderr
    assert not (house / ".venv").exists()


@pytest.mark.parametrize(
    ("file", "venv", "other"),
    [
        ("requirements.txt", ".venv", ".venv-label-studio"),
        pytest.param("scripts/requirements-label-studio.txt", ".venv-label-studio", ".venv", marks=pytest.mark.slow),
    ],
)
def test_a_package_that_cannot_be_had_is_named_and_leaves_no_stamp(
    house: Path, file: str, venv: str, other: str
) -> None:
    with (house / file).open("a") as requirements:
        requirements.write("nowhere-to-be-found==1\n")
    done = run_setup(house, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "nowhere-to-be-found" in done.stderr
    assert f"pip could not install -r {file}; the reason stands above" in done.stderr.splitlines()[-1]
    assert not (house / venv / "stamp").exists()
    assert (house / other / "stamp").exists() == (other == ".venv"), "only .venv is waited for"


def test_if_one_environment_cannot_be_made_nothing_goes_on_making_the_other(house: Path) -> None:
    silent, over = Server(), threading.Event()
    silent.otherwise = lambda request: over.wait() and None
    (house / "scripts" / "requirements-label-studio.txt").write_text(f"--index-url {silent.url}\nnever-answered\n")
    with (house / "requirements.txt").open("a") as requirements:
        requirements.write("nowhere-to-be-found==1\n")
    # Into no pipe, which whatever is left would keep open.
    assert run_setup(house, subprocess.DEVNULL, PYTHON=sys.executable).returncode == 1
    until(lambda: not processes_in(house), "what it started to end", 10)
    over.set()
    silent.close()


def processes_in(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append(entry.name)
    return found


@pytest.mark.slow
def test_once_made_it_is_kept_until_something_changes_or_is_half_done(house: Path) -> None:
    first = run_setup(house, PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert "making .venv:" in first.stdout

    second = run_setup(house)
    assert second.stdout.splitlines() == [
        "setup: .venv is up to date",
        "setup: .venv-label-studio is up to date",
    ]
    assert (house / "database-made").read_text() == "x"

    (house / ".venv" / "stamp").unlink()  # as an interrupted run leaves it
    package = next((house / ".venv" / "lib").glob("python*/site-packages/torch/__init__.py"))
    package.unlink()
    third = run_setup(house, PYTHON=sys.executable)
    assert third.returncode == 0, third.stderr
    assert "making .venv:" in third.stdout
    assert ".venv-label-studio is up to date" in third.stdout
    assert package.exists()

    with (house / "scripts" / "requirements-label-studio.txt").open("a") as file:
        file.write("# another version\n")
    fourth = run_setup(house)
    assert ".venv is up to date" in fourth.stdout
    assert "making .venv-label-studio" in fourth.stdout
