"""Every command of the README is run, as it stands there; what is long gets --smoke, what asks a server that server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from label_studio_sdk import LabelStudio

from scripts.browser import NO_BROWSER, browser
from scripts.label_studio import LabelStudioServer, binary, empty_database
from scripts.processes import Child, free_port
from tests.conftest import REPOSITORY
from tests.live import CURIOUS_ENVIRONMENT, QUICK, filled_project, regions, until
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic

COMMAND = re.compile(r"([A-Z_]+=\S+ )*(scripts/\w+\.sh|\.venv[\w-]*/bin/[\w-]+|pip|apt-get)\b")
NOT_RUN = {"apt-get install chromium"}  # changes the machine

# What stands in the README, and what is added to it here.
LABEL_STUDIO = (
    "ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false "
    ".venv-label-studio/bin/label-studio start --internal-host 127.0.0.1"
)
BACKEND = "TSP_PRESET=tiny .venv/bin/python -m backend"
DEMO, DEMO_ONCE = "scripts/demo.sh", "scripts/demo.sh --once"
SPEED = ".venv/bin/python -m scripts.benchmark speed"
ALONE = {
    "scripts/setup.sh": "",
    ".venv/bin/python -m backend --help": "",
    f"{SPEED} --threads 2": "--smoke --only codec --out runs/speed.json",
}
ALONE_AND_SLOW = {
    DEMO_ONCE: "--smoke",
    "scripts/test.sh": "--collect-only -qq",
    "scripts/test.sh -k scores": "--collect-only -qq",
    f"{SPEED} --only opening --repeats 3 --threads 1": "--smoke --repeats 1 --out runs/speed.json",
}
GRID = {
    ".venv/bin/python -m scripts.benchmark run scripts/experiments/synthetic.toml --out runs/synthetic": "--smoke",
    ".venv/bin/python -m scripts.report runs/synthetic --grid scripts/experiments/synthetic.toml": "",
    ".venv/bin/python -m scripts.benchmark estimate runs/synthetic": "",
}
CONNECTED = {
    ".venv/bin/python -m scripts.connect --project 1": "{backend}",
    ".venv/bin/python -m scripts.doctor --project 1": "{backend}",
}
TRAINED = {
    ".venv/bin/python -m scripts.versions list --project 1": "{backend}",
    ".venv/bin/python -m scripts.rank_tasks --project 1 --strategy entropy": "{backend}",
    ".venv/bin/python -m scripts.export --project 1 --out runs/labels --pseudo": "{backend}",
    ".venv/bin/tensorboard --logdir models": "--inspect",
}
ALGORITHM = ".venv/bin/python -m scripts.active_learning"
ALGORITHM_1 = {
    f"{ALGORITHM} --data synthetic --strategy tsp --cycles 3 --per-cycle 8 --out runs/tsp": "--smoke {backend}",
    f"{ALGORITHM} --data synthetic --strategy random --no-ssl --out runs/random": "--smoke {backend}",
    ".venv/bin/python -m scripts.table runs/tsp/results.jsonl runs/random/results.jsonl": "",
}

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in the repository's folder, what it writes in a temporary one; what it printed."""
    ours = {"runs/": f"{tmp_path}/"}

    def done(command: str, added: str = "", **replaced: str) -> str:
        command = f"{command} {added}"
        for theirs, here in (ours | replaced).items():
            command = command.replace(theirs, here)
        ended = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        return ended.stdout

    return done


