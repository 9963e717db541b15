"""What each choice of tsp_model/execution.py brings: the network as shipped beside itself with one made otherwise.

`agreement` adds the levers up on trained weights, to see what they keep; here each stands alone, on the network of the
other rows, to see what it brings.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping

from scripts.speed.elsewhere import elsewhere
from scripts.speed.network import BATCHES, answer, detections, our_step
from scripts.speed.pair import Pair, build_pair, noise, require_all_found, require_same_objects
from scripts.speed.timing import COST, Bench, Comparison
from tsp_model.execution import Execution
from tsp_model.settings import Settings

SHIPPED, COMPILED, GIVEN_BACK = "as shipped", "compiled", "freed memory goes back to the kernel"
ROUNDING = 5e-2  # pixels that a box may move: folding a norm moves some by more than a hundredth
# These change the last digit of what is found at most.
OF_ANSWERS: Mapping[str, Settings] = {
    "torchvision's RoIAlign": Settings(roi_align="torchvision"),
    "channels first": Settings(memory_format="contiguous"),
    "linear layers by BLAS": Settings(linear="blas"),
    "norms on their own": Settings(fold_norms=False),
    "float32 everywhere": Settings(precision="float32"),
}
# These may find something else.
OPT_IN: Mapping[str, Settings] = {
    "bfloat16 everywhere": Settings(precision="bfloat16"),
    "300 proposals": Settings(proposals=300),
}
OF_TRAINING: Mapping[str, Settings] = {
    "torchvision's RoIAlign": Settings(roi_align="torchvision"),
    "channels first": Settings(memory_format="contiguous"),
    "float32 everywhere": Settings(precision="float32"),
    "bfloat16 in mask and score heads only": Settings(precision="mixed"),
}


def levers(bench: Bench) -> Iterator[Comparison]:
    """Above 1: it takes so many times as long as what is shipped. The choices that are no default may be quicker."""
    pair = build_pair(bench)
    for batch in BATCHES[:1] if bench.smoke else BATCHES:
        yield from _answers(bench, pair, batch)
    yield from _steps(bench, pair)


def _answers(bench: Bench, pair: Pair, batch: int) -> Iterator[Comparison]:
    images = noise(pair.size, batch, pair.device)
    ways = {SHIPPED: Settings(), **OF_ANSWERS, **OPT_IN} | ({} if bench.smoke else {COMPILED: Settings(compile=True)})
    models = {name: pair.answering(settings) for name, settings in ways.items()}
    found, notes = {}, {}
    for name, model in models.items():
        start = time.perf_counter()
        found[name] = detections(model, images)
        if name == COMPILED:
            notes[name] = f"its first answer took {time.perf_counter() - start:.0f} s"
    for name in OF_ANSWERS:
        require_same_objects(found[name], found[SHIPPED], name, ROUNDING)
    contestants = {name: answer(model, images) for name, model in models.items()}
    title = f"inference, R50 at {pair.size}, batch {batch}"
    with elsewhere(_giving_memory_back, bench, batch, threads=bench.threads) as there:
        contestants |= there
        counts = {name: [len(one["scores"]) for one in images_found] for name, images_found in found.items()}
        require_all_found(counts | {name: run() for name, run in there.items()}, batch)
        seconds = bench.measure(f"{title}, levers", contestants)
    for name in contestants:
        if name != SHIPPED:
            yield Comparison(f"{title}: {name}", name, SHIPPED, seconds, COST, note=notes.get(name, ""))


def _giving_memory_back(bench: Bench, batch: int) -> dict[str, Callable[[], list[int]]]:
    """Of a process that nobody told to keep its memory."""
    pair = build_pair(bench)
    return {GIVEN_BACK: answer(pair.answering(Settings()), noise(pair.size, batch, pair.device))}


def _steps(bench: Bench, pair: Pair) -> Iterator[Comparison]:
    contestants = {
        name: our_step(Execution.choose(settings, learning=True).prepare(copy.deepcopy(pair.ours)), pair.size)
        for name, settings in {SHIPPED: Settings(), **OF_TRAINING}.items()
    }
    title = f"training step, R50 at {pair.size}"
    seconds = bench.measure(f"{title}, levers", contestants)
    for name in OF_TRAINING:
        yield Comparison(f"{title}: {name}", name, SHIPPED, seconds, COST)
