"""The TSP backend as the scripts see it: is it there, and how far is its training."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import requests
from tqdm import tqdm

from backend.connection import https_trouble
from backend.progress import in_words
from backend.settings import starting
from tsp_model.errors import ExplainedError

BACKEND_URL = os.environ.get("BACKEND_URL") or "http://127.0.0.1:9090"  # where the backend listens by default
POLL_SECONDS = 0.5
COUNTED = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
LINE_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
"""How long a service that stops answering in mid-job is given to come back."""


class ServiceError(ExplainedError, RuntimeError):
    """The backend cannot be used as asked; the message is one line with cause and remedy."""


def credentials() -> tuple[str, str] | None:
    """User and password of a guarded backend, from BASIC_AUTH_USER and BASIC_AUTH_PASS; None if it is not guarded."""
    user = os.environ.get("BASIC_AUTH_USER")
    return (user, os.environ.get("BASIC_AUTH_PASS", "")) if user else None


class Service:
    """The backend's web service at `url`, with `credentials`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = credentials()

    def check(self) -> None:
        """Raise ServiceError unless a TSP backend answers."""
        self.health()

    def health(self) -> dict[str, Any]:
        """What the backend says of itself. ServiceError if it is none of ours."""
        answer = self._get("/health")
        if answer.get("model_class") != "TSPBackend":
            raise self._stranger()
        return answer

    def versions(self, project_key: str) -> dict[str, Any]:
        """The project's versions, oldest first, which one is active, and what is known of each."""
        return self._get("/versions", project=project_key)

    def activate(self, project_key: str, version: str) -> str:
        """Let `version` answer from now on; the id of the job that does so."""
        return self._ask("POST", "/versions", json={"project": project_key, "version": version})["job_id"]

    def cancel(self, project_key: str) -> list[str]:
        """Stop the project's training, and one that waits; the ids of their jobs. ServiceError where there is none."""
        return self._ask("POST", "/cancel", json={"project": project_key})["job_ids"]

    def rank(self, project_key: str, strategy: str | None) -> str:
        """Rank the tasks by `strategy`, None: the active version's; the id of the job that does so."""
        return self._ask("POST", "/rank", json={"project": project_key, "strategy": strategy})["job_id"]

    def last_training(self, project_key: str) -> dict[str, Any] | None:
        """The status of the project's newest training job, None if there never was one."""
        return self._get("/job_status", project=project_key, allow_missing=True) or None

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def wait(self, job_id: str, title: str) -> dict[str, Any]:
        """Follow a job to its end with a progress bar, in a file with a line now and then, and a line for what it waits
        for; its last status.

        Raises ServiceError if it failed.
        """
        shown = _Bar(title) if sys.stderr.isatty() else _Lines(title)
        silent_since = said = None
        while True:
            try:
                status = self._get("/job_status", job_id=job_id)
                silent_since = None
            except ServiceError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            if status["status"] == "ERROR":
                shown.close()
                raise ServiceError(f"{title} failed: {status.get('error')}")
            if status["status"] == "SUCCESS":
                shown.close()
                return status
            waits = status.get("waits")
            if waits and waits != said:
                shown.write(f"{title} waits: {waits}")
            said = waits
            shown.show(status)
            time.sleep(POLL_SECONDS)

    def _get(self, path: str, allow_missing: bool = False, **parameters: str) -> dict[str, Any]:
        return self._ask("GET", path, allow_missing, params=parameters)

    def _ask(self, method: str, path: str, allow_missing: bool = False, **request: Any) -> dict[str, Any]:
        try:
            response = self._session.request(method, self.url + path, timeout=30, **request)
        except requests.RequestException as error:
            trouble = https_trouble(error, "--backend-url") or f"start it with {starting()}; or correct --backend-url"
            raise ServiceError(f"no backend answers at {self.url} ({type(error).__name__}): {trouble}.") from None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code == 401:
            raise self._unwelcome()
        if not isinstance(answer, dict) or not response.ok and "error" not in answer:
            raise self._stranger()
        if response.status_code == 404 and allow_missing:
            return {}
        if response.status_code == 400:  # a line for people
            raise ServiceError(answer["error"])
        if not response.ok:
            raise ServiceError(f"the backend at {self.url} answered {response.status_code}: {answer['error']}")
        return answer

    def _stranger(self) -> ServiceError:
        return ServiceError(f"what answers at {self.url} is no TSP backend; correct --backend-url.")

    def _unwelcome(self) -> ServiceError:
        what = "asks for a password" if self._session.auth is None else "refuses this user or password"
        remedy = "export BASIC_AUTH_USER and BASIC_AUTH_PASS as the backend has them."
        return ServiceError(f"the backend at {self.url} {what}; {remedy}")


class _Bar:
    """How far a job is, on a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar = tqdm(desc=title, unit="", leave=False, dynamic_ncols=True)

    def show(self, status: dict[str, Any]) -> None:
        bar = self._bar
        bar.set_description_str(f"{self._title}: {status.get('phase') or 'waiting'}", refresh=False)
        bar.total, bar.n = status.get("total"), status.get("done") or 0
        # The bar's own estimate would count from the job's start, not the phase's.
        bar.bar_format = COUNTED if bar.total else "{desc} [{elapsed}]"
        loss, eta = status.get("loss"), status.get("eta_seconds")
        parts = {
            "loss": f"{loss:.3f}" if loss is not None else None,
            "left": f"{eta:.0f}s" if eta is not None else None,
        }
        bar.set_postfix({name: value for name, value in parts.items() if value}, refresh=True)

    def write(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """How far a job is, in a file: a line for each phase, and for a long one each LINE_SECONDS."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._phase: str | None = None
        self._said = 0.0

    def show(self, status: dict[str, Any]) -> None:
        phase, now = status.get("phase"), time.monotonic()
        if phase and (phase != self._phase or now - self._said >= LINE_SECONDS):
            self._phase, self._said = phase, now
            self.write(f"{self._title}: {in_words(status)}")

    def write(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """A file has nothing to tidy."""
