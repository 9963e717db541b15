"""Masks drawn on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from tsp_model.data import masks
from tsp_model.data.image_set import read_image

SIDE = 420  # longest side of a drawn picture, pixels
FEW = 30  # instances of a picture up to which their outlines are bold
CAPTIONED = 8  # instances of a picture that get a number, the largest
COLOURS = np.array(
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66)],
    dtype=np.uint8,
)  # Okabe and Ito
SHADES = 10  # of red, green and blue each, in further colours
WHITE = (255, 255, 255)
LABEL = 9  # half the side of a number's box, pixels


@dataclass
class Shape:
    """One instance to draw.

    Attributes:
        index: in its image. label: 1..C. rle: its mask. number: that is written on it; 0 for none.
    """

    index: int
    label: int
    rle: masks.RLE
    number: int = 0


def read_pixels(path: Path) -> np.ndarray:
    """An image as uint8 [H, W, 3], its longest side SIDE. Raises DataError if it cannot be read."""
    pixels = read_image(path).permute(1, 2, 0).numpy()
    return cv2.resize(
        pixels,
        _drawn_size(*pixels.shape[:2]),
        interpolation=cv2.INTER_AREA if max(pixels.shape) > SIDE else cv2.INTER_CUBIC,
    )


def draw_shapes(
    pixels: np.ndarray,
    shapes: Sequence[Shape],
    by_object: bool,
    outlines: Sequence[Shape] = (),
    numbered: bool = False,
) -> np.ndarray:
    """The picture with each shape tinted and outlined.

    Args:
        pixels: uint8 [H, W, 3]. by_object: a colour of its own for each shape, instead of its class's.
        outlines: a thin white line only.
        numbered: give the largest CAPTIONED shapes their numbers, the first the largest, and write them.
    """
    drawn = pixels.copy()
    windows = [_window(shape, drawn.shape[:2]) for shape in shapes]
    if by_object:
        colours = [COLOURS[place % len(COLOURS)] for place in range(len(shapes))]
    else:
        of_classes = palette(max((shape.label for shape in shapes), default=0))
        colours = [of_classes[shape.label - 1] for shape in shapes]
    thickness = 2 if len(shapes) <= FEW else 1
    for window, colour in zip(windows, colours, strict=True):
        inside = window > 0
        drawn[inside] = (0.62 * drawn[inside] + 0.38 * colour).astype(np.uint8)
        _outline(drawn, window, tuple(map(int, colour)), thickness)
    for shape in outlines:
        _outline(drawn, _window(shape, drawn.shape[:2]), WHITE, 1)
    if numbered:
        areas = [int(window.sum()) for window in windows]
        largest = sorted(range(len(shapes)), key=lambda place: -areas[place])[:CAPTIONED]
        taken = np.zeros(drawn.shape[:2], dtype=bool)
        for number, place in enumerate(largest, start=1):
            shapes[place].number = number
            _write_number(drawn, windows[place], number, colours[place], taken)
    return drawn


@cache
def palette(count: int) -> np.ndarray:
    """So many colours, no two alike, uint8 [count, 3]; the first ones are the same for every count.

    After COLOURS comes whatever of SHADES^3 colours is farthest from all before it, as the eye sees it (CIE L*a*b*).
    """
    if count <= len(COLOURS):
        return COLOURS[:count]
    steps = np.linspace(0, 255, SHADES).astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    seen = _lab(candidates)
    distances = np.linalg.norm(seen[:, None] - _lab(COLOURS), axis=2).min(axis=1)
    further: list[int] = []
    while len(COLOURS) + len(further) < count:
        further.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(seen - seen[further[-1]], axis=1))
    return np.concatenate([COLOURS, candidates[further]])


def _lab(colours: np.ndarray) -> np.ndarray:
    """uint8 RGB [N, 3] as L*a*b*, float32 [N, 3]."""
    return cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _drawn_size(height: int, width: int) -> tuple[int, int]:
    """(width, height), as OpenCV has it."""
    scale = SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _window(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """The mask at the size of the drawn picture, uint8 [H, W], 0 or 1."""
    mask = masks.decode([shape.rle])[0]
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def _outline(drawn: np.ndarray, window: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    contours, _ = cv2.findContours(window, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, colour, thickness, cv2.LINE_AA)


def _write_number(drawn: np.ndarray, window: np.ndarray, number: int, colour: np.ndarray, taken: np.ndarray) -> None:
    """A small label on the shape, or beside it with a line to it, where no other label is.

    Args:
        taken: bool [H, W], where labels are; this one is added.
    """
    depth = cv2.distanceTransform(np.pad(window, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    # Centres of labels that touch no other one and lie in the picture.
    free = cv2.dilate(taken.astype(np.uint8), np.ones((2 * LABEL + 3, 2 * LABEL + 3), np.uint8)) == 0
    free[:LABEL], free[-LABEL:], free[:, :LABEL], free[:, -LABEL:] = False, False, False, False
    rows, columns = free.nonzero()
    if not len(rows):
        return
    nearest = int(((rows - row) ** 2 + (columns - column) ** 2).argmin())
    y, x = int(rows[nearest]), int(columns[nearest])
    ink = tuple(map(int, colour // 2))
    if not window[y, x]:
        cv2.line(drawn, (x, y), (int(column), int(row)), WHITE, 1, cv2.LINE_AA)
    cv2.rectangle(drawn, (x - LABEL, y - LABEL), (x + LABEL, y + LABEL), ink, -1)
    cv2.rectangle(drawn, (x - LABEL, y - LABEL), (x + LABEL, y + LABEL), WHITE, 1)
    (width, height), _ = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    corner = x - width // 2, y + height // 2
    cv2.putText(drawn, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    taken[y - LABEL : y + LABEL + 1, x - LABEL : x + LABEL + 1] = True
