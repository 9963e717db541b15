"""TSPBackend on whichever generation of label-studio-ml is installed: who answers for whom, and with what."""

import importlib
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from PIL import Image

from backend import model as backend_model
from backend import serving, settings
from backend.answers import AnswerCache
from backend.images import ImageError
from backend.jobs import Jobs
from backend.label_config import parse_label_config
from backend.model import TSPBackend
from backend.project_settings import remembered_extra_params
from backend.versions import UNTRAINED, Versions
from tests.builders import new_version, prediction
from tsp_model import checkpoints
from tsp_model.execution import Execution
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import write_predictions
from tsp_model.settings import SettingsError

PROJECT = {"id": 4, "created_at": "2023-11-14T22:13:20.123456Z"}
KEY, OTHER = "4.1700000000", "5.1700000000"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/><Label value="SRF"/></BrushLabels></View>"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    service = settings.load({"MODEL_DIR": str(tmp_path / "models"), "TSP_SHOW_THRESHOLD": "0"})

    def fetch(url: str, client: object, cache: Path, limits: object, project_id: int) -> Path:
        if url == "broken":
            raise ImageError("broken: not there")
        if not (path := tmp_path / f"{url}.png").exists():
            Image.linear_gradient("L").resize((64, 48)).save(path)
        return path

    class Project:
        def __init__(self, client: object, project_id: int) -> None:
            self.key = f"{project_id}.1700000000"
            self.config = parse_label_config(CONFIG)

    monkeypatch.setattr(backend_model, "fetch_image", fetch)
    monkeypatch.setattr(backend_model, "LabelStudioProject", Project)
    monkeypatch.setattr(backend_model, "_connected", lambda url, api_key: None)
    monkeypatch.setattr(serving, "MODELS", serving.ModelCache())
    monkeypatch.setattr(serving, "ANSWERS", AnswerCache())
    return service


def tasks(*urls: str, project: int = 4) -> list[dict]:
    return [{"id": number, "project": project, "data": {"image": url}} for number, url in enumerate(urls, start=1)]


def test_one_answer_per_task_in_order_and_none_for_a_broken_image(service):
    version = new_version(service.model_dir, KEY)
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    answers = backend.predict(tasks("a", "broken", "b", "c", "d", "broken", "e"))
    assert [bool(answer) for answer in answers] == [True, False, True, True, True, False, True]
    assert answers[1] == answers[5] == []
    assert {answer["model_version"] for answer in answers if answer} == {version}
    scores = [answer["score"] for answer in answers if answer]
    assert all(0 <= score <= 1 for score in scores) and len(set(scores)) == 1, "the same image each time"
    region = answers[0]["result"][0]
    assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "brushlabels")
    assert 0 <= region["score"] <= 1


def test_before_the_first_training_every_place_is_empty(service):
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    assert backend.predict(tasks("a", "b"), context=None) == [[], []]
    assert backend.predict([]) == []


def test_a_project_is_never_answered_by_anothers_model(service):
    new_version(service.model_dir, OTHER)
    new_version(service.model_dir, "4.1600000000")
    assert TSPBackend(project_id=KEY, label_config=CONFIG, service=service).predict(tasks("a")) == [[]]
    # As 1.0.9 constructs (no project), and 2.x (the bare id): the same.
    assert TSPBackend(label_config=CONFIG, service=service).predict(tasks("a")) == [[]]
    assert TSPBackend(project_id="4", label_config=CONFIG, service=service).predict(tasks("a")) == [[]]
    mine = new_version(service.model_dir, KEY, 7)
    for backend in (
        TSPBackend(label_config=CONFIG, train_output={}, service=service),
        TSPBackend(project_id="4", label_config=CONFIG, service=service),
    ):
        assert backend.predict(tasks("a"))[0]["model_version"] == mine


def test_a_new_version_is_taken_up_without_being_told(service):
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    for number in (1, 2, 3, 4):
        version = new_version(service.model_dir, KEY, number)
        assert backend.predict(tasks("a"))[0]["model_version"] == version


