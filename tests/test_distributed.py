"""Several processes train and score as one does; started by torchrun, as the worker starts them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import settings
from backend.progress import JobCancelled
from backend.ranks import ON_THIS_MACHINE, RankDiedError, RanksError, run_ranks, torchrun
from backend.snapshot import Image, Snapshot
from backend.version_work import image_set
from backend.versions import Versions
from tests.builders import disc_set
from tests.live import until
from tsp_model import network, training
from tsp_model.checkpoints import read_card
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic
from tsp_model.evaluation import average_precision
from tsp_model.network import tsp_mask_rcnn
from tsp_model.prediction_pass import PREDICTIONS, complete_predictions, score_pool
from tsp_model.predictions import PredictionFile, iterate_predictions, read_predictions, write_predictions
from tsp_model.settings import Settings
from tsp_model.training import train

ROOT = Path(__file__).resolve().parent.parent
KEY = "4.1700000000"
# What is random would differ: no augmentation, and every anchor and RoI is a sample. A wrong gradient of one step shows
# in the losses of the next.
METHOD = Settings.preset("tiny").override(
    {"image_size": 64, "epochs": 2, "batch_size": 2, "augmentation": "none", "beta": 0.5, "warmup_iterations": 0}
)

RANK = """
import json, sys
from pathlib import Path
from tests.test_distributed import losses
from tsp_model import distributed
with distributed.group():
    found = losses(Path(sys.argv[1]))
    if distributed.rank() == 0:
        print(json.dumps(found))
"""


def losses(folder: Path) -> list[dict[str, float]]:
    """The terms of each step of a training in this process, or this rank."""
    everything = 10**6
    sizes = replace(network._TINY, rpn_samples=everything, roi_samples=everything, proposals=(50,) * 4)
    found = [item for item in disc_set(folder, 12).items if item.instances]
    bare = [replace(item, instances=()) for item in found[4:6]]
    # Five labelled images: in the last step of an epoch one rank has none. One pseudo-labelled image has no object.
    labelled, pseudo = (ImageSet(items, ("disc", "box")) for items in ([*found[:4], bare[0]], [found[6], bare[1]]))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(network, "_TINY", sizes)
        model = tsp_mask_rcnn(3, "tiny", image_size=64)
    steps: list[dict[str, float]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "NORMS_LEARN", 0.0)  # a rank's norms would see its own images only
        train(model, labelled, pseudo, METHOD, METHOD.beta, progress=lambda event: steps.append(event["terms"]))
    return steps


def printed_by_two(*arguments: str) -> str:
    environ = os.environ | ON_THIS_MACHINE | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun(2), *arguments], env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    one = losses(tmp_path / "images")
    two = json.loads(printed_by_two(str(tmp_path / "rank.py"), str(tmp_path / "images")).splitlines()[-1])
    assert len(one) == len(two) == 6
    assert {"semi_loss_mask", "semi_loss_objectness", "loss_mask_iou"} <= one[0].keys()
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=0.01, abs=1e-5)
    assert one[0]["loss"] != pytest.approx(one[-1]["loss"], rel=0.05), "something was learned in between"


@pytest.fixture
def version(tmp_path: Path) -> tuple[settings.ServiceSettings, Versions, str]:
    """A version that is to be trained by two processes: three labelled images, seven unlabelled ones."""
    images = disc_set(tmp_path / "images", 10)
    return prepared(tmp_path, images, 3, METHOD.override({"epochs": 6}), processes=2)


def environment(folder: Path, processes: int) -> dict[str, str]:
    return {"MODEL_DIR": str(folder), "TSP_PROCESSES": str(processes), "TORCH_THREADS": "2"}


def prepared(
    folder: Path, images: ImageSet, labelled: int, method: Settings, processes: int, parent: str | None = None
) -> tuple[settings.ServiceSettings, Versions, str]:
    """A version of which the first images are labelled, not trained yet."""
    versions = Versions(folder, KEY)
    name = versions.new_name()
    versions.folder(name).mkdir(parents=True)
    found = [
        Image(item.key, str(item.path), tuple((one.label, one.rle) for one in item.instances)) for item in images.items
    ]
    Snapshot(
        classes=images.classes,
        settings=method.to_dict(),
        parent=parent,
        labelled=found[:labelled],
        unlabelled=[replace(image, instances=()) for image in found[labelled:]],
    ).write(versions.folder(name))
    return settings.load(environment(folder, processes)), versions, name


def ranks(worker: int) -> dict[str, int]:
    """The process ids of the ranks that a worker has started, by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environ = dict(pair.partition("=")[::2] for pair in (entry / "environ").read_text().split("\0"))
            if "LOCAL_RANK" in environ and f'"worker": {worker},' in (entry / "cmdline").read_text():
                found[environ["LOCAL_RANK"]] = int(entry.name)
    return found


