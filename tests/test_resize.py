"""Images and masks as the network gets them: torchvision's to the last pixel, unless intensities are relative."""

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tsp_model.resize import Resize


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("size", [(40, 60), (77, 31), (64, 64), (150, 333), (1, 9)], ids=str)
def test_masks_and_boxes_are_torchvisions(size: tuple[int, int], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    image = torch.rand(3, *size, generator=generator)
    target = {
        "boxes": torch.rand(count, 4, generator=generator) * min(size),
        "labels": torch.ones(count, dtype=torch.int64),
        "masks": (torch.rand(count, *size, generator=generator) > 0.5).to(torch.uint8),
    }
    ours, theirs = (
        kind(min_size=64, max_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3)([image], [target])
        for kind in (Resize, GeneralizedRCNNTransform)
    )
    assert torch.equal(ours[0].tensors, theirs[0].tensors)
    assert ours[1][0].keys() == theirs[1][0].keys()
    assert all(torch.equal(ours[1][0][name], value) for name, value in theirs[1][0].items())
    assert ours[1][0]["masks"].dtype == torch.uint8
    assert "masks" in target and target["masks"].shape[1:] == size, "the caller's stay as they are"


@pytest.mark.parametrize(("size", "seen"), [((300, 1), (64, 1)), ((1, 65), (1, 64)), ((2, 20_000), (1, 64))], ids=str)
def test_an_image_too_narrow_for_a_pixel_keeps_one(size: tuple[int, int], seen: tuple[int, int]) -> None:
    resize = Resize(min_size=64, max_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    height, width = size
    target = {"boxes": torch.tensor([[0.0, 0.0, width, height / 2]]), "masks": torch.ones(1, *size, dtype=torch.uint8)}
    batch, (found,) = resize([torch.zeros(3, *size)], [target])
    assert batch.image_sizes == [seen]
    assert found["masks"].shape == (1, *seen)
    assert found["boxes"].tolist() == [[0, 0, seen[1], seen[0] / 2]]
    assert resize([torch.zeros(3, *size)])[0].image_sizes == [seen]


def test_relative_intensities_forget_brightness_and_contrast() -> None:
    resize = Resize(min_size=64, max_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3, relative=True)
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    seen, dim = (resize.normalize(one) for one in (image, 0.1 * image + 0.3))
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5)
    assert float(seen.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(seen, dim, atol=1e-4, rtol=0)
    assert float(resize.normalize(torch.full((3, 8, 8), 0.7)).abs().max()) < 1e-3, "one colour is nothing"
