"""What a model said about one image, small enough to keep for a whole pool: masks as run-length codes.

One prediction pass serves ranking, pseudo labels, pre-annotations and evaluation (Algorithm 1 of arXiv
2012.04829), so it is written to disk once, as JSON lines. Importing this module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsp_model.data import DataError, masks
from tsp_model.files import write_atomically

if TYPE_CHECKING:
    from tsp_model.settings import Settings


@dataclass
class Prediction:
    """N detections of one image, highest class score first as torchvision gives them; lists have length N.

    Attributes:
        key: the image's key in its set.
        height, width: of the image, pixels.
        labels: 1..C, class index plus one.
        boxes: [x1, y1, x2, y2], pixels of the image.
        scores, box_scores, mask_scores: c, b and m of section 3.1, 0..1.
        instance_scores: s_ij of Eq. 2.
        counts: masks cut at the mask threshold, the counts strings of compressed COCO RLEs.
        max_class_score: the highest foreground class score before any threshold, 0..1.
        image_score: S_i of Eq. 3; low means uncertain.
    """

    key: str
    height: int
    width: int
    labels: list[int]
    boxes: list[list[float]]
    scores: list[float]
    box_scores: list[float]
    mask_scores: list[float]
    instance_scores: list[float]
    counts: list[str]
    max_class_score: float
    image_score: float

    @classmethod
    def from_detections(cls, key: str, detections: Mapping[str, Any], settings: Settings) -> Prediction:
        """Compress a detections dict (`tsp_model.inference.predict`, pasted or not) and give the image its score.

        Masks are cut at ``settings.mask_threshold``; S counts detections whose class score is above
        ``settings.ranking_score_threshold`` only (which ones count is part of the method).
        """
        from tsp_model.paste import codes
        from tsp_model.scores import empty_image_score, image_score

        (height, width), rles = codes(detections, settings.mask_threshold)
        counted = detections["instance_scores"][detections["scores"] > settings.ranking_score_threshold]
        max_class_score = float(detections["max_class_score"])
        return cls(
            key=key,
            height=height,
            width=width,
            labels=detections["labels"].tolist(),
            boxes=[_floats(box) for box in detections["boxes"]],
            scores=_floats(detections["scores"]),
            box_scores=_floats(detections["box_scores"]),
            mask_scores=_floats(detections["mask_scores"]),
            instance_scores=_floats(detections["instance_scores"]),
            counts=[rle["counts"] for rle in rles],
            max_class_score=max_class_score,
            image_score=image_score(counted, empty_image_score(max_class_score, settings.empty_image)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rles(self) -> list[masks.RLE]:
        """The masks as COCO RLEs."""
        return [{"size": [self.height, self.width], "counts": counts} for counts in self.counts]

    def above(self, threshold: float) -> Prediction:
        """Only the detections with a class score above ``threshold``; the image's own scores stay."""
        return self.keep([index for index, score in enumerate(self.scores) if score > threshold])

    def keep(self, indices: Iterable[int]) -> Prediction:
        """Only these detections, in this order; the image's own scores stay."""
        chosen = list(indices)
        return replace(self, **{name: [getattr(self, name)[i] for i in chosen] for name in PER_DETECTION})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prediction:
        """The prediction of `to_dict`. Raises DataError: wrong keys, lists of unequal length."""
        if set(values) != FIELDS:
            raise DataError(f"keys that are missing or unknown: {', '.join(sorted(FIELDS ^ set(values)))}")
        lengths = {name: len(values[name]) for name in PER_DETECTION}
        if len(set(lengths.values())) > 1:
            raise DataError(f"lists of unequal length: {lengths}")
        return cls(**values)


FIELDS = {field.name for field in fields(Prediction)}
PER_DETECTION = ("labels", "boxes", "scores", "box_scores", "mask_scores", "instance_scores", "counts")


def write_predictions(path: Path | str, predictions: Iterable[Prediction]) -> int:
    """Write JSON lines as they come, one image each, and return their number.

    The file appears whole or not at all: if ``predictions`` raises, an older file at ``path`` stays.
    """
    written = 0

    def write(temporary: Path) -> None:
        nonlocal written
        with open(temporary, "w", encoding="utf-8") as file:
            for prediction in predictions:
                # dumps, not dump: only the former has the fast encoder.
                file.write(json.dumps(prediction.to_dict(), separators=(",", ":"), allow_nan=False) + "\n")
                written += 1

    write_atomically(Path(path), write)
    return written


def read_predictions(path: Path | str) -> dict[str, Prediction]:
    """All predictions of a file by image key, in order. Raises DataError as `iterate_predictions`."""
    predictions: dict[str, Prediction] = {}
    for line, prediction in enumerate(iterate_predictions(path), start=1):
        if prediction.key in predictions:
            raise _broken(path, line, f"image {prediction.key} is there twice")
        predictions[prediction.key] = prediction
    return predictions


def iterate_predictions(path: Path | str) -> Iterator[Prediction]:
    """The predictions of a file one by one, for pools that do not fit in memory.

    Raises:
        DataError: there is no such file, or a line is not a prediction (its number and the reason are named).
    """
    if not Path(path).is_file():
        raise DataError(f"there is no predictions file {path}; score the pool first")
    with open(path, "rb") as file:
        for line, text in enumerate(file, start=1):
            try:
                yield Prediction.from_dict(json.loads(text))
            except (ValueError, TypeError, KeyError) as error:
                raise _broken(path, line, str(error)) from error


def _broken(path: Path | str, line: int, reason: str) -> DataError:
    return DataError(f"{path}, line {line} is not a prediction ({reason}); delete the file and score again")


def _floats(values: Any) -> list[float]:
    # Nine significant digits give every float32 back exactly and are half as long as Python's own.
    return [float(f"{value:.9g}") for value in values.tolist()]
