"""Bitmask regions: the mask as a PNG of the image's size in a data address; opaque pixels belong to the object."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

PREFIX = "data:image/png;base64,"
HALF_OPAQUE = 128
BLACK_ON_NOTHING = {"transparency": b"\x00\xff", "bits": 1, "compress_level": 1}


def to_address(window: np.ndarray, top: int, left: int, height: int, width: int) -> str:
    """A mask of [height, width] pixels that is empty outside of a window; black on nothing, as the editor paints it, in
    a palette of these two: of RGBA's 32 bits a pixel all but one would say nothing.

    Args:
        window: bool [h, w]. top, left: its first row and column.
    """
    pixels = np.zeros((height, width), dtype=np.uint8)
    rows, columns = window.shape
    pixels[top : top + rows, left : left + columns] = window
    image = Image.frombuffer("P", (width, height), pixels)
    image.putpalette(bytes(6))
    code = io.BytesIO()
    image.save(code, "PNG", **BLACK_ON_NOTHING)
    return PREFIX + base64.b64encode(code.getvalue()).decode("ascii")


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
