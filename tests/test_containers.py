"""The files that make the containers; docker/try.sh builds and starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCKER = Path(__file__).resolve().parent.parent / "docker"


def test_the_dockerfiles_are_as_hadolint_wants_them() -> None:
    files = sorted(map(str, DOCKER.rglob("*Dockerfile")))
    assert len(files) == 3
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", *files], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
