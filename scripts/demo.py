"""The demo: a real Label Studio, the backend and two runs of Algorithm 1 side by side."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from backend.settings import threads_by_default
from scripts.active_learning import add_plan_arguments, algorithm_1
from scripts.backend_process import BackendProcess
from scripts.command_line import run
from scripts.grid.spec import strategy_name
from scripts.label_studio import LabelStudioServer
from scripts.plan import Plan
from scripts.processes import ServerError, free_port, require_free_port
from scripts.table import table

ARMS = (("tsp", True), ("random", False))  # strategy, pseudo labels; the first model is the same in both
LABEL_STUDIO_PORT, BACKEND_PORT = 8080, 9090


def demo(folder: Path, ports: tuple[int, int], arguments: argparse.Namespace) -> None:
    """Start everything in `folder`, run both arms, print the table; wait for Ctrl-C unless `--once`."""
    from scripts.experiment import Experiment  # brings torch, which --help can do without

    say = _speaker(time.monotonic())
    with ExitStack() as stack:
        server = stack.enter_context(LabelStudioServer(folder / "label-studio", ports[0], say))
        backend = stack.enter_context(BackendProcess(folder, ports[1], server.url, server.api_key))
        say(f"the backend answers on {backend.url}")
        if not arguments.once:
            _tell_login(server)
        where = {
            "url": server.url,
            "api_key": server.api_key,
            "backend_url": backend.url,
            "model_dir": str(backend.model_dir),
        }
        rows: list[dict[str, Any]] = []
        projects = []
        for strategy, ssl in ARMS:
            name = strategy_name(strategy, ssl)
            arm = where | {"strategy": strategy, "ssl": ssl, "out": str(folder / strategy)}
            plan = Plan.from_arguments(argparse.Namespace(**_of_the_plan(arguments) | arm))
            say(f"{plan.cycles} cycles of {name} on {plan.data}, {plan.per_cycle} labels each")
            with Experiment.open(plan) as experiment:
                rows += algorithm_1(experiment)
                projects.append((name, experiment.project.project_id))
        say("done; one seed names no winner")
        print(table(rows))
        if not arguments.once:
            _stay(server, projects, arguments.folder is None)


def _of_the_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    own = ("once", "port", "backend_port", "folder")
    return {name: value for name, value in vars(arguments).items() if name not in own}


def _stay(server: LabelStudioServer, projects: list[tuple[str, int]], temporary: bool) -> None:
    """Tell where to look, and wait for Ctrl-C."""
    print()
    _tell_login(server)
    for name, number in projects:
        print(f"  {name}: {server.url}/projects/{number}/data")
    print("Ctrl-C ends the demo" + (" and removes its data." if temporary else "."), flush=True)
    with suppress(KeyboardInterrupt):  # the usual end, not an error
        signal.pause()


def _tell_login(server: LabelStudioServer) -> None:
    print(f"Label Studio: {server.url}   user: {server.email}   password: {server.password}", flush=True)


def _speaker(start: float) -> Callable[[str], None]:
    return lambda line: print(f"demo {time.monotonic() - start:4.0f} s: {line}", file=sys.stderr, flush=True)


def _port(wanted: int | None, usual: int) -> int:
    """The port asked for, which must be free; else the usual one, or any if that is taken."""
    if wanted is not None:
        require_free_port(wanted)
        return wanted
    try:
        require_free_port(usual)
        return usual
    except ServerError:
        return free_port()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/demo.sh",
        description=__doc__,
        epilog="example: scripts/demo.sh --once --per-cycle 12 --folder runs/mine",
    )
    add_plan_arguments(parser)
    # Long enough to learn something from 8 to 24 synthetic images, short enough to watch.
    parser.set_defaults(set=["epochs=25", "least_steps=150"])
    parser.set_defaults(label_tag="polygon")  # the quickest to open, see scripts/speed/README.md
    add = parser.add_argument
    add("--once", action="store_true", help="end after the table instead of staying up")
    add("--port", type=int, help=f"of Label Studio (default: {LABEL_STUDIO_PORT}, or a free one)")
    add("--backend-port", type=int, help=f"of the backend (default: {BACKEND_PORT}, or a free one)")
    add("--folder", type=Path, help="keep everything there, and go on with what is there (default: a temporary one)")
    arguments = parser.parse_args()
    ports = _port(arguments.port, LABEL_STUDIO_PORT), _port(arguments.backend_port, BACKEND_PORT)
    # A terminal that closes must clean up like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    # All cores are the backend's, which trains; this process only looks at what it learned.
    os.environ.setdefault("TORCH_THREADS", str(threads_by_default()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.folder is not None:
        demo(arguments.folder.absolute(), ports, arguments)
        return
    with tempfile.TemporaryDirectory(prefix="tsp-demo-") as folder:
        demo(Path(folder), ports, arguments)


if __name__ == "__main__":
    run("demo", main)
