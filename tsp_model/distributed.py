"""One training, or one pass over a pool, by several processes; each of torch.distributed's ranks runs the same code.

A process that belongs to no group is rank 0 of 1, and nothing here costs it anything. Gradients are averaged by
DistributedDataParallel. The average is that of one process with all images only if each rank divides its sums by the
mean over the ranks of what they counted, rather than by its own count: `normaliser`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # with a rank whose share of a pool takes longer; one that died ends the others at once
_counts: float | None = 1.0  # what this process's counts weigh in `normaliser`; None: it divides by its own


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def group() -> Iterator[None]:
    """Belong to the group that torchrun started, NCCL on GPUs, one each, and Gloo on CPUs, for a `with` block."""
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(items: Sequence[T]) -> list[T]:
    """Every n-th, from this rank's on: together the ranks have each once."""
    return list(items[rank() :: world()])


def normaliser(count: int) -> float:
    """What a sum over `count` things is divided by, so that the mean over the ranks is the mean over all things; at
    least 1 in all. A rank that only stands in counts nothing."""
    if not dist.is_initialized() or _counts is None:
        return max(count, 1)
    total = torch.tensor(_counts * count, device=_device())
    dist.all_reduce(total)
    return max(float(total), 1.0) / world()


@contextmanager
def counting(weight: float | None) -> Iterator[None]:
    """How counts weigh in `normaliser` for a `with` block: 0 for a rank without an image of its own in a step, which
    takes part all the same, with another's, since the ranks wait for each other; None for losses that are not the
    group's, such as those of single images."""
    global _counts
    before, _counts = _counts, weight
    try:
        yield
    finally:
        _counts = before


def mean(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms of the loss as one process would have them, on every rank; without a gradient."""
    values = torch.stack([value.detach().float() for value in terms.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= world()
    return dict(zip(terms, values, strict=True))


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all ranks, on each."""
    if not dist.is_initialized():
        return list(items)
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, list(items))
    return [item for items in found for item in items]


def parallel(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages gradients over the ranks; itself where there is one."""
    if not dist.is_initialized():
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":  # on CPUs each rank keeps to the statistics of its own images
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # In the pass over pseudo labels the IoU heads take no part.
    return DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None, find_unused_parameters=True
    )


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
