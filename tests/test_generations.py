"""The service's tests once more: on the Flask that label-studio-ml 1.0.9 pins, and on a checkout of its 2.x."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("test_app", "test_model", "test_payloads", "test_strange_images", "test_stock_app")
PINNED = ("Flask==1.1.2", "Werkzeug==2.0.2", "Jinja2==3.0.3", "itsdangerous==1.1.0")
NEEDED_BY_2 = ("semver~=3.0.2", "colorama~=0.4")
CHECKOUT = "TSP_LABEL_STUDIO_ML"


def install(folder: Path, *packages: str) -> Path:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


def passed_with(models: Path, *folders: Path) -> str:
    """What pytest says at the end when these folders come first. 2.x keeps a cache in MODEL_DIR, else where it runs."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "MODEL_DIR": str(models)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}.py" for name in TESTS)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_on_the_flask_that_the_first_generation_pins(tmp_path: Path) -> None:
    old = install(tmp_path / "pinned", *PINNED)
    code = "import flask; print(flask.__version__)"
    environ = os.environ | {"PYTHONPATH": str(old)}
    found = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], env=environ, text=True)
    assert found.strip() == "1.1.2"
    assert "skipped" in passed_with(tmp_path / "models", old), "the stock app of 2.x"


@pytest.mark.slow
def test_on_the_second_generation(tmp_path: Path) -> None:
    checkout = os.environ.get(CHECKOUT)
    if not checkout:
        pytest.skip(f"no checkout of label-studio-ml 2.x: set {CHECKOUT} to its folder")
    assert "skipped" not in passed_with(tmp_path / "models", Path(checkout), install(tmp_path / "needed", *NEEDED_BY_2))
