"""Our network beside torchvision's stock Mask R-CNN: inference, the price of the two score branches, training."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from scripts.command_line import CommandError
from scripts.speed import roofline
from scripts.speed.elsewhere import elsewhere
from scripts.speed.machine import ONEDNN_LIMIT, WITHOUT_AMX, has_amx
from scripts.speed.pair import Pair, build_pair, build_stock, ellipses, noise, require_all_found, synchronised
from scripts.speed.timing import COST, Bench, Comparison, require_agreement
from tsp_model.execution import default_device
from tsp_model.losses import supervised_loss
from tsp_model.network import TSPMaskRCNN
from tsp_model.settings import Settings
from tsp_model.training import build_optimizer

BATCHES, SMOKE_BATCHES = (1, 4), (2,)
AIMS_WITH_AMX, AIM_WITHOUT_AMX, AIM_ON_GPU = {1: 4.5, 4: 5.0}, 2.0, 2.0
AIM_OF_TRAINING = 4.0
# What a user may choose who does not need the order of a weak network's pool to stay the same to the last image.
QUICKEST = Settings(precision="bfloat16", proposals=300)
LEARNING_RATE = 1e-6  # the time of a step does not depend on it, and random weights stay finite
TRAINING_BATCH = 2
# In a process of its own: how ours treats memory counts for its whole process.
STOCK, STOCK_BFLOAT16 = "stock float32", "stock bfloat16 autocast"


def inference(bench: Bench) -> Iterator[Comparison]:
    """Images to pasted masks, scores of the two branches included."""
    pair = build_pair(bench)
    batches = _batches(bench)
    for batch in batches:
        yield from _inference(bench, pair, batch)
    if pair.device.type == "cuda":
        yield from roofline.compare(bench, pair, batches)
    yield from _without_amx(bench)


def _batches(bench: Bench) -> tuple[int, ...]:
    return SMOKE_BATCHES if bench.smoke else BATCHES


def _inference(bench: Bench, pair: Pair, batch: int) -> Iterator[Comparison]:
    images = noise(pair.size, batch, pair.device)
    ours, quickest = pair.answering(Settings()), pair.answering(QUICKEST)
    contestants = {"ours": answer(ours, images), "ours, quickest": answer(quickest, images)}
    title = f"inference, R50 at {pair.size}, batch {batch}"
    with elsewhere(_stock_answers, pair.size, batch, threads=bench.threads) as stock:
        contestants |= stock
        require_all_found({name: run() for name, run in contestants.items()}, batch)
        seconds = bench.measure(title, contestants)
    aim = AIMS_WITH_AMX.get(batch) if has_amx() else AIM_WITHOUT_AMX
    yield Comparison(title, "ours", STOCK, seconds, aim=AIM_ON_GPU if pair.device.type == "cuda" else aim)
    yield Comparison(title, "ours", STOCK_BFLOAT16, seconds)
    quickest_title = f"{title}, bfloat16 everywhere, {QUICKEST.proposals} proposals"
    yield Comparison(quickest_title, "ours, quickest", STOCK, seconds)


def _stock_answers(size: int, batch: int) -> dict[str, Callable[[], list[int]]]:
    device = default_device()
    stock, images = build_stock(size).to(device).eval(), noise(size, batch, device)
    in_float32 = answer(stock, images)

    def in_bfloat16() -> list[int]:
        with torch.autocast(device.type, torch.bfloat16):
            return in_float32()

    return {STOCK: in_float32, STOCK_BFLOAT16: in_bfloat16}


def answer(model: nn.Module, images: list[Tensor]) -> Callable[[], list[int]]:
    """A contestant; it tells how many objects it found on each image."""
    return synchronised(lambda: [len(found["scores"]) for found in detections(model, images)], images[0].device)


@torch.inference_mode()
def detections(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """What the network says of each image."""
    return model(images)


def _without_amx(bench: Bench) -> Iterator[Comparison]:
    """The same once more where oneDNN leaves AMX alone; it decides that when it is loaded, hence another process."""
    title = "inference without AMX"
    if ONEDNN_LIMIT in os.environ:
        return
    if not has_amx():
        yield Comparison(title, "ours", "stock float32", note="this CPU has no AMX: the rows above are without it")
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        command = [sys.executable, "-m", "scripts.benchmark", "speed", "--only", "inference", "--out", str(out)]
        command += ["--threads", str(bench.threads), "--repeats", str(bench.repeats), "--data", str(bench.data)]
        command += ["--smoke"] if bench.smoke else []
        on_the_cpu = {ONEDNN_LIMIT: WITHOUT_AMX, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=os.environ | on_the_cpu, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise CommandError(f"{title} ended with exit status {done.returncode}; the reason stands above.")
        for values in json.loads(out.read_text())["comparisons"]:
            row = Comparison.from_dict(values)
            yield replace(row, title=f"{row.title}, without AMX")


def branches(bench: Bench) -> Iterator[Comparison]:
    """What the box score and the mask score cost: our network with and without them."""
    pair = build_pair(bench)
    ours = pair.answering(Settings())
    plain = without_branches(ours)
    for batch in _batches(bench):
        images = noise(pair.size, batch, pair.device)
        with_scores, without = detections(ours, images), detections(plain, images)
        same = all(torch.equal(a["masks"], b["masks"]) for a, b in zip(with_scores, without, strict=True))
        require_agreement(same, "masks with and without the score branches")
        title = f"the two score branches, batch {batch}"
        contestants = {"with scores": answer(ours, images), "without": answer(plain, images)}
        yield Comparison(title, "with scores", "without", bench.measure(title, contestants), COST, aim=1.05)


def without_branches(model: TSPMaskRCNN) -> TSPMaskRCNN:
    """A copy whose IoU heads say 0.5 of everything, and which pools no box a second time for them."""
    plain = copy.deepcopy(model)
    heads = plain.roi_heads
    heads.box_iou_head, heads.mask_iou_head = _Half(), _Half()
    heads.box_roi_pool = _EveryOther(heads.box_roi_pool)
    return plain


class _Half(nn.Module):
    def forward(self, roi_features: Tensor) -> Tensor:
        return torch.full((len(roi_features),), 0.5, device=roi_features.device)


class _EveryOther(nn.Module):
    """RoIAlign for the first call of each image batch (the proposals), nothing for the second (the box scores)."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.calls = 0

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        self.calls += 1
        if self.calls % 2:
            return self.pool(features, boxes, sizes)
        return torch.empty(sum(map(len, boxes)), 0, device=boxes[0].device)


