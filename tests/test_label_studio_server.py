"""The real server: it answers, knows its token and no other, and is gone after stop."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import requests
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from scripts import label_studio as module
from scripts.label_studio import LabelStudioServer
from scripts.processes import ServerError


def test_it_answers_and_takes_its_token(label_studio: LabelStudioServer, client: LabelStudio) -> None:
    assert requests.get(f"{label_studio.url}/health", timeout=10).json() == {"status": "UP"}
    assert client.users.whoami().email == label_studio.email
    version = requests.get(f"{label_studio.url}/api/version", timeout=10).json()
    assert version["release"] == "1.23.2"


def test_a_wrong_token_is_refused(label_studio: LabelStudioServer) -> None:
    stranger = LabelStudio(base_url=label_studio.url, api_key="0" * 40)
    with pytest.raises(ApiError) as refusal:
        stranger.users.whoami()
    assert refusal.value.status_code == 401


def test_its_files_lie_in_its_folder_and_the_login_is_private(label_studio: LabelStudioServer) -> None:
    assert label_studio.database.parent == label_studio.folder and label_studio.database.is_file()
    assert (label_studio.folder / "login.json").stat().st_mode & 0o077 == 0
    log = label_studio.log.read_text()
    assert label_studio.password not in log
    assert label_studio.api_key not in log


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError) as refusal:
            LabelStudioServer(tmp_path / "data", port=port).start()
    assert len(str(refusal.value).splitlines()) == 1
    assert f"port {port} cannot be used" in str(refusal.value)
    assert not (tmp_path / "data").exists(), "a refused start leaves nothing behind"


def test_a_missing_installation_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(tmp_path / "label-studio"))
    with pytest.raises(ServerError, match=r"run scripts/setup\.sh"):
        LabelStudioServer(tmp_path / "data").start()


def test_one_that_dies_fails_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "label-studio"
    fake.write_text("#!/bin/sh\necho no space left on device; exit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(fake))
    with pytest.raises(ServerError, match=r"ended while starting(.|\n)*no space left(.|\n)*exit status 7"):
        LabelStudioServer(tmp_path / "data", say=lambda line: None).start()


def test_one_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "label-studio"
    fake.write_text("#!/bin/sh\nexec sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(fake))
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    server = LabelStudioServer(tmp_path / "data", say=lambda line: None)
    with pytest.raises(ServerError, match="did not answer in time"):
        server.start()
    assert server.process_group is None
    assert "ended with exit status" in server.log.read_text()


def test_stopped_it_is_gone_and_started_again_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with LabelStudioServer(folder) as server:
        url, api_key, group = server.url, server.api_key, server.process_group
        assert group is not None
        made = LabelStudio(base_url=url, api_key=api_key).projects.create(title="kept")
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)
    with LabelStudioServer(folder) as server:
        assert server.api_key == api_key
        found = LabelStudio(base_url=server.url, api_key=api_key).projects.get(made.id)
        assert found.title == "kept"
