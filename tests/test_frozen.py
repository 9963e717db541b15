"""What a network is spared that only answers: it says the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tsp_model.backbones import TinyBackbone, resnet_fpn
from tsp_model.frozen import NORMS, OneDNNLinear, fold_norms, onednn_linears


def settled(trunk: nn.Module) -> nn.Module:
    """With statistics and weights that are not those of the beginning, in evaluation mode."""
    torch.manual_seed(0)
    for module in trunk.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            for values in (module.weight, module.bias):
                values.data.uniform_(0.5, 1.5)
    return trunk.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [("tiny", False), *((name, frozen) for name in ("resnet18", "resnet50") for frozen in (False, True))],
)
def test_folded_norms_are_gone_and_change_rounding_only(name: str, frozen: bool) -> None:
    trunk = settled(TinyBackbone() if name == "tiny" else resnet_fpn(name, "none", frozen)[0])
    kind = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    assert any(isinstance(module, kind) for module in trunk.modules())
    images = torch.rand(2, 3, 64, 96)
    before = copy.deepcopy(trunk)(images)
    fold_norms(trunk)
    assert not any(isinstance(module, NORMS) for module in trunk.modules())
    for level, expected in before.items():
        torch.testing.assert_close(trunk(images)[level], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


class Trunk(nn.Module):
    """A convolution whose output is used before its norm, too, and a norm that follows none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.convolution, self.norm = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(self.first(x))
        return x + self.norm(x)


def test_a_norm_is_left_where_folding_would_change_another_result() -> None:
    trunk = settled(Trunk())
    images = torch.rand(1, 3, 5, 5)
    before = trunk(images)
    fold_norms(trunk)
    assert isinstance(trunk.first, nn.BatchNorm2d)
    assert isinstance(trunk.norm, nn.BatchNorm2d)
    assert torch.equal(trunk(images), before)


@pytest.mark.parametrize("shape", [(0, 5, 3), (1, 1, 1), (7, 33, 2), (300, 3136, 128)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_multiplies_as_pytorch_does(shape: tuple[int, int, int], bias: bool) -> None:
    rows, inputs, outputs = shape
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(inputs, outputs, bias=bias)).requires_grad_(False)
    x = torch.randn(rows, inputs)
    expected = layers(x)
    state = copy.deepcopy(layers.state_dict())
    onednn_linears(layers)
    assert isinstance(layers[0], OneDNNLinear)
    assert layers.state_dict().keys() == state.keys()
    torch.testing.assert_close(layers(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layers(x.repeat(1, 2)[:, :inputs]), expected, rtol=1e-4, atol=1e-4)  # rows apart


def test_bfloat16_layers_are_left_to_pytorch() -> None:
    layers = nn.Sequential(nn.Linear(4, 4).bfloat16())
    onednn_linears(layers)
    assert type(layers[0]) is nn.Linear
