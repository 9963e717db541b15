"""Whatever is sent to the service: an answer in its own form, one result a task, and no failure without its cause."""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from label_studio_sdk import LabelStudio
from PIL import Image

from backend import model as backend_model
from backend import settings
from backend.annotations import instances_of
from backend.app import create_app
from backend.bitmask import to_address
from backend.brush import mask2rle
from backend.jobs import Jobs
from backend.label_config import KINDS, LabelConfig, LabelConfigError, LabelTag, parse_label_config
from tests.builders import new_version
from tests.web import Server
from tsp_model.data import masks

KEY = "4.1700000000"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/><Label value="SRF"/></BrushLabels></View>"""
TASK = {"id": 1, "data": {"image": "/good.png"}, "project": 4}
VALID = {
    "/setup": {"project": KEY, "schema": CONFIG, "extra_params": {"train_after": 3}},
    "/predict": {"tasks": [TASK, TASK], "project": KEY, "label_config": CONFIG, "params": {"context": {}}},
    "/webhook": {"action": "START_TRAINING", "project": {"id": 4, "created_at": "2023-11-14T22:13:20Z"}},
    "/job_status": {"job": f"train-{KEY}-00001"},
    "/versions": {"project": "4", "version": "tsp-0001-20260101T000000"},
}
TAG = LabelTag("brush", "tag", "image")
UNSHARED = [HealthCheck.function_scoped_fixture]
MUCH = effort(max_examples=300, derandomize=True, deadline=None, suppress_health_check=UNSHARED)

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["", "4", KEY, "../../etc", "file:///etc/passwd", "/good.png", "1.7e3", "\x00", "NaN", "<View/>"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def nearly(draw: st.DrawFn, value: Any) -> Any:
    """`value` with some of its parts replaced by anything, left out, or repeated."""
    if draw(st.integers(0, 7)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        kept = {name: draw(nearly(one)) for name, one in value.items() if draw(st.integers(0, 9))}
        return kept | draw(st.dictionaries(st.text(max_size=8), JSON, max_size=1))
    if isinstance(value, list):
        return [draw(nearly(one)) for one in value for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2])))]
    return value


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """The app with a version that answers, and one image that is there."""
    folder = tmp_path_factory.mktemp("service")
    service = settings.load({"MODEL_DIR": str(folder / "models"), "TSP_SHOW_THRESHOLD": "0"})
    new_version(service.model_dir, KEY)
    Image.linear_gradient("L").resize((64, 48)).save(folder / "good.png")
    studio = Server()
    studio.pages["/good.png"] = (200, {}, (folder / "good.png").read_bytes())
    jobs = Jobs(service.database_url, service.model_dir)
    with pytest.MonkeyPatch.context() as patched:
        known = LabelStudio(base_url=studio.url, api_key="a" * 40)
        patched.setattr(backend_model, "_connected", lambda url, api_key: known)
        yield create_app(service, jobs).test_client()
    jobs.close()
    studio.close()


def send(web: FlaskClient, path: str, body: Any, caplog: pytest.LogCaptureFixture) -> SimpleNamespace:
    """The answer, of which every one is JSON of the service's own form."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        answer = web.post(path, data=json.dumps(body))
    assert answer.is_json
    if answer.status_code >= 400:
        assert set(answer.json) == {"error"} and answer.json["error"] and "\n" not in answer.json["error"]
    assert answer.status_code < 500, f"{answer.json} for {body!r}\n{caplog.text}"
    assert answer.status_code != 400 or caplog.records, "what is refused is logged with its cause"
    return answer


@pytest.mark.parametrize("path", VALID)
def test_a_valid_one_is_answered(web: FlaskClient, path: str, caplog: pytest.LogCaptureFixture) -> None:
    assert send(web, path, VALID[path], caplog).status_code in (200, 201, 202, 410)


