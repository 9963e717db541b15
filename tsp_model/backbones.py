"""Backbones: torchvision's ResNets with FPN, and a tiny residual FPN that a CPU trains from nothing in seconds."""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from tsp_model.settings import SettingsError

log = logging.getLogger(__name__)
DOWNLOAD_TIMEOUT_S = 20


class TinyBackbone(nn.Module):
    """Residual network with an FPN of three levels (strides 4, 8, 16).

    forward: images [B, 3, H, W] -> {"0", "1", "2"}: [B, out_channels, H / stride, W / stride].
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96), out_channels: int = 64) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stem = nn.Sequential(_convolution(3, 16, stride=2), _convolution(16, widths[0], stride=2))
        self.stages = nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            self.stages.append(_ResidualBlock(channels, width, stride=1 if level == 0 else 2))
            channels = width
        self.fpn = FeaturePyramidNetwork(list(widths), out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        levels: OrderedDict[str, Tensor] = OrderedDict()
        for level, stage in enumerate(self.stages):
            x = stage(x)
            levels[str(level)] = x
        return self.fpn(levels)


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def resnet_fpn(name: str, weights: str, frozen_norms: bool | None = None) -> tuple[nn.Module, bool]:
    """A torchvision ResNet with FPN.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        weights: "auto": ImageNet weights from torchvision's cache or download, and a warning where they cannot be had;
            "none"; or the path of a local .pth or .safetensors file with a ResNet's state.
        frozen_norms: None: frozen with ImageNet weights (batches are too small for their statistics), trainable
            without. Given when a checkpoint is rebuilt.

    Returns:
        The backbone and whether its norms are frozen.
    """
    state = None if weights == "none" else _imagenet_state(name, weights)
    frozen = state is not None if frozen_norms is None else frozen_norms
    backbone = resnet_fpn_backbone(
        backbone_name=name,
        weights=None,
        norm_layer=FrozenBatchNorm2d if frozen else nn.BatchNorm2d,
        trainable_layers=3 if frozen else 5,  # torchvision's own choice for ImageNet weights; from nothing, all
    )
    if state is not None:
        _load_body(backbone.body, state, weights)
    return backbone, frozen


def _imagenet_state(name: str, weights: str) -> Mapping[str, Tensor] | None:
    """The state dict that `weights` names; None, with a warning, where a download is impossible."""
    if weights != "auto":
        path = Path(weights)
        if not path.is_file():
            raise SettingsError(f"weights={weights!r} is no file; give a local .pth or .safetensors, 'auto' or 'none'.")
        try:
            if path.suffix == ".safetensors":
                return safetensors.torch.load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SettingsError(f"weights={weights!r} cannot be read ({reason}); give another file.") from error
    entry = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_S):
            return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, HTTPException) as error:
        log.warning(
            "ImageNet weights for %s cannot be had (%s): the backbone starts from random weights with trainable norms "
            "and needs many more labels; set weights to a local file to avoid this.",
            name,
            error,
        )
        return None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub opens addresses without a time limit of its own; a silent network must not hang a training."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_body(body: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    own = body.state_dict()
    wrong = [n for n, value in own.items() if n not in state or state[n].shape != value.shape]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise SettingsError(f"weights={source!r} do not fit the backbone ({wrong[0]} differs); use its own file.")
    body.load_state_dict(state, strict=False)
