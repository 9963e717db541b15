"""What the project is measured by: grids of experiments, `estimate` of what they reach, `speed` and what it costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.command_line import CommandError, described, parser_of, run
from scripts.grid import spec
from scripts.service import BACKEND_URL
from scripts.smoke import TRAINED, add_smoke_argument
from tsp_model.files import write_json

if TYPE_CHECKING:
    from scripts.speed.agreement import Case
    from scripts.speed.timing import Bench, Comparison

# Name on the command line (and of the function): the module in scripts/speed/ that holds it, imported when asked for.
SUBJECTS = {
    "inference": "network",
    "branches": "network",
    "uncertainty": "uncertainty",
    "training": "network",
    "levers": "levers",
    "codec": "codec",
    "evaluation": "evaluation",
    "predict": "service",
    "threads": "service",
    "start": "service",
    "opening": "opening",
    "cycle": "cycle",
}
RUN = (
    "Run the cells of a grid that are not finished. Killed, or beside other processes with the same --out, it goes on "
    "where it was and shares the work. In memory, unless --label-studio sends every cycle through the server of "
    "LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY and the backend of MODEL_DIR."
)
ESTIMATE = (
    "For each cycle of a grid's cells: an estimate, its interval, and the truth; all three are of the pool's "
    "detections that ranking or pseudo labels look at. Then how far off each way of estimating is."
)
WITH_ALL = ("levers", "opening", "cycle")  # half an hour more, and a browser
REPEATS, SMOKE_REPEATS = 5, 1


def speed(arguments: argparse.Namespace) -> None:
    """Run the chosen comparisons; the file is written after each, so that an interrupted run is not lost."""
    names = _chosen(arguments.only, arguments.all)
    import torch

    from scripts.speed import machine, report
    from scripts.speed.timing import Bench

    bench = Bench(
        repeats=arguments.repeats or (SMOKE_REPEATS if arguments.smoke else REPEATS),
        threads=arguments.threads or torch.get_num_threads(),
        data=arguments.data,
        smoke=arguments.smoke,
        cycle_pool=arguments.cycle_pool,
    )
    described = machine.describe(bench.threads)
    print(machine.in_words(described), file=sys.stderr, flush=True)
    rows: list[Comparison] = []
    for number, name in enumerate(names, start=1):
        for row in _subject(name)(replace(bench, label=f"[{number}/{len(names)}]")):
            # Tiny inputs reach no aim and miss none.
            row = replace(row, aim=None) if bench.smoke else row
            rows.append(row)
            report.write(arguments.out, described, bench.smoke, rows)
            print(f"[{number}/{len(names)}] {report.line(row)}", file=sys.stderr, flush=True)
    print(report.document(described, rows), end="")
    if arguments.markdown:
        arguments.markdown.write_text(report.document(described, rows), encoding="utf-8")


def agreement(arguments: argparse.Namespace) -> None:
    """Train, or take what was trained before, and ask the same weights in quicker and quicker ways."""
    from scripts.speed.agreement import compare, table

    _on_trained_weights(arguments, "agreement", lambda case: compare(case, arguments.picked), table)


def learning(arguments: argparse.Namespace) -> None:
    """Train in float32 and the quick way, seed by seed."""
    from scripts.speed.learning import compare_learning, table

    _on_trained_weights(arguments, "learning", lambda case: compare_learning(case, range(arguments.seeds)), table)


def _on_trained_weights(
    arguments: argparse.Namespace,
    name: str,
    compare: Callable[[Case], dict[str, Any]],
    table: Callable[[list[dict[str, Any]]], str],
) -> None:
    """`compare` for each backbone and data set; the file is written after each."""
    import torch

    from scripts.speed import machine
    from scripts.speed.agreement import Case

    if arguments.smoke:
        vars(arguments).update(TRAINED)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    described = machine.describe(torch.get_num_threads())
    results: list[dict[str, Any]] = []
    for backbone in arguments.backbones.split(","):
        for data in arguments.sets.split(","):
            asked = (arguments.labels, arguments.pool, arguments.test, arguments.epochs, arguments.size)
            results.append(compare(Case(data, backbone, *asked, arguments.data, arguments.folder)))
            write_json(arguments.folder / f"{name}.json", {"machine": described, "results": results})
    print(f"{machine.in_words(described)}\n\n{table(results)}")


def growth(arguments: argparse.Namespace) -> None:
    """Pools of several sizes through a real Label Studio, and what larger ones would take at these rates."""
    from scripts.speed.growth import growth as measure
    from scripts.speed.growth import tables
    from scripts.speed.scale import on_paper

    keep = partial(write_json, arguments.out) if arguments.out else lambda found: None
    found = measure(arguments.sizes, arguments.crowds, keep)
    print(f"{tables(found)}\n\n{on_paper(found, arguments.images_per_second)}")


def grid(arguments: argparse.Namespace) -> None:
    """Every cell of a grid of experiments that is not finished, and the table of all; with --report the report, too."""
    # What is wrong with the file is told before PyTorch, which takes seconds, is imported.
    spec.read_grid(arguments.file, arguments.smoke, arguments.data)
    from scripts.grid.runner import run_grid
    from scripts.plan import Place
    from scripts.report import write_report
    from scripts.table import table

    out = arguments.out or Path("runs") / (arguments.file.stem + "-label-studio" * arguments.label_studio)
    place = Place.choose(arguments.backend_url) if arguments.label_studio else None
    print(table(run_grid(arguments.file, out, place, arguments.smoke, arguments.data)))
    if arguments.report:
        print(f"\n{write_report(out, file=arguments.file, data=arguments.data)}")


def estimate(arguments: argparse.Namespace) -> None:
    """The estimate of the pool's AP50 beside the truth, in the cells of a grid that ran."""
    from scripts.reporting.estimates import METHODS, by_picks, estimate_rows, tables

    rows = estimate_rows(arguments.folder, list(METHODS))
    if not rows:
        raise CommandError(f"{arguments.folder} has no cell with two finished cycles yet; run more of the grid.")
    write_json(arguments.out or arguments.folder / "estimates.json", {"summary": by_picks(rows), "pools": rows})
    print(tables(rows))