def training(bench: Bench) -> Iterator[Comparison]:
    """Forward, backward and one SGD step; every layer trains in both."""
    pair = copy.deepcopy(build_pair(bench))
    trained = {name for name, p in pair.stock.named_parameters() if p.requires_grad}
    ours_only = {name for name, p in pair.ours.named_parameters() if p.requires_grad} ^ trained
    require_agreement(all("_iou_head" in name for name in ours_only), "which layers train")
    title = f"training step, R50 at {pair.size}, batch {TRAINING_BATCH}"
    contestants = {"ours": our_step(pair.ours, pair.size)}
    with elsewhere(_stock_step, pair.size, threads=bench.threads) as stock:
        seconds = bench.measure(title, contestants | stock)
    aim = AIM_ON_GPU if pair.device.type == "cuda" else AIM_OF_TRAINING
    yield Comparison(title, "ours", STOCK, seconds, aim=aim)


def our_step(model: TSPMaskRCNN, size: int) -> Callable[[], None]:
    """A contestant: forward, backward and one step of ours, which trains from now on."""
    return _step(model, size, supervised_loss, build_optimizer)


def _stock_step(size: int) -> dict[str, Callable[[], None]]:
    stock = build_stock(size).to(default_device())
    return {STOCK: _step(stock, size, lambda terms: sum(terms.values()), _stock_optimizer)}


def _stock_optimizer(parameters: list[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """As torchvision's reference scripts build it."""
    return torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


def _step(
    model: nn.Module,
    size: int,
    loss_of: Callable[[dict[str, Tensor]], Tensor],
    optimizer_of: Callable[[list[Tensor], Settings], torch.optim.Optimizer],
) -> Callable[[], None]:
    device = next(model.parameters()).device
    images, targets = noise(size, TRAINING_BATCH, device), ellipses(size, TRAINING_BATCH, device)
    model.train()
    optimizer = optimizer_of([p for p in model.parameters() if p.requires_grad], Settings(learning_rate=LEARNING_RATE))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(images, targets))
        require_agreement(bool(loss.isfinite()), "a loss is not finite")
        loss.backward()
        optimizer.step()

    return synchronised(step, device)
