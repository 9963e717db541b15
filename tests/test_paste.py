"""Masks coded inside their boxes against torchvision's pasting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from tsp_model.data import masks
from tsp_model.paste import codes, pasted

SIZE = (48, 80)
BOXES = {
    "inside": [10.2, 5.7, 33.9, 29.1],
    "the whole image": [0, 0, 80, 48],
    "over every edge": [-7.5, -3.2, 95.1, 60.4],
    "a point": [20, 20, 20, 20],
    "at the last pixel": [79.2, 47.2, 80, 48],
    "a line": [5, 8.5, 70, 8.5],
}


def found(boxes: list[list[float]], side: int = 28) -> dict[str, object]:
    generator = torch.Generator().manual_seed(3)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "box_masks": torch.rand(len(boxes), side, side, generator=generator),
        "size": SIZE,
        "scores": torch.ones(len(boxes)),
    }


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", BOXES)
def test_codes_are_those_of_the_pasted_mask(name: str, threshold: float) -> None:
    one = found([BOXES[name]])
    library = paste_masks_in_image(one["box_masks"][:, None], one["boxes"], SIZE)
    whole = pasted(one)
    assert torch.equal(whole["masks"], library)
    assert set(whole) == {"boxes", "scores", "masks"}
    expected = masks.encode(library[:, 0] > threshold)
    assert codes(one, threshold) == (SIZE, expected)
    assert codes(whole, threshold) == (SIZE, expected)


def test_many_and_none() -> None:
    many = found(list(BOXES.values()))
    assert codes(many, 0.5) == codes(pasted(many), 0.5)
    assert codes(found([]), 0.5) == codes(pasted(found([])), 0.5) == (SIZE, [])


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    edges=st.tuples(*[st.floats(0, 1)] * 4),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_window_is_coded_as_the_whole_mask(
    height: int, width: int, edges: tuple[float, float, float, float], density: float, seed: int
) -> None:
    top, bottom = sorted(round(edge * height) for edge in edges[:2])
    left, right = sorted(round(edge * width) for edge in edges[2:])
    window = np.random.default_rng(seed).random((bottom - top, right - left)) < density
    whole = np.zeros((height, width), dtype=bool)
    whole[top:bottom, left:right] = window
    assert masks.encode_window(window, top, left, height, width) == masks.encode(whole[None])[0]
