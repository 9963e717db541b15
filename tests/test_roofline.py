"""The bytes that a network moves at least, counted by hand."""

import torch
from torch import nn

from scripts.speed.roofline import moved_bytes


def test_two_layers_read_their_inputs_and_weights_and_write_their_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bias=False))
    convolution = 3 * 16 + (4 * 3 * 9 + 4) + 4 * 16
    linear = 64 + 64 * 5 + 5
    assert moved_bytes(model, torch.rand(1, 3, 4, 4)) == 2 * (convolution + linear)
    assert not any(module._forward_hooks for module in model.modules())
