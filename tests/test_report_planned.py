"""A grid's folder beside the grid's file: another plan is refused by name, and what goes beyond it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import report as report_module
from scripts.command_line import CommandError
from scripts.grid.cell import IDENTITY
from scripts.grid.spec import read_grid
from scripts.reporting.conditions import conditions
from scripts.reporting.learning_curves import learning_curves
from scripts.reporting.lines import read_results
from tests.grid_cells import POOL, context_of, row_of, said, table_of, write_cell

FILE = """
data = "data/ct"
cycles = 2
per_cycle = 10
seeds = [0]
strategies = ["random", "tsp"]
ssl = [false]
{more}
[settings]
preset = "tiny"
"""


def written(folder: Path, more: str = "", settings: str = "") -> Path:
    file = folder / "grid.toml"
    file.write_text(FILE.format(more=more) + settings)
    return file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    write_cell(folder, "random", 0, [0.2, 0.4], strategy="random")
    write_cell(folder, "tsp", 0, [0.2, 0.5])
    write_cell(folder, "full data", 0, [0.8], {"per_cycle": POOL}, ssl=False)
    return folder


def test_a_folder_that_was_run_from_the_file_is_whole(out: Path, tmp_path: Path) -> None:
    grid = read_results(out, written(tmp_path, "train_images = 100\ntest_images = 3"))
    assert (grid.unfinished, grid.strangers, grid.longer, grid.planned) == ((), (), (), 3)


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ("", "beta = 0.05", r"full_data/seed0 was not run as \S+ has it \(beta 0.01, in the file 0.05\); give"),
        (
            "",
            "epochs = 7\nbeta = 0.05",
            r"full_data/seed0 .* \(epochs 50, in the file 7; beta 0.01, in the file 0.05\)",
        ),
        ("", '[variants."tsp + SSL"]\nepochs = 7', r"tsp___SSL/seed0 .* \(epochs 50, in the file 7\)"),
        ("train_images = 99", "", r"full_data/seed0 .* \(train_images 100, in the file 99\)"),
        ("test_images = 4", "", r"full_data/seed0 .* \(test_images 3, in the file 4\)"),
    ],
)
def test_a_cell_that_was_run_otherwise_is_refused_with_what_differs(
    out: Path, tmp_path: Path, more: str, settings: str, message: str
) -> None:
    write_cell(out, "tsp + SSL", 0, [0.2, 0.5])
    with pytest.raises(CommandError, match=message) as caught:
        read_results(out, written(tmp_path, more, settings))
    assert len(str(caught.value).splitlines()) == 1 and "or leave --grid away" in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("data", '"data/oct"'), ("per_cycle", "9")])
def test_other_data_and_other_labels_a_cycle_are_refused(out: Path, tmp_path: Path, name: str, value: str) -> None:
    file = written(tmp_path)
    lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    with pytest.raises(CommandError, match=f"{name} .*, in the file {value}".replace('"', "'")):
        read_results(out, file)


def test_a_file_that_was_run_on_other_images_is_its_grid_for_who_says_so(out: Path, tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text(file.read_text().replace('"data/ct"', '"data/oct"'))
    assert read_results(out, file, "data/ct").unfinished == ()
    with pytest.raises(CommandError, match="data 'data/ct', in the file 'data/oct'"):
        read_results(out, file, "data/elsewhere")


def test_a_setting_that_an_old_cell_does_not_name_had_its_default(out: Path, tmp_path: Path) -> None:
    for path in out.glob(f"*/*/{IDENTITY}"):
        values = json.loads(path.read_text())
        del values["score_parts"]  # "cbm"
        path.write_text(json.dumps(values))
    assert read_results(out, written(tmp_path, settings='score_parts = "cbm"')).unfinished == ()
    with pytest.raises(CommandError, match="score_parts 'cbm', in the file 'cm'"):
        read_results(out, written(tmp_path, settings='score_parts = "cm"'))


def test_a_quick_run_of_the_file_is_reported_as_one(tmp_path: Path) -> None:
    file = written(tmp_path, "full_data = false")
    quick = read_grid(file, smoke=True)
    identity = {"per_cycle": quick.per_cycle, "train_images": quick.train_images, "test_images": quick.test_images}
    for cell in quick.cells:
        own = {name: value for name, value in cell.settings.to_dict().items() if name != "seed"}
        write_cell(tmp_path / "out", cell.name, 0, [0.2] * quick.cycles, identity, **own)
    grid = read_results(tmp_path / "out", file)
    assert (grid.cycles, grid.planned, grid.unfinished) == (quick.cycles, len(quick.cells), ())
    context = context_of(tmp_path / "out", grid)
    assert "of the --smoke form" in said(conditions(context))
    report_module.report(context)
    assert "A --smoke run, tiny and of a few cells" in (context.out / "report.html").read_text(encoding="utf-8")


def test_cells_that_the_file_does_not_have_are_named(out: Path, tmp_path: Path) -> None:
    write_cell(out, "tsp", 1, [0.3, 0.6])
    write_cell(out, "heavy", 0, [0.3, 0.6], ssl=True, beta=0.05)
    context = context_of(out, read_results(out, written(tmp_path)))
    assert context.grid.strangers == ("heavy, seed 0", "tsp, seed 1")
    section = conditions(context)
    assert row_of(table_of(section), "cells") == ["cells", "3 there of 3 planned"]
    strangers = table_of(section, 1)
    assert "does not have" in strangers.caption and strangers.rows == [["heavy, seed 0"], ["tsp, seed 1"]]


def test_what_goes_beyond_the_cycles_of_the_file_is_in_no_number(out: Path, tmp_path: Path) -> None:
    write_cell(out, "tsp + SSL", 0, [0.2, 0.6, 0.9, 0.95])
    context = context_of(out, read_results(out, written(tmp_path)))
    grid = context.grid
    assert (grid.cycles, grid.budget, grid.longer) == (2, 20, ("tsp + SSL, seed 0: 4 cycles",))
    run = grid.method.runs[0]
    assert (run.labels, run.ap50, sorted(run.picked)) == ([10, 20], [0.2, 0.6], ["1", "2"])
    cells = row_of(learning_curves(context).printed[0], "TSP + SSL")
    assert (cells[2], cells[5]) == ("0.400", "0.600")
    longer = table_of(conditions(context), 2)
    assert "after cycle 2 is left out" in longer.caption and longer.rows == [["tsp + SSL, seed 0: 4 cycles"]]
    assert len(report_module.report(context)) == len(report_module.SECTIONS)
