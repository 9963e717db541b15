"""Looks at everything that a working loop needs, and says in one line each whether it is well, else what to do."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from backend.connection import call, connect
from backend.job_database import unusable_sqlite
from backend.project import LabelStudioProject
from backend.settings import starting
from backend.task_order import VIEW, in_force, view_of
from backend.webhooks import webhooks_of
from backend.worker_notes import REACHED
from scripts.command_line import parser_of, run
from scripts.connect import (
    CONNECTED,
    IN_WORDS,
    WANTED,
    confused_with,
    our_connection,
    refused_address,
    same_address,
)
from scripts.plan import Place, add_model_dir_argument, add_place_arguments
from scripts.service import PATIENCE_SECONDS, POLL_SECONDS, Service
from tsp_model.data import some
from tsp_model.errors import ExplainedError

LEAST_FREE_GB = 5.0  # ten versions of R50, their predictions, and images


@dataclass(frozen=True)
class Finding:
    """What was looked at; `remedy` is "" where it is well."""

    what: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """For people."""
        return f"WRONG  {self.what}: {self.remedy}" if self.remedy else f"well   {self.what}"


def examine(place: Place, project_id: int | None = None) -> Iterator[Finding]:
    """Everything about this machine, the backend and Label Studio; with a project, everything about that, too.

    What something that is wrong makes wrong, too, or hides, is left out: one cause is one line.
    """
    reason = unusable_sqlite()
    yield Finding(reason or "Python and its SQLite", "use Python 3.10 or 3.11" if reason else "")
    service, health = Service(place.backend_url), {}
    try:
        health = _settled(service)
    except ExplainedError as error:
        yield Finding("backend", str(error))
        service = None
        yield from _this_machine(Path(place.model_dir))
    else:
        yield from _backend(health, place)
    try:
        client = connect(place.url, place.api_key)
        yield from _label_studio(client, place)
        yield from _backend_to_label_studio(health)
        refused = refused_address(client, place.backend_url)
    except ExplainedError as error:
        yield Finding("Label Studio", str(error))
        return
    if refused:
        yield Finding(f"Label Studio refuses the backend's address {place.backend_url}", refused)
    else:
        yield Finding("Label Studio lets connections and webhooks lead to the backend's address")
    if project_id is None:
        return
    try:
        project = LabelStudioProject(client, project_id)
        yield from _rights(project, health)
        yield from _project(project, place, None if refused else service)
    except ExplainedError as error:
        yield Finding(f"project {project_id}", str(error))


def _settled(service: Service) -> dict[str, Any]:
    """What the backend says of itself, once a worker that has just started has looked at Label Studio."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        health = service.health()
        if health.get("worker") != "runs" or "label_studio" in health or time.monotonic() > deadline:
            return health
        time.sleep(POLL_SECONDS)


def _this_machine(model_dir: Path) -> Iterator[Finding]:
    """Where no backend says what its own is like."""
    there = next(folder for folder in (model_dir.absolute(), *model_dir.absolute().parents) if folder.is_dir())
    yield _disk(shutil.disk_usage(there).free, str(there))
    from tsp_model.execution import device_name  # torch takes seconds

    yield _device(device_name())


def _disk(free_bytes: int, where: str) -> Finding:
    free = free_bytes / 1e9
    remedy = "" if free >= LEAST_FREE_GB else f"make room: versions and images need {LEAST_FREE_GB:g} GB"
    return Finding(f"{free:.0f} GB of disk are free in {where}", remedy)


def _device(name: str) -> Finding:
    slow = "TSP_PRESET=tiny trains in minutes on a CPU; the paper's R50 takes 20 minutes for 40 images"
    return Finding(f"no GPU: {slow}" if name == "cpu" else f"GPU: {name}")


def _backend(health: dict[str, Any], place: Place) -> Iterator[Finding]:
    yield Finding(f"backend answers at {place.backend_url}")
    runs = health.get("worker") == "runs"
    remedy = f"jobs wait for it; start it with {starting('worker')}"
    yield Finding("worker runs" if runs else "worker does not run", "" if runs else remedy)
    if "free_bytes" in health:
        yield _disk(health["free_bytes"], "the backend's MODEL_DIR")
    if "device" in health:
        yield _device(health["device"])
    if "network" in health:
        yield Finding(f"projects train {health['network']}, unless their extra_params say otherwise")


