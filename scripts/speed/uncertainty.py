"""The uncertainty of a pool by our one pass, beside Monte Carlo dropout's ten."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from scripts.speed.pair import SIZE, SMOKE_SIZE, build_ours
from scripts.speed.timing import Bench, Comparison, require_agreement
from tsp_model import monte_carlo
from tsp_model.execution import Execution
from tsp_model.inference import BATCH_SIZE, predict
from tsp_model.settings import Settings

PASSES = 10
DROPOUT = 0.5
AIMS = {"whole passes": 8.0, "shared backbone and RPN": 4.0}


def uncertainty(bench: Bench) -> Iterator[Comparison]:
    """A batch of the pool; everything in the same execution, and no contestant pastes masks."""
    size, count, batch = (SMOKE_SIZE, 2, 1) if bench.smoke else (SIZE, PASSES, BATCH_SIZE)
    torch.manual_seed(0)
    model = Execution.choose(Settings()).freeze(build_ours(size, dropout=DROPOUT))
    images = list(torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)))
    names = {f"{count} {name}": shared for name, shared in zip(AIMS, (False, True), strict=True)}
    contestants = {"one pass with scores": lambda: list(predict(model, images, paste=False))} | {
        name: lambda shared=shared: _drained(monte_carlo.passes(model, images, count, shared))
        for name, shared in names.items()
    }
    ours = [len(one["scores"]) for one in contestants["one pass with scores"]()]
    for name in names:
        found = [[len(one["scores"]) for one in of_pass] for of_pass in contestants[name]()]
        require_agreement(found == [ours] * count, f"numbers of detections of {name}: {found}, ours {ours}")
    seconds = bench.measure("uncertainty", contestants)
    title = f"uncertainty of {batch} images, R50 at {size}"
    for name, aim in zip(names, AIMS.values(), strict=True):
        yield Comparison(title, "one pass with scores", name, seconds, aim=aim)


def _drained(found: list[list[dict[str, object]]]) -> list[list[dict[str, object]]]:
    """All passes, the GPU's work on them done: our own pass brings its results to the CPU, too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found
