"""The gunicorn entry: `gunicorn backend._wsgi:app` (see `python -m backend` for the usual way to start)."""

from __future__ import annotations

import logging

# What the first /setup and /webhook need takes seconds to import, and Label Studio waits 3 s and 1 s for them: whoever
# finds the service up can use it.
import dbos  # noqa: F401

import backend.label_config  # noqa: F401
from backend import settings
from backend.app import connect_early, create_app
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
connect_early(_jobs)
