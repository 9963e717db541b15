"""A grid's results as one HTML page and PNGs: the figures of arXiv 2012.04829, and what the method saves."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from matplotlib import rc_context
from tqdm import tqdm

from scripts.command_line import parser_of, run
from scripts.reporting import words
from scripts.reporting.ablations import ablations
from scripts.reporting.calibration import heads
from scripts.reporting.claims import claims
from scripts.reporting.conditions import conditions
from scripts.reporting.context import Context, find_data
from scripts.reporting.labels_saved import labels_saved
from scripts.reporting.learning_curves import learning_curves
from scripts.reporting.lines import read_results
from scripts.reporting.page import Section, page
from scripts.reporting.picks import picks
from scripts.reporting.pictures import pictures
from scripts.reporting.plots import STYLE
from scripts.reporting.pool_estimate import pool_estimate
from scripts.reporting.pseudo import pseudo
from scripts.reporting.times import times
from tsp_model.files import write_text

# In the order of the page; a section more is a function more.
SECTIONS: tuple[Callable[[Context], Section], ...] = (
    labels_saved,
    learning_curves,
    ablations,
    claims,
    pictures,
    picks,
    pseudo,
    heads,
    pool_estimate,
    times,
    conditions,
)
PAGE = "report.html"
MINUTES_PER_IMAGE, COST_PER_IMAGE = 4, 8.5  # of an expert; the middle of the range that the paper tells


def report(context: Context) -> list[Section]:
    """Write the page and its pictures to ``context.out``; its sections."""
    sections = []
    with rc_context(STYLE):
        for section in SECTIONS:
            context.working(section.__name__.replace("_", " "))
            sections.append(section(context))
    grid = context.grid
    title = f"Semi-supervised active learning on {Path(grid.identity['data']).name}"
    subtitle = (
        f"Scoring predictions (TSP, arXiv 2012.04829) in a comparison of {words.many(len(grid.lines), 'way')} to label "
        f"{grid.budget} of {grid.identity['train_images']} images; "
        f"{words.many(len(grid.seeds), 'seed')}."
    )
    if grid.smoke:
        subtitle += " A --smoke run, tiny and of a few cells: its figures mean nothing."
    if grid.unfinished:
        subtitle += f" {words.many(len(grid.unfinished), 'cell')} missing or unfinished, named under Conditions."
    write_text(context.out / PAGE, page(title, subtitle, sections))
    return sections


def printed(sections: list[Section]) -> str:
    """The tables of numbers, as Markdown."""
    tables = [table for section in sections for table in section.printed]
    return "\n\n".join(f"{table.caption}\n\n{table.to_markdown()}" for table in tables)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


def _arguments() -> argparse.Namespace:
    parser = parser_of("report", __doc__, "runs/synthetic --grid scripts/experiments/synthetic.toml")
    add = parser.add_argument
    add("results", type=Path, metavar="DIR", help="what python -m scripts.benchmark run FILE --out DIR wrote")
    add("--out", type=Path, help=f"folder of {PAGE} and the PNGs (default: DIR/report)")
    add("--data", help="where the images are now: a COCO folder (default: where the grid found them)")
    add("--grid", type=Path, metavar="FILE", help="the grid's file, so that cells never begun are named, too")
    add(
        "--minutes-per-image",
        type=_not_negative,
        default=MINUTES_PER_IMAGE,
        help="of an expert's time (default: %(default)s)",
    )
    add("--cost-per-image", type=_not_negative, default=COST_PER_IMAGE, help="in dollars (default: %(default)s)")
    return parser.parse_args()


def write_report(
    results: Path,
    out: Path | None = None,
    file: Path | None = None,
    data: str | None = None,
    minutes_per_image: float = MINUTES_PER_IMAGE,
    cost_per_image: float = COST_PER_IMAGE,
) -> str:
    """Make the report of a grid's folder, with progress on stderr; its tables of numbers, as Markdown.

    Args:
        out: where (None: in that folder). file: the grid's, so that cells never begun are named, too.
        data: where the images are now, see find_data.

    Raises:
        CommandError: see read_results.
    """
    grid, out = read_results(results, file, data), out or results / "report"
    context = Context(grid, out, *find_data(grid, data), minutes_per_image, cost_per_image)
    with tqdm(desc="report", bar_format="{desc}{postfix} ({elapsed})", dynamic_ncols=True) as bar:
        sections = report(dataclasses.replace(context, working=bar.set_postfix_str))
        bar.set_postfix_str(str(out / PAGE))
    return printed(sections)


def main() -> None:
    arguments = _arguments()
    asked = (arguments.grid, arguments.data, arguments.minutes_per_image, arguments.cost_per_image)
    print(write_report(arguments.results, arguments.out, *asked))


if __name__ == "__main__":
    run("report", main)
