"""Fig. 3 of arXiv 2012.04829: the same test images over the cycles, and the hardest and easiest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from scripts.reporting import plots, words
from scripts.reporting.context import Context
from scripts.reporting.lines import Line
from scripts.reporting.overlay import CAPTIONED, Shape, draw_shapes, palette, read_pixels
from scripts.reporting.page import Absent, Figure, Part, Section
from scripts.reporting.runs import Run
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.predictions import Prediction, PredictionFile

OVER_CYCLES = "fig3a_over_the_cycles.png"
IMAGES = 3  # of Fig. 3(a)
MOST_COLUMNS = 6  # cycles of Fig. 3(a); of more, evenly chosen ones
TILE, LARGE_TILE = 1.75, 2.9  # width of a picture in 3(a) and 3(b), inches
EACH = 4  # hardest and easiest images of Fig. 3(b)
BEFORE = (("entropy", False), ("entropy", True), ("random", False))  # what stands beside the method, the first there is


@dataclass(frozen=True)
class Seen:
    """The test predictions of a run, by cycle."""

    line: Line
    run: Run
    by_cycle: dict[int, PredictionFile]


def pictures(context: Context) -> Section:
    """Fig. 3(a) and 3(b), as far as images and cells are there."""
    section = Section("Pictures (Fig. 3)")
    method = context.grid.method
    if context.test is None:
        section.parts.append(Absent(f"all pictures of test images; {context.without_data}"))
    elif method is None or not method.cycles:
        section.parts.append(Absent("all pictures of test images; no plain TSP cell has finished a cycle."))
    else:
        try:
            section.parts += [
                _over_cycles(context, context.test, method),
                _hard_and_easy(context, context.test, method),
            ]
        except DataError as error:
            section.parts.append(Absent(f"pictures of test images; {error}"))
    return section


def _over_cycles(context: Context, test: ImageSet, method: Line) -> Part:
    beside = [context.grid.plain(*which) for which in BEFORE]
    lines = [*[line for line in beside if line is not None and line.cycles][:1], method]
    seed = _seed(lines)
    if seed is None:
        return Absent(
            f"Fig. 3(a); no seed of {' and '.join(line.title for line in lines)} has finished a cycle in both."
        )
    come = min(len(line.runs[seed].rows) for line in lines)
    cycles = _evenly(come)
    cut_short = f", as far as all have come (cycle {come})" if come < context.grid.cycles else ""
    items = _unchosen(test)
    _draw_over_cycles(context, test, items, [_seen(line, seed, cycles) for line in lines])
    return Figure(
        context.out / OVER_CYCLES,
        f"The same test images as the labels grow, seed {seed}{cut_short}: what each model finds with a class score "
        f"above {context.grid.common.ranking_score_threshold:g}. A colour is a class, or an object where there is one "
        "class. Images were not chosen by result: they lie at equal steps in the test split among those with objects "
        f"({', '.join(item.key for item in items)}).",
        "Masks found in test images cycle by cycle, beside the ground truth",
    )


def _draw_over_cycles(context: Context, test: ImageSet, items: Sequence[Item], seen: Sequence[Seen]) -> None:
    """A row for each image and run: the truth, then cycle by cycle."""
    by_object, above = len(test.classes) == 1, context.grid.common.ranking_score_threshold
    pixels = [read_pixels(item.path) for item in items]
    asked = [(item, image, one) for item, image in zip(items, pixels, strict=True) for one in seen]
    spaces = [(0.3 if by_object else 0.55) if row == 0 else 0.14 * (row % len(seen) == 0) for row in range(len(asked))]
    columns = 1 + len(seen[0].by_cycle)
    canvas, rows = plots.tiles(len(asked), columns, TILE, TILE * _tallest(pixels), spaces, left=0.3)
    for row, (item, image, one) in zip(rows, asked, strict=True):
        titles = ["ground truth", *(f"{one.run.labels[cycle - 1]} labels" for cycle in one.by_cycle)]
        shapes = [_truth(item), *(_shapes(found.get(item.key), above) for found in one.by_cycle.values())]
        for panel, title, of_panel in zip(row, titles, shapes, strict=True):
            _show(panel, draw_shapes(image, of_panel, by_object), title if row is rows[0] else "")
        row[0].set_ylabel(one.line.title, fontsize=9, color=plots.text_colour(plots.look(one.line)[0]))
    if not by_object:
        colours = palette(len(test.classes)) / 255
        handles = [Patch(color=colour, label=name) for colour, name in zip(colours, test.classes, strict=True)]
        canvas.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False, borderaxespad=0.2)
    plots.save(canvas, context.out / OVER_CYCLES)


def _hard_and_easy(context: Context, test: ImageSet, method: Line) -> Part:
    grid = context.grid
    seed = _seed([method])
    run = method.runs[seed]
    cycle, above = len(run.rows), grid.common.ranking_score_threshold
    predictions = PredictionFile(run.test_predictions(cycle))
    found = {key: prediction.above(above) for key, prediction in predictions.items()}
    hardest, easiest = hardest_and_easiest(found)
    if not hardest:
        return Absent(f"Fig. 3(b); {method.title} found nothing in the test images with a class score above {above:g}.")
    items = {item.key: item for item in test.items}
    groups = [("hard", hardest), ("easy", easiest)][: 2 if easiest else 1]
    pixels = {key: read_pixels(items[key].path) for key in (*hardest, *easiest)}
    most = min(max(len(found[key]) for key in pixels), CAPTIONED + 1)
    height = LARGE_TILE * _tallest(list(pixels.values()))
    canvas, rows = plots.tiles(
        len(groups), len(hardest), LARGE_TILE, height, [0.3] * len(groups), below=0.1 + 0.145 * most
    )
    for row, (kind, keys) in zip(rows, groups, strict=True):
        for panel, key in zip(row, keys, strict=True):
            shapes = _shapes(found[key], above)
            drawn = draw_shapes(pixels[key], shapes, by_object=True, outlines=_truth(items[key]), numbered=True)
            _show(panel, drawn, f"{kind}: S = {found[key].image_score:.3f}")
            said = "\n".join(captions(found[key], shapes, test.classes))
            panel.set_xlabel(said, fontsize=7.5, loc="left", linespacing=1.35, color=plots.BLACK, labelpad=4)
    return Figure(
        plots.save(canvas, context.out / "fig3b_hard_and_easy.png"),
        f"The hardest test images (lowest S, above) and the easiest (highest S) to {method.title}, seed {seed}, cycle "
        f'{cycle}, among those in which it found something. Under each image its instances as "class: c, b, m", the '
        f"largest {CAPTIONED} where there are more. Colours tell instances apart; white lines: ground truth.",
        "Hardest and easiest test images with the scores of their instances",
    )


def hardest_and_easiest(found: Mapping[str, Prediction]) -> tuple[list[str], list[str]]:
    """Keys of the images with the lowest S, the lowest first, and with the highest, the highest first; none in both.

    Args:
        found: by image; those without a detection do not take part.
    """
    ordered = sorted((key for key in found if len(found[key])), key=lambda key: (found[key].image_score, key))
    each = min(EACH, max(1, len(ordered) // 2))
    return ordered[:each], ordered[: -each - 1 : -1] if len(ordered) > 1 else []


def captions(prediction: Prediction, shapes: Sequence[Shape], classes: Sequence[str]) -> list[str]:
    """The numbered instances in their order, each as "number  class: c, b, m", and how many more there are.

    Args:
        shapes: of the prediction, as overlay.draw_shapes has numbered them.
    """
    numbered = sorted((shape for shape in shapes if shape.number), key=lambda shape: shape.number)
    said = []
    for shape in numbered:
        scores = (prediction.scores, prediction.box_scores, prediction.mask_scores)
        triplet = ", ".join(f"{values[shape.index]:.2f}" for values in scores)
        said.append(f"{shape.number}  {classes[shape.label - 1]}: {triplet}")
    more = len(shapes) - len(numbered)
    if more:
        said.append(f"and {words.many(more, 'smaller instance')}")
    return said


def _seed(lines: Sequence[Line]) -> int | None:
    """The first seed in which all have come furthest; None where no seed is in all."""
    shared = set.intersection(*(({seed for seed, run in line.runs.items() if run.rows}) for line in lines))
    return min(shared, key=lambda seed: (-min(len(line.runs[seed].rows) for line in lines), seed), default=None)


def _seen(line: Line, seed: int, cycles: Sequence[int]) -> Seen:
    run = line.runs[seed]
    return Seen(line, run, {cycle: PredictionFile(run.test_predictions(cycle)) for cycle in cycles})


def _evenly(count: int) -> list[int]:
    """Cycles 1 to `count`, or so many of them that a row holds, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(1, count, min(count, MOST_COLUMNS))})


def _unchosen(test: ImageSet) -> list[Item]:
    """Images with objects at equal steps through the test split."""
    with_objects = [item for item in test.items if item.instances]
    places = np.linspace(0, len(with_objects), IMAGES + 2)[1:-1].astype(int)
    return [with_objects[place] for place in sorted(set(places.tolist()))]


def _tallest(pixels: Sequence[np.ndarray]) -> float:
    """The largest height of a picture by its width."""
    return max(image.shape[0] / image.shape[1] for image in pixels)


def _truth(item: Item) -> list[Shape]:
    return [Shape(index, instance.label, instance.rle) for index, instance in enumerate(item.instances)]


def _shapes(prediction: Prediction | None, above: float) -> list[Shape]:
    """The detections that count; none for an image without a prediction."""
    if prediction is None:
        return []
    counted = prediction.above(above)
    pairs = zip(counted.labels, counted.rles, strict=True)
    return [Shape(index, label, rle) for index, (label, rle) in enumerate(pairs)]


def _show(panel: Axes, pixels: np.ndarray, title: str) -> None:
    panel.imshow(pixels)
    panel.set_anchor("N")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_title(title, fontsize=9, fontweight="normal")
