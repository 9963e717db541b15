"""Training on labelled and pseudo-labelled images: Eq. 5 of arXiv 2012.04829, one readable loop."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsp_model import distributed
from tsp_model.ahead import ahead
from tsp_model.data.augmentation import augment
from tsp_model.data.image_set import ImageSet
from tsp_model.errors import NonFiniteError
from tsp_model.files import write_atomically
from tsp_model.inference import to_input
from tsp_model.losses import semi_supervised_loss, supervised_loss, total_loss
from tsp_model.network import TSPMaskRCNN
from tsp_model.progress import Progress, silent
from tsp_model.settings import Settings

log = logging.getLogger(__name__)

Example = tuple[Tensor, dict[str, Any]]
Share = tuple[list[Example], float]  # a rank's of a step's images, and their weight
Batch = tuple[list[Tensor], list[dict[str, Tensor]], list[str], float]

# Of the epochs; then batch norms keep their statistics, so that the network learns to answer with those it will have.
NORMS_LEARN = 0.6
LOSS_REACHES_BACKBONE = 0.6  # of the epochs; then the ranking loss trains its head only (arXiv 1905.03677, 4.1)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
RANKS_APART = 7_919_000_003  # between the seeds of two ranks: no epoch of one is another's
AHEAD = 2  # steps whose images are read before their turn


class NonFiniteLossError(NonFiniteError, RuntimeError):
    """The loss is no number any more; the message names the images of the step and the terms."""


def stretched(settings: Settings, labelled: int) -> Settings:
    """With as many epochs as `least_steps` wants for so many labelled images, the milestones later to match."""
    least = math.ceil(settings.least_steps / math.ceil(labelled / settings.batch_size))
    return _for_epochs(settings, max(settings.epochs, least))


def shortened(settings: Settings) -> Settings:
    """What a training takes that starts from a model: `warm_share` of the epochs and of `least_steps`."""
    fewer = _for_epochs(settings, max(1, round(settings.epochs * settings.warm_share)))
    return replace(fewer, least_steps=round(settings.least_steps * settings.warm_share))


def _for_epochs(settings: Settings, epochs: int) -> Settings:
    """With so many epochs, the milestones at the same share of them."""
    milestones = tuple(round(milestone * epochs / settings.epochs) for milestone in settings.milestones)
    return replace(settings, epochs=epochs, milestones=milestones)


def learning_rate_at(step: int, steps_per_epoch: int, settings: Settings) -> float:
    """The learning rate of a step; a function of the step alone, so that a resumed run needs no scheduler state.

    The warm-up takes a fifth of all steps at most, or a training on a few images would end before its full rate.
    """
    steps = steps_per_epoch * settings.epochs
    warmup = max(1.0, min(settings.warmup_iterations, steps / 5))
    rate = settings.learning_rate * min(1.0, (step + 1) / warmup)
    if settings.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate * 0.1 ** sum(step // steps_per_epoch >= milestone for milestone in settings.milestones)


def beta_at(labelled: int, unlabelled: int, settings: Settings) -> float:
    """beta of Eq. 5. "unlabelled_share" lets it fall as D_al grows, which the paper's discussion recommends."""
    if settings.beta_schedule == "unlabelled_share":
        return settings.beta * unlabelled / max(labelled + unlabelled, 1)
    return settings.beta


def smallest_share(settings: Settings) -> float:
    """Of an image's longest side, which the network sees as image_size pixels: what an object needs at least."""
    return settings.smallest_object / settings.image_size


