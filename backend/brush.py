"""Label Studio's run-length code of a brush region, to masks and back.

A brush region is an RGBA image, row by row, whose four channels all hold the mask. Its code is a stream of bits:

    32 bits       how many numbers it holds: height x width x 4
    5 bits        bits of a number, less one
    4 x 4 bits    bits of a run's length in each of its four forms, less one
    and runs of   1 bit: is one number repeated?
                  2 bits: the form
                  as many bits as the form says: the length, less one
                  the repeated number, or each number of the run

`mask2rle` and `decode_rle` do what their namesakes in ``label_studio_sdk.converter.brush`` do, to the byte; those go
through the code bit by bit. Here a code is written as text, one remembered piece a run, that is read as one number in
base two. To read one, a loop only looks for where each run begins, which depends on all runs before it, and the rest is
done for all runs at once. Objects are small beside their images: `encode_window` and `decode_rows` do the same without
touching the pixels around the object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from label_studio_sdk.converter import brush as sdk

from tsp_model.data import masks

CHANNELS = 4
HEADER_BITS = 53
# What the editor and the SDK write; other widths are read, too.
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
LONGEST = 1 << LENGTH_BITS[-1]
SHORT = LONGEST + 1 << WORD_BITS
# Masks have much the same short runs: the bits of so many are remembered, 3 MB.
KNOWN_RUNS = 2**14
# Of 2^28 pixels, more than Pillow opens: a code that announces more is broken or means harm.
MOST_NUMBERS = 2**30


class Codec(NamedTuple):
    """A way to write codes and to read them; `encode_window` and `decode_rows` say what goes in and comes out."""

    encode: Callable[[np.ndarray, int, int, int, int], list[int]]
    decode: Callable[[bytes, int], tuple[np.ndarray, int]]


def mask2rle(mask: np.ndarray) -> list[int]:
    """Encode a mask as `label_studio_sdk.converter.brush.mask2rle` does.

    Args:
        mask: [H, W], whole numbers from 0 to 255: what all four channels of a pixel hold.

    Returns:
        The bytes of the code, 0..255.

    Raises:
        ValueError: not such a mask, or one without a pixel or with more than 2^28.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "iu" or not 0 < mask.size <= MOST_NUMBERS // CHANNELS:
        raise ValueError(f"the mask is {mask.dtype} {list(mask.shape)}; give whole numbers, [H, W], at most 2^28")
    flat = mask.ravel()
    ends = np.append((flat[1:] != flat[:-1]).nonzero()[0] + 1, flat.size)
    values = flat[ends - 1].astype(np.int64)
    if values.min() < 0 or values.max() > 255:
        raise ValueError(f"the mask holds numbers from {values.min()} to {values.max()}; give 0 to 255")
    return _pack(_lengths(ends) * CHANNELS, values)


def encode_window(window: np.ndarray, top: int, left: int, height: int, width: int) -> list[int]:
    """The code of a mask of [height, width] pixels, 255 for the object, without making the mask.

    Args:
        window: bool [h, w], all inside the mask, which is empty elsewhere. top, left: its first row and column.
    """
    ends = masks.run_ends(window, top * width + left, width)
    lengths = _lengths(np.append(ends, height * width)) * CHANNELS
    return _pack(lengths, np.arange(len(lengths)) % 2 * 255)


def decode_rle(rle: Sequence[int]) -> np.ndarray:
    """Decode a code as `label_studio_sdk.converter.brush.decode_rle` does.

    Args:
        rle: the bytes of the code. Nothing is read beyond the numbers that it announces.

    Returns:
        uint8 [H * W * 4], the channels of each pixel in turn.

    Raises:
        ValueError: not bytes, cut off, too large, or a number above 255. The message is one line.
    """
    values, ends = _unpack(rle)
    return np.repeat(values, _lengths(ends))


