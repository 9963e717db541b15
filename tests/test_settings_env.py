"""The environment: every variable read, documented, and refused in one clear line where it is wrong."""

import json
import os
import re
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path

import pytest

from backend import __main__ as service_command
from backend import settings
from backend.project_settings import ProjectSettings, for_project
from backend.shown import Shown
from scripts.processes import free_port
from tsp_model import memory
from tsp_model.settings import CHOICES, FIELD_NAMES, PRESETS, Settings, SettingsError

ROOT = Path(__file__).parent.parent


def test_the_defaults_are_the_papers_method_and_a_local_service():
    service = settings.load({})
    assert service.method == Settings()
    assert (service.host, service.port, service.train_after, service.shown.threshold) == (
        "127.0.0.1",
        9090,
        20,
        0.3,
    )
    assert service.model_dir.is_absolute()
    assert service.basic_auth is None
    assert service.torch_threads == settings.threads_by_default()


@pytest.mark.parametrize(
    ("said", "threads"),
    [("3", 3), ("4,2", 4), ("999", 256), ("", 2), ("0", 2), ("all", 2)],
    ids=repr,
)
def test_torch_has_the_threads_of_omp_else_one_for_each_core(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5})
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert settings.threads_by_default() == threads


def test_every_field_of_the_method_has_a_variable_and_the_preset_comes_first():
    names = [variable.name for variable in settings.documented_variables()]
    assert len(names) == len(set(names))
    assert {f"TSP_{field.upper()}" for field in FIELD_NAMES} <= set(names)
    meanings = {variable.name: variable.meaning for variable in settings.documented_variables()}
    assert all(len(meaning.split()) >= 2 for meaning in meanings.values())
    assert meanings["TSP_SCHEDULE"] == "how the learning rate falls (step, cosine)"
    service = settings.load({"TSP_PRESET": "tiny", "TSP_EPOCHS": "7", "TSP_SSL": "false", "TSP_BETA": ""})
    expected = Settings.preset("tiny").to_dict() | {"epochs": 7, "ssl": False}
    assert service.method.to_dict() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "http://ann:sesame@localhost:8080"),
        ("TSP_TRAIN_AFTER", "-1"),
        ("TSP_TRAIN_AFTER", "2.5"),
        ("TSP_SHOW_THRESHOLD", "nan"),
        ("TSP_BRUSH_CODEC", "Fast"),
        ("TSP_IMAGE_HOSTS", "images.example.org, https://example.org"),
        ("TSP_IMAGE_HOSTS", "images.example.org:8000"),
        ("TSP_IMAGE_MEGAPIXELS", "200"),
        ("TSP_KEEP_VERSIONS", "1"),
        ("TSP_KEEP_ASIDE", "0.6"),
        ("TSP_PRESET", "huge"),
        ("TSP_EPOCHS", "many"),
        ("TSP_EPOCHS", "0"),
        ("TSP_BACKBONE", "vgg"),
        ("TSP_EPOCH", "5"),
        ("BASIC_AUTH_USER", "somebody"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(name, value):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    text = str(caught.value)
    assert "\n" not in text
    assert name in text or name.removeprefix("TSP_").lower() in text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("studio.example.org/path", "http://studio.example.org/path"),
        ("http:/localhost", "http://host:port"),
        ("http://localhost:port", "http://host:port"),
        ("http://:8080", "http://host:port"),
        ("ftp://localhost", "http://host:port"),
    ],
)
def test_what_is_no_address_is_said_with_one_that_was_meant(given, meant):
    with pytest.raises(SettingsError, match=f"--url='{given}' is no address; write it as {meant}."):
        settings.address("--url", given)
    assert settings.address("--url", "https://studio.example.org/path/") == "https://studio.example.org/path"


def test_how_to_start_keeps_the_preset():
    assert settings.starting("worker", {"TSP_PRESET": "tiny"}).startswith(
        f"`TSP_PRESET=tiny {sys.executable} -m backend worker`"
    )
    assert (
        settings.starting(environ={})
        == f"`{sys.executable} -m backend`, with the variables as before, such as TSP_PRESET"
    )


def test_the_brush_codec_is_known_to_scripts_too():
    for environ, expected in (({}, "fast"), ({"TSP_BRUSH_CODEC": ""}, "fast"), ({"TSP_BRUSH_CODEC": "sdk"}, "sdk")):
        assert settings.brush_codec(environ) == settings.load(environ).brush_codec == expected
    assert settings.load({}).brush_codec in settings.BRUSH_CODECS


