"""RoIAlign over all feature levels as one weighted gather: what torchvision's CPU kernel computes, many times faster.

RoIAlign (arXiv 1703.06870, section 3) is linear in the features: each output cell is the mean of a few bilinear
samples, each of them a weighted sum of four pixels. With the levels laid out as one table of pixel vectors, a cell is
therefore one bag of an `embedding_bag`: its rows are the pixels, its per-sample weights the bilinear ones.
torchvision's kernel walks the same sums channel by channel, hardly uses a second thread and knows no bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _setup_scales


class GatherRoIAlign(MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign, behind its signature, for a fixed number of samples a bin.

    Args:
        featmap_names, output_size, sampling_ratio, canonical_scale, canonical_level: as torchvision's; the output is
            square and sampling_ratio at least 1.

    Attributes:
        gather: False gives the work to torchvision's own kernel, as does a GPU, where that kernel is quick.
    """

    gather: bool = False

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """[R, C, S, S] in the precision of the features, for the R boxes of all images in order.

        Args:
            x: feature levels by name, [B, C, H, W] each. boxes: [R_i, 4] XYXY float32 in pixels of the batch's images.
            image_shapes: (H, W) of each image.
        """
        features = [x[name] for name in self.featmap_names]
        if not self.gather or features[0].is_cuda:
            return super().forward(x, boxes, image_shapes)
        if self.scales is None or self.map_levels is None:
            self.scales, self.map_levels = _setup_scales(
                features, image_shapes, self.canonical_scale, self.canonical_level
            )
        rois = torch.cat(boxes)
        image = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        level = self.map_levels(boxes) if len(features) > 1 else torch.zeros_like(image)
        rows, weights = _samples(features, self.scales, rois, image, level, self.output_size[0], self.sampling_ratio)
        # In NHWC a pixel's channels are one row of memory, so this is a copy of the features at most.
        table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in features])
        if table.requires_grad and torch.is_grad_enabled():
            # A pixel's gradient is a sum over all RoIs that cover it; in bfloat16 hundreds of them would not add up.
            table = table.float()
        pooled = F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))
        pooled = pooled.to(features[0].dtype)
        return pooled.unflatten(0, (len(rois), *self.output_size)).permute(0, 3, 1, 2)


@torch.no_grad()
def _samples(
    features: list[Tensor], scales: list[float], rois: Tensor, image: Tensor, level: Tensor, size: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Which pixels each output cell sums, and how: rows of the table and weights, [R * size * size, (2 * samples)^2].

    Args:
        rois: [R, 4] XYXY. image, level: [R], whose and which. size: S. samples: a bin and side.
    """
    heights, widths = (torch.tensor([f.shape[i] for f in features], device=rois.device) for i in (2, 3))
    level_start = torch.tensor([0] + [f.shape[0] * f.shape[2] * f.shape[3] for f in features], device=rois.device)
    height, width = heights[level], widths[level]
    scaled = rois * torch.tensor(scales, device=rois.device)[level, None]
    extent = (scaled[:, 2:] - scaled[:, :2]).clamp(min=1)  # torchvision's rule for boxes smaller than a pixel
    columns, column_weights = _axis(scaled[:, 0], extent[:, 0], width, size, samples)
    lines, line_weights = _axis(scaled[:, 1], extent[:, 1], height, size, samples)
    image_start = level_start.cumsum(0)[level] + image * height * width
    first = image_start[:, None, None] + lines * width[:, None, None]
    # [R, S, 1, 2 samples, 1] with [R, 1, S, 1, 2 samples]: every line with every column
    rows = first[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = line_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / samples**2
    return rows.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _axis(start: Tensor, extent: Tensor, limit: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """The two neighbours of each sample along one axis and their shares: [R, size, 2 * samples] both.

    Args:
        start, extent: [R], of the RoI in pixels of its level. limit: [R], pixels there are.
    """
    steps = (torch.arange(size * samples, device=start.device) + 0.5) / (size * samples)
    at = start[:, None] + extent[:, None] * steps
    limit = limit[:, None]
    inside = (at >= -1) & (at <= limit)  # what lies further out counts as zero, as in torchvision
    at = at.clamp(min=0)
    at = torch.minimum(at, limit - 1)
    low = at.floor()
    share = at - low
    high = torch.minimum(low + 1, limit - 1)
    neighbours = torch.stack([low, high], dim=-1).long()
    shares = torch.stack([1 - share, share], dim=-1) * inside[..., None]
    return neighbours.unflatten(1, (size, samples)).flatten(2), shares.unflatten(1, (size, samples)).flatten(2)
