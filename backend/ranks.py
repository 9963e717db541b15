"""A training, or a pass over a pool, by several processes of this machine: TSP_PROCESSES of them, one a GPU.

torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html) starts and watches them: when one dies it ends the
others. `run_ranks` is the worker's side, `main` that of each process. They tell the worker on standard output how far
they are, in lines of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_fixed

from backend.progress import one_line
from backend.settings import ServiceSettings
from tsp_model.errors import ExplainedError
from tsp_model.training import Progress

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # each goes on where the one before was
WORKER = "WORKER_PID"
ROOT = Path(__file__).resolve().parent.parent


class RanksError(ExplainedError, RuntimeError):
    """The processes met an error that they explain; the message is one line."""


class RankDiedError(ExplainedError, RuntimeError):
    """A process ended without a word; the message is one line."""


def run_ranks(service: ServiceSettings, work: Mapping[str, Any], progress: Progress) -> None:
    """Let TSP_PROCESSES processes do `work` together, and wait for them.

    Args:
        work: {"part": "train", key, version} or {"part": "score", key, version, above, features, method}.
        progress: told what rank 0 tells; if it raises, the processes end.

    Raises:
        RanksError, RankDiedError: the latter after three attempts.
    """
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_fixed(1),
        retry=retry_if_exception_type(RankDiedError),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    retrying(_run, service, dict(work) | {"model_dir": str(service.model_dir)}, progress)


def _run(service: ServiceSettings, work: dict[str, Any], progress: Progress) -> None:
    count = service.processes
    threads = str(max(1, service.torch_threads // count))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environ = os.environ | {
        WORKER: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": threads,
        "TORCH_THREADS": threads,
        # All of them are on this machine.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    ranks = subprocess.Popen(
        [*command, "-m", "backend.ranks", json.dumps(work)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    reason = ""
    try:
        for line in ranks.stdout:
            with suppress(ValueError):  # a library's line
                event = json.loads(line)
                reason = event.get("error", reason)
                if "error" not in event:
                    progress(event)
    finally:
        if sys.exc_info()[0] is not None:
            ranks.terminate()  # torchrun ends the others, which are in sessions of their own
        ranks.wait()
    if ranks.returncode and reason:
        raise RanksError(reason)
    if ranks.returncode:
        raise RankDiedError(
            f"one of {count} processes ended without a word, perhaps because memory ran out: see the worker's log, or "
            "lower TSP_PROCESSES."
        )


def main() -> None:
    """One rank."""
    import torch

    from tsp_model import distributed

    work = json.loads(sys.argv[1])
    _end_with(int(os.environ[WORKER]))
    torch.set_num_threads(int(os.environ["TORCH_THREADS"]))
    try:
        with distributed.group():
            _do(work, _say if distributed.rank() == 0 else lambda event: None)
    except ExplainedError as error:
        _say({"error": one_line(error)})
        sys.exit(1)


def _do(work: Mapping[str, Any], progress: Progress) -> None:
    from backend.snapshot import Snapshot
    from backend.version_work import image_set, train_version
    from backend.versions import Versions
    from tsp_model.cycle import complete_predictions
    from tsp_model.execution import Execution
    from tsp_model.settings import Settings

    versions, version = Versions(Path(work["model_dir"]), work["key"]), work["version"]
    if work["part"] == "train":
        train_version(versions, version, progress)
        return
    folder = versions.folder(version)
    snapshot = Snapshot.read(folder)
    complete_predictions(
        folder,
        image_set(snapshot, snapshot.unlabelled),
        work["above"],
        progress,
        execution=Execution.choose(Settings.from_dict(work["method"])),
        features=work["features"],
    )


def _say(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _end_with(worker: int) -> None:
    """End when the worker or torchrun is gone: somebody goes on with the job, and two would write into one folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and Path(f"/proc/{worker}").exists():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="watch-worker", daemon=True).start()


if __name__ == "__main__":
    main()
