"""Algorithm 1 of arXiv 2012.04829 against a real Label Studio server, ground truth as the oracle.

Label Studio holds the images, the annotations and the order of tasks; the TSP backend trains and scores; this script
plays the annotator. Stopped or killed, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from backend.label_config import LABEL_TAGS
from scripts.command_line import parser_of, run
from scripts.plan import Plan, add_model_dir_argument, add_place_arguments
from scripts.smoke import add_smoke_argument
from scripts.table import table
from tsp_model.settings import PRESETS, STRATEGY_NAMES

if TYPE_CHECKING:
    from scripts.experiment import Experiment


def algorithm_1(experiment: Experiment) -> list[dict[str, Any]]:
    """K cycles; returns one result row a cycle, each also a line of results.jsonl."""
    rows = experiment.rows()
    for k in range(len(rows) + 1, experiment.plan.cycles + 1):
        rows.append(run_cycle(experiment, k))
    return rows


def run_cycle(experiment: Experiment, k: int) -> dict[str, Any]:
    """Cycle k; its result row."""
    start = time.monotonic()
    # lines 1-2 and 6-7: b random images at first, then the b that M_(k-1) is least sure of
    picked = experiment.picked(k) or experiment.pick(k)
    # the oracle: D_al grows
    label_seconds = experiment.label(picked)
    # lines 8-12: D_semi from M_(k-1)'s predictions, M_k from D_al + D_semi; then M_k's S for every task
    job = experiment.train(k)
    experiment.check_order(k)
    return experiment.report(k, picked, job, label_seconds, start)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """What is learned from what, for how long; the same for every command that runs Algorithm 1."""
    add = parser.add_argument
    add("--data", default="synthetic", help="'synthetic', a COCO folder (images/, train.json, test.json) or an OCT one")
    add("--cycles", type=int, default=3, help="K (default: %(default)s)")
    add("--per-cycle", type=int, default=8, help="b, images labelled a cycle (default: %(default)s)")
    add("--seed", type=int, default=0, help="of data, initial weights and picks (default: %(default)s)")
    add("--label-tag", choices=LABEL_TAGS, default="brush", help="default: %(default)s")
    add("--train-images", type=int, default=None, help="size of the pool (default: all; synthetic: 120)")
    add("--test-images", type=int, default=None, help="images to evaluate on (default: all; synthetic: 60)")
    add("--preset", choices=sorted(PRESETS), default="tiny", help="settings to start from (default: %(default)s)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method; may repeat")
    add_smoke_argument(parser)


def parse_arguments() -> Plan:
    parser = parser_of("active_learning", __doc__, "--data synthetic --cycles 3 --per-cycle 8 --out runs/tsp")
    add_plan_arguments(parser)
    add = parser.add_argument
    add(
        "--strategy", choices=sorted(STRATEGY_NAMES), default="tsp", help="how images are picked (default: %(default)s)"
    )
    add("--ssl", action=argparse.BooleanOptionalAction, default=True, help="pseudo labels (default: on)")
    add_place_arguments(parser)
    add_model_dir_argument(parser)
    add("--out", default="runs/active_learning", help="folder of state and results (default: %(default)s)")
    return Plan.from_arguments(parser.parse_args())


def main() -> None:
    plan = parse_arguments()
    from scripts.experiment import Experiment  # brings torch, which --help can do without

    with Experiment.open(plan) as experiment:
        print(table(algorithm_1(experiment)))


if __name__ == "__main__":
    run("active_learning", main, stopped="stopped; the same command goes on where it was")
