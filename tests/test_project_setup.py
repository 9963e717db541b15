"""scripts.project_setup: a project for a run, connected to the backend."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from label_studio_sdk import LabelStudio

from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from scripts.project_setup import create_project
from tests.web import Server

ANN = "Basic YW5uOm9wZW4gc2VzYW1l"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def guarded():
    """A service that answers to ann and her password only."""
    server = Server()

    def page(body: bytes):
        def answer(request):
            known = request.headers.get("Authorization") == ANN
            return (200, JSON, body) if known else (401, JSON, b'{"error": "who are you?"}')

        return answer

    server.pages["/health"] = page(b'{"status": "UP", "model_class": "TSPBackend"}')
    server.pages["/setup"] = page(b'{"model_version": "untrained"}')
    yield server
    server.close()


def test_a_guarded_backend_is_connected_with_the_password_of_the_environment(
    client: LabelStudio, guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SimpleNamespace(label_tag="brush", backend_url=guarded.url, method={"epochs": 1})
    before = call(client, "GET", "api/projects/")["count"]
    with pytest.raises(ProjectError):
        create_project(client, "a guarded one", ["disc"], plan)
    assert call(client, "GET", "api/projects/")["count"] == before, "nothing stays behind"
    monkeypatch.setenv("BASIC_AUTH_USER", "ann")
    monkeypatch.setenv("BASIC_AUTH_PASS", "open sesame")
    project = LabelStudioProject(client, create_project(client, "a guarded one", ["disc"], plan))
    assert project.connection()["auth_method"] == "BASIC_AUTH"
    assert project.extra_params() == {"epochs": 1, "train_after": 0, "clusters": 0, "push_top": 0, "keep_aside": 0}
