"""The Flask app that Label Studio talks to. Runs on Flask 1.1 (label-studio-ml 1.0.9's pin) and on Flask 3.

Nothing here imports torch before a request needs it: /health answers soon after a start.
Every error is JSON of one line, {"error": ...}. With basic authentication set everything asks for it, /health
too, as label-studio-ml 2.x does: Label Studio tells a wrong password from a dead service by /health's 401.
"""

from __future__ import annotations

import hmac
import logging
import shutil
import threading
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from backend import presence, settings, worker_notes
from backend.events import EventError, handle
from backend.jobs import Jobs
from backend.progress import ENDED, one_line
from backend.project_settings import for_project, remember_extra_params, remembered_extra_params
from backend.settings import ServiceSettings
from backend.versions import UNTRAINED, VersionError, Versions, project_keys, versions_of
from tsp_model.errors import ExplainedError
from tsp_model.settings import STRATEGY_NAMES, SettingsError

logger = logging.getLogger(__name__)

MOST_BYTES = 512 * 1024 * 1024  # of a request; a selection's tasks come with their annotations
LONGEST_PHRASE = 160  # what Label Studio writes around it has to fit into its message too


class BadRequest(ExplainedError, ValueError):
    """A request that cannot be answered; the message is one line."""


def create_app(service: ServiceSettings | None = None, jobs: Jobs | None = None) -> Flask:
    """The app.

    Args:
        service: settings; None: those of the environment.
        jobs: where jobs are asked for; None: the job database of `service`.
    """
    service = service or settings.load()
    jobs = jobs or Jobs(service.database_url, service.model_dir)
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a job's phases in the order in which they ran
    _add_authentication(app, service)
    _add_limit(app)
    _add_errors(app)
    _add_model_routes(app, service, jobs)
    _add_version_routes(app, service, jobs)
    _add_job_routes(app, service, jobs)
    return app


def connect_early(jobs: Jobs) -> None:
    """Open the job database before the first request needs it; in the background, since /health does without."""
    threading.Thread(target=jobs.connect, name="connect-early", daemon=True).start()


def _add_authentication(app: Flask, service: ServiceSettings) -> None:
    expected = service.basic_auth

    @app.before_request
    def check() -> Response | None:
        if expected is None:
            return None
        given = request.authorization
        name, password = (given.username or "", given.password or "") if given else ("", "")
        # Both are compared whatever the first says, and in constant time.
        same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip((name, password), expected, strict=True)]
        if all(same):
            return None
        response = jsonify({"error": "user name or password is missing or wrong."})
        response.status_code = 401
        response.headers["WWW-Authenticate"] = 'Basic realm="TSP backend"'
        return response


def _add_limit(app: Flask) -> None:
    """Flask's own MAX_CONTENT_LENGTH is looked at before a body is read by new versions only, and by no version where a
    request does not say how long it is."""

    @app.before_request
    def check() -> tuple[Response, int] | None:
        if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
            return jsonify({"error": "411 Length Required: send the body whole, with its length."}), 411
        if (request.content_length or 0) > MOST_BYTES:
            return jsonify({"error": f"413 Request Entity Too Large: {MOST_BYTES >> 20} MB at most."}), 413
        return None


def _add_errors(app: Flask) -> None:
    def refuse(error: Exception) -> Response:
        logger.warning("%s %s refused: %s", request.method, request.path, error)
        response = jsonify({"error": one_line(error)})
        # Whoever connects a backend sees no body in Label Studio, only this line.
        response.status = f"400 {_reason_phrase(error)}"
        return response

    for kind in (BadRequest, EventError, SettingsError, VersionError):
        app.register_error_handler(kind, refuse)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        return jsonify({"error": f"{error.code} {error.name}: {request.method} {request.path}"}), error.code or 500

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> tuple[Response, int]:
        logger.exception("%s %s failed", request.method, request.path)
        return jsonify({"error": one_line(error)}), 500


def _reason_phrase(error: Exception) -> str:
    """An error as HTTP lets a status line say it: printable ASCII, not too long."""
    text = one_line(error)[:LONGEST_PHRASE]
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text) or "BAD REQUEST"


def _add_model_routes(app: Flask, service: ServiceSettings, jobs: Jobs) -> None:
    @app.route("/", methods=["GET"])
    @app.route("/health", methods=["GET"])
    def health() -> Response:
        found = {key: Versions(service.model_dir, key).order() for key in project_keys(service.model_dir)}
        ordering = {key: order for key, order in found.items() if order is not None}
        told = {"status": "UP", "model_class": "TSPBackend", "worker": "does not run", "ordering": ordering}
        told |= {"network": service.network, "label_studio_url": service.label_studio_url}
        workers = _workers(service)
        if workers is None:
            told["worker"] = "unknown: the job database does not answer"
        elif workers:
            told |= {"worker": "runs", "workers": workers} | worker_notes.noted(service.model_dir)
        if service.model_dir.is_dir():
            told["free_bytes"] = shutil.disk_usage(service.model_dir).free
        return jsonify(told)

    @app.route("/setup", methods=["POST"])
    def setup() -> Response:
        from backend.label_config import LabelConfigError, parse_label_config

        body = _body()
        versions = Versions(service.model_dir, _text(body, "project"))
        try:
            parse_label_config(_text(body, "schema"))
        except LabelConfigError as error:
            raise BadRequest(str(error)) from None
        for_project(service, body.get("extra_params"))
        try:
            remember_extra_params(service.model_dir, versions.key, body.get("extra_params"))
        except OSError as error:  # a full disk is no reason to stop answering with the version that is there
            logger.error("the extra_params of project %s cannot be kept: %s", versions.number, one_line(error))
        if service.basic_auth and not _webhooks_authorised(versions, service):
            jobs.request("connect", versions.key)
        return jsonify({"model_version": versions.active() or UNTRAINED})

    @app.route("/predict", methods=["POST"])
    def predict() -> Response:
        from backend.model import TSPBackend

        body = _body()
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise BadRequest("`tasks` must be a list of tasks.")
        params = body.get("params")
        versions = Versions(service.model_dir, _text(body, "project"))
        backend = TSPBackend(
            project_id=versions.key, label_config=_text(body, "label_config"), service=service, jobs=jobs
        )
        results = backend.predict(tasks, context=params.get("context") if isinstance(params, dict) else None)
        return jsonify({"results": results, "model_version": versions.active() or UNTRAINED})