def decode_rows(rle: Sequence[int], width: int) -> tuple[np.ndarray, int]:
    """The last channel of `decode_rle`, of the rows from the first to the last that are not all zero.

    Args:
        rle: the bytes of the code of a mask [H, W].
        width: W.

    Returns:
        uint8 [h, W], alpha ([0, W] if it is zero everywhere), and the first of these rows.

    Raises:
        ValueError: as `decode_rle`.
    """
    values, ends = _unpack(rle)
    ends //= CHANNELS  # of the first n numbers n // 4 are alpha
    lengths = _lengths(ends)
    drawn = (values * lengths).nonzero()[0]
    if not len(drawn):
        return np.zeros((0, width), dtype=np.uint8), 0
    first, last = int(drawn[0]), int(drawn[-1])
    start, end = int(ends[first] - lengths[first]), int(ends[last])
    top, bottom = start // width, -(-end // width)
    rows = np.zeros((bottom - top, width), dtype=np.uint8)
    runs = slice(first, last + 1)
    rows.reshape(-1)[start - top * width : end - top * width] = values[runs].repeat(lengths[runs])
    return rows, top


def to_bytes(rle: Sequence[int]) -> bytes:
    """A code as bytes; ValueError if it is not a list of numbers from 0 to 255."""
    try:
        return rle if isinstance(rle, bytes) else bytes(list(rle))
    except (TypeError, ValueError):
        raise ValueError("the code is not a list of bytes") from None


def _sdk_encode(window: np.ndarray, top: int, left: int, height: int, width: int) -> list[int]:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top : top + window.shape[0], left : left + window.shape[1]] = window * np.uint8(255)
    return sdk.mask2rle(mask)


def _sdk_decode(rle: bytes, width: int) -> tuple[np.ndarray, int]:
    return sdk.decode_rle(rle).reshape(-1, width, CHANNELS)[..., CHANNELS - 1], 0


CODECS = {"fast": Codec(encode_window, decode_rows), "sdk": Codec(_sdk_encode, _sdk_decode)}


def _pack(lengths: np.ndarray, values: np.ndarray) -> list[int]:
    """The code of N runs: int64 [N], 0 for a run that is not there, and int64 [N] numbers from 0 to 255."""
    # One number for a run is remembered in half the time that two take.
    runs = lengths << WORD_BITS | values
    long = (runs >= SHORT).nonzero()[0]
    short = runs.tolist()
    for index in long.tolist():
        short[index] = 0
    texts = list(map(_short, short))
    for index in long.tolist():
        texts[index] = _long(int(runs[index]))
    bits = _header(int(lengths.sum())) + "".join(texts)
    # Bits that fill their last byte get another one of zeros, as the SDK has it.
    size = len(bits) // 8 + 1
    return list((int(bits, 2) << 8 * size - len(bits)).to_bytes(size, "big"))


def _header(count: int) -> str:
    return f"{count:032b}{WORD_BITS - 1:05b}" + "".join(f"{size - 1:04b}" for size in LENGTH_BITS)


@lru_cache(KNOWN_RUNS)
def _short(run: int) -> str:
    """The bits of a run (length and number in one) that one of the forms holds; none for a length of 0."""
    length, value = divmod(run, 1 << WORD_BITS)
    form = next(form for form, size in enumerate(LENGTH_BITS) if length <= 1 << size)
    return _bits(form, length, value) if length else ""


def _long(run: int) -> str:
    """The bits of a run that is too long: several of the last form, all but the last of them full."""
    length, value = divmod(run, 1 << WORD_BITS)
    form = len(LENGTH_BITS) - 1
    full, rest = divmod(length - 1, LONGEST)
    return _bits(form, LONGEST, value) * full + _bits(form, rest + 1, value)


def _bits(form: int, length: int, value: int) -> str:
    return f"1{form:02b}{length - 1:0{LENGTH_BITS[form]}b}{value:0{WORD_BITS}b}"


def _lengths(ends: np.ndarray) -> np.ndarray:
    """Of runs one after the other from 0 on that end at these numbers, int64 [N]. np.diff takes longer for few."""
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    return lengths


