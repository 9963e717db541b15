"""From an existing project to a working loop: the connection to the backend, its webhook, the order of tasks, the view.

Says what it changed, changes nothing that is right already, and takes back what it did with --undo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from label_studio_sdk import LabelStudio
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from backend.connection import PRIVATE_ADDRESS, ProjectError, call
from backend.image_limits import origin
from backend.project import LabelStudioProject, ours_among, titled_tsp
from backend.task_order import UNCERTAINTY, VIEW, keep_view, view_of
from backend.webhooks import webhook_address, webhooks_of
from scripts.command_line import CommandError, parser_of, run
from scripts.plan import Place, add_place_arguments, add_project_argument
from scripts.project_setup import TITLE, access, new_connection
from scripts.service import Service

WANTED = {"sampling": UNCERTAINTY, "show_collab_predictions": True}
IN_WORDS = {
    "sampling": "task sampling",
    "show_collab_predictions": "predictions shown to annotators",
    "model_version": "project's version",
}
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
CONNECTED = "CO"  # the state of a connection whose backend answered Label Studio just now
TOO_SLOW, ATTEMPTS = "Read timed out", 4  # Label Studio gives /setup 3 s; the first after a start takes longer
BEFORE = "Before python -m scripts.connect: "
"""Ends the connection's description: a JSON object of what --undo brings back, the project's values by their names and
the connection's title, and under `made` of what it takes away."""
Say = Callable[[str], None]


