"""The gunicorn entry: `gunicorn backend._wsgi:app` (see `python -m backend` for the usual way to start)."""

from __future__ import annotations

import logging

from backend import settings
from backend.app import create_app, warm_up
from backend.jobs import Jobs
from tsp_model.settings import SettingsError

logging.basicConfig(level=logging.INFO, format="%(asctime)s web %(levelname)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
try:
    _service = settings.load()
except SettingsError as error:
    raise SystemExit(f"backend: {error}") from None
_jobs = Jobs(_service.database_url, _service.model_dir)
app = create_app(_service, _jobs)
warm_up(_jobs)