def _unpack(rle: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A code as runs: uint8 [N] numbers, and int64 [N] where in the decoded sequence their runs end."""
    code = to_bytes(rle)
    if 8 * len(code) < HEADER_BITS:
        raise ValueError(f"the code is cut off: {len(code)} bytes are less than its header")
    header = int.from_bytes(code[:7], "big")
    count, word = header >> 24, (header >> 19 & 31) + 1
    sizes = [(header >> shift & 15) + 1 for shift in (15, 11, 7, 3)]
    if count > MOST_NUMBERS:
        raise ValueError(f"the code announces {count} numbers; more than {MOST_NUMBERS} are not read")

    # Eight bytes from each byte on: whatever bit a run begins at, they hold all of it that can be cut out.
    windows = np.ndarray(len(code) + 1, dtype=">u8", buffer=code + bytes(8), strides=(1,))

    def ahead(places: np.ndarray) -> np.ndarray:
        """At least 57 bits from each of these bits on, the first of them highest, uint64."""
        return windows[places >> 3].astype(np.uint64) << (places & 7)

    starts = _starts(code, word, sizes)
    runs = ahead(starts)
    widths = np.array(sizes, dtype=np.uint64)[runs >> 61 & 3]
    lengths = ((runs << 3 >> (64 - widths)) + 1).view(np.int64)
    ends = np.cumsum(lengths)
    used = np.count_nonzero(ends - lengths < count)
    ends = np.minimum(ends[:used], count)
    places = starts[:used] + 3 + widths[:used]
    repeated = runs[:used] >> 63 != 0
    if not repeated.all():
        places, ends = _apart(places, ends, repeated, word)
    if count and (not used or ends[-1] < count or places[-1] + word > 8 * len(code)):
        raise ValueError(f"the code is cut off: it announces {count} numbers and holds fewer")
    values = ahead(places) >> (64 - word)
    if word > 8 and values.max(initial=0) > 255:
        raise ValueError(f"the code holds the number {values.max()}; only 0 to 255 are read")
    return values.astype(np.uint8), ends


def _apart(places: np.ndarray, ends: np.ndarray, repeated: np.ndarray, word: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs that do not repeat one number taken apart into as many runs of one.

    Args:
        places: uint64 [N], the bit at which each run's first number begins; ends: int64 [N]; repeated: bool [N].
        word: bits of a number.

    Returns:
        places and ends, one for each number in the code.
    """
    lengths = _lengths(ends)
    parts = np.where(repeated, 1, lengths)
    within = np.arange(parts.sum()) - (np.cumsum(parts) - parts).repeat(parts)
    ends = np.cumsum(np.where(repeated, lengths, 1).repeat(parts))
    return places.repeat(parts) + (within * word).astype(np.uint64), ends


def _starts(code: bytes, word: int, sizes: Sequence[int]) -> np.ndarray:
    """The bit at which each run begins, uint64 [N]; behind the last number there may be some that are none."""
    bits = np.unpackbits(np.frombuffer(code, dtype=np.uint8))
    # How long a run would be that begins at this bit, by its first three; 0 where only its length tells.
    widths = bytes(4) + bytes(3 + size + word for size in sizes)
    steps = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes().translate(widths.ljust(256))
    found = []
    at = HEADER_BITS
    while at < len(steps):
        found.append(at)
        at += steps[at] or _step(code, at, word, sizes)
    return np.array(found, dtype=np.uint64)


def _step(code: bytes, at: int, word: int, sizes: Sequence[int]) -> int:
    """The bits of a run at bit `at` that does not repeat its number."""
    head = int.from_bytes(code[at // 8 : at // 8 + 4].ljust(4, b"\0"), "big") << at % 8
    size = sizes[head >> 29 & 3]
    length = (head >> (29 - size) & (1 << size) - 1) + 1
    return 3 + size + word * length
