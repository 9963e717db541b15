"""Images as projects really hold them, and as nobody wants them: each with what reading it must give."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

SHAPE = (24, 36)
# Name, file, what reading it gives (RGB pixels [H, W, 3]; None: it is refused), how far a value may be off.
Strange = tuple[str, bytes, np.ndarray | None, int]


def strange_images() -> Iterator[Strange]:
    """More than 200 of them, the same ones each time."""
    yield from _whole()
    yield from _turned()
    yield from _deep()
    yield from _odd_sizes()
    yield from _several_frames()
    yield from _cut_off()
    yield from _nonsense()


def _picture(mode: str = "RGB") -> Image.Image:
    """Smooth, so that a lossy format keeps it, and unlike its mirror images."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.stack([5 * y, 4 * x, 255 - 3 * x - 2 * y], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}


def _whole() -> Iterator[Strange]:
    for kind, modes in MODES.items():
        for mode in modes:
            image = _picture(mode)
            lossy = {"JPEG": 12, "WEBP": 24, "GIF": 40 if mode == "RGB" else 0}.get(kind, 0)
            yield f"{kind} {mode}", _file(image, kind), _rgb(image), lossy
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        code = _file(_picture(), "TIFF", compression=compression)
        yield f"TIFF {compression}", code, _rgb(_picture()), 12 if compression == "jpeg" else 0
    yield "TIFF group4", _file(_picture("1"), "TIFF", compression="group4"), _rgb(_picture("1")), 0
    yield "progressive JPEG", _file(_picture(), "JPEG", progressive=True), _rgb(_picture()), 12
    yield "lossless WEBP", _file(_picture(), "WEBP", lossless=True), _rgb(_picture()), 0
    yield "interlaced palette", _file(_picture("P"), "GIF", interlace=1), _rgb(_picture("P")), 0
    for name, pixels in (("RGB", _rgb(_picture())), ("RGBA", np.asarray(_picture("RGBA")))):
        code = cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]].astype(np.uint16) * 257)[1].tobytes()
        yield f"PNG {name} of 16 bits a channel", code, _rgb(_picture()), 0
    transparent = _picture("RGBA")
    transparent.putalpha(Image.fromarray(np.tile(np.arange(SHAPE[1], dtype=np.uint8) * 7, (SHAPE[0], 1))))
    yield "half transparent PNG", _file(transparent, "PNG"), _rgb(_picture()), 0
    yield "palette with a transparent colour", _file(_picture("P"), "PNG", transparency=3), _rgb(_picture("P")), 0
    yield "a JPEG called PNG", _file(_picture(), "JPEG"), _rgb(_picture()), 12
    yield "rubbish after the end", _file(_picture(), "PNG") + b"\0" * 999, _rgb(_picture()), 0


