"""A grid through a real Label Studio server and the backend picks what it picks in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from label_studio_sdk import LabelStudio

from backend.project import LabelStudioProject
from scripts import benchmark, table
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError
from scripts.grid import runner
from scripts.grid.runner import run_grid
from scripts.grid.spec import FULL_DATA
from scripts.label_studio import LabelStudioServer
from scripts.plan import Place
from scripts.processes import free_port
from scripts.reporting.runs import read_runs
from tsp_model.acquisition import STRATEGIES
from tsp_model.predictions import read_predictions

GRID = """
data = "synthetic"
cycles = 2
per_cycle = 3
seeds = [1]
strategies = ["STRATEGY"]
ssl = [true]
train_images = 10
test_images = 3
full_data = false
[settings]
preset = "tiny"
image_size = 64
epochs = 2
ranking_score_threshold = 0.05
pseudo_class_threshold = 0.1
pseudo_box_threshold = 0.0
pseudo_mask_threshold = 0.0
"""


@pytest.fixture(scope="module")
def place(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("backend")
    # The same number of threads on both sides: sums of floats depend on it.
    threads = {"TORCH_THREADS": "1", "TSP_TRAIN_AFTER": "2"}
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **threads) as backend:
        yield Place(label_studio.url, label_studio.api_key, backend.url, str(backend.model_dir))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder: Path, strategy: str, text: str = GRID) -> Path:
    file = folder / "grid.toml"
    file.write_text(text.replace("STRATEGY", strategy))
    return file


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "version")} for row in rows]


@pytest.mark.parametrize(
    "strategy", ["tsp", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(STRATEGIES) if name != "tsp")]
)
def test_both_pick_the_same_images_and_learn_the_same(
    client: LabelStudio, place: Place, one_thread: None, tmp_path: Path, strategy: str
) -> None:
    file = write(tmp_path, strategy)
    memory, server = tmp_path / "memory", tmp_path / "server"
    in_memory = run_grid(file, memory)
    cut_short = write(tmp_path, strategy, GRID.replace("cycles = 2", "cycles = 1"))
    assert comparable(run_grid(cut_short, server, place)) == comparable(in_memory[:1])
    through = run_grid(write(tmp_path, strategy), server, place)
    cell = Path(f"{strategy}___SSL", "seed1")
    picked = [json.loads((out / cell / "picked.json").read_text()) for out in (memory, server)]
    assert picked[0] == picked[1] and [len(names) for names in picked[0].values()] == [3, 3]
    assert comparable(in_memory) == comparable(through)
    assert {row["cell"] for row in through} == {f"{strategy} + SSL"}
    for name in ("pseudo_labels.jsonl", "test_predictions.jsonl"):
        kept = [read_predictions(out / cell / "M2" / name) for out in (memory, server)]
        assert kept[0] == kept[1]
    project = LabelStudioProject(client, json.loads((server / cell / "experiment.json").read_text())["project_id"])
    tasks = project.task_ids_by_name()
    assert project.annotated_task_ids() == {tasks[name] for names in picked[1].values() for name in names}
    check_not_mixed(file, memory, server, place)
    (server / cell / "picked.json").unlink()  # as if killed after the last row
    nobody = Place("http://127.0.0.1:9", "none", "http://127.0.0.1:9", str(tmp_path))
    assert run_grid(file, server, nobody) == through, "a finished cell asks nobody"
    (one,), (other,) = read_runs(memory), read_runs(server)
    assert (one.name, one.settings, one.identity, one.picked) == (other.name, other.settings, other.identity, picked[0])


def check_not_mixed(file: Path, memory: Path, server: Path, place: Place) -> None:
    for out, wanted, there in ((memory, place, "in memory"), (server, None, "through Label Studio")):
        with pytest.raises(CommandError, match=f"___SSL/seed1, which was run {there} and not .*another --out") as error:
            run_grid(file, out, wanted)
        assert "\n" not in str(error.value)


def test_the_command_takes_label_studio_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(runner, "run_grid", lambda *arguments: asked.append(arguments) or [])
    monkeypatch.setattr(table, "table", lambda rows: "")
    environment = {"LABEL_STUDIO_URL": "http://there", "LABEL_STUDIO_API_KEY": "key", "MODEL_DIR": "models-there"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = write(tmp_path, "tsp")
    command = ["benchmark", "run", str(file)]
    for more in ([], ["--label-studio"], ["--label-studio", "--backend-url", "http://b", "--out", "o", "--data", "d"]):
        monkeypatch.setattr(sys, "argv", command + more)
        benchmark.main()
    assert asked == [
        (file, Path("runs/grid"), None, False, None),
        (
            file,
            Path("runs/grid-label-studio"),
            Place("http://there", "key", "http://127.0.0.1:9090", "models-there"),
            False,
            None,
        ),
        (file, Path("o"), Place("http://there", "key", "http://b", "models-there"), False, "d"),
    ]


@pytest.mark.slow
def test_all_labels_at_once_go_through_the_server_too(place: Place, one_thread: None, tmp_path: Path) -> None:
    file = write(tmp_path, "tsp", GRID.replace("full_data = false", ""))
    in_memory, through = run_grid(file, tmp_path / "memory"), run_grid(file, tmp_path / "server", place)
    assert [row["labels"] for row in through if row["cell"] == FULL_DATA] == [10]
    assert comparable(in_memory) == comparable(through)
