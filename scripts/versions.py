"""A project's versions: list them, let another one answer, go back to the one before, cancel a training that runs."""

from __future__ import annotations

from typing import Any

from scripts.command_line import CommandError, parser_of, run
from scripts.plan import Place, add_place_arguments, add_project_argument
from scripts.service import Service
from scripts.table import markdown

HEADER = ("version", "", "strategy", "labelled", "pseudo", "trained", "AP50 kept aside")


def listed(found: dict[str, Any]) -> str:
    """What Service.versions answers, as a table, the newest first."""
    return markdown([HEADER, *(_row(name, found) for name in reversed(found["versions"]))])


def before(found: dict[str, Any]) -> str:
    """The version that the active one came from, which answered before it. CommandError if it is not there."""
    parent = found["summaries"].get(found["active"], {}).get("parent")
    if parent is None:
        raise CommandError("there is no version before the active one.")
    if parent not in found["versions"]:
        raise CommandError(f"{parent}, which the active version came from, is not kept any more; name one to activate.")
    return parent


def _row(name: str, found: dict[str, Any]) -> list[str]:
    told = found["summaries"][name]
    counts, compared = told.get("counts") or {}, told.get("comparison")
    seconds = told.get("train_seconds")
    return [
        name,
        "active" if name == found["active"] else "",
        told.get("strategy") or "damaged",
        str(counts.get("labelled_images", "")),
        str(counts.get("pseudo_images", "")),
        "" if seconds is None else f"{seconds / 60:.1f} min",
        f"{compared['after']:.3f}, before {compared['before']:.3f}" if compared else "",
    ]


def main() -> None:
    parser = parser_of("versions", __doc__, "back --project 4")
    add = parser.add_argument
    add(
        "action", nargs="?", default="list", choices=("list", "activate", "back", "cancel"), help="default: %(default)s"
    )
    add("version", nargs="?", help="that answers from now on, for activate")
    add_project_argument(parser)
    add_place_arguments(parser)
    arguments = parser.parse_args()
    if (arguments.action == "activate") != bool(arguments.version):
        parser.error("activate needs the name of a version, and nothing else takes one")
    place = Place.from_arguments(arguments)
    key = place.project(arguments.project).key
    service = Service(place.backend_url)
    service.check()
    if arguments.action == "cancel":
        print(f"cancelled {', '.join(service.cancel(key))}")
        if service.health()["worker"] != "runs":
            print("no worker runs: it ends when one does")
        return
    found = service.versions(key)
    if not found["versions"]:
        raise CommandError(f"project {arguments.project} has no version yet; label some tasks and start a training.")
    if arguments.action != "list":
        version = arguments.version or before(found)
        if version == found["active"]:
            print(f"{version} is active already")
        else:
            service.wait(service.activate(key, version), f"activate {version}")
            found = service.versions(key)
    print(listed(found))


if __name__ == "__main__":
    run("versions", main)
