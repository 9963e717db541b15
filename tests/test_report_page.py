"""The report's page, which loads nothing, and what the command refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scripts import command_line
from scripts import report as report_module
from scripts.command_line import CommandError
from scripts.reporting.context import find_data
from scripts.reporting.lines import read_results
from scripts.reporting.page import Table
from scripts.reporting.plots import spread
from tests.builders import SIZE
from tests.grid_cells import context_of, found_squares, rle, write_cell, write_grid
from tsp_model.predictions import write_predictions

# Bad input


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no cells of a grid; run python -m scripts.benchmark"):
        read_results(tmp_path / "nowhere")
    write_cell(tmp_path, "tsp", 0, [])
    with pytest.raises(CommandError, match="no cell has finished a cycle yet"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.jsonl", '{"cycle": 1, "stra', "results.jsonl holds no result lines"),
        ("results.jsonl", '{"cycle": 1}\n', "results.jsonl, line 1 lacks strategy, ssl"),
        ("results.jsonl", "[]\n", "results.jsonl, line 1 lacks cycle"),
        ("cell.json", '{"data": ', "cell.json cannot be read"),
        ("cell.json", "[]", "cell.json holds no object"),
        ("cell.json", '{"data": "data/ct"}', "cell.json lacks train_images, test_images, per_cycle"),
        ("picked.json", "{", "picked.json cannot be read"),
        ("picked.json", "{}", "picked.json lacks a cycle"),
    ],
)
def test_a_torn_file_is_one_line_and_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (write_cell(tmp_path, "tsp", 0, [0.2, 0.3]) / file).write_text(text)
    with pytest.raises(CommandError, match=message) as caught:
        read_results(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("of_cell", "own", "message"),
    [
        ({"data": "data/oct"}, {}, "data 'data/ct' and 'data/oct'"),
        ({"test_images": 9}, {}, "test_images 3 and 9"),
        ({"per_cycle": 20}, {}, "per_cycle 10 and 20"),
        ({}, {"image_size": 256}, "image_size 128 and 256"),
    ],
)
def test_cells_that_do_not_belong_together_are_refused_by_name(
    tmp_path: Path, of_cell: dict, own: dict, message: str
) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.3])
    write_cell(tmp_path, "tsp", 1, [0.2, 0.3], of_cell, **own)
    with pytest.raises(CommandError, match=message) as caught:
        read_results(tmp_path)
    assert "tsp/seed0" in str(caught.value) and "tsp/seed1" in str(caught.value)


def test_strategies_with_settings_of_their_own_are_refused_and_variants_are_not(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.3], strategy="random")
    write_cell(tmp_path, "mc_dropout", 0, [0.2, 0.3], strategy="mc_dropout", dropout=0.25)
    write_cell(tmp_path, "short", 0, [0.2, 0.3], epochs=7)
    assert len(read_results(tmp_path).lines) == 3
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.3], epochs=7)
    with pytest.raises(
        CommandError, match=r"mc_dropout/seed0 and \S+tsp___SSL/seed0 .*different settings \(epochs 50 and 7\)"
    ):
        read_results(tmp_path)


def test_rows_of_another_cell_are_refused(tmp_path: Path) -> None:
    theirs = write_cell(tmp_path, "random", 0, [0.2, 0.3], strategy="random")
    ours = write_cell(tmp_path, "tsp", 0, [0.2, 0.3])
    (ours / "results.jsonl").write_text((theirs / "results.jsonl").read_text())
    with pytest.raises(CommandError, match="rows with another strategy"):
        read_results(tmp_path)


def test_missing_images_are_no_error_unless_they_were_asked_for(tmp_path: Path) -> None:
    grid = read_results(write_grid(tmp_path))
    train, test, reason = find_data(grid, None)
    assert (train, test) == (None, None)
    assert "there is no folder data/ct" in reason and "--data" in reason
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        find_data(grid, "nowhere")


# The page


def write_coco(folder: Path, split: str, squares: Sequence[Sequence[tuple[int, int, int]]]) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, of_image in enumerate(squares):
        name = f"{number}.png" if split == "train" else f"test-{number}.png"
        Image.fromarray(np.full((SIZE, SIZE), 90, np.uint8)).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        for one in of_image:
            place = {"id": len(annotations), "image_id": number, "category_id": 1}
            annotations.append(place | {"segmentation": rle(*one), "iscrowd": 0})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
    (folder / f"{split}.json").write_text(json.dumps(document))


@pytest.fixture
def with_pictures(tmp_path: Path) -> Path:
    """A grid with entropy and TSP + SSL, its images, and predictions: one image with eleven objects, one without."""
    data, out = tmp_path / "data", tmp_path / "out"
    many = [(2 + 15 * (place % 4), 2 + 15 * (place // 4), 10 + (place == 5)) for place in range(11)]
    write_coco(data, "train", [[(4, 4, 10)]] * 30)
    write_coco(data, "test", [[(4, 4, 10)], many, []])
    for name, strategy in (("entropy", "entropy"), ("tsp + SSL", "tsp")):
        run = write_cell(
            out, name, 0, [0.2, 0.4], {"data": str(data), "train_images": 30}, strategy=strategy, ssl="SSL" in name
        )
        for cycle in (1, 2):
            (run / f"M{cycle}").mkdir()
            write_predictions(run / f"M{cycle}" / "pseudo_labels.jsonl", [])
            found = [
                found_squares("test-0.png", [(5, 4, 10)], [0.9], 0.81, 0.82),
                found_squares("test-1.png", many, [0.99 - place / 50 for place in range(11)], 0.71, 0.72),
                found_squares("test-2.png", [], [], 0.5, 0.5),
            ]
            write_predictions(run / f"M{cycle}" / "test_predictions.jsonl", found)
    return out


class Loaded(HTMLParser):
    """Everything that a page asks for, and the rows of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def test_the_command_writes_one_page_that_loads_nothing_and_prints_tables(
    with_pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(with_pictures)])
    command_line.run("report", report_module.main)
    folder = with_pictures / "report"
    page = (folder / "report.html").read_text(encoding="utf-8")
    loaded = Loaded()
    loaded.feed(page)
    assert loaded.asked and all(one.startswith(("data:image/png;base64,", "#")) for one in loaded.asked)
    assert not {"script", "link", "iframe", "object"} & set(loaded.tags)
    assert "@import" not in page and "url(" not in page
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures >= {"fig2_learning_curves.png", "fig3a_over_the_cycles.png", "fig3b_hard_and_easy.png"}
    assert loaded.tags.count("img") == len(pictures)
    output = capsys.readouterr().out
    assert "| class entropy |" in output and "|           TSP + SSL |" not in page
    assert "0.300" in output
    assert "An image takes an expert 4 minutes and $8.50" in page  # unless it is told otherwise
    assert "When can we stop?" in page and "Left out: the estimate in class entropy, seed 0 (there is no pred" in page


