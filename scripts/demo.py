"""The demo: a real Label Studio, the backend and two runs of Algorithm 1 side by side, on synthetic retinal images."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.active_learning import algorithm_1
from scripts.backend_process import BackendProcess
from scripts.command_line import run
from scripts.experiment import Experiment, Plan
from scripts.label_studio import LabelStudioServer
from scripts.processes import ServerError, free_port, require_free_port
from scripts.table import table
from tsp_model.settings import Settings

CYCLES, PER_CYCLE, TRAIN, TEST = 3, 8, 120, 60
METHOD = {"epochs": 25}
LABEL_STUDIO_PORT, BACKEND_PORT = 8080, 9090


def demo(folder: Path, ports: tuple[int, int], once: bool) -> None:
    """Start everything in `folder`, run both arms, print the table; wait for Ctrl-C unless `once`."""
    start = time.monotonic()
    say = _speaker(start)
    with ExitStack() as stack:
        server = stack.enter_context(LabelStudioServer(folder / "label-studio", ports[0], say))
        backend = stack.enter_context(BackendProcess(folder, ports[1], server.url, server.api_key))
        say(f"the backend answers on {backend.url}")
        rows: list[dict[str, Any]] = []
        projects = []
        for strategy, ssl in (("tsp", True), ("random", False)):
            name = strategy + (" + SSL" if ssl else "")
            say(f"{CYCLES} cycles of {name}: {PER_CYCLE} labels each, {TRAIN} images, {TEST} to evaluate on")
            plan = Plan(
                data="synthetic",
                strategy=strategy,
                ssl=ssl,
                cycles=CYCLES,
                per_cycle=PER_CYCLE,
                seed=0,
                label_tag="brush",
                train_images=TRAIN,
                test_images=TEST,
                method=Settings.preset("tiny").override(METHOD | {"ssl": ssl}).to_dict(),
                url=server.url,
                api_key=server.api_key,
                backend_url=backend.url,
                model_dir=str(backend.model_dir),
                out=str(folder / strategy),
            )
            with Experiment.open(plan) as experiment:
                rows += algorithm_1(experiment)
                projects.append((name, experiment.project.project_id))
        say("done; one seed on synthetic images names no winner")
        print(table(rows))
        if not once:
            _stay(server, projects)


def _stay(server: LabelStudioServer, projects: list[tuple[str, int]]) -> None:
    """Tell where to look, and wait for Ctrl-C."""
    print(f"\nLabel Studio: {server.url}   user: {server.email}   password: {server.password}")
    for name, number in projects:
        print(f"  {name}: {server.url}/projects/{number}/data")
    print("Ctrl-C ends the demo and removes its data.", flush=True)
    signal.pause()


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
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: scripts/demo.sh --once")
    parser.add_argument("--once", action="store_true", help="end after the table instead of staying up")
    parser.add_argument("--port", type=int, help=f"of Label Studio (default: {LABEL_STUDIO_PORT}, or a free one)")
    parser.add_argument("--backend-port", type=int, help=f"of the backend (default: {BACKEND_PORT}, or a free one)")
    arguments = parser.parse_args()
    ports = _port(arguments.port, LABEL_STUDIO_PORT), _port(arguments.backend_port, BACKEND_PORT)
    # A terminal that closes must clean up like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="tsp-demo-") as folder:
        demo(Path(folder), ports, arguments.once)


if __name__ == "__main__":
    run("demo", main)
