"""The triplet score, Eq. 2 and 3 of arXiv 2012.04829: lower means more uncertain.

The standard deviation is the population's (ddof = 0): it is defined for one instance, whose image score is then the
instance's own.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def merge(values: Tensor) -> Tensor:
    """exp(-std(values)) * mean(values) over the last dimension: high only if all values are high and agree."""
    mean = values.mean(dim=-1)
    deviation = (values - mean.unsqueeze(-1)).square().mean(dim=-1).sqrt()  # ddof = 0
    return torch.exp(-deviation) * mean


def instance_scores(class_scores: Tensor, box_scores: Tensor, mask_scores: Tensor, parts: str = "cbm") -> Tensor:
    """Eq. 2: s_ij = exp(-std(c, b, m)) * mean(c, b, m).

    Args:
        class_scores, box_scores, mask_scores: [N] each, in 0..1.
        parts: the scores that count, for the ablation of section 4: "c" alone is c itself.

    Returns:
        [N], in 0..1.
    """
    return merge(torch.stack(counted((class_scores, box_scores, mask_scores), parts), dim=-1))


def counted(scores: tuple[T, T, T], parts: str) -> tuple[T, ...]:
    """Those of c, b and m that `parts`, such as "cm", names."""
    return tuple(score for part, score in zip("cbm", scores, strict=True) if part in parts)


def image_score(instance_scores: Tensor, empty_image_score: float) -> float:
    """Eq. 3: S_i = exp(-std(s_i)) * mean(s_i) over the image's N instance scores.

    Args:
        instance_scores: [N], in 0..1.
        empty_image_score: S where N = 0; the paper leaves this open, see `empty_image_score`.
    """
    if instance_scores.numel() == 0:
        return float(empty_image_score)
    return float(merge(instance_scores.double()))


def empty_image_score(max_class_score: float, rule: str) -> float:
    """S of an image without a detection above the ranking threshold.

    "graded": 1 - (the highest foreground class score before any threshold), so that the image on which the network
    almost saw something is more uncertain than the one on which it saw nothing. "zero": always the most uncertain;
    this reading spends the budget on truly empty images.
    """
    return 1.0 - max_class_score if rule == "graded" else 0.0