@pytest.fixture
def backend(label_studio: LabelStudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a backend that was started as the README says; its variables are set for what is run."""
    method = {**QUICK, **CURIOUS_ENVIRONMENT, "TSP_TRAIN_AFTER": "0"}
    del method["TSP_PRESET"]  # is in the command
    values = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.api_key}
    port = free_port()
    for name, value in {**values, **method, "MODEL_DIR": str(tmp_path / "models"), "PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    address = f"http://127.0.0.1:{port}"
    with started(BACKEND, tmp_path / "backend.log"):
        until(lambda: answers(f"{address}/health"), "the backend")
        yield address


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    write_synthetic(folder, train=8, test=1, size=64)
    return load_coco(folder, "train")


def test_no_command_is_left_out() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    said = [line for block in blocks for line in block.splitlines()]
    said += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    said = [" ".join(re.sub(r"\s+# .*", "", line).split()) for line in said]
    steps = {*GRID, *CONNECTED, *TRAINED, *ALGORITHM_1}
    known = {LABEL_STUDIO, BACKEND, DEMO, *ALONE, *ALONE_AND_SLOW, *steps, *NOT_RUN}
    assert {command for command in said if COMMAND.match(command)} == known
    assert {command for command in said if command.startswith("export ")} == {
        'export LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY="<token>"',
        'export LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY="<token>" MODEL_DIR=models',
    }


@pytest.mark.slow
def test_every_choice_of_tests_that_is_named_chooses_some() -> None:
    named = [
        (name, bool(tier), choice.strip('"'))
        for name in ("README.md", "backend/README.md", "scripts/speed/README.md")
        for tier, choice in re.findall(
            r'`(?:\w+=\S+ )?scripts/test\.sh (--all )?-k ("[^"]+"|\w+)`',
            (REPOSITORY / name).read_text(encoding="utf-8"),
        )
    ]
    assert len(named) > 15
    # In one process, which imports the tests once.
    asked = [
        ["--collect-only", "-qq", *([] if every else ["-m", "not slow"]), "-k", choice] for _, every, choice in named
    ]
    program = "import json, sys, pytest; print([int(pytest.main(one)) for one in json.loads(sys.argv[1])])"
    command = [sys.executable, "-c", program, json.dumps(asked)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=True)
    codes = json.loads(ended.stdout.splitlines()[-1])
    assert [one for one, code in zip(named, codes, strict=True) if code] == []


@pytest.mark.parametrize(
    ("command", "added"),
    [*ALONE.items(), *(pytest.param(*one, marks=pytest.mark.slow) for one in ALONE_AND_SLOW.items())],
    ids=str,
)
def test_it_runs_alone(run: Run, command: str, added: str) -> None:
    if "opening" in command and browser() is None:
        pytest.skip(NO_BROWSER)
    run(command, added)


def test_a_grid_its_report_and_its_estimates(run: Run, tmp_path: Path) -> None:
    for command, added in GRID.items():
        run(command, added)
    assert (tmp_path / "synthetic" / "report" / "report.html").stat().st_size > 10_000


def test_the_demo_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with started(f"{DEMO} --smoke --folder {tmp_path / 'demo'}", log) as demo:
        until(lambda: "Ctrl-C ends the demo" in log.read_text() or not demo.alive, "the demo's table", 600)
        (address,) = set(re.findall(r"Label Studio: (\S+)", log.read_text()))
        assert answers(f"{address}/health")
        os.killpg(demo.group, signal.SIGINT)
        until(lambda: not demo.alive, "the end of the demo")
        until(lambda: not answers(f"{address}/health"), "the end of its Label Studio")


def test_label_studio_starts_with_both_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(empty_database(binary()), tmp_path / "label_studio.sqlite3")  # spares the migrations
    monkeypatch.setenv("LABEL_STUDIO_BASE_DATA_DIR", str(tmp_path))
    port = free_port()
    with started(f"{LABEL_STUDIO} --no-browser --port {port}", tmp_path / "log"):
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), "Label Studio")


def test_one_s_own_project_from_the_connection_to_an_export(
    run: Run, backend: str, client: LabelStudio, images: ImageSet, tmp_path: Path
) -> None:
    project, tasks = filled_project(client, images, "polygon")
    own = {"--project 1": f"--project {project.project_id}", "--logdir models": f"--logdir {tmp_path}/models"}
    told = [
        run(command, added.format(backend=f"--backend-url {backend}"), **own) for command, added in CONNECTED.items()
    ]
    assert "ready" in told[0] and "WRONG" not in told[1]
    for task, item in zip(tasks[:3], images.items, strict=False):
        project.submit_annotation(task, regions(project, item))
    project.start_training()
    until(lambda: len(project.scores()) == len(tasks) - 3, "a score for each task that is left")
    status = f"{backend}/job_status?project={project.project_id}"
    until(lambda: requests.get(status, timeout=30).json()["status"] == "SUCCESS", "the end of the training")
    table, ranked, exported, curves = (
        run(command, added.format(backend=f"--backend-url {backend}"), **own) for command, added in TRAINED.items()
    )
    assert "active" in table and "ranked by entropy" in ranked and "3 labelled images" in exported
    assert "loss" in curves and (tmp_path / "labels" / "train.json").is_file()


@pytest.mark.slow
def test_algorithm_1_against_the_server(run: Run, backend: str) -> None:
    for command, added in ALGORITHM_1.items():
        told = run(command, added.format(backend=f"--backend-url {backend}"))
    assert re.findall(r"\| +(tsp \+ SSL|random) \|", told) == 2 * ["tsp + SSL", "random"]


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


@contextmanager
def started(command: str, log: Path) -> Iterator[Child]:
    """A command that runs on, in the repository's folder, ended with what it started."""
    bash = shutil.which("bash")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background has it ignored
    child = Child([bash, "-c", f"cd {REPOSITORY} && exec env {command}"], dict(os.environ), log)
    try:
        yield child
    finally:
        child.stop()
