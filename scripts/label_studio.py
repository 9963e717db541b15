"""A real Label Studio server on this machine: started, waited for, always stopped.

`python -m scripts.label_studio` makes the empty database from which new servers start in seconds;
scripts/setup.sh calls it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import requests

from scripts.processes import Child, ServerError, free_port, require_free_port

HOST = "127.0.0.1"
START_SECONDS = 300.0
"""How long a server may take to answer: a fresh database takes some 40 s of migrations on a quick machine."""
REPORT_SECONDS = 10.0


def binary() -> Path:
    """The label-studio command: LABEL_STUDIO_BIN, else that of .venv-label-studio; or ServerError."""
    default = Path(__file__).resolve().parent.parent / ".venv-label-studio" / "bin" / "label-studio"
    path = Path(os.environ.get("LABEL_STUDIO_BIN") or default).absolute()
    if not os.access(path, os.X_OK):
        raise ServerError(f"no Label Studio at {path}: run scripts/setup.sh, or set LABEL_STUDIO_BIN")
    return path


def empty_database(command: Path) -> Path:
    """Where the migrated, empty database of this installation lies, if scripts/setup.sh made one."""
    return command.parent.parent / "empty.sqlite3"


class LabelStudioServer:
    """A server on 127.0.0.1 that keeps its data in `folder`; used before, it goes on with its data and login.

    Use it as a context manager, or call `start` and `stop`. It also ends when this process does, however that
    ends. Attributes: `url`, `email`, `password`, `api_key` (a legacy token, 40 hex digits), `log` and `database`
    (files).
    """

    def __init__(
        self, folder: Path, port: int | None = None, say: Callable[[str], None] | None = None, **environment: str
    ) -> None:
        """Prepare a server on `port` (None: any free one); `say` takes progress lines (else stderr); `environment` adds
        variables, such as those of another database."""
        self.folder = folder.absolute()
        self.port = port
        self.log = self.folder / "label-studio.log"
        self.database = self.folder / "ls.sqlite3"
        self.url = self.email = self.password = self.api_key = ""
        self._more = environment
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._child: Child | None = None

    def __enter__(self) -> LabelStudioServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_group(self) -> int | None:
        """Id of the group of processes that `stop` ends; None while the server does not run."""
        return self._child.group if self._child else None

    def start(self) -> LabelStudioServer:
        """Start and return once the server answers and takes the token.

        Raises ServerError: no label-studio command, port in use, no answer in time (with the end of the log).
        """
        command = binary()
        port = self.port or free_port(HOST)
        require_free_port(port, HOST)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log_in_as()
        if not self.database.exists() and empty_database(command).exists():
            _copy_whole(empty_database(command), self.database)
        self.url = f"http://{HOST}:{port}"
        arguments = ["start", "--no-browser", "--internal-host", HOST, "--port", str(port)]
        self._child = Child([command, *arguments], self._environment(self.database), self.log)
        try:
            self._wait()
            self._check_token()
        except BaseException:  # a Ctrl-C too must not leave it running
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and everything it started; harmless if it does not run."""
        if self._child:
            self._child.stop()
            self._child = None

    def _log_in_as(self) -> None:
        """Take the folder's login, or draw one: a server knows only the one its database was made with."""
        path = self.folder / "login.json"
        if path.exists():
            login = json.loads(path.read_text())
        else:
            login = {
                "email": "demo@example.com",
                "password": secrets.token_urlsafe(12),
                "api_key": secrets.token_hex(20),
            }
            path.touch(mode=0o600)
            path.write_text(json.dumps(login))
        self.email, self.password, self.api_key = login["email"], login["password"], login["api_key"]

    def _environment(self, database: Path) -> dict[str, str]:
        login = {
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.api_key,
            "LABEL_STUDIO_HOST": self.url,
        }
        return _environment(database) | login | self._more

    def _wait(self) -> None:
        """Until /health answers, with a progress line now and then."""
        assert self._child is not None
        self._say(f"starting Label Studio on {self.url}")
        began = reported = time.monotonic()
        while not self._healthy():
            now = time.monotonic()
            if not self._child.alive:
                raise ServerError(f"Label Studio ended while starting; {self._last_words()}")
            if now - began > START_SECONDS:
                raise ServerError(f"Label Studio did not answer in time; {self._last_words()}")
            if now - reported > REPORT_SECONDS:
                reported = now
                self._say(f"still starting Label Studio ({now - began:.0f} s, at most {START_SECONDS:.0f} s)")
            time.sleep(0.2)
        self._say(f"Label Studio answers after {time.monotonic() - began:.0f} s")

    def _last_words(self) -> str:
        return f"{self.log} ends with\n{self._child.tail() if self._child else ''}"

    def _healthy(self) -> bool:
        try:
            return self._get("/health", timeout=2).ok
        except requests.RequestException:
            return False

    def _check_token(self) -> None:
        """Label Studio silently moves on if its port was taken meanwhile, and may refuse legacy tokens."""
        answer = self._get("/api/current-user/whoami", timeout=30)
        if not answer.ok or answer.json().get("email") != self.email:
            raise ServerError(
                f"what answers on {self.url} does not know this login ({answer.status_code}): "
                f"stop it, or use another folder than {self.folder}"
            )

    def _get(self, path: str, timeout: float) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # no proxy between this machine and itself
            session.headers["Authorization"] = f"Token {self.api_key}"
            return session.get(self.url + path, timeout=timeout)


def make_empty_database(command: Path) -> None:
    """Run the server's migrations once, beside the installation; ServerError with its words if they fail."""
    target = empty_database(command)
    with tempfile.TemporaryDirectory(prefix="label-studio-") as folder:
        database = Path(folder) / "ls.sqlite3"
        # `version` applies the migrations as every command does, makes no user and ends by itself.
        done = subprocess.run(
            [command, "version"],
            env=_environment(database),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise ServerError(f"Label Studio could not make a database:\n{done.stdout[-2000:]}")
        _copy_whole(database, target)


def _environment(database: Path) -> dict[str, str]:
    """What the server needs to run by itself, keep its data beside `database` and call nobody outside."""
    ours = ("LABEL_STUDIO_", "HEARTEX_", "DJANGO_", "PYTHON", "HOST", "PORT")  # it reads all of these
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(database.parent),
        "DATABASE_NAME": str(database),
        "DJANGO_DB": "sqlite",
        "XDG_CONFIG_HOME": str(database.parent),  # where it would leave an id of this user
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        # It has to reach backends on this machine; by default it refuses every private address.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST, "localhost"])),
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }


def _copy_whole(source: Path, target: Path) -> None:
    """Copy so that `target` is never seen half-written."""
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(target)


if __name__ == "__main__":
    try:
        make_empty_database(binary())
    except ServerError as error:
        sys.exit(f"label_studio: {error}")