def train(
    model: TSPMaskRCNN,
    labelled: ImageSet,
    pseudo: ImageSet,
    settings: Settings,
    beta: float,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train `model` in place with Eq. 5; left in evaluation mode.

    An epoch is one pass over `labelled`; few images get more of them, see `stretched`. Beside each labelled batch,
    pseudo-labelled images are drawn at the ratio `settings.pseudo_ratio`; they take part as a forward pass of their
    own, so each group keeps its own normalisers.

    Args:
        labelled: at least one image; an image without objects teaches background.
        pseudo: may be empty.
        beta: weight of the pseudo-labelled images.
        checkpoint: where the state is kept after each epoch; an unfinished training goes on from there and ends as
            an unbroken one would. Whoever has saved the model removes it.
        progress: told after each step what is done, the loss, its terms, the learning rate and an estimate of the
            time left.

    Returns:
        Metrics: loss (mean of the last epoch), its terms, semi_gradient_share (||beta grad L_semi|| / ||grad L_sup||,
        mean over the first step of each epoch; None without pseudo labels), steps, seconds (before an interruption,
        too), small_objects (labelled ones below `settings.smallest_object`, which counted as background).

    Raises:
        ValueError: nothing labelled. NonFiniteLossError.
    """
    if len(labelled) == 0:
        raise ValueError("there is no labelled image to train on; label at least one.")
    settings, least = stretched(settings, len(labelled)), smallest_share(settings)
    large, pseudo = labelled.without_small(least), pseudo.without_small(least)
    run = _Run(model, large, pseudo, settings, beta)
    first = run.resume(checkpoint) if checkpoint else 0
    reporter = _Reporter(progress, run.steps_per_epoch, settings.epochs, first)
    with torch.random.fork_rng():
        for epoch in range(first, settings.epochs):
            run.epoch(epoch, reporter)
            if checkpoint and epoch + 1 < settings.epochs:
                run.save(checkpoint, epoch + 1)
    model.eval()
    return run.metrics() | {"small_objects": labelled.objects - large.objects}


class _Run:
    """The state of one training."""

    def __init__(
        self, model: TSPMaskRCNN, labelled: ImageSet, pseudo: ImageSet, settings: Settings, beta: float
    ) -> None:
        self.model, self.labelled, self.pseudo, self.settings, self.beta = model, labelled, pseudo, settings, beta
        self.device = next(model.parameters()).device
        self.parallel = distributed.parallel(model)  # the same weights
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, settings)
        self.steps_per_epoch = math.ceil(len(labelled) / settings.batch_size)
        self.terms: dict[str, float] = {}
        self.gradient_shares: list[float] = []
        self.start, self.seconds_before = time.monotonic(), 0.0

    def epoch(self, epoch: int, reporter: _Reporter) -> None:
        # Everything random in an epoch comes from its own seed: a resumed run repeats an unbroken one. All ranks share
        # the order of the images; what becomes of an image, and which of its boxes are sampled, is each rank's own.
        seed = self.settings.seed * 100_003 + epoch
        order, rank = torch.Generator().manual_seed(seed), distributed.rank()
        generator = torch.Generator().manual_seed(seed + rank * RANKS_APART) if rank else order
        torch.manual_seed(seed + rank * RANKS_APART)
        self.model.train()
        if epoch >= NORMS_LEARN * self.settings.epochs:
            for norm in (module for module in self.model.modules() if isinstance(module, NORMS)):
                norm.eval()
        if self.model.loss_head is not None:
            self.model.loss_head.detached = epoch >= LOSS_REACHES_BACKBONE * self.settings.epochs
        sums: dict[str, float] = defaultdict(float)
        with ahead(self._read, self._schedule(order), AHEAD) as batches:
            for index, (labelled, pseudo) in enumerate(batches):
                step = epoch * self.steps_per_epoch + index
                rate = learning_rate_at(step, self.steps_per_epoch, self.settings)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                terms = self._step(
                    self._augmented(*labelled, generator),
                    self._augmented(*pseudo, generator) if pseudo[0] else None,
                    measure=index == 0,
                )
                for name, value in terms.items():
                    sums[name] += value / self.steps_per_epoch
                reporter(step, rate, terms)
        self.terms = dict(sums)

    def _schedule(self, generator: torch.Generator) -> Iterator[tuple[list[int], list[int]]]:
        """Indices of the labelled and of the pseudo-labelled images of each step."""
        size = self.settings.batch_size
        order = torch.randperm(len(self.labelled), generator=generator).tolist()
        wanted = round(len(order) * self.settings.pseudo_ratio) if len(self.pseudo) else 0
        drawn: list[int] = []
        while len(drawn) < wanted:  # without repetition until every pseudo-labelled image was seen
            drawn += torch.randperm(len(self.pseudo), generator=generator).tolist()
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            first, last = (round(n * self.settings.pseudo_ratio) for n in (start, start + len(chosen)))
            yield chosen, drawn[first:last] if wanted else []

    def _read(self, indices: tuple[list[int], list[int]]) -> tuple[Share, Share]:
        """Images and labels of a step from disk, by a thread of its own, while the network is busy with others."""
        labelled, pseudo = indices
        return self._share(self.labelled, labelled), self._share(self.pseudo, pseudo)

    @staticmethod
    def _share(images: ImageSet, indices: list[int]) -> Share:
        """This rank's of a step's images; where it has none, one that counts nothing, since the others wait for it."""
        mine = distributed.share(indices)
        return [images[index] for index in mine or indices[:1]], 1.0 if mine else 0.0

    def _augmented(self, examples: list[Example], weight: float, generator: torch.Generator) -> Batch:
        inputs, targets, keys = [], [], []
        for image, target in examples:
            keys.append(target.pop("key"))
            image, target = augment(image, target, self.settings.augmentation, generator)
            inputs.append(to_input(image, self.device))
            targets.append({name: value.to(self.device) for name, value in target.items()})
        return inputs, targets, keys, weight

    def _losses(self, batch: Batch, pseudo: bool = False) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The terms of this rank, for its gradient, and those of all, as numbers."""
        images, targets, keys, weight = batch
        with distributed.counting(weight):
            terms = self.parallel(images, targets, pseudo=pseudo)
        if not weight:
            terms = {name: value * 0 for name, value in terms.items()}
        return terms, _refuse_non_finite(distributed.mean(terms), keys)

    def _step(self, batch: Batch, pseudo_batch: Batch | None, measure: bool) -> dict[str, float]:
        """One update; returns the loss and its terms.

        The two groups of images share only the weights, so Eq. 5's gradient is gathered by one backward pass after
        the other, which keeps one graph in memory at a time.
        """
        self.optimizer.zero_grad(set_to_none=True)
        terms, values = self._losses(batch)
        supervised_loss(terms, self.settings.iou_loss_weight).backward()
        loss = supervised_loss(values, self.settings.iou_loss_weight)
        if pseudo_batch is not None:
            terms, semi_values = self._losses(pseudo_batch, pseudo=True)
            semi = semi_supervised_loss(terms)
            loss = total_loss(loss, semi_supervised_loss(semi_values), self.beta)
            values |= {f"semi_{name}": value for name, value in semi_values.items()}
            before = [None if p.grad is None else p.grad.clone() for p in self.parameters] if measure else []
            (self.beta * semi).backward()
            if measure:
                self.gradient_shares.append(gradient_share(before, [p.grad for p in self.parameters]))
        if self.settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        return values | {"loss": loss}

    def save(self, path: Path, epochs_done: int) -> None:
        if distributed.rank():  # all of them have the same
            return
        state = {
            "epochs_done": epochs_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "terms": self.terms,
            "gradient_shares": self.gradient_shares,
            "seconds": self.seconds,
        }
        write_atomically(path, lambda temporary: torch.save(state, temporary))

    def resume(self, path: Path) -> int:
        """Take up the state at `path` where there is one; returns the epochs that are done."""
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.seconds_before = state["seconds"]
        except Exception as error:  # whatever a torn file makes of pickle and zip
            log.warning("the training begins anew: its state %s is damaged (%s)", path, type(error).__name__)
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.terms, self.gradient_shares = state["terms"], state["gradient_shares"]
        return state["epochs_done"]

    @property
    def seconds(self) -> float:
        """Of training so far, without what was done after the last saved epoch of an interrupted run."""
        return self.seconds_before + time.monotonic() - self.start

    def metrics(self) -> dict[str, Any]:
        shares = self.gradient_shares
        return {
            "loss": self.terms.get("loss"),
            "loss_terms": {name: value for name, value in self.terms.items() if name != "loss"},
            "semi_gradient_share": sum(shares) / len(shares) if shares else None,
            "steps": self.steps_per_epoch * self.settings.epochs,
            "seconds": round(self.seconds, 3),
        }


class _Reporter:
    """Tells `progress` after each step how far the training is and when it will end."""

    def __init__(self, progress: Progress, steps_per_epoch: int, epochs: int, first_epoch: int) -> None:
        self.progress, self.steps_per_epoch, self.epochs = progress, steps_per_epoch, epochs
        self.first_step, self.total = first_epoch * steps_per_epoch, steps_per_epoch * epochs
        self.start = time.monotonic()

    def __call__(self, step: int, learning_rate: float, terms: dict[str, float]) -> None:
        done = step + 1
        pace = (time.monotonic() - self.start) / (done - self.first_step)
        self.progress(
            {
                "phase": "train",
                "done": done,
                "total": self.total,
                "epoch": step // self.steps_per_epoch + 1,
                "epochs": self.epochs,
                "loss": terms["loss"],
                "terms": terms,
                "learning_rate": learning_rate,
                "eta_seconds": round(pace * (self.total - done), 1),
            }
        )


def gradient_share(supervised: list[Tensor | None], both: list[Tensor | None]) -> float:
    """||beta grad L_semi|| / ||grad L_sup||: how much the pseudo labels have to say.

    Args:
        supervised: the gradient of L_sup for each parameter, None where it has none.
        both: the gradient of L_sup + beta L_semi.
    """
    semi = [b if s is None else b - s for s, b in zip(supervised, both, strict=True) if b is not None]
    norms = [torch.nn.utils.get_total_norm(group) for group in (semi, [s for s in supervised if s is not None])]
    return float(norms[0] / norms[1].clamp(min=1e-12))


def build_optimizer(parameters: list[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """AdamW or SGD as the settings say, for parameters [any shape]."""
    # Fused: one walk over the weights a step instead of one for each term of the update.
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    return torch.optim.SGD(parameters, momentum=settings.momentum, **common)


def _refuse_non_finite(terms: dict[str, Tensor], keys: list[str]) -> dict[str, float]:
    """The terms as numbers; raises NonFiniteLossError, before anything is updated and on every rank, if one is none."""
    values = {name: float(value.detach()) for name, value in terms.items()}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteLossError(
            f"the loss is not finite ({', '.join(wrong)}) on images {', '.join(distributed.gathered(keys))}; "
            "look at these images and labels, or lower the learning rate."
        )
    return values