def _add_version_routes(app: Flask, service: ServiceSettings, jobs: Jobs) -> None:
    @app.route("/versions", methods=["POST"])
    def activate_version() -> tuple[Response, int]:
        body = _body()
        versions = versions_of(service.model_dir, _text(body, "project"))
        versions.want(_text(body, "version"))
        return jsonify({"job_id": jobs.request("activate", versions.key)}), 202

    @app.route("/rank", methods=["POST"])
    def rank() -> tuple[Response, int]:
        body = _body()
        versions = versions_of(service.model_dir, _text(body, "project"))
        strategy = body.get("strategy")
        if strategy is not None and strategy not in STRATEGY_NAMES:
            raise BadRequest(f"there is no strategy {strategy!r}; known: {', '.join(STRATEGY_NAMES)}.")
        if versions.active() is None:
            raise VersionError(f"project {versions.number} has no version yet; label some tasks and start a training.")
        versions.want_strategy(strategy)
        return jsonify({"job_id": jobs.request("rank", versions.key)}), 202

    @app.route("/versions", methods=["GET"])
    def list_versions() -> Response:
        # Label Studio's own client sends no project: it then hears of every version that is here.
        project = request.args.get("project")
        if project:
            versions = versions_of(service.model_dir, project)
            told = {name: versions.summary(name) for name in versions.list()}
            extra_params = remembered_extra_params(service.model_dir, versions.key)
            chosen = for_project(service, extra_params)
            found = {"versions": list(told), "active": versions.active(), "summaries": told}
            more = {"push_top": chosen.push_top, "clusters": chosen.clusters, "left_out": versions.left_out()}
            return jsonify(found | more)
        every = [Versions(service.model_dir, key) for key in project_keys(service.model_dir)]
        active = {versions.key: version for versions in every if (version := versions.active())}
        names = sorted({name for versions in every for name in versions.list()})
        return jsonify({"versions": names, "active": active})


def _add_job_routes(app: Flask, service: ServiceSettings, jobs: Jobs) -> None:
    @app.route("/webhook", methods=["POST"])
    def webhook() -> tuple[Response, int]:
        body = _body()
        outcome = handle(_text(body, "action"), body, jobs, service)
        if outcome.job_id is None:
            return jsonify({"status": "ignored", "reason": outcome.reason}), 200
        # `job` is the name under which Label Studio looks for it.
        return jsonify({"status": "ok", "job": outcome.job_id, "job_id": outcome.job_id}), 201

    @app.route("/cancel", methods=["POST"])
    def cancel() -> tuple[Response, int]:
        project = _text(_body(), "project")
        cancelled = jobs.cancel(project)
        if not cancelled:
            raise BadRequest(f"project {project.split('.')[0]} has no training or ranking that could be cancelled.")
        return jsonify({"job_ids": cancelled}), 202

    @app.route("/job_status", methods=["GET", "POST"])
    def job_status() -> tuple[Response, int]:
        asked = request.args.get("job_id") if request.method == "GET" else _body().get("job")
        project = request.args.get("project")
        if project and not asked:  # who pressed "Start training" hears no id from Label Studio
            asked = jobs.last("train", project)
            if asked is None:
                return jsonify({"error": f"project {project} had no training here yet{_troubles(jobs, project)}."}), 404
        if not isinstance(asked, str) or not asked:
            raise BadRequest('name the job: GET ?job_id=... or ?project=..., or POST {"job": ...}.')
        state = jobs.status(asked)
        if state is None:
            # 410 is what Label Studio's client takes for a job that is no more.
            return jsonify({"error": f"there is no job {asked}."}), 404 if request.method == "GET" else 410
        return jsonify(state | _waits_for_worker(state, service)), 200


def _waits_for_worker(state: dict[str, Any], service: ServiceSettings) -> dict[str, str]:
    """What a job waits for if nobody is there to run it."""
    if state["status"] in ENDED or _workers(service) != 0:
        return {}
    return {"waits": f"the worker does not run; start it with {settings.starting('worker')}"}


def _workers(service: ServiceSettings) -> int | None:
    """How many workers run; None where the database that knows does not answer."""
    try:
        return presence.running(service)
    except Exception as error:
        logger.warning("the job database does not answer: %s", one_line(error))
        return None


def _troubles(jobs: Jobs, project: str) -> str:
    """Why there may have been no training: what failed before one was asked for, perhaps because of the token."""
    last = (jobs.last(kind, project) for kind in ("connect", "check", "score"))
    states = [state for job in last if job and (state := jobs.status(job))]
    failed = (one for one in states if one["status"] == "ERROR")
    return "".join(f"; the last {one['job_id'].split('-')[0]} failed: {one['error'].rstrip('.')}" for one in failed)


def _webhooks_authorised(versions: Versions, service: ServiceSettings) -> bool:
    path = versions.authorised_file
    return path.is_file() and path.read_text(encoding="utf-8") == service.credentials_digest


def _body() -> dict[str, Any]:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise BadRequest("the request's body must be a JSON object.")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` must be text.")
    return value