def test_what_is_not_ready_in_time_stays_open(service, monkeypatch):
    new_version(service.model_dir, KEY)
    clock, detect = [0.0], serving.predict

    def slow(*args, **options):
        clock[0] += 50  # seconds a batch, of the 80 that a request may take
        return detect(*args, **options)

    monkeypatch.setattr(backend_model, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(serving, "predict", slow)
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    answers = backend.predict(tasks(*"abcdefghijklmn"))
    assert [bool(answer) for answer in answers] == [True] * 8 + [False] * 6
    # What was left is the worker's, and what was done is not done again: asked once more, the request goes further.
    jobs = Jobs(service.database_url, service.model_dir)
    assert jobs.last("score", KEY) == f"score-{KEY}-00001"
    jobs.close()
    again = backend.predict(tasks(*"abcdefghijklmn"))
    assert all(again) and again[:8] == answers[:8]


def test_a_selection_takes_what_the_worker_predicted_and_runs_the_network_for_the_rest(service, monkeypatch):
    version = new_version(service.model_dir, KEY)
    sure = prediction("", [(0.9, 0.8, 0.7)])
    folder = Versions(service.model_dir, KEY).folder(version)
    write_predictions(folder / PREDICTIONS, [replace(sure, key=str(task)) for task in (2, 3, 5, 6)])
    seen: list[int] = []
    detect = serving.predict
    monkeypatch.setattr(
        serving, "predict", lambda model, images, **more: seen.append(len(images)) or detect(model, images, **more)
    )
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    answers = backend.predict(tasks("a", "broken", "b", "c", "d", "broken", "e"))
    assert sum(seen) == 3, "of tasks 1, 4 and 7"
    assert all(answers), "what is predicted already needs no image any more"
    assert {answers[place - 1]["score"] for place in (2, 3, 5, 6)} == {sure.image_score}
    assert [region["score"] for region in answers[1]["result"]] == pytest.approx(sure.instance_scores)
    ids = [answers[place - 1]["result"][0]["id"] for place in (2, 3, 5, 6)]
    assert len(set(ids)) == 4, "regions of different tasks have different ids"


def test_one_image_is_predicted_once_for_a_version(service, monkeypatch):
    seen: list[int] = []
    detect = serving.predict
    monkeypatch.setattr(
        serving, "predict", lambda model, images, **more: seen.append(len(images)) or detect(model, images, **more)
    )
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    for number in (1, 2):
        new_version(service.model_dir, KEY, number)
        first = backend.predict(tasks("a"))
        assert backend.predict(tasks("a")) == first and sum(seen) == number


def test_a_damaged_model_or_configuration_leaves_every_place_empty(service):
    version = new_version(service.model_dir, KEY)
    broken = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    (Versions(service.model_dir, KEY).folder(version) / checkpoints.WEIGHTS).write_bytes(b"")
    assert broken.predict(tasks("a", "b")) == [[], []]


def test_what_is_predicted_already_has_no_more_time_than_the_rest(service, monkeypatch):
    version = new_version(service.model_dir, KEY)
    folder = Versions(service.model_dir, KEY).folder(version)
    sure = prediction("", [(0.9, 0.8, 0.7)])
    write_predictions(folder / PREDICTIONS, [replace(sure, key=str(task)) for task in range(1, 11)])
    clock, answer = [0.0], serving.ActiveVersion.answer

    def slow(*arguments):
        clock[0] += 30  # large masks, of a tag that takes its time
        return answer(*arguments)

    monkeypatch.setattr(backend_model, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(serving.ActiveVersion, "answer", slow)
    answers = TSPBackend(project_id=KEY, label_config=CONFIG, service=service).predict(tasks(*"abcdefghij"))
    assert [bool(answer) for answer in answers] == [True] * 3 + [False] * 7


def test_what_was_answered_before_the_memory_was_gone_stays(service, monkeypatch, caplog):
    new_version(service.model_dir, KEY)
    detect, calls = serving.predict, []

    def greedy(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("can't allocate memory")
        return detect(*args, **options)

    monkeypatch.setattr(serving, "predict", greedy)
    answers = TSPBackend(project_id=KEY, label_config=CONFIG, service=service).predict(tasks(*"abcdefgh"))
    assert [bool(answer) for answer in answers] == [True] * 4 + [False] * 4
    assert "4 tasks are left unanswered: can't allocate memory" in caplog.text


def test_where_too_many_ask_at_once_the_worker_is_asked(service, monkeypatch):
    new_version(service.model_dir, KEY)
    monkeypatch.setattr(backend_model, "_PLACES", threading.BoundedSemaphore(1))
    backend_model._PLACES.acquire()
    assert TSPBackend(project_id=KEY, label_config=CONFIG, service=service).predict(tasks("a", "b")) == [[], []]
    jobs = Jobs(service.database_url, service.model_dir)
    assert jobs.last("score", KEY) == f"score-{KEY}-00001"
    jobs.close()


@pytest.mark.parametrize("generation", ["1.0.9", "2.x"])
def test_fit_only_wakes_a_job(service, generation):
    backend = TSPBackend(label_config=CONFIG, service=service)
    data = {"project": PROJECT}
    if generation == "2.x":
        answer = backend.fit("START_TRAINING", data)
    else:
        answer = backend.fit((), event="START_TRAINING", data=data, job_id="7", workdir="somewhere")
    assert answer == {"job_id": f"train-{KEY}-00001"}
    assert "job_id" not in backend.fit("PROJECT_UPDATED", data)


def test_the_cache_keeps_few_models_and_loads_each_once(tmp_path, monkeypatch):
    loads: list[str] = []

    def load(folder: Path, execution: Execution) -> tuple[torch.nn.Module, dict]:
        loads.append(folder.name + "+gather" * execution.gather)
        return torch.nn.Identity(), {}

    monkeypatch.setattr(serving.checkpoints, "load", load)
    cache = serving.ModelCache(most=2)
    for name in "ababcab":
        cache.get(tmp_path / name, Execution())
    assert loads == ["a", "b", "c", "a", "b"]
    cache.get(tmp_path / "b", Execution(gather=True))
    cache.get(tmp_path / "b", Execution())
    assert loads[5:] == ["b+gather"]


class SecondGenerationBase:
    """Stands for label-studio-ml 2.x, which is on no package index: its constructor, state and calls."""

    state: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def get(self, key: str) -> str | None:
        return self.state.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        self.state[self.project_id, key] = value


def test_the_second_generation_constructs_it_and_hears_of_the_active_version(service, monkeypatch):
    import label_studio_ml.model

    monkeypatch.setattr(label_studio_ml.model, "LabelStudioMLBase", SecondGenerationBase)
    try:
        second = importlib.reload(backend_model)
        backend = second.TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
        assert backend.get("model_version") == UNTRAINED
        backend.set_extra_params({"train_after": 3})
        assert remembered_extra_params(service.model_dir, KEY) == {"train_after": 3}
        with pytest.raises(SettingsError, match="train_afer"):
            backend.set_extra_params({"train_afer": 3})
        version = new_version(service.model_dir, KEY)
        again = second.TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
        assert again.get("model_version") == version
        assert again.fit("START_TRAINING", {"project": PROJECT}) == {"job_id": f"train-{KEY}-00001"}
    finally:
        monkeypatch.undo()
        importlib.reload(backend_model)
