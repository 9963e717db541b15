"""A project's annotations as a COCO folder, with --pseudo what the active version is sure of, too, marked as such.

`images/` and `train.json`, what `scripts.active_learning --data` and the usual tools read: masks as RLE, which is
exact, or with --polygons as outlines, which fill holes. A task counts as a training counts it: its ground truth, else
its latest annotation; an empty one is an image without objects.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from backend import settings
from backend.image_limits import ImageLimits
from backend.polygons import outlines
from backend.pool import Pool
from backend.project import LabelStudioProject
from backend.snapshot import Image
from backend.versions import Versions
from scripts.command_line import CommandError, parser_of, run
from scripts.plan import Place, add_model_dir_argument, add_place_arguments, add_project_argument
from tsp_model.data import masks
from tsp_model.data.coco import write_coco
from tsp_model.data.image_set import ImageSet, Instance, Item

if TYPE_CHECKING:
    from tsp_model.predictions import Prediction

SPLIT = "train"


def pseudo_labels(versions: Versions, classes: tuple[str, ...]) -> tuple[Mapping[str, Prediction], str]:
    """What the active version would have the next training learn of its own predictions, by task, in `classes`; and
    what it goes by, for people. (With pseudo_target_precision a training moves the thresholds by its new labels.)

    CommandError where there is no version, or it is not on this disk.
    """
    from backend.version_work import translation  # bring torch
    from tsp_model.prediction_pass import PREDICTIONS
    from tsp_model.predictions import PredictionFile
    from tsp_model.pseudo_labels import from_predictions
    from tsp_model.settings import Settings

    active = versions.active()
    if active is None:
        raise CommandError(
            f"project {versions.number} has no version in {versions.root.parent}; give the backend's MODEL_DIR with "
            "--model-dir, or start a training first."
        )
    card = versions.card(active)
    known = PredictionFile(versions.folder(active) / PREDICTIONS, translation(card["classes"], classes))
    tasks = ImageSet([Item(task, Path(task)) for task in known], classes)
    method = Settings.from_dict(card["settings"])
    parts = [name for name in ("class", "box", "mask") if name[0] in method.score_parts]
    above = ", ".join(f"{part} score {getattr(method, f'pseudo_{part}_threshold'):g}" for part in parts)
    return from_predictions(known, tasks, method), f"{active}'s instances above {method.pseudo_rule} of {above}"


def collect(
    project: LabelStudioProject, cache: Path, limits: ImageLimits, sure: Mapping[str, Prediction]
) -> tuple[ImageSet, dict[str, list[float]]]:
    """The images with a label, as a training reads them, and s_ij of the instances of those with pseudo labels."""
    with tqdm(desc="export", unit="task", file=sys.stderr) as bar:

        def show(done: dict[str, int]) -> None:
            bar.total = done["total"]
            bar.update(done["done"] - bar.n)

        pool = Pool(project, cache, limits)
        pool.read(project.tasks(), show, lambda task: task.annotation is not None or str(task.id) in sure)
    items, pseudo = [_item(image, image.instances) for image in pool.labelled], {}
    for image in pool.unlabelled:
        found = sure[image.key]
        items.append(_item(image, zip(found.labels, found.rles, strict=True)))
        pseudo[items[-1].key] = found.instance_scores
    return ImageSet(items, project.classes), pseudo


def _item(image: Image, instances: Iterable[tuple[int, Mapping[str, Any]]]) -> Item:
    path = Path(image.path)
    return Item(image.key + path.suffix, path, tuple(Instance(label, dict(rle)) for label, rle in instances))


def rings(rle: masks.RLE) -> list[list[float]]:
    """A mask's pieces as COCO's polygons."""
    (mask,) = masks.decode([rle])
    return [ring.ravel().tolist() for ring in outlines(mask)]


@contextmanager
def _room_for(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards. CommandError if `out` is there or cannot be made."""
    if out.exists():
        raise CommandError(f"{out} is there already; choose another --out.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        part = tempfile.TemporaryDirectory(dir=there, prefix=f".{out.name}.")
    except OSError as error:
        raise CommandError(f"{out} cannot be made in {there} ({error.strerror}); choose another --out.") from None
    with part as folder:
        yield Path(folder)


def main() -> None:
    parser = parser_of("export", __doc__, "--project 4 --out labels")
    add_project_argument(parser)
    add_place_arguments(parser)
    add_model_dir_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder that is made; must not be there")
    parser.add_argument("--pseudo", action="store_true", help="the active version's pseudo labels, too")
    parser.add_argument("--polygons", action="store_true", help="outlines instead of RLE, for tools that read no RLE")
    arguments = parser.parse_args()
    place = Place.from_arguments(arguments)
    with _room_for(arguments.out) as part:
        project = place.project(arguments.project)
        versions = Versions(Path(place.model_dir), project.key)
        sure, rule = pseudo_labels(versions, project.classes) if arguments.pseudo else ({}, "")
        kept = versions.root if versions.root.is_dir() else part  # the backend's folder, if that is on this machine
        images, pseudo = collect(project, kept / "images", settings.load().image_limits, sure)
        if not len(images):
            raise CommandError(f"project {arguments.project} has no labels yet; submit annotations first.")
        write_coco(part / "whole", SPLIT, images, pseudo, rings if arguments.polygons else dict)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        (part / "whole").rename(arguments.out)
    print(
        f"{arguments.out}/{SPLIT}.json: {len(images) - len(pseudo)} labelled images, {len(pseudo)} with pseudo labels, "
        f"{images.objects} objects"
    )
    if rule:
        print(f"pseudo labels are {rule}")


if __name__ == "__main__":
    run("export", main)
