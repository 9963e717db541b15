"""The gather against torchvision's kernel: forward and backward, on RoIs of every kind."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign

from tsp_model.roi_align import GatherRoIAlign

IMAGE = (256, 192)


def both(size: int, samples: int, levels: int = 4) -> tuple[GatherRoIAlign, MultiScaleRoIAlign]:
    names = [str(i) for i in range(levels)]
    gather = GatherRoIAlign(names, size, samples)
    gather.gather = True
    return gather, MultiScaleRoIAlign(names, size, samples)


def features(levels: int = 4, images: int = 2, precision: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(i): torch.randn(images, 6, 64 >> i, 48 >> i, generator=generator)
        .to(precision, memory_format=torch.channels_last)
        .requires_grad_()
        for i in range(levels)
    }


def random_boxes(count: int) -> Tensor:
    """Of 0.4 to 150 pixels, many of them partly outside of the image."""
    generator = torch.Generator().manual_seed(1)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([IMAGE[1], IMAGE[0]])
    half = torch.exp(torch.rand(count, 2, generator=generator) * 6 - 1) / 2
    return torch.cat([centre - half, centre + half], dim=1)


BOXES = {
    "random": random_boxes(150),
    "none": torch.zeros(0, 4),
    "a point": torch.tensor([[20.0, 30.0, 20.0, 30.0]]),
    "whole image": torch.tensor([[0.0, 0.0, 192.0, 256.0]]),
    "outside": torch.tensor([[-50.0, -40.0, -30.0, -20.0], [300.0, 300.0, 340.0, 350.0], [-30.0, 10.0, 500.0, 20.0]]),
    "turned over": torch.tensor([[60.0, 60.0, 40.0, 30.0]]),
    "at the last pixel": torch.tensor([[187.0, 251.0, 192.0, 256.0]]),
}


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 14])
@pytest.mark.parametrize("name", BOXES)
def test_equals_torchvision_forward_and_backward(name: str, size: int, samples: int) -> None:
    boxes = [BOXES[name], BOXES["random"][:3]]
    outputs, gradients = [], []
    for pool in both(size, samples):
        inputs = features()
        output = pool(inputs, boxes, [IMAGE, IMAGE])
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        (output * weights).sum().backward()
        outputs.append(output)
        gradients.append({level: torch.zeros_like(x) if x.grad is None else x.grad for level, x in inputs.items()})
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)
    for level in gradients[0]:
        torch.testing.assert_close(gradients[0][level], gradients[1][level], atol=1e-3, rtol=1e-3)


def test_no_box_at_all_keeps_the_graph() -> None:
    gather, _ = both(7, 2)
    inputs = features()
    output = gather(inputs, [torch.zeros(0, 4)] * 2, [IMAGE, IMAGE])
    assert output.shape == (0, 6, 7, 7)
    output.sum().backward()
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in inputs.values())


def test_one_level_and_images_of_a_padded_batch() -> None:
    boxes = [BOXES["random"][:20], BOXES["random"][20:50]]
    gather, library = both(7, 2, levels=1)
    inputs = features(levels=1)
    found, expected = (pool(inputs, boxes, [IMAGE, (200, 100)]) for pool in (gather, library))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_features_stay_bfloat16_and_lose_no_more_than_their_rounding() -> None:
    gather, library = both(7, 2)
    boxes = [BOXES["random"], BOXES["random"][:3]]
    inputs = features(precision=torch.bfloat16)
    found = gather(inputs, boxes, [IMAGE, IMAGE])
    expected = library({level: x.float() for level, x in inputs.items()}, boxes, [IMAGE, IMAGE])
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 2**-8  # half a unit in the last place


def test_bfloat16_gradients_of_many_boxes_add_up() -> None:
    """512 boxes on the same object: what each adds to a pixel is less than a bfloat16 sum could still take up."""
    gather, library = both(7, 2)
    generator = torch.Generator().manual_seed(2)
    boxes = [torch.tensor([40.0, 60.0, 120.0, 160.0]) + torch.rand(512, 4, generator=generator) * 8]
    quick, exact = features(images=1, precision=torch.bfloat16), features(images=1)
    gather(quick, boxes, [IMAGE]).float().sum().backward()
    library(exact, boxes, [IMAGE]).sum().backward()
    for level, x in exact.items():
        if x.grad is not None and x.grad.any():
            found = quick[level].grad.float()
            assert (found - x.grad).norm() / x.grad.norm() < 2**-8, level
            assert float(found.sum() / x.grad.sum()) == pytest.approx(1, abs=1e-3)


def test_switched_off_it_is_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gather, library = both(7, 2)
    boxes = [BOXES["random"], BOXES["random"][:3]]
    inputs = features()

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("gathered")

    monkeypatch.setattr(functional, "embedding_bag", refuse)
    with pytest.raises(AssertionError, match="gathered"):
        gather(inputs, boxes, [IMAGE, IMAGE])
    gather.gather = False
    assert torch.equal(gather(inputs, boxes, [IMAGE, IMAGE]), library(inputs, boxes, [IMAGE, IMAGE]))
