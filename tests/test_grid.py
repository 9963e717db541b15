"""The grid of experiments: its file, its cells, and that nothing is run twice or lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import benchmark
from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.grid import cell as grid_cell
from scripts.grid import first, runner, spec
from scripts.grid.cell import CellRun
from scripts.grid.claims import claimed
from scripts.grid.runner import run_grid
from scripts.grid.spec import read_grid
from tsp_model import checkpoints
from tsp_model.acquisition import STRATEGIES, Strategy, mc_dropout
from tsp_model.cycle import TRAINING_STATE, train_cycle
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic
from tsp_model.inference import BATCH_SIZE
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import Prediction, PredictionFile, iterate_predictions
from tsp_model.progress import Progress
from tsp_model.settings import Settings
from tsp_model.training import NonFiniteLossError

SMALL = """
data = "synthetic"
cycles = 2
per_cycle = 3
seeds = [0]
strategies = ["tsp_diverse"]
ssl = [true]
train_images = 10
test_images = 3
full_data = false
[settings]
preset = "tiny"
image_size = 64
epochs = 1
"""
REPOSITORY = Path(__file__).parents[1]


def write(folder: Path, text: str = SMALL, **changes: str) -> Path:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{**row, "seconds": 0} for row in rows]


def test_cells_are_strategies_with_and_without_ssl_then_variants_seed_by_seed(tmp_path: Path) -> None:
    text = SMALL.replace('["tsp_diverse"]', '["tsp", "mc_dropout"]').replace("ssl = [true]", "")
    text = text.replace("[0]", "[0, 4]").replace("full_data = false", "")
    grid = read_grid(write(tmp_path, text + '[variants."beta 0.05"]\nbeta = 0.05\n'))
    names = ["tsp", "tsp + SSL", "mc_dropout", "mc_dropout + SSL", "beta 0.05"]
    assert [cell.name for cell in grid.cells] == [*names, "full data"] * 2
    assert [cell.settings.seed for cell in grid.cells] == [0] * 6 + [4] * 6
    last = grid.cells[-2].settings
    assert (last.strategy, last.ssl, last.beta, last.image_size, last.backbone) == ("tsp", True, 0.05, 64, "tiny")
    assert grid.cells[2].settings.dropout > 0
    assert [cell.folder for cell in grid.cells[:2]] == ["tsp/seed0", "tsp___SSL/seed0"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cycles = 2", "cycle = 2", "unknown key cycle; did you mean cycles\\?"),
        ("seeds = [0]", "", "seeds is missing"),
        ("cycles = 2", "cycles = 0", "cycles=0"),
        ("epochs = 1", "epoch = 1", "unknown key epoch; did you mean epochs\\?"),
        ("epochs = 1", "epochs = 0", "epochs=0 is out of range"),
        ("epochs = 1", "seed = 1", "unknown key seed"),
        ('["tsp_diverse"]', '["tps"]', "tps"),
        ("seeds = [0]", "seeds = [0, 0]", "is there twice"),
        ("[settings]", "[settings", "cannot be read"),
        ("ssl = [true]", "ssl = true", "ssl=True; give"),
        ("ssl = [true]", 'ssl = ["no"]', "ssl=\\['no'\\]; give"),
        ("full_data = false", "variants = 3", "variants=3 is no table"),
        ("[settings]", '[variants.".."]\nbeta = 0.1\n[settings]', "'\\.\\.' needs a name"),
        ("[settings]", '[variants.small]\npreset = "tiny"\n[settings]', "small.* unknown key preset"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        read_grid(write(tmp_path, **{old: new}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_told_where_examples_are(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no file .*none.toml; scripts/experiments/ has examples"):
        read_grid(tmp_path / "none.toml")


@pytest.mark.parametrize("file", sorted((REPOSITORY / "scripts" / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_the_ready_files_can_be_read(file: Path) -> None:
    assert len(read_grid(file).cells) >= 15


@pytest.mark.parametrize(("name", "image_size"), [("paper-ct", 512), ("paper-oct", 1024)])
def test_the_papers_files_hold_its_settings(name: str, image_size: int) -> None:
    grid = read_grid(REPOSITORY / "scripts" / "experiments" / f"{name}.toml")
    assert (grid.cycles, grid.per_cycle, len({cell.settings.seed for cell in grid.cells})) == (6, 500, 3)
    method = next(cell.settings for cell in grid.cells if cell.name == "tsp + SSL")
    thresholds = (method.pseudo_class_threshold, method.pseudo_box_threshold, method.pseudo_mask_threshold)
    assert (thresholds, method.beta, method.image_size) == ((0.9, 0.9, 0.8), 0.01, image_size)
    assert (method.backbone, method.warm_start, method.score_parts) == ("resnet50", False, "cbm")
    assert (method.optimizer, method.learning_rate, method.momentum, method.weight_decay) == ("sgd", 1e-3, 0.9, 1e-4)
    assert (method.epochs, tuple(method.milestones)) == (50, (45, 49))
    assert {cell.settings.beta for cell in grid.cells} == {0.01, 0.05, 0.09}
    assert {cell.settings.score_parts for cell in grid.cells} == {"cbm", "cm", "cb", "c"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict]]:
    """A grid that ran: its file, its folder, its rows."""
    folder = tmp_path_factory.mktemp("grid")
    file = write(folder)
    return file, folder / "out", run_grid(file, folder / "out")


def test_a_cell_is_algorithm_1(finished: tuple[Path, Path, list[dict]]) -> None:
    _, out, rows = finished
    assert [row["labels"] for row in rows] == [3, 6]
    picked = json.loads((out / "tsp_diverse___SSL" / "seed0" / "picked.json").read_text())
    assert len({name for names in picked.values() for name in names}) == 6
    assert all(row["mask_ap50"] is not None for row in rows)
    assert {row["cell"] for row in rows} == {"tsp_diverse + SSL"}


def test_a_finished_cell_is_not_run_again(
    finished: tuple[Path, Path, list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_cell, "train_cycle", None)
    monkeypatch.setattr(first, "train_cycle", None)
    file, out, rows = finished
    assert run_grid(file, out) == rows


def test_results_of_other_settings_are_refused_by_name(finished: tuple[Path, Path, list[dict]], tmp_path: Path) -> None:
    _, out, _ = finished
    with pytest.raises(CommandError, match="another beta, epochs"):
        run_grid(write(tmp_path, **{"epochs = 1": "epochs = 2\nbeta = 0.05"}), out)


def test_other_settings_are_refused_before_anything_is_trained(
    finished: tuple[Path, Path, list[dict]], tmp_path: Path
) -> None:
    _, out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    file = write(tmp_path, **{'["tsp_diverse"]': '["random", "tsp_diverse"]', "epochs = 1": "epochs = 2"})
    with pytest.raises(CommandError, match="tsp_diverse___SSL/seed0 holds results with another epochs"):
        run_grid(file, tmp_path / "out")
    assert not (tmp_path / "out" / "random___SSL").exists()


def test_a_real_run_after_a_quick_one_is_told_what_differs_and_keeps_its_images(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write(tmp_path, **{"epochs = 1": "epochs = 2"})
    run_grid(file, out, smoke=True)
    with pytest.raises(CommandError, match="tsp_diverse___SSL/seed0 holds results with another epochs; choose"):
        run_grid(file, out)


def test_a_setting_that_an_old_cell_lacks_had_its_default(
    finished: tuple[Path, Path, list[dict]], tmp_path: Path
) -> None:
    _, out, rows = finished
    shutil.copytree(out, tmp_path / "out")
    identity = tmp_path / "out" / "tsp_diverse___SSL" / "seed0" / "cell.json"
    known = json.loads(identity.read_text())
    del known["beta"]
    identity.write_text(json.dumps(known))
    assert run_grid(write(tmp_path), tmp_path / "out") == rows
    with pytest.raises(CommandError, match="another beta"):
        run_grid(write(tmp_path, **{"epochs = 1": "epochs = 1\nbeta = 0.05"}), tmp_path / "out")


def test_one_command_runs_a_file_on_other_images_and_makes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_synthetic(tmp_path / "mine", train=10, test=3, size=64)
    file, out = write(tmp_path, **{'"synthetic"': '"../nowhere"'}), tmp_path / "out"
    argv = ["benchmark", "run", str(file), "--data", str(tmp_path / "mine"), "--out", str(out), "--report"]
    monkeypatch.setattr(sys, "argv", argv)
    benchmark.main()
    (row, _) = [json.loads(line) for line in (out / "tsp_diverse___SSL/seed0/results.jsonl").read_text().splitlines()]
    assert row["data"] == str(tmp_path / "mine")
    assert "diverse TSP + SSL" in capsys.readouterr().out
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "active learning on mine" in page and (out / "report" / "fig2_learning_curves.png").exists()


def test_more_cycles_may_be_asked_for_later(finished: tuple[Path, Path, list[dict]], tmp_path: Path) -> None:
    _, out, rows = finished
    shutil.copytree(out, tmp_path / "out")
    more = run_grid(write(tmp_path, **{"cycles = 2": "cycles = 3"}), tmp_path / "out")
    assert more[:2] == rows
    assert [row["labels"] for row in more] == [3, 6, 9]


@pytest.mark.parametrize("kind", [NonFiniteLossError, DataError, checkpoints.CheckpointError])
def test_a_cell_that_cannot_go_on_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    train = grid_cell.train_cycle

    def diverges(labelled: ImageSet, pool: ImageSet, before: object, settings: Settings, *others: object) -> object:
        if settings.strategy == "tsp":
            raise kind("the loss is not finite on images a, b")
        return train(labelled, pool, before, settings, *others)

    monkeypatch.setattr(grid_cell, "train_cycle", diverges)
    file = write(tmp_path, **{'["tsp_diverse"]': '["tsp", "random"]'})
    with pytest.raises(CommandError, match="1 of 2 cells cannot go on; .* tsp___SSL/seed0: the loss is not finite"):
        run_grid(file, tmp_path / "out")
    assert "images a, b" in capsys.readouterr().err
    rows = [(tmp_path / "out" / name / "seed0" / "results.jsonl") for name in ("tsp___SSL", "random___SSL")]
    assert [len(path.read_text().splitlines()) for path in rows] == [1, 2]


def test_a_strategy_that_meets_nan_names_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Strategy(lambda pool, labelled, rng: np.array([0.5, np.nan, *[0.1] * (len(pool) - 2)]), absolute=True)
    monkeypatch.setitem(STRATEGIES, "tsp", broken)
    file = write(tmp_path, **{'["tsp_diverse"]': '["tsp"]', "ssl = [true]": "ssl = [false]"})
    with pytest.raises(CommandError) as refused:
        run_grid(file, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("tsp/seed0")
    labelled = json.loads((folder / "picked.json").read_text())["1"]
    pool = [key for key in load_sets("synthetic", 10, 3, tmp_path / "out", 64, seed=0)[0].keys if key not in labelled]
    assert f"the score of {sorted(pool)[1]} is not finite" in str(refused.value)


def test_a_grid_killed_in_its_training_ends_as_an_unbroken_one(
    finished: tuple[Path, Path, list[dict]], tmp_path: Path
) -> None:
    out, epochs = tmp_path / "out", {"epochs = 1": "epochs = 8"}
    file = write(tmp_path, **epochs)
    command = [sys.executable, "-m", "scripts.benchmark", "run", str(file), "--out", str(out)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob(f"first_models/*/{TRAINING_STATE}")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not list(out.glob("**/results.jsonl"))
    unbroken = run_grid(file, tmp_path / "unbroken")
    assert without_seconds(run_grid(file, out)) == without_seconds(unbroken)


@pytest.mark.slow
def test_processes_share_a_grid(tmp_path: Path) -> None:
    file, out = write(tmp_path, **{'["tsp_diverse"]': '["tsp", "random"]', "[true]": "[false, true]"}), tmp_path / "out"
    command = [sys.executable, "-m", "scripts.benchmark", "run", str(file), "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=REPOSITORY, **quiet) for _ in range(2)]
    told = "".join(process.communicate(timeout=300)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0] and "is run by another process" in told
    shared = [(path.parent / "results.jsonl").read_text().splitlines() for path in out.glob("*/seed0/lock")]
    assert [len(rows) for rows in shared] == [2, 2, 2, 2]
    alone = run_grid(file, tmp_path / "alone")
    rows = {(row["cell"], row["cycle"]): row for cell in shared for row in map(json.loads, cell)}
    assert without_seconds([rows[row["cell"], row["cycle"]] for row in alone]) == without_seconds(alone)


def test_a_killed_cell_goes_on_and_ends_as_an_unbroken_one(
    finished: tuple[Path, Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _, rows = finished
    evaluate, calls = grid_cell.quality_on_test, []

    def dies_once(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(grid_cell, "quality_on_test", dies_once)
    with pytest.raises(KeyboardInterrupt):
        run_grid(file, tmp_path / "out")
    again = run_grid(file, tmp_path / "out")
    assert without_seconds(again) == without_seconds(rows)
    assert len(calls) == 3, "the first cycle was not repeated"


@pytest.mark.slow
def test_dropout_killed_in_its_scoring_sees_the_same_images_together_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = "epochs = 1\nranking_score_threshold = 0.05"
    file = write(tmp_path, **{"tsp_diverse": "mc_dropout", "epochs = 1": looks})
    unbroken = run_grid(file, tmp_path / "unbroken")
    add = PredictionFile.add

    def dies(self: PredictionFile, predictions: Iterable[Prediction], on_disk: Callable[[int], None]) -> None:
        add(self, islice(predictions, BATCH_SIZE + 1), on_disk)
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionFile, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        run_grid(file, tmp_path / "out")
    monkeypatch.undo()
    assert without_seconds(run_grid(file, tmp_path / "out")) == without_seconds(unbroken)
    scored = [tmp_path / out / "mc_dropout___SSL" / "seed0" / "M1" / PREDICTIONS for out in ("out", "unbroken")]
    assert scored[0].read_text() == scored[1].read_text()
    found = [one.signals[mc_dropout.SIGNAL] for one in iterate_predictions(scored[0])]
    assert len(set(found)) == len(found) == 7, "there is something to be told apart"


def test_a_cell_is_run_by_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    with claimed(tmp_path / "out" / "tsp_diverse___SSL" / "seed0") as mine:
        assert mine
        assert run_grid(file, tmp_path / "out") == []
    assert "by another process" in capsys.readouterr().err


def test_the_time_left_is_that_of_cycles_like_those_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0

    class Cell:
        """Seeds 0 and 5 are finished, 2 cannot go on, two cycles of the others take 100 s each."""

        cycles = 2

        def __init__(self, grid: object, cell: spec.Cell, *others: object) -> None:
            nonlocal clock
            clock += 0.5
            self.seed = cell.settings.seed
            self.rows: list[dict] = [{}, {}] if self.seed in (0, 5) else []

        def run(self, progress: Progress) -> list[dict]:
            nonlocal clock
            if self.seed == 2:
                raise DataError("an image is gone")
            for cycle in () if self.rows else (1, 2):
                for done in range(10):
                    clock += 10
                    progress({"cycle": cycle, "phase": "train", "done": done + 1, "total": 10})
            return [{}, {}]

    monkeypatch.setattr("tqdm.std.time", lambda: clock)
    monkeypatch.setattr(runner, "CellRun", Cell)
    file, out = write(tmp_path, **{"seeds = [0]": "seeds = [0, 1, 2, 3, 4, 5]"}), tmp_path / "out"
    for seed in (0, 5):
        (out / "tsp_diverse___SSL" / f"seed{seed}").mkdir(parents=True)
        (out / "tsp_diverse___SSL" / f"seed{seed}" / "results.jsonl").write_text("{}\n{}\n")
    with claimed(out / "tsp_diverse___SSL" / "seed1"), pytest.raises(CommandError, match="1 of 6 cells cannot go on"):
        run_grid(file, out)
    shown = capsys.readouterr().err.split("\r")
    half = next(line for line in shown if "cycle 2" in line)
    assert "5/8" in half  # all of seeds 0 and 5, one of seed 3; three more: not another process's nor a failed cell's
    assert "<05:" in half  # three more cycles, of the 100 s and some that the first one took


def test_cells_of_a_seed_share_their_first_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL.replace("cycles = 2", "cycles = 1").replace(
        '["tsp_diverse"]', '["tsp", "learning_loss", "mc_dropout"]'
    )
    file = write(tmp_path, text.replace("[true]", "[false, true]"))
    trained, train = [], first.train_cycle

    def counted(labelled: ImageSet, pool: ImageSet, previous: None, settings: Settings, *others: object) -> object:
        trained.append((settings.strategy, settings.dropout))
        return train(labelled, pool, previous, settings, *others)

    monkeypatch.setattr(first, "train_cycle", counted)
    out = tmp_path / "out"
    rows = run_grid(file, out)
    assert len(rows) == 6
    assert trained == [("tsp", 0.0), ("learning_loss", 0.0), ("tsp", 0.25)], "what a network is made of is not shared"
    for cell in read_grid(file).cells:
        card = checkpoints.read_card(out / cell.folder / "M1")
        assert card["settings"] == cell.settings.to_dict(), "the pool is scored as the cell asks for"
    cell = read_grid(file).cells[1]
    card = checkpoints.read_card(out / cell.folder / "M1")
    images, _ = load_sets("synthetic", 10, 3, tmp_path, 64, seed=0)
    labelled = images.subset(card["labelled"])
    rest = images.subset([key for key in images.keys if key not in labelled.keys])
    alone = train_cycle(labelled, rest, None, cell.settings, tmp_path / "alone")
    shared = checkpoints.read(out / cell.folder / "M1")[0].state_dict()
    expected = checkpoints.read(tmp_path / "alone")[0].state_dict()
    assert all(torch.equal(value, shared[name]) for name, value in expected.items()), (
        "as the cell would have trained it"
    )
    same = ("classes", "settings", "counts", "labelled", "architecture", "parent")
    assert {name: alone[name] for name in same} == {name: card[name] for name in same}


def test_full_data_is_one_cycle_with_every_label(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, **{"full_data = false": ""}))
    train, test = load_sets("synthetic", 10, 3, tmp_path, 64, seed=0)
    run = CellRun(grid, grid.cells[-1], train, test, tmp_path / "cell")
    (row,) = run.run()
    assert (row["labels"], row["cell"], row["pseudo_images"]) == (10, "full data", 0)
    assert len(run.rows) == run.cycles


def test_too_few_images_is_one_line(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, **{"cycles = 2": "cycles = 4"}))
    train, test = load_sets("synthetic", 10, 3, tmp_path, 64, seed=0)
    with pytest.raises(CommandError, match="need 12 images, synthetic has 10"):
        CellRun(grid, grid.cells[0], train, test, tmp_path / "cell")


@pytest.mark.parametrize(
    ("sizes", "said"), [((11, 3), "train has 10 images, 11 are"), ((10, 4), "test has 3 images, 4 are")]
)
def test_more_images_than_there_are_is_one_line(tmp_path: Path, sizes: tuple[int, int], said: str) -> None:
    load_sets("synthetic", 10, 3, tmp_path, 64, seed=0)
    with pytest.raises(CommandError, match=said):
        load_sets(str(tmp_path / "synthetic"), *sizes, tmp_path, 64, seed=0)
