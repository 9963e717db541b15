"""`python -m backend`: the web service and the worker, two processes that live and end together."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from backend import settings, worker_lock, worker_notes
from backend.job_database import prepare_database, put_aside_if_damaged, unreachable, unusable_sqlite
from backend.presence import presence_of
from backend.settings import ServiceSettings
from tsp_model import memory
from tsp_model.settings import SettingsError

STOP_SECONDS = 10  # a child that has not ended by then is killed; a job goes on at the next start
NICE = 10  # annotators' requests come first
STRANDED_SECONDS = 15.0  # between looks for jobs that nobody runs


def main(arguments: list[str] | None = None) -> int:
    """Start what was asked for; the exit code: 0 stopped, 1 cannot run or a part died, 2 a wrong setting."""
    options = _parser().parse_args(arguments)
    given = {"HOST": options.host, "PORT": options.port, "MODEL_DIR": options.model_dir}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    try:
        service = settings.load(environ)
        if not service.label_studio_api_key:
            raise SettingsError(f"LABEL_STUDIO_API_KEY is not set; copy into it, from Label Studio, {settings.TOKEN}.")
    except SettingsError as error:
        return _say(str(error), 2)
    environ["MODEL_DIR"] = str(service.model_dir)
    os.environ.update(environ)
    reason = _cannot_start(service, options.part)
    if reason:
        return _say(reason, 1)
    if options.part == "all":
        _mend_jobs(service)  # alone, the other part may have them open
        _say(f"projects train {service.network}, unless their extra_params say otherwise.", 0)
        return Supervisor(environ).run()
    if service.keep_memory:
        memory.keep()  # before there is a second thread, which would have a place of its own to allocate from
    if options.with_parent:
        _end_with_parent()
    return _web(service) if options.part == "web" else _worker(service)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {v.name:<32} {v.meaning} [{v.default}]" for v in settings.documented_variables()]
    parser = argparse.ArgumentParser(
        prog="python -m backend",
        description="The Label Studio service: web service and worker, or one of them alone.",
        epilog="example: LABEL_STUDIO_API_KEY=<token> TSP_PRESET=tiny python -m backend --port 9091\n\n"
        "environment variables [default]:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", default="all", choices=("all", "web", "worker"))
    parser.add_argument("--host", help="instead of HOST")
    parser.add_argument("--port", help="instead of PORT")
    parser.add_argument("--model-dir", help="instead of MODEL_DIR")
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    return parser


def _say(line: str, code: int) -> int:
    print(f"backend: {line}", file=sys.stderr, flush=True)
    return code


def _cannot_start(service: ServiceSettings, part: str) -> str | None:
    """Why it is no use to start, or None."""
    if service.shared:
        if reason := unreachable(service.database_url):
            return f"the job database cannot be used ({reason}); correct TSP_DATABASE_URL, or start the database."
    elif reason := unusable_sqlite():
        return f"{reason}, and the job engine needs 3.42; use Python 3.10 or 3.11, or one with a newer SQLite."
    try:
        service.model_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=service.model_dir):
            pass
    except OSError as error:
        return f"MODEL_DIR={service.model_dir} cannot be written ({error.strerror}); choose another folder."
    if part == "worker":
        return None
    try:
        family, kind, _, _, address = socket.getaddrinfo(service.host, service.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (
            f"cannot listen on {service.host}:{service.port} ({error.strerror}); "
            "stop what uses the port or choose another with --port."
        )
    return None


def _mend_jobs(service: ServiceSettings) -> None:
    """A damaged SQLite database is put aside, unless a worker runs on it already."""
    if service.shared:
        return
    lock = worker_lock.hold(service.model_dir)
    if lock is None:
        return
    with lock:
        if said := put_aside_if_damaged(service.database_url):
            _say(said, 0)


class Supervisor:
    """Runs web service and worker as children. If one dies the other is stopped: nothing is restarted in
    silence."""

    def __init__(self, environ: dict[str, str]) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        path = environ.get("PYTHONPATH")
        self._environ = {**environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self) -> int:
        """Until a signal (0) or until a child ends (1)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for part in ("web", "worker"):
            command = [sys.executable, "-m", "backend", part, "--with-parent"]
            self._children[part] = subprocess.Popen(command, env=self._environ)
        dead = self._wait()
        self._end()
        if self._stopping or dead is None:
            return 0
        how = f"the {dead} process ended {_how(self._children[dead].returncode)}"
        again = f"start again with {settings.starting(environ=self._environ)}, and jobs go on where they were"
        return _say(f"{how}; everything is stopped, see the lines above; {again}.", 1)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self) -> str | None:
        """The part that ended, or None once asked to stop."""
        while not self._stopping:
            for part, child in self._children.items():
                if child.poll() is not None:
                    return part
            time.sleep(0.1)
        return None

    def _end(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _how(code: int) -> str:
    """A child's way to end, by the code that the system gives it."""
    if code >= 0:
        return f"with code {code}"
    memory_ran_out = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
    return f"by signal {-code} ({signal.strsignal(-code)}){memory_ran_out}"


def _end_with_parent() -> None:
    """End when the supervisor is gone, so that even kill -9 leaves no process behind and the port free."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _web(service: ServiceSettings) -> int:
    """gunicorn, one process: the model is loaded once, threads share it."""
    from gunicorn.app.base import BaseApplication

    class Web(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in {
                "bind": f"[{service.host}]:{service.port}" if ":" in service.host else f"{service.host}:{service.port}",
                "workers": 1,
                "worker_class": "backend.web_worker.WebWorker",
                "threads": service.web_threads,
                "timeout": 0,  # a long prediction is no dead worker; requests have a limit of their own
                "graceful_timeout": STOP_SECONDS // 2,
                "loglevel": "warning",
                "proc_name": "tsp-backend",
                "control_socket_disable": True,  # it would live in the user's home
                "worker_exit": _ignore_signals,
                "when_ready": lambda _: print(f"web service on http://{service.host}:{service.port}", flush=True),
            }.items():
                self.cfg.set(name, value)

        def load(self) -> object:
            from backend._wsgi import app

            return app

    Web().run()
    return 0


def _ignore_signals(arbiter: object, worker: object) -> None:
    """What has ended is asked once more where Ctrl-C reaches parent and child, and would say so in a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _worker(service: ServiceSettings) -> int:
    """Runs jobs until a signal; killing it is safe at any time, the job goes on at the next start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if service.shared:
        prepare_database(service.database_url)  # workers are known by it
    presence = presence_of(service)
    if not presence.hold():
        # Two workers would take each other's running jobs for dead ones.
        return _say(
            f"another worker runs on MODEL_DIR={service.model_dir}; stop it, choose another folder, or share the jobs "
            "with TSP_DATABASE_URL.",
            1,
        )
    worker_notes.forget(service.model_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))  # not more with each start anew
    from backend.jobs import Jobs
    from backend.ranks import unusable
    from backend.steps import CycleSteps
    from backend.stranded import Stranded
    from backend.watch import Watch
    from backend.workflows import start_worker
    from tsp_model.execution import device_name

    if reason := unusable(service):
        return _say(reason, 2)
    worker_notes.note(service.model_dir, device=device_name())
    start_worker(service.database_url, service.model_dir, CycleSteps(service), presence.executor_id)
    print("worker ready", flush=True)
    jobs = Jobs(service.database_url, service.model_dir)
    watch, stranded = Watch(service, jobs), Stranded(jobs, service.model_dir, presence)
    looked = 0.0
    while True:
        try:
            if not watch.reached or 0 < 60 * service.look_minutes < time.monotonic() - looked:
                looked = time.monotonic()
                watch.look()  # the first one also says at once what would otherwise fail the first job
                jobs.forget(service.keep_jobs)
            stranded.look()
        except Exception:  # a full disk, a database that is busy or away: the next look finds what this one could not
            logging.exception("cannot look for what changed in Label Studio, or after the jobs")
        time.sleep(STRANDED_SECONDS)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """At once, with the training's thread in whatever it does: the job database knows how to go on."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