@pytest.mark.slow
def test_a_training_whose_process_dies_goes_on_at_its_last_epoch_and_then_all_score_the_pool(
    version: tuple[settings.ServiceSettings, Versions, str],
) -> None:
    service, versions, name = version
    folder, events, killed = versions.folder(name), [], set()

    def watch(event: dict[str, Any]) -> None:
        events.append(event["done"])
        if event["epoch"] in (3, 4, 5) and event["epoch"] not in killed:  # each time it had got further
            killed.add(event["epoch"])
            os.kill(ranks(os.getpid())["1"], signal.SIGKILL)

    run_ranks(service, {"part": "train", "key": KEY, "version": name}, watch)
    restarts = [index for index in range(1, len(events)) if events[index] <= events[index - 1]]
    assert len(restarts) == len(killed) == 3
    assert events[restarts[0]] > 2, "the first epoch, of two steps, was not repeated"
    assert events[-1] == 12 and read_card(folder)["metrics"]["steps"] == 12

    pool = [image.key for image in Snapshot.read(folder).unlabelled]
    alone = folder.parent / "alone"
    shutil.copytree(folder, alone)
    complete_predictions(alone, image_set(Snapshot.read(folder), Snapshot.read(folder).unlabelled), 0.0)
    expected = read_predictions(alone / PREDICTIONS)
    # One that is there already, one that a rank had scored before it was killed, and what a disk made of another's.
    write_predictions(folder / PREDICTIONS, [expected[pool[0]]])
    write_predictions(folder / f"{PREDICTIONS}.1", [expected[pool[3]]])
    (folder / f"{PREDICTIONS}.0").write_text("no prediction\n")
    work = {"part": "score", "key": KEY, "version": name, "above": 0.0, "features": False}
    seen: list[int] = []
    run_ranks(service, work | {"method": METHOD.to_dict()}, lambda event: seen.append(event["total"]))
    found = list(iterate_predictions(folder / PREDICTIONS))
    assert sorted(one.key for one in found) == sorted(pool), "each once"
    assert set(seen) == {3}, "rank 0 has three of the five that were missing"
    for one in found:
        assert one.image_score == pytest.approx(expected[one.key].image_score, abs=1e-5)
    assert not list(folder.glob(f"{PREDICTIONS}.*"))


def test_processes_that_cannot_go_on_say_why_and_leave_nothing_running(
    version: tuple[settings.ServiceSettings, Versions, str],
) -> None:
    service, _, name = version
    work = {"part": "train", "key": KEY, "version": name}

    def kill(event: dict[str, Any]) -> None:
        with suppress(ProcessLookupError):
            os.kill(ranks(os.getpid())["1"], signal.SIGKILL)

    with pytest.raises(RankDiedError, match="one of 2 processes ended without a word"):
        run_ranks(service, work, kill)

    def cancel(event: dict[str, Any]) -> None:
        raise JobCancelled("it was cancelled.")

    with pytest.raises(JobCancelled):
        run_ranks(service, work, cancel)
    assert ranks(os.getpid()) == {}
    with pytest.raises(RanksError, match="snapshot.json is not there"):
        run_ranks(service, work | {"part": "score", "version": "tsp-0009-20260101T000000", "above": 0.0}, cancel)


