"""Bitmask regions: the mask as a PNG of the image's size in a data address; opaque pixels belong to the object."""

from __future__ import annotations

import base64
import binascii
import io

import cv2
import numpy as np
from PIL import Image

PREFIX = "data:image/png;base64,"
HALF_OPAQUE = 128
# Masks are long runs of two values: looking for anything else takes longer and finds nothing.
ENCODING = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


def to_address(window: np.ndarray, top: int, left: int, height: int, width: int) -> str:
    """A mask of [height, width] pixels that is empty outside of a window; black on nothing, as the editor paints it.

    Args:
        window: bool [h, w]. top, left: its first row and column.
    """
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    rows, columns = window.shape
    pixels[top : top + rows, left : left + columns, 3] = window * np.uint8(255)
    return PREFIX + base64.b64encode(cv2.imencode(".png", pixels, ENCODING)[1]).decode("ascii")


def from_address(address: str, height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width]; a pixel belongs to the object where it is at least half opaque.

    Raises:
        ValueError: not such an address, not a whole PNG, or one of another size, which is not decoded.
    """
    if not isinstance(address, str) or not address.startswith(PREFIX):
        raise ValueError(f"its imageDataURL does not begin with {PREFIX}")
    try:
        code = base64.b64decode(address[len(PREFIX) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its imageDataURL is no base64 ({error})") from None
    try:
        with Image.open(io.BytesIO(code), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ValueError(f"its PNG has {image.width} x {image.height} pixels, not {width} x {height}")
            return np.asarray(image.convert("RGBA"))[..., 3] >= HALF_OPAQUE
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow cannot or will not read it
        raise ValueError(f"its imageDataURL is no whole PNG ({type(error).__name__})") from None
