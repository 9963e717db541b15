"""Bad input to the commands: one clear line, an exit code, nothing left behind."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from PIL import Image

from backend.connection import call, connect
from scripts import active_learning, command_line
from scripts import label_studio as label_studio_module
from scripts.backend_process import REPOSITORY, BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from scripts.results import write_rows
from scripts.table import main as table_main
from scripts.table import table
from tests.web import Server

SMALL = ["--train-images", "6", "--test-images", "2", "--cycles", "2", "--per-cycle", "2", "--set", "image_size=64"]


@pytest.fixture(scope="module")
def backend(label_studio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key) as process:
        yield process


@pytest.fixture
def defaults(label_studio, backend, tmp_path):
    """The environment and the arguments of a run that would work."""
    environment = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "MODEL_DIR": str(backend.model_dir),
    }
    return environment, ["--out", str(tmp_path / "out"), "--backend-url", backend.url]


@pytest.fixture
def run(defaults, monkeypatch):
    """Run scripts.active_learning in this process with these arguments on top of good ones; its last words."""

    def start(*arguments: str, **environment: str) -> str:
        given, first = defaults
        for name, value in (given | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["active_learning", *first, *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.run("active_learning", active_learning.main)
        return ended.value.code

    return start


def refused(last_words: str, *words: str) -> None:
    """The command ended with one line (Python prints it and exits with 1) that has these words."""
    assert isinstance(last_words, str)
    assert "\n" not in last_words
    for word in words:
        assert word in last_words


def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """A command as its own process: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def projects(label_studio) -> int:
    client = connect(label_studio.url, label_studio.api_key)
    return call(client, "GET", "api/projects", params={"page_size": 1000})["count"]


def coco(folder: Path, **changes) -> Path:
    """A COCO folder of six images with one square each; `changes` replaces parts of its train.json."""
    (folder / "images").mkdir(parents=True)
    names = [f"{index}.png" for index in range(6)]
    for name in names:
        Image.new("L", (64, 64), 80).save(folder / "images" / name)
    annotation = {"bbox": [8, 8, 16, 16], "segmentation": [[8, 8, 24, 8, 24, 24, 8, 24]], "area": 256, "iscrowd": 0}
    whole = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)],
        "annotations": [annotation | {"id": i, "image_id": i, "category_id": 1} for i in range(6)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "test.json").write_text(json.dumps(whole))
    (folder / "train.json").write_text(json.dumps(whole | changes))
    return folder


def test_no_label_studio_at_the_url(defaults, tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    environment, arguments = defaults
    code, _, errors = command("scripts.active_learning", *arguments, *SMALL, "--url", url, **environment)
    assert code == 1
    refused(errors.strip(), "active_learning: no Label Studio answers", url, "LABEL_STUDIO_URL")
    assert not (tmp_path / "out").exists()


def test_a_wrong_token(run, tmp_path):
    token = "0123456789" * 4
    line = run(*SMALL, LABEL_STUDIO_API_KEY=token)
    refused(line, "refuses the token", "Account & Settings > Personal Access Token", "legacy")
    assert token not in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stranger():
    """Another program, which answers 404 to everything."""
    server = Server()
    yield server.url
    server.close()


def test_what_answers_is_something_else(run, stranger):
    refused(run(*SMALL, "--url", stranger), stranger, "is not Label Studio", "LABEL_STUDIO_URL")
    refused(run(*SMALL, "--backend-url", stranger), stranger, "is no TSP backend", "--backend-url")


def test_addresses_that_lack_their_scheme_or_have_the_wrong_one(run, label_studio, backend):
    for name, url in (("--url", label_studio.url), ("--backend-url", backend.url)):
        refused(run(*SMALL, name, url.removeprefix("http://")), f"{name}=", "is no address", f"write it as {url}")
        option = "--backend-url" if name == "--backend-url" else "LABEL_STUDIO_URL"
        secure = url.replace("http", "https")
        refused(run(*SMALL, name, secure), secure, "speaks no https", f"write http:// in {option}")


def test_a_backend_that_asks_for_a_password(run, label_studio, tmp_path, monkeypatch):
    guard = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASS": "sesame"}
    with BackendProcess(tmp_path / "guarded", free_port(), label_studio.url, label_studio.api_key, **guard) as guarded:
        line = run(*SMALL, "--backend-url", guarded.url)
        refused(line, guarded.url, "asks for a password", "export BASIC_AUTH_USER and BASIC_AUTH_PASS")
        line = run(*SMALL, "--backend-url", guarded.url, BASIC_AUTH_USER="ann", BASIC_AUTH_PASS="simsim")
        refused(line, guarded.url, "refuses this user or password")
        assert "simsim" not in line


def test_no_backend(run, label_studio):
    before = projects(label_studio)
    refused(run(*SMALL, "--backend-url", f"http://127.0.0.1:{free_port()}"), "no backend answers", "-m backend")
    assert projects(label_studio) == before


def test_private_addresses_refused_by_the_server(run, backend, tmp_path, monkeypatch):
    environment = label_studio_module._environment
    switches = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")
    monkeypatch.setattr(
        label_studio_module,
        "_environment",
        lambda database: {name: value for name, value in environment(database).items() if name not in switches},
    )
    with LabelStudioServer(tmp_path / "strict") as strict:
        line = run(*SMALL, LABEL_STUDIO_URL=strict.url, LABEL_STUDIO_API_KEY=strict.api_key)
        refused(line, "private networks", *switches)
        assert projects(strict) == 0


def test_fewer_images_than_labels(run, label_studio):
    before = projects(label_studio)
    refused(run(*SMALL, "--per-cycle", "4"), "2 cycles of 4 labels need 8 images", "has 6", "--per-cycle")
    assert projects(label_studio) == before


def test_an_image_that_cannot_be_read(run, label_studio, tmp_path):
    before = projects(label_studio)
    folder = coco(tmp_path / "data")
    (folder / "images" / "3.png").write_bytes(b"no image")
    refused(run(*SMALL, "--data", str(folder)), "3.png", "cannot read the image")
    assert projects(label_studio) == before


def test_a_coco_file_with_a_missing_image(run, tmp_path):
    folder = coco(tmp_path / "data")
    (folder / "images" / "2.png").unlink()
    refused(run(*SMALL, "--data", str(folder)), "2.png")


def test_a_coco_file_with_an_unknown_category(run, tmp_path):
    folder = coco(tmp_path / "data", categories=[{"id": 7, "name": "cell"}])
    refused(run(*SMALL, "--data", str(folder)), "categor")


def test_a_folder_that_is_not_there(run, tmp_path):
    refused(run(*SMALL, "--data", str(tmp_path / "absent")), "absent")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epoch=3"], ["unknown setting epoch"]),
        (["--set", "epochs=many"], ["epochs='many'"]),
        (["--set", "epochs"], ["--set epochs has no value"]),
        (["--cycles", "0"], ["at least 1"]),
    ],
)
def test_settings_that_cannot_be_used(run, arguments, words):
    refused(run(*SMALL, *arguments), *words)