def test_pictures_that_cannot_be_drawn_are_named_and_the_rest_is_there(
    with_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (with_pictures.parent / "data" / "images" / "test-1.png").unlink()
    monkeypatch.setattr(sys, "argv", ["report", str(with_pictures), "--out", str(with_pictures / "else" / "where")])
    command_line.run("report", report_module.main)
    page = (with_pictures / "else" / "where" / "report.html").read_text(encoding="utf-8")
    assert "Left out: all pictures of test images" in page and "test-1.png" in page
    assert (with_pictures / "else" / "where" / "fig2_learning_curves.png").exists()
    assert not (with_pictures / "else" / "where" / "fig3a_over_the_cycles.png").exists()


def test_names_in_a_page_are_text_and_not_markup(tmp_path: Path) -> None:
    write_cell(tmp_path, "<b>bold", 0, [0.2, 0.4], ssl=True, warm_start=True)
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])
    context = context_of(tmp_path)
    report_module.report(context)
    page = (context.out / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page


def test_a_grid_of_variants_alone_is_reported_without_the_curves_of_strategies(tmp_path: Path) -> None:
    write_cell(tmp_path, "heavy", 0, [0.2, 0.4], ssl=True, beta=0.05)
    write_cell(tmp_path, "short", 0, [0.2, 0.4], ssl=True, epochs=7)
    context = context_of(tmp_path)
    report_module.report(context)
    page = (context.out / "report.html").read_text(encoding="utf-8")
    assert "no plain TSP cells" in page and "Left out: the curves of the strategies" in page
    assert "beta 0.05" in page and "epochs 7" in page


def test_long_words_and_lists_are_broken_into_lines_and_numbers_are_not() -> None:
    words, listed, number = (
        "reached by none of the seeds",
        "10 (-7 to 27); 39 (-29 to 108)",
        "+0.014 (-0.003 to +0.031)",
    )
    html = Table("", ["a", "b", "c"], [[words, listed, number]]).to_html()
    assert f'<td class="words">{words}</td><td class="words">{listed}</td><td>{number}</td>' in html


@pytest.mark.parametrize("value", ["-1", "nan", "much"])
def test_a_price_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "runs", "--cost-per-image", value])
    with pytest.raises(SystemExit) as ended:
        command_line.run("report", report_module.main)
    assert ended.value.code == 2


@given(wanted=st.lists(st.floats(0, 1), max_size=14))
def test_names_at_the_ends_of_lines_keep_apart_and_in_order(wanted: list[float]) -> None:
    places = spread(wanted, 0.05)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    ordered = [places[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(after - before >= 0.05 - 1e-6 for before, after in pairwise(ordered))


def test_names_that_have_room_stay_where_they_belong() -> None:
    assert spread([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
