"""Looks at everything that a working loop needs, and says in one line each whether it is well, else what to do."""

from __future__ import annotations

import shutil
import sys
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
from scripts.command_line import parser_of, run
from scripts.connect import CONNECTED, our_connection, refused_address, same_address
from scripts.plan import Place, add_model_dir_argument, add_place_arguments
from scripts.service import Service
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
    yield from _this_machine(Path(place.model_dir))
    service = Service(place.backend_url)
    try:
        health = service.health()
    except ExplainedError as error:
        yield Finding("backend", str(error))
        service = None
    else:
        yield from _backend(health, place)
    try:
        client = connect(place.url, place.api_key)
        yield from _label_studio(client, place)
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
        yield from _project(LabelStudioProject(client, project_id), place, None if refused else service)
    except ExplainedError as error:
        yield Finding(f"project {project_id}", str(error))


def _this_machine(model_dir: Path) -> Iterator[Finding]:
    reason = unusable_sqlite()
    yield Finding(reason or "Python and its SQLite", "use Python 3.10 or 3.11" if reason else "")
    there = next(folder for folder in (model_dir.absolute(), *model_dir.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    what = f"{free:.0f} GB of disk are free in {there}"
    yield Finding(what, "" if free >= LEAST_FREE_GB else f"make room: versions and images need {LEAST_FREE_GB:g} GB")
    import torch  # seconds

    if torch.cuda.is_available():
        yield Finding(f"GPU: {torch.cuda.get_device_name()}")
    else:
        yield Finding("no GPU: TSP_PRESET=tiny trains in minutes on a CPU, the paper's network in hours")


def _backend(health: dict[str, Any], place: Place) -> Iterator[Finding]:
    yield Finding(f"backend answers at {place.backend_url}")
    runs = health.get("worker") == "runs"
    remedy = f"jobs wait for it; start it with {starting('worker')}"
    yield Finding("worker runs" if runs else "worker does not run", "" if runs else remedy)


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
        failed = job["error"] if job is not None and job["status"] == "ERROR" else ""
        yield Finding("no version yet: label some tasks, then Settings > Model > Start Training", failed)
        return
    yield _classes(project, found["summaries"][active].get("classes") or [])
    agreement = _agreement(project, row, active, place)
    yield agreement
    if agreement.remedy:  # Label Studio shows and orders by another version's scores
        return
    order = in_force(project, active)
    by_score = order["next_task"] != "not by score"
    yield Finding(f"next task: {order['next_task']}", "" if by_score else order["why"])
    yield _scores(project, place, found["push_top"])


def _scores(project: LabelStudioProject, place: Place, top: int) -> Finding:
    unlabelled = {task.id for task in project.tasks() if task.annotation is None}
    lacking = unlabelled - project.scores().keys()
    what = f"{len(unlabelled) - len(lacking)} of {len(unlabelled)} unlabelled tasks have its score"
    if top and len(lacking) < len(unlabelled):
        return Finding(f"{what}, of which the {top} least sure are pushed")
    ranking = _command("rank_tasks", project, place.backend_url)
    remedy = f"not {some(sorted(lacking))}: {ranking}; where a task is left out the backend's terminal says why"
    return Finding(what, remedy if lacking else "")


def _agreement(project: LabelStudioProject, row: dict[str, Any], active: str, place: Place) -> Finding:
    told = {"connection's title": row["title"], "project's version": project.values()["model_version"]}
    wrong = " and ".join(f"the {name} is {value!r}" for name, value in told.items() if value != active)
    if wrong:
        return Finding(f"version {active} answers, but {wrong}", _command("connect", project, place.backend_url))
    return Finding(f"version {active} answers, in Label Studio as here")


def _classes(project: LabelStudioProject, classes: Sequence[str]) -> Finding:
    unknown = [name for name in classes if project.config.label_for(name) is None]
    if unknown:
        renamed = f'write predicted_values="{unknown[0]}" into the label that it is called now, or train again'
        return Finding(f"the configuration has no label for the version's {', '.join(unknown)}", renamed)
    return Finding("the configuration has every label of the version")


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
        sys.exit(f"doctor: {wrong} of {len(findings)} are wrong")
    print(f"doctor: all {len(findings)} are well")


if __name__ == "__main__":
    run("doctor", main)