def test_the_folder_of_another_run_is_not_touched(run, tmp_path):
    state = {"plan": {"strategy": "random"}, "project_id": 1}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "experiment.json").write_text(json.dumps(state))
    refused(run(*SMALL), "another", "strategy", "--out")
    assert json.loads((tmp_path / "out" / "experiment.json").read_text()) == state


def test_a_port_in_use(label_studio):
    port = label_studio.url.rsplit(":", 1)[1]
    code, _, errors = command("scripts.demo", "--once", "--port", port)
    assert code == 1
    refused(errors.strip(), f"port {port} cannot be used", "choose another port")


def test_the_backend_s_port_in_use(label_studio, tmp_path):
    port = label_studio.url.rsplit(":", 1)[1]
    code, _, errors = command(
        "backend", "--port", port, "--model-dir", str(tmp_path / "models"), LABEL_STUDIO_API_KEY="x"
    )
    assert code == 1
    refused(errors.strip(), f"127.0.0.1:{port}", "--port")
    assert requests.get(label_studio.url + "/health", timeout=10).ok


@pytest.mark.parametrize("module", ["active_learning", "connect", "demo", "load", "table"])
def test_a_command_is_quick_to_say_what_it_takes(module: str) -> None:
    ask = f"import sys, scripts.{module}; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


COMMANDS = [
    "active_learning",
    "connect",
    "demo",
    "doctor",
    "export",
    "load",
    "rank_tasks",
    "report",
    "table",
    "versions",
]
SUBJECTS = ["agreement", "estimate", "growth", "learning", "run", "speed"]


@pytest.mark.parametrize("command", [*COMMANDS, *(f"benchmark {subject}" for subject in SUBJECTS)])
def test_help_has_an_example_that_can_be_pasted(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one line, and the command itself takes it."""
    name, *rest = command.split()
    module = importlib.import_module(f"scripts.{name}")
    monkeypatch.setattr(sys, "argv", [name, *rest, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    start = "scripts/demo.sh" if name == "demo" else f".venv/bin/python -m scripts.{command}"
    (example,) = re.findall(rf"example:\s+{re.escape(start)} (.*)", capsys.readouterr().out)

    class TakenError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def taken(self: argparse.ArgumentParser) -> None:
        raise TakenError(parse(self))

    monkeypatch.setattr(sys, "argv", [name, *rest, *example.split()])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", taken)
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(TakenError):
        module.main()


def test_the_table_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    known = ("labels", "picked_empty_share", "pseudo_images", "pseudo_objects", "mask_ap50", "box_ap50")
    for strategy in ("tsp", "random"):
        row = {"cycle": 1, "strategy": strategy, "ssl": False, "seconds": {"train": 1.0, "cycle": 2.0}}
        write_rows(tmp_path / f"{strategy}.jsonl", [row | dict.fromkeys(known, 0.5)])
    monkeypatch.setattr(sys, "argv", ["table", str(tmp_path / "tsp.jsonl"), str(tmp_path / "random.jsonl")])
    table_main()
    assert [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines()[2:]] == ["tsp", "random"]


def test_the_table_shows_what_is_missing_as_a_dash():
    row = {"cycle": 1, "strategy": "tsp", "ssl": True, "labels": 8, "picked_empty_share": 0.25, "pseudo_images": 0}
    row |= {"pseudo_objects": 0, "pseudo_precision": None, "semi_gradient_share": None, "mask_ap50": 0.5}
    row |= {"box_ap50": 0.25, "seconds": {"train": 9.6, "cycle": 20.0}}
    lines = table([row | {"cycle": 2}, row]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2"]
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["1", "tsp + SSL", "8", "25%", "0", "0", "-", "-", "0.500", "0.250", "10", "20"]