def _backend_to_label_studio(health: dict[str, Any]) -> Iterator[Finding]:
    """What the worker's last look at Label Studio came to; nothing where no worker runs, which is said already."""
    if health.get("worker") != "runs":
        return
    found = health.get("label_studio")
    if found == REACHED:
        where = health.get("label_studio_url", "")
        yield Finding(f"the backend reaches Label Studio with its own token, as {where}")
    elif found is None:
        yield Finding("the backend has not looked at Label Studio yet", "see its terminal, and ask again in a minute")
    else:
        yield Finding("the backend does not get into Label Studio", f"{found}; then start the backend again")


def _rights(project: LabelStudioProject, health: dict[str, Any]) -> Iterator[Finding]:
    """Whether the token here may change the project, and whether the backend's own sees it."""
    # What it may do there Label Studio says without a change, of which it would tell every webhook.
    may = call(project.client, "OPTIONS", f"api/projects/{project.project_id}").get("actions", {})
    if "PUT" in may:
        yield Finding("the token may change the project")
    else:
        yield Finding("the token may see the project and not change it", "take one of a user who may change it")
    if reason := health.get("not_looked_at", {}).get(project.key):
        what = "the backend could not look at the project"
        yield Finding(
            what, f"{reason}; start the backend with LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY that lead to it"
        )


def _label_studio(client: LabelStudio, place: Place) -> Iterator[Finding]:
    version = call(client, "GET", "api/version")["release"]
    yield Finding(f"Label Studio {version} answers at {place.url}")
    user = call(client, "GET", "api/current-user/whoami")["email"]
    kind = "personal access token" if place.api_key.count(".") == 2 else "legacy token"
    yield Finding(f"{kind} of {user} is accepted")


def _project(project: LabelStudioProject, place: Place, service: Service | None) -> Iterator[Finding]:
    """`service`: None where Label Studio cannot reach the backend anyway."""
    connecting = _command("connect", project, place.backend_url)
    tags = ", ".join(f"{label} ({tag.kind})" for label, tag in project.config.tags.items())
    yield Finding(f"labels of project {project.project_id}: {tags}")
    if project.config.ignored:
        yield Finding(f"tags that are left alone: {', '.join(f'<{tag}>' for tag in project.config.ignored)}")
    row = our_connection(project, place.backend_url)
    if row is None:
        yield Finding(f"no connection to {place.backend_url}", connecting)
    elif not same_address(row["url"], place.backend_url):
        examining = _command("doctor", project, row["url"])
        what = f"the connection {row['title']!r} leads to {row['url']} and not to {place.backend_url}"
        yield Finding(what, f"{connecting}, which moves it; or, if the backend answers there, {examining}")
    else:
        yield from _connected(project, row, connecting, service is not None)
        if service is not None:
            yield from _versions(project, row, service, place)
    yield _members(project)


def _connected(project: LabelStudioProject, row: dict[str, Any], connecting: str, reachable: bool) -> Iterator[Finding]:
    if row["state"] == CONNECTED:
        yield Finding(f"connection to {row['url']}, titled {row['title']}")
    elif reachable:
        reason = " ".join((row["error_message"] or "Label Studio does not reach it").split())
        what = f"connection to {row['url']} is {row['readable_state']}"
        yield Finding(what, f"{reason}; {connecting}, which mends it or says why")
    if confused := confused_with(project.connections(), row):
        yield Finding(confused, f"{connecting}, which mends it or says why not")
    values = project.values()
    for name, wanted in WANTED.items():
        told = f"{IN_WORDS[name]}: {values[name]!r}"
        yield Finding(told, "" if values[name] == wanted else f"{wanted!r} is needed: {connecting}")
    hooks = webhooks_of(project.client, project.project_id, row["url"])
    active = [hook for hook in hooks if hook["is_active"]]
    what = f"{len(active)} active webhooks to the backend" if len(active) != 1 else "webhook to the backend, once"
    yield Finding(what, "" if len(hooks) == len(active) == 1 else connecting)
    yield Finding(*((f"view {VIEW!r}",) if view_of(project) else (f"no view {VIEW!r}", connecting)))


def _command(name: str, project: LabelStudioProject, backend_url: str) -> str:
    """What to run for this project, with the Python that runs this."""
    where = f"--project {project.project_id} --backend-url {backend_url}"
    return f"run {sys.executable} -m scripts.{name} {where}"


