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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, before_sleep_log, retry_if_exception_type, wait_fixed

from backend.progress import one_line
from backend.settings import ServiceSettings
from tsp_model.errors import ExplainedError
from tsp_model.progress import Progress, silent

logger = logging.getLogger(__name__)

ON_THIS_MACHINE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
ATTEMPTS = 3  # in a row, none of which got further; each goes on where the one before was
ROOT = Path(__file__).resolve().parent.parent


class RanksError(ExplainedError, RuntimeError):
    """The processes met an error that they explain; the message is one line."""


class RankDiedError(ExplainedError, RuntimeError):
    """A process ended without a word; the message is one line."""


def torchrun(processes: int) -> list[str]:
    """The command that starts so many processes of what follows it; to be given ON_THIS_MACHINE."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def unusable(service: ServiceSettings) -> str | None:
    """Why TSP_PROCESSES cannot be had here, or None."""
    import torch

    gpus = torch.cuda.device_count()
    if service.processes > 1 and 0 < gpus < service.processes:
        return f"TSP_PROCESSES={service.processes} wants as many GPUs, and there are {gpus}; lower it."
    return None


def run_ranks(service: ServiceSettings, work: Mapping[str, Any], progress: Progress) -> None:
    """Let TSP_PROCESSES processes do `work` together, and wait for them.

    Args:
        work: {"part": "train", key, version} or {"part": "score", key, version, above, features, method}.
        progress: told what rank 0 tells; if it raises, the processes end.

    Raises:
        RanksError, RankDiedError: the latter after three attempts in a row that got no further.
    """
    stuck = _Stuck()

    def heard(event: dict[str, Any]) -> None:
        stuck.hear(event)
        progress(event)

    retrying = Retrying(
        stop=stuck,
        wait=wait_fixed(1),
        retry=retry_if_exception_type(RankDiedError),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    retrying(_run, service, dict(work) | {"model_dir": str(service.model_dir)}, heard)


class _Stuck:
    """Whether ATTEMPTS in a row have ended without a further epoch, or image of a pool."""

    def __init__(self) -> None:
        self._furthest, self._attempts = float("-inf"), 0

    def hear(self, event: Mapping[str, Any]) -> None:
        reached = event.get("epoch", event["done"] - event["total"])  # a pool's total is what is left at the start
        if reached > self._furthest:
            self._furthest, self._attempts = reached, 0

    def __call__(self, attempt: RetryCallState) -> bool:
        self._attempts += 1
        return self._attempts >= ATTEMPTS


def _run(service: ServiceSettings, work: dict[str, Any], progress: Progress) -> None:
    count = service.processes
    threads = str(max(1, service.torch_threads // count))
    work |= {"worker": os.getpid(), "threads": int(threads)}
    ranks = _started.ranks = subprocess.Popen(
        [*torchrun(count), "-m", "backend.ranks", json.dumps(work)],
        env=os.environ | ON_THIS_MACHINE | {"OMP_NUM_THREADS": threads},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    failed: dict[str, Any] = {}
    try:
        for event in filter(None, map(_event, ranks.stdout)):
            if "error" in event:
                failed = event
            else:
                progress(event)
    except BaseException:
        end_ranks()
        raise
    ranks.wait()
    if ranks.returncode and failed.get("errno"):  # such as a full disk, on which a job waits
        raise OSError(failed["errno"], failed["error"])
    if ranks.returncode and failed:
        raise RanksError(failed["error"])
    if ranks.returncode:
        raise RankDiedError(
            f"one of {count} processes ended without a word, perhaps because memory ran out: see the worker's log, or "
            "lower TSP_PROCESSES."
        )


def end_ranks() -> None:
    """End the processes that this one has started, if they still run, and wait until they have."""
    ranks = _started.ranks
    if ranks is not None and ranks.poll() is None:
        ranks.terminate()  # torchrun ends the others, which are in sessions of their own
        ranks.wait()


@dataclass
class _Started:
    """A worker does one job at a time."""

    ranks: subprocess.Popen[str] | None = None


_started = _Started()


def _event(line: str) -> dict[str, Any] | None:
    """What a rank says; None for a line of somebody else's."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def main() -> None:
    """One rank."""
    import torch

    from tsp_model import distributed

    work = json.loads(sys.argv[1])
    _end_with(work["worker"])
    torch.set_num_threads(work["threads"])
    try:
        with distributed.group():
            _do(work, _say if distributed.rank() == 0 else silent)
    except (ExplainedError, OSError) as error:
        _say({"error": one_line(error), "errno": getattr(error, "errno", None)})
        sys.exit(1)


def _do(work: Mapping[str, Any], progress: Progress) -> None:
    from backend.snapshot import Snapshot
    from backend.version_work import image_set, train_version
    from backend.versions import Versions
    from tsp_model.execution import Execution
    from tsp_model.prediction_pass import complete_predictions
    from tsp_model.settings import Settings

    versions, version = Versions(Path(work["model_dir"]), work["key"]), work["version"]
    if work["part"] == "train":
        if version not in versions.list():  # else a process died after it was saved
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
