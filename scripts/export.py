"""A project's annotations as a COCO folder, with --pseudo what the active version is sure of, too, marked as such.

`images/` and `train.json`, masks as RLE: what `scripts.active_learning --data` and the usual tools read. A task counts
as a training counts it: its ground truth, else its latest annotation; an empty one is an image without objects.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from backend import settings
from backend.connection import connect
from backend.image_limits import ImageLimits
from backend.images import fetch_image
from backend.project import LabelStudioProject
from backend.versions import Versions
from scripts.command_line import CommandError, run
from scripts.plan import Place, add_place_arguments, add_project_argument
from tsp_model.data.coco import write_coco
from tsp_model.data.image_set import ImageSet, Instance, Item, image_size
from tsp_model.errors import ExplainedError

if TYPE_CHECKING:
    from tsp_model.predictions import Prediction

SPLIT = "train"


def pseudo_labels(versions: Versions, classes: tuple[str, ...]) -> Mapping[str, Prediction]:
    """What the active version would have the next training learn of its own predictions, by task, in `classes`.

    CommandError where there is no version, or it is not on this disk.
    """
    from backend.steps import translation  # bring torch
    from tsp_model.cycle import PREDICTIONS
    from tsp_model.predictions import PredictionFile
    from tsp_model.pseudo_labels import from_predictions
    from tsp_model.settings import Settings

    active = versions.active()
    if active is None:
        raise CommandError(f"there is no version in {versions.root}; give the backend's MODEL_DIR with --model-dir.")
    card = versions.card(active)
    known = PredictionFile(versions.folder(active) / PREDICTIONS, translation(card["classes"], classes))
    tasks = ImageSet([Item(task, Path(task)) for task in known], classes)
    return from_predictions(known, tasks, Settings.from_dict(card["settings"]))


def collect(
    project: LabelStudioProject, cache: Path, sure: Mapping[str, Prediction], limits: ImageLimits
) -> tuple[ImageSet, dict[str, list[float]]]:
    """The images with a label, and s_ij of the instances of those that have pseudo labels. A task whose image or
    annotation cannot be used is said and left out."""
    items, pseudo = [], {}
    number = {name: index for index, name in enumerate(project.classes, start=1)}
    for task in tqdm(project.tasks(), total=project.task_count, desc="export", unit="task", file=sys.stderr):
        found = sure.get(str(task.id)) if task.annotation is None else None
        if task.instances is None and found is None:
            continue
        try:
            path = fetch_image(task.image_url, project.client, cache, limits)
            sizes = {tuple(rle["size"]) for _, rle in task.instances or ()}
            if sizes - {image_size(path)}:
                raise CommandError("its annotation was drawn on an image of another size.")
        except ExplainedError as error:
            tqdm.write(f"task {task.id} is left out: {error}", file=sys.stderr)
            continue
        item = Item(f"{task.id}{path.suffix}", path)
        if found is None:
            drawn = [(number[label], rle) for label, rle in task.instances or () if label in number]
        else:
            drawn = list(zip(found.labels, found.rles, strict=True))
            pseudo[item.key] = found.instance_scores
        items.append(replace(item, instances=tuple(Instance(label, dict(rle)) for label, rle in drawn)))
    return ImageSet(items, project.classes), pseudo


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="example: python -m scripts.export --project 4 --out labels",
    )
    add_project_argument(parser)
    add_place_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder that is made; must not be there")
    parser.add_argument("--pseudo", action="store_true", help="the active version's pseudo labels, too")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise CommandError(f"{arguments.out} is there already; choose another --out.")
    place = Place.from_arguments(arguments)
    project = LabelStudioProject(connect(place.url, place.api_key), arguments.project)
    versions = Versions(Path(place.model_dir), project.key)
    sure = pseudo_labels(versions, project.classes) if arguments.pseudo else {}
    images, pseudo = collect(project, versions.root / "images", sure, settings.load().image_limits)
    if not len(images):
        raise CommandError(f"project {arguments.project} has no labels yet; submit annotations first.")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent, prefix=f".{arguments.out.name}.") as part:
        write_coco(Path(part) / "whole", SPLIT, images, pseudo)
        (Path(part) / "whole").rename(arguments.out)
    print(
        f"{arguments.out}/{SPLIT}.json: {len(images) - len(pseudo)} labelled images, {len(pseudo)} with pseudo labels, "
        f"{images.objects} objects"
    )


if __name__ == "__main__":
    run("export", main)
