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
through the code bit by bit. Here a code is text of zeros and ones that a regular expression takes apart into its runs,
and tables remember what the bits of a short run mean and the other way round. Objects have far fewer runs than pixels:
`encode_ends` and `decode_ends` do the same from run to run, without a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from label_studio_sdk.converter import brush as sdk

CHANNELS = 4
HEADER_BITS = 53
# What the editor and the SDK write; other widths are read, too.
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
WIDTHS = f"{WORD_BITS - 1:05b}" + "".join(f"{size - 1:04b}" for size in LENGTH_BITS)
LONGEST = 1 << LENGTH_BITS[-1]
# Masks have much the same short runs: the bits of so many are remembered, some 3 MB each way.
KNOWN_RUNS = 2**14
# Bits of a run of the widest form and number.
WIDEST_RUN = 3 + 16 + 32
# Of 2^28 pixels, more than Pillow opens: a code that announces more is broken or means harm.
MOST_NUMBERS = 2**30
# The editor's strokes have soft edges: a pixel belongs to the object when the stroke covers half of it.
HALF_COVERED = 128


class Codec(NamedTuple):
    """A way to write codes and to read them; `encode_ends` and `decode_ends` say what goes in and comes out."""

    encode: Callable[[np.ndarray, int], list[int]]
    decode: Callable[[bytes], np.ndarray]


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
    return _pack(_lengths(ends) * CHANNELS << WORD_BITS | values, mask.size * CHANNELS)


def encode_ends(ends: np.ndarray, pixels: int) -> list[int]:
    """The code of a mask, 255 for the object, without making the mask.

    Args:
        ends: int64 [2R], where its runs end (`masks.row_ends`). pixels: of the mask.
    """
    edges = np.empty(len(ends) + 1, dtype=np.int64)
    edges[:-1], edges[-1] = ends, pixels
    runs = _lengths(edges) * (CHANNELS << WORD_BITS)
    runs[1::2] |= 255
    return _pack(runs, pixels * CHANNELS)


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
    return np.repeat(values.astype(np.uint8), _lengths(ends))


def decode_ends(rle: Sequence[int]) -> np.ndarray:
    """Where runs end in the pixels whose last channel is at least HALF_COVERED, without making the mask.

    Args:
        rle: the bytes of the code.

    Returns:
        int64 [2R], as `masks.row_ends` gives them.

    Raises:
        ValueError: as `decode_rle`.
    """
    values, ends = _unpack(rle)
    edges = np.zeros(len(ends) + 1, dtype=np.int64)
    edges[1:] = ends // CHANNELS  # of the first n numbers n // 4 are alpha
    some = edges[1:] > edges[:-1]
    if not some.all():
        values, edges = values[some], edges[np.append(True, some)]
    drawn = np.zeros(len(edges) + 1, dtype=bool)
    drawn[1:-1] = values >= HALF_COVERED
    return edges[drawn[1:] != drawn[:-1]]


def to_bytes(rle: Sequence[int]) -> bytes:
    """A code as bytes; ValueError if it is not a list of numbers from 0 to 255."""
    try:
        return rle if isinstance(rle, bytes) else bytes(list(rle))
    except (TypeError, ValueError):
        raise ValueError("the code is not a list of bytes") from None


def _sdk_encode(ends: np.ndarray, pixels: int) -> list[int]:
    lengths = _lengths(np.append(ends, pixels))
    return sdk.mask2rle(np.repeat(np.arange(len(lengths)) % 2 * 255, lengths).astype(np.uint8)[None])


def _sdk_decode(rle: bytes) -> np.ndarray:
    drawn = sdk.decode_rle(rle)[CHANNELS - 1 :: CHANNELS] >= HALF_COVERED
    return np.flatnonzero(np.diff(drawn, prepend=False, append=False))


CODECS = {"fast": Codec(encode_ends, decode_ends), "sdk": Codec(_sdk_encode, _sdk_decode)}


class _Table(dict[Any, Any]):
    """Runs to bits or bits to runs as `make` does it, remembered. A dictionary is twice as quick as lru_cache."""

    def __init__(self, make: Callable[[Any], int | str]) -> None:
        self.make = make

    def __missing__(self, key: int | str) -> int | str:
        value = self.make(key)
        # More bits than a run has are many runs in one, or none.
        if len(value if isinstance(value, str) else str(key)) <= WIDEST_RUN:
            if len(self) >= KNOWN_RUNS:
                self.clear()
            self[key] = value
        return value