def _members(project: LabelStudioProject) -> Finding:
    organisation = call(project.client, "GET", "api/current-user/whoami")["active_organization"]
    count = call(project.client, "GET", f"api/organizations/{organisation}/memberships")["count"]
    if count == 1:
        return Finding("one member")
    return Finding(
        f"{count} members: next task follows the scores for each of them, but in Enterprise, which draws it by chance; "
        f"the view {VIEW!r} is exact for everybody"
    )


def _versions(project: LabelStudioProject, row: dict[str, Any], service: Service, place: Place) -> Iterator[Finding]:
    found = service.versions(project.key)
    active = found["active"]
    if active is None:
        job = service.last_training(project.key)
        failed = job["error"] if job is not None and job["status"] == "ERROR" and not job.get("cancelled") else ""
        yield Finding("no version yet: label some tasks, then Settings > Model > Start Training", failed)
        return
    summary = found["summaries"][active]
    if "classes" not in summary:
        listing = _command("versions list", project, place.backend_url)
        yield Finding(f"version {active}", f"{' '.join(summary['warnings'])} To see them {listing}")
        return
    yield from _classes(project, summary["classes"] or [])
    agreement = _agreement(project, row, active, place)
    yield agreement
    if agreement.remedy:  # Label Studio shows and orders by another version's scores
        return
    order = in_force(project, active, found["clusters"])
    if order["next_task"] != "not by score":  # else what is wrong is told above
        yield Finding(f"next task: {order['next_task']}, {order['why']}")
    yield from _scores(project, place, found["push_top"], found["left_out"])


def _scores(project: LabelStudioProject, place: Place, top: int, left_out: dict[str, str]) -> Iterator[Finding]:
    """left_out: why, by the task's id as text; each job tries these again, and their order waits for their image."""
    unlabelled = {task.id for task in project.unannotated()}
    lacking = unlabelled - project.scores().keys()
    what = f"{len(unlabelled) - len(lacking)} of {len(unlabelled)} unlabelled tasks have its score"
    told = sorted(task for task in lacking if str(task) in left_out)
    missing = sorted(lacking.difference(told))
    if top and len(missing) < len(unlabelled):
        yield Finding(f"{what}, of which the {top} least sure are pushed")
    else:
        remedy = f"not {some(missing)}: {_command('rank_tasks', project, place.backend_url)}"
        yield Finding(what, remedy if missing else "")
    if told:
        reasons = some([f"task {task}: {left_out[str(task)].rstrip('.')}" for task in told])
        yield Finding(f"{len(told)} of the others left out until their image can be read: {reasons}")


def _agreement(project: LabelStudioProject, row: dict[str, Any], active: str, place: Place) -> Finding:
    told = {"connection's title": row["title"], "project's version": project.values()["model_version"]}
    wrong = " and ".join(f"the {name} is {value!r}" for name, value in told.items() if value != active)
    if wrong:
        return Finding(f"version {active} answers, but {wrong}", _command("connect", project, place.backend_url))
    return Finding(f"version {active} answers, in Label Studio as here")


def _classes(project: LabelStudioProject, classes: Sequence[str]) -> Iterator[Finding]:
    known = {project.config.label_for(name) for name in classes}
    if new := [label for label in project.config.labels if label not in known]:
        yield Finding(f"the version does not know {', '.join(new)}: belongs to the next training")
    unknown = [name for name in classes if project.config.label_for(name) is None]
    if unknown:
        renamed = f'write predicted_values="{unknown[0]}" into the label that it is called now, or train again'
        yield Finding(f"the configuration has no label for the version's {', '.join(unknown)}", renamed)
    else:
        yield Finding("the configuration has every label of the version")


def main() -> None:
    parser = parser_of("doctor", __doc__, "--project 4")
    parser.add_argument("--project", type=int, help="its number, as in its address; without, all but the project")
    add_place_arguments(parser)
    add_model_dir_argument(parser)
    arguments = parser.parse_args()
    findings = []
    for finding in examine(Place.from_arguments(arguments), arguments.project):
        print(finding.line, flush=True)
        findings.append(finding)
    wrong = sum(bool(finding.remedy) for finding in findings)
    if wrong:
        sys.exit(f"doctor: {len(findings) - wrong} of {len(findings)} are well, {wrong} wrong")
    print(f"doctor: all {len(findings)} are well")


if __name__ == "__main__":
    run("doctor", main)