@pytest.mark.parametrize("path", VALID)
def test_whatever_is_sent_has_an_answer_of_its_form(
    web: FlaskClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    @MUCH
    @given(nearly(VALID[path]))
    def check(body: Any) -> None:
        answer = send(web, path, body, caplog)
        if path == "/predict" and answer.status_code == 200:
            assert len(answer.json["results"]) == len(body["tasks"])

    check()


DRAWN = {"original_width": 12, "original_height": 9, "image_rotation": 0, "from_name": "tag", "to_name": "image"}
ANNOTATION = {
    "id": 5,
    "result": [
        DRAWN | {"id": "a", "type": "brushlabels",
                 "value": {"format": "rle", "rle": mask2rle(np.eye(9, 12, dtype="u1") * 255), "brushlabels": ["PED"]}},
        DRAWN | {"id": "b", "type": "polygonlabels",
                 "value": {"points": [[0, 0], [50, 0], [50, 50]], "closed": True, "polygonlabels": ["SRF"]}},
        DRAWN | {"id": "b", "type": "polygonlabels",
                 "value": {"points": [[60, 60], [90, 60], [90, 90]], "closed": True, "polygonlabels": ["SRF"]}},
        DRAWN | {"id": "c", "type": "rectanglelabels",
                 "value": {"x": 1, "y": 1, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["box"]}},
        DRAWN | {"id": "d", "type": "bitmasklabels",
                 "value": {"imageDataURL": to_address(np.ones((2, 2), bool), 1, 1, 9, 12), "bitmasklabels": ["PED"]}},
    ],
}  # fmt: skip


def test_whatever_an_annotation_holds_it_is_read_or_left_out_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    config = LabelConfig("image", {"PED": TAG, "SRF": TAG, "box": LabelTag("rectangle", "box", "image")}, {})
    whole = instances_of(ANNOTATION, config, 7)
    assert [label for label, _ in whole] == ["PED", "SRF", "box", "PED"]

    @MUCH
    @given(nearly(ANNOTATION["result"]))
    def check(result: Any) -> None:
        caplog.clear()
        found = instances_of(ANNOTATION | {"result": result}, config, 7)
        if found is None:
            assert "task 7, annotation 5 is not used: " in caplog.text
        else:
            assert all(isinstance(label, str) and masks.area([rle])[0] > 0 for label, rle in found)

    check()


@pytest.mark.parametrize("harm", [{"value": None}, {"value": []}, {"value": "x"}, {"id": [1]}, {"id": {"a": 1}}])
def test_a_region_without_its_parts_costs_its_annotation_or_nothing(
    harm: dict, caplog: pytest.LogCaptureFixture
) -> None:
    config = LabelConfig("image", {"PED": TAG, "SRF": TAG}, {})
    found = instances_of(ANNOTATION | {"result": [ANNOTATION["result"][0] | harm]}, config, 7)
    assert (found is None) == ("value" in harm) == ("is not used" in caplog.text)


def test_an_annotation_that_says_that_its_image_is_huge_asks_for_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    config = LabelConfig("image", {"SRF": TAG}, {})
    huge = [one | {"original_width": 100_000, "original_height": 100_000} for one in ANNOTATION["result"][1:3]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert instances_of(ANNOTATION | {"result": huge}, config, 7) is None
    assert "none has more than" in caplog.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_whatever_the_tasks_are_there_is_one_result_for_each(
    web: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @MUCH
    @given(st.lists(nearly(TASK).filter(lambda task: isinstance(task, dict)), min_size=1, max_size=9))
    def check(tasks: list[dict]) -> None:
        answer = send(web, "/predict", VALID["/predict"] | {"tasks": tasks}, caplog)
        assert answer.status_code == 200 and len(answer.json["results"]) == len(tasks)
        for task, result in zip(tasks, answer.json["results"], strict=True):
            good = isinstance(task.get("data"), dict) and task["data"].get("image") == "/good.png"
            assert bool(result) == good, task

    check()


@st.composite
def label_configs(draw: st.DrawFn) -> str:
    """Configurations that people might write, right and wrong ones."""
    tags = [*KINDS, "BrushLabels", "PolygonLabels", "RectangleLabels", "Choices", "EllipseLabels", "Brush", "Labels"]
    names = st.sampled_from(["image", "img", "a b", "", "tag"])
    labels = st.text(max_size=6) | st.sampled_from(["PED", "ped", "&lt;", '"', "é"])

    def control() -> str:
        inner = "".join(f'<Label value="{draw(labels)}"/>' for _ in range(draw(st.integers(0, 3))))
        tag = draw(st.sampled_from(tags))
        return f'<{tag} name="{draw(names)}" toName="{draw(names)}">{inner}</{tag}>'

    images = "".join(
        f'<Image name="{draw(names)}" value="{draw(st.sampled_from(["$image", "$", "", "x", "$a$b"]))}"/>'
        for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2])))
    )
    return f"<View>{images}{''.join(control() for _ in range(draw(st.integers(0, 3))))}</View>"


@MUCH
@given(label_configs() | st.text(max_size=60))
def test_any_labeling_configuration_is_usable_or_refused_in_one_line(xml: str) -> None:
    try:
        found = parse_label_config(xml)
    except LabelConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert found.labels and found.image_key and set(found.tags) == set(found.labels)
        assert all(found.label_for(label) is not None for label in found.labels)
