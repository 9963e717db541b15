"""label-studio-ml 2.x's own app around TSPBackend; where 1.0.9 is installed, tests/test_generations.py runs this."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from flask.testing import FlaskClient
from PIL import Image

from backend import model as backend_model
from backend.label_config import parse_label_config
from backend.versions import UNTRAINED
from tests.builders import new_version

if not backend_model._SECOND_GENERATION:
    pytest.skip("label-studio-ml 1.0.9 is installed, whose own app cannot serve", allow_module_level=True)

from label_studio_ml.api import init_app

KEY = "4.1700000000"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/><Label value="SRF"/></BrushLabels></View>"""
SETUP = {"project": KEY, "schema": CONFIG, "extra_params": {"train_after": 3}}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """The stock app; Label Studio, which it asks for the project's key, is made up."""
    Image.linear_gradient("L").resize((64, 48)).save(tmp_path / "image.png")
    project = SimpleNamespace(key=KEY, config=parse_label_config(CONFIG))
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("TSP_SHOW_THRESHOLD", "0")
    monkeypatch.setattr(backend_model, "fetch_image", lambda *asked: tmp_path / "image.png")
    monkeypatch.setattr(backend_model, "LabelStudioProject", lambda client, number: project)
    monkeypatch.setattr(backend_model, "_connected", lambda url, api_key: None)
    return init_app(backend_model.TSPBackend).test_client()


def test_setup_tells_the_active_version(web: FlaskClient, tmp_path: Path) -> None:
    assert web.get("/health").json["model_class"] == "TSPBackend"
    assert web.post("/setup", json=SETUP).json == {"model_version": UNTRAINED}
    version = new_version(tmp_path / "models", KEY)
    assert web.post("/setup", json=SETUP).json == {"model_version": version}


def test_predict_answers_each_task(web: FlaskClient, tmp_path: Path) -> None:
    body = {"project": KEY, "label_config": CONFIG, "tasks": [{"id": n, "data": {"image": "x"}} for n in (1, 2)]}
    assert web.post("/predict", json=body).json == {"results": [[], []]}
    version = new_version(tmp_path / "models", KEY)
    results = web.post("/predict", json=body).json["results"]
    assert [one["model_version"] for one in results] == [version] * 2 and results[0]["result"]


def test_a_webhook_wakes_a_job(web: FlaskClient) -> None:
    project = {"id": 4, "created_at": "2023-11-14T22:13:20Z", "label_config": CONFIG}
    answer = web.post("/webhook", json={"action": "START_TRAINING", "project": project})
    assert answer.status_code == 201 and answer.json["result"] == {"job_id": f"train-{KEY}-00001"}
