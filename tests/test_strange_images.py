"""More than 200 broken and strange images: each is read right, or its task stays open with the reason in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from label_studio_sdk import LabelStudio

from backend import model as backend_model
from backend import serving, settings
from backend.image_limits import ImageLimits
from backend.images import ImageError, fetch_image
from backend.model import TSPBackend
from backend.pool import Pool
from backend.progress import Progress
from backend.project import Task
from tests.builders import new_version
from tests.strange_images import Strange, strange_images
from tests.web import Server
from tsp_model.data import DataError
from tsp_model.data.image_set import read_image

ENVIRONMENT = {"TSP_SHOW_THRESHOLD": "0", "TSP_PREDICT_SECONDS": "3600"}
KEY = "4.1700000000"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/><Label value="SRF"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def strange() -> list[Strange]:
    found = list(strange_images())
    assert len(found) >= 200 and len({name for name, *_ in found}) == len(found)
    return found


@pytest.fixture
def studio(strange: list[Strange]) -> Iterator[Server]:
    server = Server()
    server.pages = {f"/{number}.png": (200, {}, code) for number, (_, code, _, _) in enumerate(strange)}
    yield server
    server.close()


def client_of(studio: Server) -> LabelStudio:
    return LabelStudio(base_url=studio.url, api_key="a" * 40)


def pool_of(tasks: list[Task], studio: Server, folder: Path) -> Pool:
    """What a training takes of these tasks."""
    client = client_of(studio)
    project = SimpleNamespace(project_id=4, client=client, classes=("PED",), task_count=len(tasks))
    return Pool(project, folder / "images", ImageLimits()).read(tasks, Progress(folder, f"train-{KEY}-00001").update)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_is_read_right_or_refused_in_one_line(strange: list[Strange], studio: Server, tmp_path: Path) -> None:
    client, wrong = client_of(studio), {}
    for number, (name, _, expected, off) in enumerate(strange):
        try:
            found = read_image(fetch_image(f"/{number}.png", client, tmp_path)).permute(1, 2, 0).numpy()
        except (ImageError, DataError) as error:
            if expected is not None or "\n" in str(error) or ": " not in str(error):
                wrong[name] = f"refused: {error}"
            continue
        if expected is None:
            wrong[name] = f"was read as {found.shape}"
        elif found.shape != expected.shape:
            wrong[name] = f"{found.shape} instead of {expected.shape}"
        elif (most := np.abs(found.astype(int) - expected).max()) > off:
            wrong[name] = f"is off by {most}"
    assert not wrong


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_one_request_answers_the_good_ones_and_leaves_the_others_open(
    strange: list[Strange],
    studio: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = settings.load(ENVIRONMENT | {"MODEL_DIR": str(tmp_path), "LABEL_STUDIO_URL": studio.url})
    monkeypatch.setattr(backend_model, "_connected", lambda url, api_key: client_of(studio))
    monkeypatch.setattr(serving, "MODELS", serving.ModelCache())
    new_version(service.model_dir, KEY)
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    tasks = [{"id": number, "data": {"image": f"/{number}.png"}} for number in range(len(strange))]
    with caplog.at_level(logging.WARNING, logger="backend.model"):
        answers = backend.predict(tasks)
    refused = [number for number, (_, _, expected, _) in enumerate(strange) if expected is None]
    assert [number for number, answer in enumerate(answers) if answer == []] == refused
    said = [record.args[0] for record in caplog.records if "is left unanswered" in record.msg]
    assert said == refused
    good = [task for task in tasks if task["id"] not in refused][::4]
    # What stands beside an image does not change its answer, but for rounding.
    scores = [answer["score"] for answer in backend.predict(good)]
    assert scores == pytest.approx([answers[task["id"]]["score"] for task in good], abs=1e-4)
    for answer, (_, _, expected, _) in zip(answers, strange, strict=True):
        if answer:
            assert 0 <= answer["score"] <= 1
            sizes = {(region["original_height"], region["original_width"]) for region in answer["result"]}
            assert sizes <= {expected.shape[:2]}


ODD_ADDRESSES = [
    "http://xn--/x.png", "http://xn--a.example.org/x.png", "http://\u2603/x.png", "http://[::1/x.png", "http://", "//",
    "http://" + "a" * 300 + "/x.png", "http://a..b/x.png", "http://0x7f.1/x.png", "http://example.org:99999/x.png",
    "http://user:pass@example.org/x.png", "javascript:alert(1)", "\\\\host\\x.png", "/\ud800.png", "/\x00.png",
    "/a\nb.png", "/%", " ",
]  # fmt: skip
ODD_DATA = [None, [], "text", {}, {"image": None}, {"image": 3}, {"image": ["/0.png"]}, {"image": {"url": "/0.png"}}]


def test_odd_addresses_cost_their_own_task_only(
    studio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.pages["/good.png"] = studio.pages["/0.png"]
    good = [0, 9, 17]
    data = [*({"image": address} for address in ODD_ADDRESSES), *ODD_DATA]
    for place in good:
        data.insert(place, {"image": "/good.png"})
    service = settings.load(ENVIRONMENT | {"MODEL_DIR": str(tmp_path), "LABEL_STUDIO_URL": studio.url})
    monkeypatch.setattr(backend_model, "_connected", lambda url, api_key: client_of(studio))
    new_version(service.model_dir, KEY)
    backend = TSPBackend(project_id=KEY, label_config=CONFIG, service=service)
    answers = backend.predict([{"id": number, "data": one} for number, one in enumerate(data)])
    assert [number for number, answer in enumerate(answers) if answer] == good

    tasks = [Task(number, one["image"]) for number, one in enumerate(data) if isinstance(one, dict) and "image" in one]
    pool = pool_of(tasks, studio, tmp_path)
    assert [image.key for image in pool.unlabelled] == [str(place) for place in good]
    assert len(pool.skipped) == len(tasks) - len(good) and not any("\n" in reason for reason in pool.skipped.values())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_training_takes_the_good_ones_and_says_why_it_leaves_the_others_out(
    strange: list[Strange], studio: Server, tmp_path: Path
) -> None:
    tasks = [Task(number, f"/{number}.png") for number in range(len(strange))]
    pool = pool_of(tasks, studio, tmp_path)
    refused = {str(number) for number, (_, _, expected, _) in enumerate(strange) if expected is None}
    assert set(pool.skipped) == refused and all(pool.skipped.values())
    assert {image.key for image in pool.unlabelled} == {str(task.id) for task in tasks} - refused