@pytest.mark.slow
def test_a_pool_whose_process_dies_in_its_midst_keeps_what_was_scored(tmp_path: Path) -> None:
    images = disc_set(tmp_path / "images", 60)
    service, versions, name = prepared(tmp_path, images, 3, METHOD.override({"epochs": 1}), processes=2)
    run_ranks(service, {"part": "train", "key": KEY, "version": name}, lambda event: None)
    folder, totals, killed = versions.folder(name), [], []

    def watch(event: dict[str, Any]) -> None:
        totals.append(event["total"])
        if event["done"] > 4 and not killed:
            killed.append(ranks(os.getpid())["1"])
            os.kill(killed[0], signal.SIGKILL)

    work = {"part": "score", "key": KEY, "version": name, "above": 0.0, "features": False}
    run_ranks(service, work | {"method": METHOD.to_dict()}, watch)
    assert totals[0] == 29 and totals[-1] <= 27, "of 57, four at least are not scored again"
    found = [one.key for one in iterate_predictions(folder / PREDICTIONS)]
    assert sorted(found) == sorted(item.key for item in images.items[3:]), "each once"
    assert not list(folder.glob(f"{PREDICTIONS}.*"))


@pytest.mark.slow
def test_the_next_version_learns_from_what_the_one_before_predicts(tmp_path: Path) -> None:
    images = disc_set(tmp_path / "images", 10)
    curious = {f"pseudo_{part}_threshold": 0.0 for part in ("class", "box", "mask")}
    method = METHOD.override({"epochs": 1, "warm_start": True, **curious})
    parent = None
    for labelled in (3, 4):
        service, versions, name = prepared(tmp_path, images, labelled, method, 2, parent)
        before, parent = parent, name
        run_ranks(service, {"part": "train", "key": KEY, "version": name}, lambda event: None)
    predicted = [one.key for one in iterate_predictions(versions.folder(before) / PREDICTIONS)]
    assert sorted(predicted) == sorted(item.key for item in images.items[4:]), "each once"
    assert read_card(versions.folder(name))["counts"]["pseudo_images"] > 0


WORKER = """
import json, sys
from backend import ranks, settings
environment, work = map(json.loads, sys.argv[1:])
ranks.run_ranks(settings.load(environment), work, lambda event: print(flush=True))
"""


def test_the_processes_of_a_worker_that_is_killed_end(tmp_path: Path) -> None:
    """Another one goes on with its job, and two would write into one folder."""
    method = METHOD.override({"epochs": 10**5})  # they would not end by themselves
    _, _, name = prepared(tmp_path, disc_set(tmp_path / "images", 10), 3, method, 2)
    work = {"part": "train", "key": KEY, "version": name}
    told = json.dumps(environment(tmp_path, 2)), json.dumps(work)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *told], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout.readline(), "a step"
    started = ranks(worker.pid)
    worker.kill()
    worker.wait()
    try:
        assert started.keys() == {"0", "1"}
        until(lambda: not ranks(worker.pid), "its processes to end")
    finally:
        for process in ranks(worker.pid).values():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.mark.slow  # ten minutes
def test_two_processes_learn_as_well_as_one(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "set", train=40, test=60)
    train_set, test_set = (load_coco(tmp_path / "set", split) for split in ("train", "test"))
    found: dict[int, list[float]] = {1: [], 2: []}
    for seed, processes in itertools.product(range(3), found):
        method = Settings.preset("tiny").override({"epochs": 25, "seed": seed})
        service, versions, name = prepared(tmp_path / f"{seed}-{processes}", train_set, 40, method, processes)
        run_ranks(service, {"part": "train", "key": KEY, "version": name}, lambda event: None)
        path = tmp_path / f"{seed}-{processes}.jsonl"
        write_predictions(path, score_pool(versions.folder(name), test_set))
        found[processes].append(average_precision(test_set, PredictionFile(path))["mask_ap50"])
    print(found)
    one, two = (np.array(values) for values in found.values())
    assert min(found[1]) > 0.3, "it learns"
    # Seeds alone differ by this much: three times the standard error of the difference of two means.
    noise = 3 * np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 3)
    assert abs(one.mean() - two.mean()) < min(max(noise, 0.03), 0.1)