def test_a_project_overrides_what_the_environment_says():
    service = settings.load({"TSP_EPOCHS": "7", "TSP_TRAIN_AFTER": "20", "TSP_PUSH_TOP": "9", "TSP_CLUSTERS": "4"})
    assert for_project(service, None) == ProjectSettings(20, 0.1, Shown(0.3, 0, 0.5), 9, 4, service.method)
    assert for_project(service, {"push_top": 0}).push_top == 0
    assert for_project(service, {"clusters": 0}).clusters == 0
    project = for_project(
        service,
        {"train_after": 0, "beta": 0.05, "epochs": "3", "show_threshold": 0.5, "show_area": 40, "show_overlap": 1},
    )
    assert (project.train_after, project.shown) == (0, Shown(0.5, 40, 1))
    assert (project.method.beta, project.method.epochs) == (0.05, 3)
    assert for_project(service, {"preset": "tiny", "epochs": 2}).method.backbone == "tiny"


@pytest.mark.parametrize("given", [None, "", " ", {}, "{}"])
def test_extra_params_that_say_nothing(given):
    assert for_project(settings.load({}), given) == for_project(settings.load({}), {})


def test_extra_params_come_as_text_from_the_form():
    assert for_project(settings.load({}), '{"train_after": 3}').train_after == 3


@pytest.mark.parametrize(
    ("extra_params", "named"),
    [
        ("preset=tiny", "no JSON object"),
        ("[1]", "list"),
        ({"epoch": 3}, "epoch"),
        ({"train_after": "soon"}, "train_after"),
        ({"train_after": True}, "train_after"),
        ({"train_after": float("inf")}, "train_after"),
        ({"clusters": 1001}, "clusters"),
        ({"push_top": -1}, "push_top"),
        ({"beta": "big"}, "beta"),
        ({"port": 1}, "port"),
        (["epochs"], "list"),
    ],
)
def test_a_project_with_a_wrong_extra_param_is_refused_by_name(extra_params, named):
    with pytest.raises(SettingsError, match=rf"\b{named}\b") as caught:
        for_project(settings.load({}), extra_params)
    assert "\n" not in str(caught.value)


def test_no_other_file_reads_the_environment():
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("backend", "tsp_model")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"os\.environ\[|os\.environ\.get|os\.getenv", path.read_text(encoding="utf-8"))
    }
    # torchrun tells a process by its environment which one it is.
    assert readers <= {"backend/settings.py", "tsp_model/distributed.py"}


def test_reading_settings_imports_neither_torch_nor_the_sdk():
    code = "import sys, backend.settings; print({'torch', 'label_studio_sdk'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("part", ["web", "worker"])
@pytest.mark.parametrize("kept", [True, False])
def test_each_part_keeps_freed_memory_unless_told_otherwise(part, kept, tmp_path, monkeypatch):
    for name, value in {"LABEL_STUDIO_API_KEY": "token", "TSP_KEEP_MEMORY": str(kept).lower()}.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(memory, "keep", lambda: calls.append("keep"))
    monkeypatch.setattr(service_command, f"_{part}", lambda settings: calls.append(part) or 0)
    assert service_command.main([part, "--model-dir", str(tmp_path), "--port", str(free_port())]) == 0
    assert calls == ["keep"] * kept + [part], "before the part starts, which makes threads"


def test_every_setting_of_the_method_stands_in_its_readme():
    """A row each: name, default, where the tiny preset differs, meaning, choices."""
    text = (ROOT / "tsp_model" / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == [row(one) for one in fields(Settings)]


def row(setting: Field) -> str:
    tiny = PRESETS["tiny"].get(setting.name, setting.default)
    default = f"{shown(setting.default)}; tiny: {shown(tiny)}" if tiny != setting.default else shown(setting.default)
    choices = f" ({', '.join(CHOICES[setting.name])})" if setting.name in CHOICES else ""
    return f"| `{setting.name}` | {default} | {setting.metadata['meaning']}{choices} |"


def shown(value: object) -> str:
    return json.dumps(value).strip('"')


@pytest.mark.parametrize(
    "url", ["postgresql://tsp:se%cret@db/jobs", "postgresql://tsp:se@cret@db/jobs", "sqlite:///secret", "db/secret"]
)
def test_a_database_that_cannot_be_one_is_refused_without_its_password(url):
    with pytest.raises(SettingsError, match="TSP_DATABASE_URL is no address") as refused:
        settings.load({"TSP_DATABASE_URL": url})
    assert "secret" not in str(refused.value) and "cret" not in str(refused.value)


def test_a_database_is_shared_and_not_shown():
    url = "postgresql://tsp:se%40cret@db:5432/jobs"
    service = settings.load({"TSP_DATABASE_URL": url})
    assert service.shared and service.database_url == url and "cret" not in repr(service)
    assert not settings.load({}).shared


def test_each_process_has_an_image_of_a_batch():
    with pytest.raises(SettingsError, match="TSP_PROCESSES=8 would share the 4 images of a batch.*TSP_BATCH_SIZE"):
        settings.load({"TSP_PROCESSES": "8"})
    service = settings.load({"TSP_PROCESSES": "8", "TSP_BATCH_SIZE": "8"})
    with pytest.raises(SettingsError, match="extra_params.*share the 2 images"):
        for_project(service, {"batch_size": 2})
