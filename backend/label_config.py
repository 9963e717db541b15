"""Which tag of a labeling configuration the backend answers, and under which label names.

Usable is exactly one ``<BrushLabels>`` or ``<PolygonLabels>`` on exactly one ``<Image>``. Other tags
(choices, text areas, rectangles) may stand beside it and are left alone.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

KINDS = {"brushlabels": "brush", "polygonlabels": "polygon"}
REMEDY = "use one <BrushLabels> or one <PolygonLabels> on one <Image>"


class LabelConfigError(ValueError):
    """A labeling configuration that cannot be used. The message is one line: the cause, then the remedy."""


@dataclass(frozen=True)
class LabelTag:
    """The control tag that carries the instances.

    ``kind`` is "brush" or "polygon"; ``image_key`` the field of a task's data that holds the image ("image"
    for ``value="$image"``); ``labels`` the label values in the order of the configuration; ``aliases`` maps a
    name in a label's ``predicted_values`` to its label value.
    """

    kind: str
    from_name: str
    to_name: str
    image_key: str
    labels: tuple[str, ...]
    aliases: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def region_type(self) -> str:
        """``type`` of this tag's regions, which is also the key of their labels: "brushlabels"…"""
        return f"{self.kind}labels"

    def label_for(self, class_name: str) -> str | None:
        """The label value for a model's class: by ``predicted_values``, exact name, then lower case.

        None if the configuration has no such label, or if only the lower case fits and fits several labels.
        """
        if class_name in self.aliases:
            return self.aliases[class_name]
        if class_name in self.labels:
            return class_name
        wanted = class_name.lower()
        found = {label for label in self.labels if label.lower() == wanted}
        found |= {label for name, label in self.aliases.items() if name.lower() == wanted}
        return found.pop() if len(found) == 1 else None


def parse_label_config(xml: str) -> LabelTag:
    """Find the usable tag of a labeling configuration.

    Raises:
        LabelConfigError: invalid XML; no usable tag or several; no image or several; no labels; one name in the
            ``predicted_values`` of two labels.
    """
    interface = _read(xml)
    control = _only_control(interface)
    image = _only_image(interface)
    if list(control.to_name) != [image.name]:
        raise LabelConfigError(
            f'<{control.tag} name="{control.name}"> has toName="{",".join(control.to_name)}", which is not '
            f'the one image "{image.name}": {REMEDY}'
        )
    labels = tuple(control.labels_attrs or {})
    if not labels:
        raise LabelConfigError(
            f'<{control.tag} name="{control.name}"> has no labels of its own (labels that come with each '
            'task are not supported): write <Label value="…"/> into it'
        )
    return LabelTag(
        kind=KINDS[control.tag.lower()],
        from_name=control.name,
        to_name=image.name,
        image_key=_image_key(image),
        labels=labels,
        aliases=_aliases(control.labels_attrs),
    )


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


def _only_control(interface: LabelInterface) -> Any:
    controls = [control for control in interface.controls or () if control.tag.lower() in KINDS]
    if not controls:
        present = ", ".join(sorted({f"<{control.tag}>" for control in interface.controls or ()})) or "no control tag"
        raise LabelConfigError(f"the labeling configuration has no tag for masks (it has {present}): {REMEDY}")
    if len(controls) > 1:
        names = ", ".join(f'<{control.tag} name="{control.name}">' for control in controls)
        raise LabelConfigError(f"the labeling configuration has several tags for masks ({names}): {REMEDY}")
    return controls[0]


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


def _aliases(labels: dict[str, Any]) -> dict[str, str]:
    pairs = [
        (name.strip(), label)
        for label, tag in labels.items()
        for name in (tag.attr.get("predicted_values") or "").split(",")
        if name.strip()
    ]
    repeated = [name for name, count in Counter(name for name, _ in set(pairs)).items() if count > 1]
    if repeated:
        raise LabelConfigError(
            f'"{repeated[0]}" is among the predicted_values of several labels: keep it with one of them'
        )
    return dict(pairs)
