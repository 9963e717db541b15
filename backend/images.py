"""The image of a task as a file on this disk, fetched safely and kept."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
import time
from contextlib import closing, nullcontext, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import httpx
from label_studio_sdk import LabelStudio
from PIL import Image
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_exponential

from backend import connections
from backend.connection import ProjectError, authorization, base_url
from backend.image_limits import MOST_MEGAPIXELS, ImageLimits, origin
from backend.waited import waiting
from tsp_model.errors import ExplainedError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
CLOUD = ("s3", "gs", "azure-blob", "azure")
ATTEMPTS = 3
REDIRECTS = 5
DEFAULT_LIMITS = ImageLimits()
# Where Label Studio keeps images, below its address. Elsewhere a GET with a token does things: .../next takes a lock.
OF_A_BUCKET = re.compile(r"/projects/[0-9]+/resolve/")
OF_IMAGES = re.compile(r"(data|storage-data)/|(tasks|projects)/[0-9]+/(resolve|presign)/")


class ImageError(ExplainedError, ValueError):
    """An image cannot be had. The message is one line: address (without its query), cause, remedy."""


def fetch_image(
    url: str, client: LabelStudio, cache: Path, limits: ImageLimits = DEFAULT_LIMITS, project_id: int | None = None
) -> Path:
    """Download an image once; later calls for the same address find it in ``cache``.

    Addresses without a host ("/data/upload/…") are Label Studio's. Its token goes to its own scheme, host and
    port, where images are (OF_IMAGES), and nowhere else, redirects included. The file appears whole or not at all, also
    when several processes fetch it. An object in a bucket ("s3://…") is Label Studio's to resolve, by a source storage
    of the project: it redirects to an address that it signs, or sends the object itself.

    Args:
        url: as the task's data has it.
        cache: folder, made if need be.
        limits: from whom, and how large; looked at before anything is asked or decoded, again at every redirect.
        project_id: of the task; without it no bucket is known.

    Raises:
        ImageError: outside of the limits, an unknown scheme, no answer, or not an image.
    """
    address = _resolve(url, client, project_id)
    path = cache / _file_name(address)
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cache, prefix=".part-")
    os.close(handle)
    part = Path(name)
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(limits.seconds),
        wait=wait_exponential(0.25, max=2),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    studio = base_url(client)
    guard = connections.Guard(
        time.monotonic() + limits.seconds,
        lambda host, port, peers: limits.refusal_of_peers(host, port, studio, peers),
    )
    try:
        asks_it = address.startswith(studio)
        with connections.guarded(guard), waiting() if asks_it else nullcontext():
            retrying(_download, address, client, part, limits)
        _check_image(part, address, limits)
        os.replace(part, path)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last: where it redirects to
        # Without its cause: the error keeps the request and with it the token.
        raise ImageError(f"{_shown(address)}: {_cause(error)}") from None
    except (ProjectError, connections.RefusedError) as error:
        raise ImageError(f"{_shown(address)}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _resolve(url: str, client: LabelStudio, project_id: int | None) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ImageError(f"{url!r} is not the address of an image: correct the task's data")
    try:
        scheme = urlsplit(url.strip()).scheme.lower()
        address = urljoin(base_url(client), url.strip())
        _, host, _ = origin(address)
        _ = httpx.URL(address).host  # what is no name of a host in any alphabet, and no text
        address.encode()
    except (ValueError, httpx.InvalidURL) as error:
        raise ImageError(f"{url[:100]!r} is not an address ({error}): correct the task's data") from None
    if scheme in CLOUD and project_id is not None:
        coded = base64.urlsafe_b64encode(url.strip().encode()).decode()
        return f"{base_url(client)}projects/{project_id}/resolve/?fileuri={coded}"
    if scheme not in ("", "http", "https") or not host:
        raise ImageError(f"{_shown(url)}: only http and https are allowed: import the image into Label Studio")
    return address


def _file_name(address: str) -> str:
    suffix = PurePosixPath(unquote(urlsplit(address).path)).suffix.lower()
    known = suffix if suffix[1:].isalnum() and len(suffix) <= 5 else ""
    return hashlib.sha256(address.encode()).hexdigest()[:32] + known


def _download(address: str, client: LabelStudio, part: Path, limits: ImageLimits) -> None:
    with closing(_answer(address, client, limits)) as response, part.open("wb") as file:
        response.raise_for_status()
        most = int(limits.megabytes * 1e6)
        too_large = ImageError(f"{_shown(address)}: larger than {limits.megabytes:g} MB: import a smaller image")
        if int(response.headers.get("content-length") or 0) > most:
            raise too_large
        received = 0
        for chunk in response.iter_bytes():
            received += len(chunk)
            if received > most:
                raise too_large
            file.write(chunk)


def _answer(address: str, client: LabelStudio, limits: ImageLimits) -> httpx.Response:
    """The answer at the end of all redirects, its body not read yet; each address is checked before it is asked."""
    studio = base_url(client)
    request = connections.client().build_request("GET", address)
    for _ in range(1 + REDIRECTS):
        url = str(request.url)
        if request.url.scheme not in ("http", "https"):
            raise ImageError(
                f"{_shown(address)}: it redirects to {request.url.scheme}: only http and https are allowed"
            )
        if refusal := limits.refusal(url, studio):
            raise ImageError(f"{_shown(address)}: {refusal}")
        request.headers.update(authorization(client) if _takes_the_token(url, studio) else {})
        response = connections.client().send(request, stream=True)
        if response.next_request is None:
            return response
        response.close()
        request = response.next_request
        request.headers.pop("Authorization", None)
    raise ImageError(f"{_shown(address)}: more than {REDIRECTS} redirects: correct the task's data")


def _takes_the_token(url: str, studio: str) -> bool:
    path, root = urlsplit(url).path, urlsplit(studio).path
    below = path[len(root) :] if path.startswith(root) else ""
    return origin(url) == origin(studio) and OF_IMAGES.match(below) is not None


def _check_image(part: Path, address: str, limits: ImageLimits) -> None:
    try:
        with Image.open(part, formats=FORMATS) as image:
            size = image.size
            image.verify()
    except Image.DecompressionBombError:
        raise ImageError(f"{_shown(address)}: more than {MOST_MEGAPIXELS} megapixels: import a smaller image") from None
    # Pillow raises OSError, SyntaxError, ValueError, struct.error and more for broken files.
    except Exception as error:
        size = part.stat().st_size
        cause = type(error).__name__ if str(part) in str(error) else (str(error).splitlines() or [""])[0]
        raise ImageError(
            f"{_shown(address)}: what came ({size} bytes) is not a whole image ({cause}): "
            f"use one of {', '.join(FORMATS)}"
        ) from None
    if size[0] * size[1] > limits.megapixels * 1e6:
        most = f"more than {limits.megapixels:g} megapixels (TSP_IMAGE_MEGAPIXELS): import a smaller one"
        raise ImageError(f"{_shown(address)}: an image of {size[0]} x {size[1]} pixels, {most}")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    # A slow server has had its time already.
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, (httpx.TimeoutException, httpx.UnsupportedProtocol)
    )


def _cause(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        remedy = "is the image still there, and may the token's user see it?"
        if OF_A_BUCKET.search(str(error.request.url)):
            remedy = "has the project a source storage of this bucket, and is the object there?"
        return f"the server answered {status}: {remedy}"
    if isinstance(error, httpx.TimeoutException):
        return "the server did not answer in time: is it overloaded?"
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}: is the server running?"


def _shown(address: str) -> str:
    """An address for messages: its query may hold a signature, its user part a password. Of an object in a bucket the
    one that its task has."""
    parts = urlsplit(address)
    if OF_A_BUCKET.search(parts.path):
        with suppress(ValueError, KeyError):  # written by somebody else
            return base64.urlsafe_b64decode(parse_qs(parts.query)["fileuri"][0]).decode()[:200]
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme + '://' if parts.scheme else ''}{host}{parts.path}"[:200]
