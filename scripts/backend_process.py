"""The backend (`python -m backend`) as a child process, for the demo and the tests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

import requests

from scripts.processes import Child, ServerError, require_free_port

START_SECONDS = 180.0
REPOSITORY = Path(__file__).resolve().parent.parent


class BackendProcess:
    """Web service and worker on 127.0.0.1, or one of them, models and log in `folder`; ends when this process does.

    Attributes: `url`, `model_dir`, `log`.
    """

    def __init__(
        self, folder: Path, port: int, label_studio_url: str, api_key: str, part: str = "all", **environment: str
    ) -> None:
        """`part` as `python -m backend` takes it; `environment` adds variables of the service, such as
        TSP_TRAIN_AFTER="5"."""
        self.folder, self.port, self.part = folder.absolute(), port, part
        self.url = f"http://127.0.0.1:{port}"
        self.model_dir = Path(environment.get("MODEL_DIR", self.folder / "models"))
        self.log = self.folder / "backend.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TSP_")}
        self._environment = {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": api_key,
            "MODEL_DIR": str(self.model_dir),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            **environment,
        }
        self._child: Child | None = None

    def __enter__(self) -> BackendProcess:
        require_free_port(self.port)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._child = Child([sys.executable, "-m", "backend", self.part], self._environment, self.log)
        try:
            self._wait()
        except BaseException:  # a Ctrl-C too must not leave it running
            self._child.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child:
            self._child.stop()

    @property
    def process_group(self) -> int | None:
        """Id of the group of web service and worker; None while they do not run."""
        return self._child.group if self._child else None

    def _wait(self) -> None:
        assert self._child is not None
        began = time.monotonic()
        while True:
            if self._ready():
                return
            if not self._child.alive or time.monotonic() - began > START_SECONDS:
                raise ServerError(f"the backend does not answer; {self.log} ends with\n{self._child.tail()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if self.part == "worker":
            return "worker ready" in self.log.read_text()
        try:
            return requests.get(self.url + "/health", timeout=1).status_code in (200, 401)  # 401: asks for a password
        except requests.RequestException:
            return False
