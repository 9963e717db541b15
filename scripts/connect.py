"""From an existing project to a working loop: the connection to the backend, its webhook, the order of tasks, the view.

Says what it changed, changes nothing that is right already, and takes back what it did with --undo.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from label_studio_sdk import LabelStudio

from backend.connection import PRIVATE_ADDRESS, ProjectError, call
from backend.image_limits import origin
from backend.project import LabelStudioProject, titled_tsp
from backend.task_order import UNCERTAINTY, VIEW, keep_view, view_of
from backend.webhooks import webhook_address, webhooks_of
from scripts.command_line import CommandError, parser_of, run
from scripts.plan import Place, add_place_arguments, add_project_argument
from scripts.project_setup import access, new_connection
from scripts.service import Service

WANTED = {"sampling": UNCERTAINTY, "show_collab_predictions": True}
IN_WORDS = {"sampling": "task sampling", "show_collab_predictions": "predictions shown to annotators"}
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
CONNECTED = "CO"  # the state of a connection whose backend answered Label Studio just now
BEFORE = "Before python -m scripts.connect: "  # ends the connection's description: what --undo brings back
Say = Callable[[str], None]


def connect_project(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    """Connect `project` to the backend at `backend_url`; a line to `say` for each thing that is changed.

    Raises ProjectError or CommandError, with nothing left half done, where Label Studio cannot reach the backend.
    """
    if remedy := refused_address(project.client, backend_url):
        raise CommandError(f"Label Studio refuses the backend's address {backend_url}: {remedy}.")
    values = project.values()
    before = {name: values[name] for name in WANTED}
    row = _keep_connection(project, backend_url, say)
    backend_url = row["url"]
    changed = {name: value for name, value in WANTED.items() if before[name] != value}
    if changed:
        if BEFORE not in (row["description"] or ""):
            told = f"{row['description'] or ''}\n{BEFORE}{json.dumps(before)}".strip()
            project.change_connection(row, description=told)
        call(project.client, "PATCH", f"api/projects/{project.project_id}", json=changed)
    for name, value in changed.items():
        say(f"{IN_WORDS[name]}: {before[name]!r} -> {value!r}")
    _keep_webhook(project, backend_url, say)
    if view_of(project) is None:
        say(f"made the view {VIEW!r}")
    keep_view(project)


def restore_version(project: LabelStudioProject, service: Service, say: Say) -> None:
    """Let the version that was active before the project was disconnected, or renamed, order the tasks again."""
    active = service.versions(project.key)["active"]
    if active is not None and (project.connection()["title"], project.values()["model_version"]) != (active, active):
        service.wait(service.activate(project.key, active), "activate")
        say(f"version {active} orders the tasks again")


def undo(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    """Take back what `connect_project` did; predictions and annotations stay."""
    row = our_connection(project, backend_url)
    before = _before(row) if row is not None else {}
    for hook in webhooks_of(project.client, project.project_id, row["url"] if row is not None else backend_url):
        call(project.client, "DELETE", f"api/webhooks/{hook['id']}/")
        say("deleted a webhook to the backend")
    if row is not None:
        call(project.client, "DELETE", f"api/ml/{row['id']}")
        say(f"deleted the connection {row['title']!r} to {row['url']}")
        if before:
            call(project.client, "PATCH", f"api/projects/{project.project_id}", json=before)
            for name, value in before.items():
                say(f"{IN_WORDS[name]}: back to {value!r}")
    view = view_of(project)
    if view is not None:
        call(project.client, "DELETE", f"api/dm/views/{view['id']}/")
        say(f"deleted the view {VIEW!r}")


def refused_address(client: LabelStudio, backend_url: str) -> str:
    """What to do so that Label Studio lets connections and webhooks lead to the backend; "" if it does.

    For each of both it is asked for one that lacks a field, and refuses that, or its address before.
    """
    asked = {
        "ML_BLOCK_LOCAL_IP=false": ("api/ml", {"url": backend_url}),
        "SSRF_PROTECTION_ENABLED=false": ("api/webhooks/", {"url": webhook_address(backend_url), "actions": 0}),
    }
    lacking = [switch for switch, question in asked.items() if _answer_to(client, *question) == PRIVATE_ADDRESS]
    return f"start it with {' and '.join(lacking)}, so that private addresses are allowed" if lacking else ""


def _answer_to(client: LabelStudio, path: str, body: dict[str, Any]) -> str:
    try:
        call(client, "POST", path, json=body)
    except ProjectError as error:
        return str(error)
    return ""


def our_connection(project: LabelStudioProject, backend_url: str) -> dict[str, Any] | None:
    """The project's connection to the backend at `backend_url`, else the one titled as ours are, which leads elsewhere.

    Raises CommandError for several of these.
    """
    rows = project.connections()
    for row in rows:
        if same_address(row["url"], backend_url):
            return row
    ours = titled_tsp(rows)
    if len(ours) > 1:
        raise CommandError(
            f"project {project.project_id} has no connection to {backend_url} and {len(ours)} titled TSP, to "
            f"{', '.join(row['url'] for row in ours)}; give one with --backend-url, or delete all but one under "
            "Settings > Model."
        )
    return ours[0] if ours else None


def same_address(first: str, second: str) -> bool:
    """Whether two addresses lead to the same place: this machine has several names."""
    return _place(first) == _place(second)


def _place(address: str) -> tuple[str, str, int | None, str]:
    scheme, host, port = origin(address)
    return scheme, "localhost" if host in THIS_MACHINE else host, port, urlsplit(address).path.rstrip("/")


def _keep_connection(project: LabelStudioProject, backend_url: str, say: Say) -> dict[str, Any]:
    row = our_connection(project, backend_url)
    try:
        if row is None:
            return _new_connection(project, backend_url, say)
        if not same_address(row["url"], backend_url):
            return _moved_connection(project, row, backend_url, say)
        if row["state"] != CONNECTED:
            project.change_connection(row, **access())  # tries the backend, and only a change is answered with a reason
            say(f"Label Studio reaches the backend at {row['url']} again")
        return row
    except ProjectError as error:
        if "health check failed" not in str(error):
            raise
        raise CommandError(
            f"Label Studio does not reach the backend at {backend_url}, which answers here; give with --backend-url "
            "the address where Label Studio's machine finds it, and start the backend with a HOST that lets it in."
        ) from None


def _new_connection(project: LabelStudioProject, backend_url: str, say: Say) -> dict[str, Any]:
    try:
        row = call(project.client, "POST", "api/ml", json=new_connection(project.project_id, backend_url))
    except ProjectError:
        # Label Studio keeps the connection if it was the webhook that it refused.
        half = our_connection(project, backend_url)
        if half is not None:
            call(project.client, "DELETE", f"api/ml/{half['id']}")
        raise
    say(f"connected the backend at {backend_url}, titled TSP")
    return row


def _moved_connection(project: LabelStudioProject, row: dict[str, Any], backend_url: str, say: Say) -> dict[str, Any]:
    """A second one would leave the backend without knowing which is its own."""
    project.change_connection(row, url=backend_url, **access())
    for hook in webhooks_of(project.client, project.project_id, row["url"]):
        call(project.client, "DELETE", f"api/webhooks/{hook['id']}/")
    say(f"moved the connection {row['title']!r} from {row['url']} to {backend_url}")
    return row | {"url": backend_url}


def _keep_webhook(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    """One, active; Label Studio makes one with each connection, and leaves it behind when the connection goes."""
    first, *others = webhooks_of(project.client, project.project_id, backend_url) or [None]
    if first is None:
        body = {
            "project": project.project_id,
            "url": webhook_address(backend_url),
            "send_payload": True,
            "send_for_all_actions": True,
        }
        call(project.client, "POST", "api/webhooks/", params={"project": project.project_id}, json=body)
        say("made the webhook that tells the backend of annotations and imports")
    elif not first["is_active"]:
        values = {"is_active": True, "actions": first["actions"]}
        call(project.client, "PATCH", f"api/webhooks/{first['id']}/", json=values)
        say("switched the webhook to the backend on")
    for hook in others:
        call(project.client, "DELETE", f"api/webhooks/{hook['id']}/")
        say("deleted a second webhook to the backend")


def _before(row: dict[str, Any]) -> dict[str, Any]:
    _, _, values = (row["description"] or "").partition(BEFORE)
    try:
        return json.JSONDecoder().raw_decode(values)[0] if values else {}
    except ValueError:
        raise CommandError(
            f"what the project was like before cannot be read from the connection's description; delete {BEFORE!r} and "
            "what follows there, and set the task sampling by hand."
        ) from None


def main() -> None:
    parser = parser_of("connect", __doc__, "--project 4")
    add_project_argument(parser)
    add_place_arguments(parser)
    parser.add_argument("--undo", action="store_true", help="take back what this command did; labels stay")
    arguments = parser.parse_args()
    place = Place.from_arguments(arguments)
    project = place.project(arguments.project)
    lines: list[str] = []
    say = lines.append
    try:
        if arguments.undo:
            undo(project, place.backend_url, say)
        else:
            service = Service(place.backend_url)
            service.check()
            connect_project(project, place.backend_url, say)
            restore_version(project, service, say)
    finally:  # what was done is told, whatever came of the rest
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    if not lines:
        print("nothing to change")
    if not arguments.undo:
        address = f"{place.url}/projects/{project.project_id}"
        print(f"ready: label some tasks at {address}, then Settings > Model > Start Training")


if __name__ == "__main__":
    run("connect", main)
