"""What a model said about one image, small enough to keep for a whole pool: masks as run-length codes.

One prediction pass serves ranking, pseudo labels, pre-annotations and evaluation (Algorithm 1 of arXiv
2012.04829), so it is written to disk once, as JSON lines. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsp_model.data import DataError, masks
from tsp_model.errors import NonFiniteError
from tsp_model.files import write_atomically

if TYPE_CHECKING:
    from tsp_model.settings import Settings


class NonFinitePredictionError(NonFiniteError, ValueError):
    """The network said something about an image that is no number; the message names both."""


@dataclass
class Prediction:
    """N detections of one image, highest class score first as torchvision gives them; lists have length N.

    Attributes:
        key: the image's key in its set.
        height, width: of the image, pixels.
        labels: 1..C, class index plus one.
        boxes: [x1, y1, x2, y2], pixels of the image.
        scores, box_scores, mask_scores: c, b and m of section 3.1, 0..1.
        instance_scores: s_ij of Eq. 2, of the scores that `score_parts` names.
        entropies: of the softmax over classes and background, 0..log(C).
        counts: masks cut at the mask threshold, the counts strings of compressed COCO RLEs.
        max_class_score: the highest foreground class score before any threshold, 0..1.
        image_score: S_i of Eq. 3; low means uncertain.
        signals: what a strategy of acquisition noted of the image when it was scored, by name, JSON-able.
        kept_above: detections with a class score up to this were left out, 0..1.
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
    entropies: list[float]
    counts: list[str]
    max_class_score: float
    image_score: float
    kept_above: float = 0.0
    signals: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_detections(
        cls, key: str, detections: Mapping[str, Any], settings: Settings, above: float = 0.0
    ) -> Prediction:
        """Compress a detections dict (`tsp_model.inference.predict`, pasted or not) and give the image its score.

        Masks are cut at ``settings.mask_threshold``; S counts detections whose class score is above
        ``settings.ranking_score_threshold`` only (which ones count is part of the method).

        Raises NonFinitePredictionError: a score, a box or a signal is NaN or infinite.
        """
        from tsp_model.paste import codes
        from tsp_model.scores import empty_image_score, image_score, instance_scores

        (height, width), rles = codes(detections, settings.mask_threshold)
        triplet = [detections[name] for name in ("scores", "box_scores", "mask_scores")]
        merged = instance_scores(*triplet, settings.score_parts)
        counted = merged[detections["scores"] > settings.ranking_score_threshold]
        max_class_score = float(detections["max_class_score"])
        prediction = cls(
            key=key,
            height=height,
            width=width,
            labels=detections["labels"].tolist(),
            boxes=[_floats(box) for box in detections["boxes"]],
            scores=_floats(detections["scores"]),
            box_scores=_floats(detections["box_scores"]),
            mask_scores=_floats(detections["mask_scores"]),
            instance_scores=_floats(merged),
            entropies=_floats(detections["entropies"]),
            counts=[rle["counts"] for rle in rles],
            max_class_score=max_class_score,
            image_score=image_score(counted, empty_image_score(max_class_score, settings.empty_image)),
            kept_above=above,
            signals=dict(detections.get("signals", {})),
        )
        _refuse_non_finite(prediction)
        return prediction

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


FIELDS = {one.name for one in fields(Prediction)}
PER_DETECTION = ("labels", "boxes", "scores", "box_scores", "mask_scores", "instance_scores", "entropies", "counts")