def _pack(runs: np.ndarray, count: int) -> list[int]:
    """The code of `count` numbers in N runs: int64 [N], length and number in one; a length of 0 is no run."""
    # A zero at the end: bits that fill their last byte get another one, as the SDK has it.
    bits = f"{count:032b}{WIDTHS}{''.join(map(_TEXTS.__getitem__, runs.tolist()))}0"
    return np.packbits(np.frombuffer(bits.encode(), dtype=np.uint8) & 1).tolist()


def _text(run: int) -> str:
    """The bits of a run; of the last form, several if it is too long for one, all but the last of them full."""
    length, value = divmod(run, 1 << WORD_BITS)
    if not length:
        return ""
    last = len(LENGTH_BITS) - 1
    form = next((form for form, size in enumerate(LENGTH_BITS) if length <= 1 << size), last)
    full, rest = divmod(length - 1, LONGEST)
    return _bits(last, LONGEST, value) * full + _bits(form, rest + 1, value)


def _bits(form: int, length: int, value: int) -> str:
    return f"1{form:02b}{length - 1:0{LENGTH_BITS[form]}b}{value:0{WORD_BITS}b}"


_TEXTS = _Table(_text)


def _lengths(ends: np.ndarray) -> np.ndarray:
    """Of runs one after the other from 0 on that end at these numbers, int64 [N]. np.diff takes longer for few."""
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    return lengths


def _unpack(rle: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A code as runs: int64 [N] numbers, 0..255, and int64 [N] where in the decoded sequence their runs end."""
    code = to_bytes(rle)
    if 8 * len(code) < HEADER_BITS:
        raise ValueError(f"the code is cut off: {len(code)} bytes are less than its header")
    header = int.from_bytes(code[:7], "big")
    count, word = header >> 24, (header >> 19 & 31) + 1
    sizes = (header >> 15 & 15) + 1, (header >> 11 & 15) + 1, (header >> 7 & 15) + 1, (header >> 3 & 15) + 1
    if count > MOST_NUMBERS:
        raise ValueError(f"the code announces {count} numbers; more than {MOST_NUMBERS} are not read")

    pattern, table = _reader(word, sizes)
    bits = bin(int.from_bytes(b"\1" + code, "big"))[3:]
    pieces = pattern.findall(bits, HEADER_BITS)
    runs = np.fromiter(map(table.__getitem__, pieces), np.int64, len(pieces))
    ends = (runs >> word).cumsum()
    if ends[-1] < count:
        rest = _one_by_one(bits, len(bits) - len(pieces[-1]), word, sizes)
        runs = np.append(runs[:-1], np.array(rest, dtype=np.int64))
        ends = (runs >> word).cumsum()
        if not len(runs) or ends[-1] < count:
            raise ValueError(f"the code is cut off: it announces {count} numbers and holds fewer")
    used = ends.searchsorted(count) + 1 if count else 0
    ends = ends[:used]
    ends[-1:] = count  # The last run may be longer than what is announced.
    values = runs[:used] & (1 << word) - 1
    if word > 8 and values.max(initial=0) > 255:
        raise ValueError(f"the code holds the number {values.max()}; only 0 to 255 are read")
    return values, ends


@lru_cache(8)
def _reader(word: int, sizes: tuple[int, ...]) -> tuple[re.Pattern[str], _Table]:
    """What takes the bits of a code apart, and what each piece means.

    Args:
        word: bits of a number; sizes: of a run's length in each form.

    Returns:
        A pattern that finds runs of one repeated number and then, as one piece, all that is no such run; and for such a
        piece the length and the number in one, ``length << word | number``, a length of 0 for what is no such run.
    """

    def run(text: str) -> int:
        first = 3 + sizes[int(text[1:3], 2)] if len(text) > 3 and text[0] == "1" else 0
        if not first or len(text) != first + word:
            return 0
        return int(text[3:first], 2) + 1 << word | int(text[first:], 2)

    forms = "|".join(f"{form:02b}.{{{size + word}}}" for form, size in enumerate(sizes))
    return re.compile(f"(?s)1(?:{forms})|.+"), _Table(run)


def _one_by_one(bits: str, at: int, word: int, sizes: Sequence[int]) -> list[int]:
    """The runs from a bit on, as `_reader` has them; those of different numbers taken apart into runs of one."""
    runs = []
    while at + 3 <= len(bits):
        first = at + 3 + sizes[int(bits[at + 1 : at + 3], 2)]
        if first + word > len(bits):
            break
        length = int(bits[at + 3 : first], 2) + 1
        repeated, alone = (length, 1) if bits[at] == "1" else (1, length)
        at = first + alone * word
        numbers = range(first, min(at, len(bits) - word + 1), word)
        runs += [repeated << word | int(bits[place : place + word], 2) for place in numbers]
    return runs