def _sizes(text: str) -> list[int]:
    return [_at_least_1(part) for part in text.split(",")]


def _chosen(only: str | None, everything: bool) -> list[str]:
    """The names to run, in the order of SUBJECTS. Raises CommandError for an unknown one."""
    if only is None:
        return [name for name in SUBJECTS if everything or name not in WITH_ALL]
    asked = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in SUBJECTS]
    if unknown or not asked:
        raise CommandError(f"--only {', '.join(unknown) or only!r}: no such comparison; known: {', '.join(SUBJECTS)}.")
    return [name for name in SUBJECTS if name in asked]


def _subject(name: str) -> Callable[[Bench], Iterator[Comparison]]:
    return getattr(import_module(f"scripts.speed.{SUBJECTS[name]}"), name)


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _folder(text: str) -> Path:
    """One that was asked for has to be there; without the default one, rows of real images are left out."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def main() -> None:
    parser = parser_of("benchmark", __doc__, "speed --only inference,training --threads 2")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "speed",
        help="ours beside stock torchvision, the SDK, pycocotools and the network alone",
        **described(
            "benchmark speed",
            "Every comparison in one run: contestants in turns after a warm-up, medians, ratios.",
            "--only inference,training --threads 2",
        ),
    )
    command.set_defaults(run=speed)
    add = command.add_argument
    add("--only", metavar="A,B", help=f"of {', '.join(SUBJECTS)} (default: all but {', '.join(WITH_ALL)})")
    add("--all", action="store_true", help="with what is left out by default")
    add("--cycle-pool", type=_at_least_1, default=300, metavar="N", help="its pool (default: %(default)s images)")
    add_smoke_argument(command)
    add("--repeats", type=_at_least_1, metavar="N", help=f"rounds (default: {REPEATS}, smoke: {SMOKE_REPEATS})")
    add("--threads", type=_at_least_1, metavar="N", help="of torch (default: as torch has it)")
    add("--data", type=_folder, default=Path("../shared/data"), help="folder of COCO folders (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/speed.json"), help="every round as JSON (default: %(default)s)")
    add("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    _agreement_command(commands)
    _learning_command(commands)
    _growth_command(commands)
    _run_command(commands)
    _estimate_command(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _agreement_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "agreement",
        help="AP50 and order of a pool, as each lever of speed is added, on trained weights",
        **described("benchmark agreement", agreement.__doc__, "--sets synthetic,dsb2018 --backbones tiny,resnet50"),
    )
    command.set_defaults(run=agreement)
    _add_trained_weights(command, backbones="tiny,resnet50")
    command.add_argument(
        "--picked", type=_at_least_1, default=20, help="images that a cycle would pick (default: %(default)s)"
    )


def _learning_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "learning",
        help="AP50 after training in float32 and the quick way, paired by seed",
        **described("benchmark learning", learning.__doc__, "--sets synthetic --seeds 3"),
    )
    command.set_defaults(run=learning)
    _add_trained_weights(command, backbones="tiny")
    command.add_argument("--seeds", type=_at_least_1, default=3, help="how many, from 0 on (default: %(default)s)")


def _add_trained_weights(command: argparse.ArgumentParser, backbones: str) -> None:
    add = command.add_argument
    add("--folder", type=Path, default=Path("runs/agreement"), help="trained networks, results (default: %(default)s)")
    add("--data", type=_folder, default=Path("../shared/data"), help="folder of COCO folders (default: %(default)s)")
    add("--sets", default="synthetic,dsb2018", help="'synthetic' and names in --data (default: %(default)s)")
    add("--backbones", default=backbones, help="default: %(default)s")
    add("--labels", type=_at_least_1, default=64, help="images to train on (default: %(default)s)")
    add("--pool", type=_at_least_1, default=200, help="images to put in order (default: %(default)s)")
    add("--test", type=_at_least_1, default=150, help="images to evaluate on (default: %(default)s)")
    add("--epochs", type=_at_least_1, default=16, help="over the labelled images (default: %(default)s)")
    add("--size", type=_at_least_1, default=256, help="image_size in pixels (default: %(default)s)")
    add("--threads", type=_at_least_1, metavar="N", help="of torch (default: as torch has it)")
    add_smoke_argument(command)


def _growth_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "growth",
        help="seconds and memory of a training as the pool grows, and on paper up to ten million images",
        **described("benchmark growth", growth.__doc__, "--sizes 100,1000 --crowds 1000,10000"),
    )
    command.set_defaults(run=growth)
    add = command.add_argument
    add("--sizes", type=_sizes, default=[100, 1000, 10000], help="pools (default: 100,1000,10000)")
    crowds = "tasks of a project in Label Studio alone, copied in its database (default: 10000,100000,300000: 6 GB)"
    add("--crowds", type=_sizes, default=[10_000, 100_000, 300_000], help=crowds)
    add("--out", type=Path, help="what was found, as JSON, from the first row on")
    what = "of the network on your GPU, for the table on paper (default: %(default)s, assumed of one A100)"
    add("--images-per-second", type=_at_least_1, default=25, metavar="N", help=what)


def _run_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "run",
        help="a grid of experiments: strategies, with and without pseudo labels, seeds",
        **described("benchmark run", RUN, "scripts/experiments/synthetic.toml --out runs/synthetic"),
    )
    command.epilog += f"\n\n{spec.__doc__}"
    command.set_defaults(run=grid)
    add = command.add_argument
    add("file", type=Path, help="what to run: scripts/experiments/ has examples")
    add("--out", type=Path, help="folder of cells and results (default: runs/ and the file's name)")
    add("--data", help="a COCO or OCT folder instead of the file's")
    add("--report", action="store_true", help="at the end the report of scripts.report, in report/ of --out")
    add("--label-studio", action="store_true", help="through a Label Studio server and the TSP backend")
    add_smoke_argument(command)
    add("--backend-url", default=BACKEND_URL, help="of the backend, as Label Studio reaches it (default: %(default)s)")


def _estimate_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "estimate",
        help="AP50 of the pool, estimated without its labels, beside the truth",
        **described("benchmark estimate", ESTIMATE, "runs/synthetic"),
    )
    command.set_defaults(run=estimate)
    command.add_argument("folder", type=Path, help="--out of a grid")
    command.add_argument("--out", type=Path, help="everything as JSON (default: estimates.json in the folder)")


if __name__ == "__main__":
    run("benchmark", main)