# The transposition that undoes each EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned() -> Iterator[Strange]:
    for kind, off in (("JPEG", 12), ("TIFF", 0), ("PNG", 0), ("WEBP", 24)):
        for orientation in (1, *TURNS, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            turned = _picture().transpose(TURNS[orientation]) if orientation in TURNS else _picture()
            yield f"{kind}, EXIF orientation {orientation}", _file(_picture(), kind, exif=exif), _rgb(turned), off


def _deep() -> Iterator[Strange]:
    """Samples of more than 8 bits; the largest value says how many of them are used."""
    for bits in (9, 10, 12, 14, 16):
        samples = np.linspace(0, 2**bits - 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint16)
        full = 2 ** (bits + bits % 2) - 1  # 9 bits are scaled as 10
        grey = np.repeat(np.round(samples * (255 / full))[..., None], 3, axis=-1).astype(np.uint8)
        for kind in ("PNG", "TIFF"):
            yield f"{kind} of {bits} bits", _file(Image.fromarray(samples), kind), grey, 1
    fractions = np.linspace(0, 1, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    grey = np.repeat(np.round(fractions * 255)[..., None], 3, axis=-1).astype(np.uint8)
    yield "TIFF of fractions", _file(Image.fromarray(fractions), "TIFF"), grey, 1
    holes = fractions.copy()
    holes[0, :9] = np.nan
    expected = grey.copy()
    expected[0, :9] = 0
    yield "TIFF of fractions and holes", _file(Image.fromarray(holes), "TIFF"), expected, 1
    numbers = np.linspace(0, 40_000, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.int32)
    grey = np.repeat(np.round(numbers * (255 / 65535))[..., None], 3, axis=-1).astype(np.uint8)
    yield "TIFF of 32 bits", _file(Image.fromarray(numbers), "TIFF"), grey, 1


def _odd_sizes() -> Iterator[Strange]:
    for width, height in ((1, 1), (2, 1), (1, 2), (1, 300), (300, 1), (3, 3), (20_000, 3), (3, 20_000), (2500, 2500)):
        for kind in ("PNG", "BMP"):
            image = Image.new("RGB", (width, height), (10, 200, 30))
            yield f"{kind} of {width} x {height}", _file(image, kind), _rgb(image), 0
    for width, height in ((20_000, 20_000), (9_000, 9_000), (65_000, 2_000)):
        yield f"bomb of {width} x {height}", _file(Image.new("1", (width, height)), "PNG"), None, 0
    yield "a header of 4 gigapixels", _png_header(65_500, 65_500), None, 0
    yield "a header without a pixel", _png_header(0, 7), None, 0


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def _several_frames() -> Iterator[Strange]:
    others = [Image.new("RGB", (SHAPE[1], SHAPE[0]), "red"), Image.new("RGB", (SHAPE[1], SHAPE[0]), "blue")]
    frames = {"save_all": True, "append_images": others}
    yield "animated GIF", _file(_picture(), "GIF", **frames), _rgb(_picture()), 40
    yield "animated PNG", _file(_picture(), "PNG", **frames), _rgb(_picture()), 0
    yield "animated WEBP", _file(_picture(), "WEBP", lossless=True, **frames), _rgb(_picture()), 0
    yield "TIFF of several pages", _file(_picture(), "TIFF", **frames), _rgb(_picture()), 0
    yield "JPEG of several pictures", _file(_picture(), "MPO", **frames), _rgb(_picture()), 12


def _cut_off() -> Iterator[Strange]:
    whole = {kind: _file(_picture(), kind) for kind in MODES}
    whole |= {
        "PNG P": _file(_picture("P"), "PNG"),
        "progressive JPEG": _file(_picture(), "JPEG", progressive=True),
        "CMYK JPEG": _file(_picture("CMYK"), "JPEG"),
        "TIFF by LZW": _file(_picture(), "TIFF", compression="tiff_lzw"),
    }
    for kind, code in whole.items():
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield f"{kind}, the first {share:.0%}", code[: max(1, int(share * len(code)))], None, 0


def _nonsense() -> Iterator[Strange]:
    rng = np.random.default_rng(0)
    texts = {
        "nothing": b"",
        "one byte": b"\x89",
        "HTML": b"<!doctype html><html><body>Please log in</body></html>",
        "an error as JSON": b'{"detail": "Not found."}',
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "a zip": b"PK\x03\x04" + bytes(60),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) show\n",
        "zeros": bytes(4096),
        "noise": rng.bytes(4096),
        "only a signature": b"\x89PNG\r\n\x1a\n",
        "a JPEG's first bytes and text": b"\xff\xd8\xff\xe0 hello, world",
        "DICOM": bytes(128) + b"DICM" + bytes(64),
        "a video": b"\0\0\0 ftypisom" + bytes(64),
    }
    yield from ((name, code, None, 0) for name, code in texts.items())
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        code = bytearray(_file(_picture(), kind))
        code[8 : len(code) - 4] = rng.bytes(len(code) - 12)
        yield f"{kind} of noise", bytes(code), None, 0
    for kind in ("ICO", "PPM", "TGA", "PCX", "JPEG2000", "EPS"):
        yield f"{kind}, a format that is not read", _file(_picture(), kind), None, 0