def connect_project(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    """Connect `project` to the backend at `backend_url`; a line to `say` for each thing that is changed.

    Raises ProjectError or CommandError, with nothing left half done, where Label Studio cannot reach the backend.
    """
    if remedy := refused_address(project.client, backend_url):
        raise CommandError(f"Label Studio refuses the backend's address {backend_url}: {remedy}.")
    values, lacks_view = project.values(), view_of(project) is None
    before = {name: values[name] for name in IN_WORDS} | {"made": ["view"] if lacks_view else []}
    row = _keep_connection(project, backend_url, before, say)
    rows = project.connections()
    if rivals := [one for one in titled_tsp(rows) if one["id"] != row["id"]]:
        raise CommandError(
            f"project {project.project_id} has besides the connection to {row['url']} others titled {TITLE}, to "
            f"{', '.join(rival['url'] for rival in rivals)}, and the backend needs one; rename or delete them under "
            "Settings > Model."
        )
    changed = {name: value for name, value in WANTED.items() if values[name] != value}
    lacks_title = bool(confused_with(rows, row))
    if (changed or lacks_view or lacks_title) and BEFORE not in (row["description"] or ""):
        if values["model_version"] == row["title"]:
            del before["model_version"]  # it goes on following the connection, which stays
        before |= {"title": row["title"]} if lacks_title else {}
        row |= {"description": _described(row, before)}
        project.change_connection(row, description=row["description"])
    if lacks_title:
        project.change_connection(row, title=TITLE)
        say(f"renamed the connection {row['title']!r} to {TITLE!r}, by which the backend knows it among the others")
    if changed:
        call(project.client, "PATCH", f"api/projects/{project.project_id}", json=changed)
    for name, value in changed.items():
        say(f"{IN_WORDS[name]}: {values[name]!r} -> {value!r}")
    _keep_webhook(project, row["url"], say)
    if lacks_view:
        say(f"made the view {VIEW!r}")
    keep_view(project)


def restore_version(project: LabelStudioProject, service: Service, say: Say) -> None:
    """Let the version that was active before the project was disconnected, or renamed, order the tasks again."""
    active = service.versions(project.key)["active"]
    if active is not None and (project.connection()["title"], project.values()["model_version"]) != (active, active):
        service.wait(service.activate(project.key, active), "activate")
        say(f"version {active} orders the tasks again")


def undo(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    """Take back what `connect_project` did: what it made goes, and what was there before is as it was, but for an
    address that the connection was moved from. A webhook goes or stays with its connection; predictions and annotations
    stay."""
    row = our_connection(project, backend_url)
    if row is None:
        _delete_webhooks(project, backend_url, say)
        return
    before = _before(row)
    made = before.get("made", [])
    if "connection" in made:
        _delete_webhooks(project, row["url"], say)
        call(project.client, "DELETE", f"api/ml/{row['id']}")
        say(f"deleted the connection {row['title']!r} to {row['url']}")
    else:
        say(f"the connection {row['title']!r} to {row['url']} stays: it was there before")
        if before:
            described = row["description"].partition(BEFORE)[0].strip()
            project.change_connection(row, description=described, title=before.get("title", row["title"]))
    _bring_back(project, {name: value for name, value in before.items() if name in IN_WORDS}, say)
    view = view_of(project)
    if "view" in made and view is not None:
        call(project.client, "DELETE", f"api/dm/views/{view['id']}/")
        say(f"deleted the view {VIEW!r}")


def _delete_webhooks(project: LabelStudioProject, backend_url: str, say: Say) -> None:
    for hook in webhooks_of(project.client, project.project_id, backend_url):
        call(project.client, "DELETE", f"api/webhooks/{hook['id']}/")
        say(f"deleted a webhook to {backend_url}")


def _bring_back(project: LabelStudioProject, before: dict[str, Any], say: Say) -> None:
    """The version in the end, and alone: Label Studio empties it where predictions are not shown, and refuses one that
    no prediction has any more."""
    for name in sorted(before, key=list(IN_WORDS).index):
        value = before[name]
        if (project.values()[name] or "") == (value or ""):
            continue
        try:
            call(project.client, "PATCH", f"api/projects/{project.project_id}", json={name: value})
        except ProjectError as error:
            if name != "model_version" or error.status != 400:
                raise
            say(f"{IN_WORDS[name]}: {value!r} is gone with its predictions")
        else:
            say(f"{IN_WORDS[name]}: back to {value!r}")


def refused_address(client: LabelStudio, backend_url: str) -> str:
    """What to do so that Label Studio lets connections and webhooks lead to the backend; "" if it does.

    For each of both it is asked for one that lacks a field, and refuses that, or its address before. Raises
    ProjectError for any other answer.
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
        if error.status != 400 and str(error) != PRIVATE_ADDRESS:
            raise
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


def confused_with(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """Why the backend, which among several knows its connection by the title, does not know `row`; "" if it does."""
    if [one["id"] for one in ours_among(rows)] == [row["id"]]:
        return ""
    titles = ", ".join(repr(one["title"]) for one in rows)
    return (
        f"connections titled {titles}, and the backend needs a title with {TITLE} for its own, {row['title']!r}, alone"
    )


def same_address(first: str, second: str) -> bool:
    """Whether two addresses lead to the same place: this machine has several names."""
    return _place(first) == _place(second)


def _place(address: str) -> tuple[str, str, int | None, str]:
    scheme, host, port = origin(address)
    return scheme, "localhost" if host in THIS_MACHINE else host, port, urlsplit(address).path.rstrip("/")


def _keep_connection(project: LabelStudioProject, backend_url: str, before: dict[str, Any], say: Say) -> dict[str, Any]:
    """The connection, which leads to the backend and which Label Studio has just tried. `before`: what a new one is to
    remember."""
    try:
        retrying = Retrying(stop=stop_after_attempt(ATTEMPTS), retry=retry_if_exception(_too_slow), reraise=True)
        return retrying(_connection, project, backend_url, before, say)
    except ProjectError as error:
        if "health check failed" in str(error):
            raise CommandError(
                f"Label Studio does not reach the backend at {backend_url}, which answers here; give with "
                "--backend-url the address where Label Studio's machine finds it, and start the backend with a HOST "
                "that lets it in."
            ) from None
        if _too_slow(error):
            raise CommandError(
                f"the backend at {backend_url} takes longer over /setup than the 3 s that Label Studio waits; try "
                "again in a minute, when it has started or its machine is less busy."
            ) from None
        raise


def _connection(project: LabelStudioProject, backend_url: str, before: dict[str, Any], say: Say) -> dict[str, Any]:
    row = our_connection(project, backend_url)
    if row is None:
        return _new_connection(project, backend_url, before, say)
    if not same_address(row["url"], backend_url):
        return _moved_connection(project, row, backend_url, say)
    if row["state"] != CONNECTED:
        project.change_connection(row, **access())  # tries the backend, and only a change is answered with a reason
        say(f"Label Studio reaches the backend at {row['url']} again")
    return row


def _too_slow(error: BaseException) -> bool:
    return isinstance(error, ProjectError) and TOO_SLOW in str(error)


def _new_connection(project: LabelStudioProject, backend_url: str, before: dict[str, Any], say: Say) -> dict[str, Any]:
    told = before | {"made": [*before["made"], "connection"]}
    body = new_connection(project.project_id, backend_url) | {"description": _described({}, told)}
    try:
        row = call(project.client, "POST", "api/ml", json=body)
    except ProjectError:
        # Label Studio keeps the connection if it was the webhook that it refused.
        half = our_connection(project, backend_url)
        if half is not None:
            call(project.client, "DELETE", f"api/ml/{half['id']}")
            # Seen once on a busy server: the connection was gone, and its title stayed as the project's version.
            _bring_back(project, {"model_version": before["model_version"]}, say)
        raise
    say(f"connected the backend at {backend_url}, titled TSP")
    return row


def _moved_connection(project: LabelStudioProject, row: dict[str, Any], backend_url: str, say: Say) -> dict[str, Any]:
    """A second one would leave the backend without knowing which is its own."""
    project.change_connection(row, url=backend_url, **access())
    _delete_webhooks(project, row["url"], say)
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


def _described(row: dict[str, Any], before: dict[str, Any]) -> str:
    return f"{row.get('description') or ''}\n{BEFORE}{json.dumps(before)}".strip()


def _before(row: dict[str, Any]) -> dict[str, Any]:
    """What `_described` wrote."""
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
        of_backend = service.health().get("label_studio_url", place.url)
        if not same_address(of_backend, place.url):
            print(f"the backend works for Label Studio at {of_backend}; if {place.url} is another, start it for that")
        address = f"{place.url}/projects/{project.project_id}"
        print(f"ready: label some tasks at {address}, then Settings > Model > Start Training")


if __name__ == "__main__":
    run("connect", main)
