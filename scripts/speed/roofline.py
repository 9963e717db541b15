"""What a GPU would need for the network's operations and bytes alone, at peaks measured in the same minutes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from scripts.speed.pair import DETECTIONS, Pair, noise, synchronised
from scripts.speed.timing import COST, Bench, Comparison
from tsp_model.complexity import gflops
from tsp_model.execution import Execution
from tsp_model.network import TSPMaskRCNN
from tsp_model.settings import Settings

SIDE = 8192  # of the matrices whose product shows the peak
COPIED = 2**30  # bytes, read once and written once


def compare(bench: Bench, pair: Pair, batches: Sequence[int]) -> Iterator[Comparison]:
    """Our inference in bfloat16 on a GPU beside what its peaks allow, a row for each batch size."""
    left, right = (torch.randn(SIDE, SIDE, device=pair.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(COPIED, device=pair.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    # Peaks and bytes are bfloat16's, so everything must run in it.
    model = pair.answering(Settings(precision="bfloat16"))
    counted = Execution().prepare(copy.deepcopy(pair.ours))
    operations = gflops(counted, pair.size, pair.size, model.rpn.proposals, DETECTIONS) * 1e9
    for batch in batches:
        images = noise(pair.size, batch, pair.device)
        moved = moved_bytes(model, images)

        @torch.inference_mode()
        def ours(images: list[Tensor] = images) -> object:
            return model(images)

        contestants = {"ours": ours, "matmul": lambda: left @ right, "copy": lambda: target.copy_(source)}
        title = f"inference on the GPU beside its peaks, batch {batch}"
        seconds = bench.measure(
            title, {name: synchronised(run, pair.device) for name, run in contestants.items()}, warmup=3
        )
        # What is limited by operations and what by bytes overlap at best.
        seconds["peaks"] = [
            max(batch * operations * matmul / (2 * SIDE**3), moved * copy / (2 * COPIED))
            for matmul, copy in zip(seconds["matmul"], seconds["copy"], strict=True)
        ]
        facts = {"gflop": batch * operations / 1e9, "gigabytes": moved / 1e9}
        yield Comparison(title, "ours", "peaks", seconds, COST, facts=facts)


@torch.inference_mode()
def moved_bytes(model: TSPMaskRCNN, images: list[Tensor]) -> int:
    """Bytes that convolutions and linear layers read and write in one pass, weights once each, two bytes a number."""
    numbers = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += sum(part.numel() for part in (*inputs, output, *module.parameters(recurse=False)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * numbers
