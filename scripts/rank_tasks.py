"""Scores a project's unlabelled tasks now, for Label Studio to order them by the active version or another strategy.

Tasks that came or were freed since the last training get their score, the connection and the project their version.
With --strategy the order is another one until the next training, which goes by the project's own setting again. Next
task follows the scores where the project samples by uncertainty, as scripts.connect sets it; else that is said.
--push-top keeps a large pool's predictions out of Label Studio's database, but for the least sure ones: of a version
that is made from then on only so many go there, the others stay in the backend's folder.
"""

from __future__ import annotations

import argparse

from backend.listing import TASKS_A_PAGE
from backend.progress import stages
from backend.task_order import in_force
from scripts.command_line import parser_of, run
from scripts.plan import Place, add_place_arguments, add_project_argument
from scripts.service import Service
from scripts.table import markdown
from tsp_model.settings import STRATEGY_NAMES


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def main() -> None:
    parser = parser_of("rank_tasks", __doc__, "--project 4 --strategy entropy")
    add_project_argument(parser)
    add_place_arguments(parser)
    parser.add_argument("--strategy", choices=sorted(STRATEGY_NAMES), help="default: the active version's")
    parser.add_argument(
        "--push-top", type=_count, metavar="N", help="from now on so many least sure tasks get their prediction; 0: all"
    )
    shown = f"of the first tasks, so many, {TASKS_A_PAGE} at most (default: %(default)s)"
    parser.add_argument("--show", type=_count, default=10, metavar="N", help=shown)
    arguments = parser.parse_args()
    place = Place.from_arguments(arguments)
    project = place.project(arguments.project)
    service = Service(place.backend_url)
    service.check()
    if arguments.push_top is not None:
        row = project.connection()
        project.change_connection(row, extra_params=project.extra_params() | {"push_top": arguments.push_top})
    ended = service.wait(service.rank(project.key, arguments.strategy), "rank")
    print(ended["message"])
    print(f"it took: {stages(ended)}")
    if arguments.strategy:
        print("this order stays until the next training, which goes by the project's own strategy")
    order = in_force(project, ended["version"], service.versions(project.key)["clusters"])
    if order["next_task"] == "not by score":
        print(f"next task does not follow it: {order['why']}; scripts.connect sets it, too")
    else:
        print(f"next task: {order['next_task']}, {order['why']}")
    scores = project.first_unlabelled(arguments.show)
    tasks = f"{place.url.rstrip('/')}/projects/{project.project_id}/data?task="
    print(markdown([("score", "task"), *((f"{score:.3f}", f"{tasks}{task}") for task, score in scores)]))


if __name__ == "__main__":
    run("rank_tasks", main)
