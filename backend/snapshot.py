"""What a training read from Label Studio, kept in the version's folder: its steps can be repeated, and
anybody can see afterwards what a version was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.versions import VersionError
from tsp_model.files import write_json

NAME = "snapshot.json"
LISTS = ("labelled", "unlabelled", "aside")


@dataclass(frozen=True)
class Image:
    """One task. `instances` are (1..C, compressed COCO RLE) pairs; `annotation` tells one state of one
    annotation from every other ("" for an unlabelled task); `name` is the image's own ("" if it has none)."""

    key: str
    path: str
    instances: Sequence[tuple[int, Mapping[str, Any]]] = ()
    annotation: str = ""
    name: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Labelled and unlabelled images of a project at one moment.

    Attributes:
        classes: the label values of the labeling configuration, in its order.
        settings: of the method, as tsp_model's Settings.to_dict gives them.
        parent: the version that was active, or None.
        skipped: why a task is in neither list, by its id.
        aside: labelled, too, but kept out of training; see backend.kept_aside.
        annotations: the states of all annotations that were read, used or not.
    """

    classes: Sequence[str]
    settings: Mapping[str, Any]
    parent: str | None
    labelled: Sequence[Image]
    unlabelled: Sequence[Image]
    skipped: Mapping[str, str] = field(default_factory=dict)
    aside: Sequence[Image] = ()
    annotations: Sequence[str] = ()

    @property
    def lists(self) -> tuple[Sequence[Image], ...]:
        """Its lists of images."""
        return tuple(getattr(self, name) for name in LISTS)

    def write(self, folder: Path) -> None:
        """Keep it in `folder`, atomically."""
        values = {name: getattr(self, name) for name in ("classes", "settings", "parent", "skipped", "annotations")}
        for name in LISTS:
            values[name] = [vars(image) for image in getattr(self, name)]
        write_json(folder / NAME, values)

    @staticmethod
    def read(folder: Path) -> Snapshot:
        """The snapshot of a version's folder. Raises VersionError where there is none that can be read."""
        try:
            values = json.loads((folder / NAME).read_text(encoding="utf-8"))
            for name in LISTS:
                values[name] = [_image(image) for image in values.get(name, ())]
            return Snapshot(**values)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VersionError(f"{folder / NAME} is not there or damaged ({type(error).__name__}).") from None


def _image(values: Mapping[str, Any]) -> Image:
    return Image(
        key=values["key"],
        path=values["path"],
        instances=[(label, rle) for label, rle in values["instances"]],
        annotation=values["annotation"],
        name=values.get("name", ""),
    )
