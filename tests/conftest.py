"""What the tests share: a real Label Studio server, a client of it, and the real data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from label_studio_sdk import LabelStudio

from backend.connection import call
from scripts.label_studio import LabelStudioServer
from tests.builders import disc_set
from tests.web import Server
from tsp_model.data.image_set import ImageSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A running server with an empty database, one for all tests: each test makes its own projects in it.

    If it cannot start, every test that asks for it fails; none is skipped.
    """
    with LabelStudioServer(tmp_path_factory.mktemp("label-studio")) as server:
        yield server


@pytest.fixture(scope="session")
def client(label_studio: LabelStudioServer) -> LabelStudio:
    """An SDK client of the running server."""
    return LabelStudio(base_url=label_studio.url, api_key=label_studio.api_key)


@pytest.fixture(scope="session")
def personal_token(client: LabelStudio) -> str:
    """A personal access token of the server's user, who may have only one."""
    call(client, "POST", "api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    return call(client, "POST", "api/token/", json={})["token"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real COCO sets (TSP_DATA, else ../shared/data); skips without it."""
    folder = Path(os.environ.get("TSP_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not there; set TSP_DATA to a folder of COCO data sets")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Images that have an object, so that an annotation of one differs from an empty one."""
    found = disc_set(tmp_path_factory.mktemp("images"), 16)
    return found.subset([item.key for item in found.items if item.instances][:8])


@pytest.fixture
def backend(silent_backend: Server) -> Server:
    """Where a test needs no other."""
    return silent_backend


@pytest.fixture
def silent_backend() -> Iterator[Server]:
    """A service that connects and names whatever version `answers` holds; it predicts nothing."""
    server = Server()
    server.answers = "untrained"
    server.pages["/health"] = (200, {"Content-Type": "application/json"}, b'{"status": "UP", "model_class": "T"}')
    server.pages["/setup"] = lambda _: (
        200,
        {"Content-Type": "application/json"},
        json.dumps({"model_version": server.answers}).encode(),
    )
    server.pages["/webhook"] = (200, {"Content-Type": "application/json"}, b"{}")
    yield server
    server.close()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Canvas]:
    """The report's pictures that would be saved, by name."""
    from scripts.reporting import plots  # brings matplotlib, which most tests can do without

    found: dict[str, Canvas] = {}
    monkeypatch.setattr(plots, "save", lambda canvas, path: found.setdefault(path.name, canvas) and path)
    return found
