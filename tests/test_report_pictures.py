"""Which test images Fig. 3 shows, what is written under them, and the section on both heads, by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from PIL import Image

from scripts.reporting.calibration import heads
from scripts.reporting.overlay import COLOURS, Shape, draw_shapes, palette
from scripts.reporting.page import Figure
from scripts.reporting.pictures import captions, hardest_and_easiest, pictures
from tests.builders import SIZE
from tests.grid_cells import context_of, found_squares, rle, squares_set, table_of, write_cell
from tsp_model.data.image_set import ImageSet
from tsp_model.predictions import Prediction, write_predictions

# Fig. 3(a)


def test_a_row_is_a_run_and_a_column_a_cycle(tmp_path: Path, drawn: dict[str, Canvas]) -> None:
    items = [*squares_set([], *[[(2, 2, 8)]] * 3, folder=write_blank(tmp_path, 4)).items]
    for place, (name, strategy) in enumerate((("entropy", "entropy"), ("tsp + SSL", "tsp"))):
        cell = write_cell(tmp_path / "out", name, 0, [0.2, 0.4], strategy=strategy)
        for cycle in (1, 2):
            (cell / f"M{cycle}").mkdir()
            # each model finds a square of its own, and another that is too weak to count
            squares, scores = [(12 + 20 * cycle, 4 + 30 * place, 12), (2, 50, 8)], [0.9, 0.2]
            found = [found_squares(item.key, squares, scores, 0.8, 0.7) for item in items]
            write_predictions(cell / f"M{cycle}" / "test_predictions.jsonl", found)
    pictures(context_of(tmp_path / "out", test=ImageSet(items, ["rod", "cone"])))
    tiles = np.array(drawn["fig3a_over_the_cycles.png"].axes).reshape(6, 3)
    assert [tile.get_title() for tile in tiles[0]] == ["ground truth", "10 labels", "20 labels"]
    assert [row[0].get_ylabel() for row in tiles] == ["class entropy", "TSP + SSL"] * 3
    assert [coloured(row[0]) for row in tiles] == [(2, 2, 10, 10)] * 6, "only images with an object are shown"
    for row, of_run in enumerate(tiles[:, 1:]):
        top = 4 + 30 * (row % 2)
        lefts = (12 + 20 * cycle for cycle in (1, 2))
        assert [coloured(tile) for tile in of_run] == [(left, top, left + 12, top + 12) for left in lefts]


def coloured(tile: Axes) -> tuple[int, ...]:
    """The box around all that is not grey in the picture of a grey image: left, top, right, bottom in its pixels."""
    pixels = np.asarray(tile.images[0].get_array()).astype(int)
    rows, columns = np.nonzero(np.ptp(pixels, axis=2))
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return tuple((edges / (len(pixels) / SIZE)).round().astype(int).tolist())


def write_blank(folder: Path, count: int) -> Path:
    for number in range(count):
        Image.fromarray(np.full((SIZE, SIZE), 90, np.uint8)).save(folder / f"{number}.png")
    return folder


# Fig. 3(b)


def scored(key: str, image_score: float, squares: Sequence[tuple[int, int, int]] = ((4, 4, 10),)) -> Prediction:
    one = found_squares(key, squares, [0.9] * len(squares), 0.8, 0.7)
    return dataclasses.replace(one, image_score=image_score)


def told_apart(key: str, image_score: float) -> Prediction:
    """A small rod and a large cone, all six scores different."""
    one = scored(key, image_score, [(40, 40, 8), (4, 4, 20)])
    return dataclasses.replace(
        one, labels=[1, 2], scores=[0.91, 0.62], box_scores=[0.53, 0.74], mask_scores=[0.35, 0.86]
    )


def test_the_hardest_images_have_the_lowest_scores_and_the_easiest_the_highest() -> None:
    found = {name: scored(name, score) for name, score in zip("abcde", (0.9, 0.1, 0.5, 0.7, 0.3), strict=True)}
    found["empty"] = scored("empty", 0.0, [])
    assert hardest_and_easiest(found) == (["b", "e"], ["a", "d"])


def test_four_of_each_are_shown_and_no_image_twice() -> None:
    many = {f"{number:02}": scored(f"{number:02}", number / 20) for number in range(12)}
    assert hardest_and_easiest(many) == (["00", "01", "02", "03"], ["11", "10", "09", "08"])
    two = {"high": scored("high", 0.8), "low": scored("low", 0.2)}
    assert hardest_and_easiest(two) == (["low"], ["high"])
    assert hardest_and_easiest({"only": scored("only", 0.2)}) == (["only"], [])
    assert hardest_and_easiest({}) == ([], [])


def test_a_caption_has_class_c_b_and_m_in_the_order_of_the_numbers() -> None:
    prediction = told_apart("0.png", 0.5)
    shapes = [Shape(0, 1, prediction.rles[0]), Shape(1, 2, prediction.rles[1])]
    draw_shapes(np.zeros((SIZE, SIZE, 3), np.uint8), shapes, by_object=True, numbered=True)
    assert captions(prediction, shapes, ["rod", "cone"]) == ["1  cone: 0.62, 0.74, 0.86", "2  rod: 0.91, 0.53, 0.35"]


def test_of_more_than_eight_instances_the_smallest_are_only_counted() -> None:
    squares = [(2 + 15 * (place % 4), 2 + 15 * (place // 4), 4 + place) for place in range(10)]
    prediction = scored("0.png", 0.5, squares)
    shapes = [Shape(index, 1, one) for index, one in enumerate(prediction.rles)]
    draw_shapes(np.zeros((SIZE, SIZE, 3), np.uint8), shapes, by_object=True, numbered=True)
    said = captions(prediction, shapes, ["rod"])
    assert (len(said), said[0], said[-1]) == (9, "1  rod: 0.90, 0.80, 0.70", "and 2 smaller instances")
    assert [shape.number for shape in shapes] == [0, 0, 8, 7, 6, 5, 4, 3, 2, 1]


def test_each_picture_has_its_own_score_and_captions(tmp_path: Path, drawn: dict[str, Canvas]) -> None:
    items = squares_set(*[[(4, 4, 10)]] * 3, folder=write_blank(tmp_path, 3)).items
    cell = write_cell(tmp_path / "out", "tsp", 0, [0.2])
    (cell / "M1").mkdir()
    found = [told_apart("0.png", 0.75), scored("1.png", 0.25), scored("2.png", 0.5)]
    write_predictions(cell / "M1" / "test_predictions.jsonl", found)
    section = pictures(context_of(tmp_path / "out", test=ImageSet(items, ["rod", "cone"])))
    assert len([part for part in section.parts if isinstance(part, Figure)]) == 2
    shown = [(axes.get_title(), axes.get_xlabel()) for axes in drawn["fig3b_hard_and_easy.png"].axes]
    assert shown == [
        ("hard: S = 0.250", "1  rod: 0.90, 0.80, 0.70"),
        ("easy: S = 0.750", "1  cone: 0.62, 0.74, 0.86\n2  rod: 0.91, 0.53, 0.35"),
    ]


# Colours


def test_as_many_classes_as_there_are_have_as_many_colours() -> None:
    many = palette(80).astype(int)
    apart = np.abs(many[:, None] - many[None]).max(axis=2)
    assert many.shape == (80, 3) and apart[~np.eye(80, dtype=bool)].min() > 20
    assert np.array_equal(palette(7), COLOURS) and np.array_equal(many[:12], palette(12))
    assert np.array_equal(palette(2), COLOURS[:2])


def test_the_eighth_class_is_drawn_in_a_colour_of_its_own() -> None:
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    first, eighth = (draw_shapes(blank, [Shape(0, label, rle(4, 4, 30))], by_object=False)[20, 20] for label in (1, 8))
    assert first.tolist() == [int(0.38 * part) for part in COLOURS[0]]
    assert eighth.tolist() == [int(0.38 * part) for part in palette(8)[7]] != first.tolist()


# The two heads


def test_every_number_of_the_heads_is_that_of_the_detections(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "tsp", 0, [0.2])
    (cell / "M1").mkdir()
    found = [
        # Half of the square to the right: both IoUs 2 / 3. The second and third match nothing.
        found_squares("0.png", [(6, 4, 10), (4, 4, 10), (50, 50, 8)], [0.9, 0.8, 0.7], 0.6, 0.5),
        found_squares("1.png", [(4, 4, 10), (5, 4, 10)], [0.95, 0.2], 0.8, 0.7),
        found_squares("2.png", [(4, 4, 10)], [0.9], 0.5, 0.9),
    ]
    write_predictions(cell / "M1" / "test_predictions.jsonl", found)
    section = heads(context_of(tmp_path, test=squares_set([(4, 4, 10)], [(4, 4, 10)], [(4, 4, 10)])))
    # b 0.6, 0.8, 0.5 and m 0.5, 0.7, 0.9 beside IoUs 2 / 3, 1, 1: b is off by 1 / 15, 1 / 5 and 1 / 2, m by 1 / 6,
    # 3 / 10 and 1 / 10, all of them too low. Ranks of the IoUs: 1, 2.5, 2.5; of b: 2, 3, 1; of m: 1, 2, 3.
    off_b, off_m = (1 / 15 + 1 / 5 + 1 / 2) / 3, (1 / 6 + 3 / 10 + 1 / 10) / 3
    # Deviations from the means, in thirtieths: b -1, 5, -4; m (in tenths) -2, 0, 2; IoUs (in ninths) -2, 1, 1.
    r_b, r_m = (2 + 5 - 4) / math.sqrt(42 * 6), (4 + 0 + 2) / math.sqrt(8 * 6)
    assert [list(row) for row in table_of(section).rows] == [
        ["TSP, cycle 1", "b", "3", f"{off_b:.3f}", f"{-off_b:+.3f}", f"{r_b:.2f}", "0.00", "2", "0.60"],
        ["", "m", "3", f"{off_m:.3f}", f"{-off_m:+.3f}", f"{r_m:.2f}", f"{1.5 / math.sqrt(2 * 1.5):.2f}", "2", "0.50"],
    ]
    (figure,) = [part for part in section.parts if isinstance(part, Figure)]
    assert figure.caption.startswith("TSP, cycle 1: each dot one matched detection (3)")
