"""Which tags of a labeling configuration the backend answers, and under which label names.

Usable are ``<BrushLabels>``, ``<BitmaskLabels>``, ``<PolygonLabels>`` and ``<RectangleLabels>``, one or several, on
exactly one ``<Image>``. Other tags (choices, text areas, key points) may stand beside them and are left alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

from tsp_model.errors import ExplainedError

# The tag of each kind. What shows an object best comes first: it answers for a label that several tags have.
LABEL_TAGS = {
    "brush": "BrushLabels",
    "bitmask": "BitmaskLabels",
    "polygon": "PolygonLabels",
    "rectangle": "RectangleLabels",
}
KINDS = {tag.lower(): kind for kind, tag in LABEL_TAGS.items()}
REMEDY = "use <BrushLabels>, <BitmaskLabels>, <PolygonLabels> or <RectangleLabels> on one <Image>"


class LabelConfigError(ExplainedError, ValueError):
    """A labeling configuration that cannot be used. The message is one line: the cause, then the remedy."""


@dataclass(frozen=True)
class LabelTag:
    """A control tag that carries instances; ``kind`` is "brush", "bitmask", "polygon" or "rectangle"."""

    kind: str
    from_name: str
    to_name: str

    @property
    def region_type(self) -> str:
        """``type`` of this tag's regions, which is also the key of their labels: "brushlabels"…"""
        return f"{self.kind}labels"


@dataclass(frozen=True)
class LabelConfig:
    """What a labeling configuration asks for.

    Attributes:
        image_key: the field of a task's data that holds the image ("image" for ``value="$image"``).
        tags: the tag that answers for each label value, in the order of the configuration.
        aliases: the label value of each name in ``predicted_values``.
        ignored: the control tags that are left alone, such as "Choices".
    """

    image_key: str
    tags: Mapping[str, LabelTag]
    aliases: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The label values, in the order of the configuration."""
        return tuple(self.tags)

    @property
    def boxed(self) -> frozenset[str]:
        """The labels that only a rectangle can carry: there the rectangle is the object. Elsewhere it is a hint, as
        tools that segment inside of a box want it, and no mask."""
        return frozenset(label for label, tag in self.tags.items() if tag.kind == "rectangle")

    def is_boxed(self, drawn: str) -> bool:
        """Whether a rectangle of this label is its object; so is one whose label the configuration does not have (any
        more), since nothing says that it was a hint."""
        label = self.called_now(drawn)
        return label is None or label in self.boxed

    def called_now(self, drawn: str) -> str | None:
        """The label value of an annotation's label, which may have been renamed since (``predicted_values``); None if
        the configuration does not have it."""
        return drawn if drawn in self.tags else self.label_for(drawn)

    def label_for(self, class_name: str) -> str | None:
        """The label value for a model's class: by ``predicted_values``, exact name, then lower case.

        None if the configuration has no such label, or if only the lower case fits and fits several labels.
        """
        if class_name in self.aliases:
            return self.aliases[class_name]
        if class_name in self.tags:
            return class_name
        wanted = class_name.lower()
        found = {label for label in self.tags if label.lower() == wanted}
        found |= {label for name, label in self.aliases.items() if name.lower() == wanted}
        return found.pop() if len(found) == 1 else None


def parse_label_config(xml: str) -> LabelConfig:
    """Find the usable tags of a labeling configuration.

    Raises:
        LabelConfigError: invalid XML; no usable tag; a tag without labels or on something else than the image; no
            image or several; one name in the ``predicted_values`` of two labels.
    """
    interface = _read(xml)
    controls = _controls(interface)
    image = _only_image(interface)
    for control in controls:
        _check(control, image)
    tags: dict[str, LabelTag] = {}
    for control in controls:
        made = LabelTag(KINDS[control.tag.lower()], control.name, image.name)
        for label in control.labels_attrs:
            if label not in tags or _rank(made) < _rank(tags[label]):
                tags[label] = made
    others = tuple(dict.fromkeys(one.tag for one in interface.controls or () if one.tag.lower() not in KINDS))
    return LabelConfig(_image_key(image), tags, _aliases(controls), others)


def _rank(tag: LabelTag) -> int:
    return list(LABEL_TAGS).index(tag.kind)


def _read(xml: str) -> LabelInterface:
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError(f"the labeling configuration is empty: {REMEDY}")
    try:
        # The parser refuses a string with an encoding declaration, which Label Studio's editor accepts.
        return LabelInterface(re.sub(r"^\s*<\?xml[^>]*\?>", "", xml))
    # The SDK raises bare Exception subclasses without a common base, and KeyErrors for odd attributes.
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise LabelConfigError(f"the labeling configuration is not valid ({cause}): correct its XML") from error


def _controls(interface: LabelInterface) -> list[Any]:
    controls = [control for control in interface.controls or () if control.tag.lower() in KINDS]
    if not controls:
        present = ", ".join(sorted({f"<{control.tag}>" for control in interface.controls or ()})) or "no control tag"
        raise LabelConfigError(f"the labeling configuration has no tag for objects (it has {present}): {REMEDY}")
    return controls


def _check(control: Any, image: Any) -> None:
    if list(control.to_name) != [image.name]:
        raise LabelConfigError(
            f'<{control.tag} name="{control.name}"> has toName="{",".join(control.to_name)}", which is not '
            f'the one image "{image.name}": {REMEDY}'
        )
    if not control.labels_attrs:
        raise LabelConfigError(
            f'<{control.tag} name="{control.name}"> has no labels of its own (labels that come with each '
            'task are not supported): write <Label value="…"/> into it'
        )


def _only_image(interface: LabelInterface) -> Any:
    images = [tag for tag in interface.objects or () if tag.tag.lower() == "image"]
    if not images:
        raise LabelConfigError(f"the labeling configuration has no <Image> with a name and a value: {REMEDY}")
    if len(images) > 1:
        names = ", ".join(f'"{image.name}"' for image in images)
        raise LabelConfigError(f"the labeling configuration has several images ({names}): {REMEDY}")
    if images[0].is_image_list:
        raise LabelConfigError(
            f'<Image name="{images[0].name}"> shows a list of images (valueList): give it value="$image" and '
            "import one image per task"
        )
    return images[0]


def _image_key(image: Any) -> str:
    value = image.attr.get("value", "")
    match = re.fullmatch(r"\$([^\s$]+)", value)
    if match is None:
        raise LabelConfigError(
            f'<Image name="{image.name}"> has value="{value}", no field of the task: write value="$image"'
        )
    return match.group(1)


def _aliases(controls: list[Any]) -> dict[str, str]:
    pairs = {
        (name.strip(), label)
        for control in controls
        for label, tag in control.labels_attrs.items()
        for name in (tag.attr.get("predicted_values") or "").split(",")
        if name.strip()
    }
    repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    if repeated:
        raise LabelConfigError(
            f'"{repeated[0]}" is among the predicted_values of several labels: keep it with one of them'
        )
    return dict(pairs)