class PredictionFile(Mapping[str, Prediction]):
    """The predictions of a file by image key, in order. Each is read when it is asked for: memory holds keys only.

    Args:
        path: of JSON lines.
        changed: what becomes of each prediction on its way out of the file.

    Raises:
        DataError: as `iterate_predictions`, or an image is there twice; here, not later.
    """

    def __init__(self, path: Path | str, changed: Callable[[Prediction], Prediction] = lambda same: same) -> None:
        self._path = Path(path)
        self._changed = changed
        self._offsets: dict[str, int] = {}
        self._end = 0
        for number, (offset, end, prediction) in enumerate(_lines(self._path), start=1):
            if prediction.key in self._offsets:
                raise _broken(path, number, f"image {prediction.key} is there twice")
            self._offsets[prediction.key] = offset
            self._end = end

    def __getitem__(self, key: str) -> Prediction:
        with open(self._path, "rb") as file:
            file.seek(self._offsets[key])
            return self._changed(Prediction.from_dict(json.loads(file.readline())))

    def __contains__(self, key: object) -> bool:
        return key in self._offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def sequence(self, keys: Sequence[str]) -> Sequence[Prediction]:
        """The predictions of these images in this order, still on the disk. KeyError: an image is not there."""
        return _Sequence(self, keys)

    def add(self, predictions: Iterable[Prediction], on_disk: Callable[[int], None] = lambda count: None) -> None:
        """Write predictions of further images behind the others as they come, so that a kill costs none of them.

        Args:
            on_disk: told how many predictions the file holds, at first and after each.
        """
        with open(self._path, "r+b") as file:
            file.truncate(self._end)
            file.seek(self._end)
            on_disk(len(self))
            for prediction in predictions:
                file.write(_line(prediction))
                file.flush()
                self._offsets[prediction.key], self._end = self._end, file.tell()
                on_disk(len(self))
            os.fsync(file.fileno())

    def keep(self, count: int) -> None:
        """Forget all predictions but the first `count`."""
        gone = list(self._offsets.items())[count:]
        if gone:
            self._end = gone[0][1]
            os.truncate(self._path, self._end)
        for key, _ in gone:
            del self._offsets[key]


class _Sequence(Sequence[Prediction]):
    def __init__(self, file: PredictionFile, keys: Sequence[str]) -> None:
        self._file, self._keys = file, keys

    def __getitem__(self, index: Any) -> Any:
        return self._file[self._keys[index]] if isinstance(index, int) else _Sequence(self._file, self._keys[index])

    def __len__(self) -> int:
        return len(self._keys)


def write_predictions(path: Path | str, predictions: Iterable[Prediction]) -> int:
    """Write JSON lines as they come, one image each, and return their number.

    The file appears whole or not at all: if ``predictions`` raises, an older file at ``path`` stays.
    """
    written = 0

    def write(temporary: Path) -> None:
        nonlocal written
        with open(temporary, "wb") as file:
            for prediction in predictions:
                file.write(_line(prediction))
                written += 1

    write_atomically(Path(path), write)
    return written


def read_predictions(path: Path | str) -> dict[str, Prediction]:
    """All predictions of a small file by image key, in order. Raises DataError as `PredictionFile`."""
    return dict(PredictionFile(path))


def iterate_predictions(path: Path | str) -> Iterator[Prediction]:
    """The predictions of a file one by one. A last line that a kill cut off is not there.

    Raises:
        DataError: there is no such file, or a line is not a prediction (its number and the reason are named).
    """
    return (prediction for _, _, prediction in _lines(path))


def read_line(text: bytes) -> Prediction | None:
    """The prediction of a line of a predictions file; None if it is not a whole one."""
    try:
        return Prediction.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError):
        return None


def _lines(path: Path | str) -> Iterator[tuple[int, int, Prediction]]:
    """Where each line begins and ends, bytes, and its prediction."""
    if not Path(path).is_file():
        raise DataError(f"there is no predictions file {path}; score the pool first")
    end = 0
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                return
            begin, end = end, end + len(text)
            try:
                yield begin, end, Prediction.from_dict(json.loads(text))
            except (ValueError, TypeError, KeyError) as error:
                raise _broken(path, number, str(error)) from error


def _line(prediction: Prediction) -> bytes:
    # dumps, not dump: only the former has the fast encoder.
    return (json.dumps(prediction.to_dict(), separators=(",", ":"), allow_nan=False) + "\n").encode()


def _refuse_non_finite(prediction: Prediction) -> None:
    """Here, where the image is known: a NaN is above no threshold and would pass for an image without detections, or
    for one that is far from all others."""
    numbers = vars(prediction) | prediction.signals
    wrong = [name for name, value in numbers.items() if not all(map(math.isfinite, _numbers(value)))]
    if wrong:
        raise NonFinitePredictionError(
            f"what the network says about image {prediction.key} is not finite ({', '.join(wrong)}); train it again, "
            "with a lower learning_rate if that repeats itself."
        )


def _numbers(value: Any) -> Iterator[float]:
    """Those in a number or in lists of numbers, however deep."""
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, float):
        yield value


def _broken(path: Path | str, line: int, reason: str) -> DataError:
    return DataError(f"{path}, line {line} is not a prediction ({reason}); delete the file and score again")


def _floats(values: Any) -> list[float]:
    # Nine significant digits give every float32 back exactly and are half as long as Python's own.
    return [float(f"{value:.9g}") for value in values.tolist()]
