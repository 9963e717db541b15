"""Talking to a Label Studio server: reach it, repeat what may be repeated, say clearly what went wrong.

This is the one place that reaches into the SDK's client (its base URL, its headers with a legacy or a
personal access token, its HTTP client), because several of the server's calls are not part of the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from backend.settings import TOKEN, address
from backend.waited import waiting
from tsp_model.errors import ExplainedError
from tsp_model.settings import SettingsError

T = TypeVar("T")

ATTEMPTS = 4
# Our PATCH calls set whole values, so that a second one changes nothing.
REPEATABLE = frozenset({"GET", "PATCH", "DELETE"})
LONGEST_DETAIL = 300
IMPORT_SECONDS = 600.0
BYTES_A_CALL = 50_000_000  # an import takes 250 MB at most, files included
PRIVATE_ADDRESS = (
    "Label Studio refuses addresses of private networks: start it with ML_BLOCK_LOCAL_IP=false and "
    "SSRF_PROTECTION_ENABLED=false (both; one alone leaves the connection without its webhook)"
)


class ProjectError(ExplainedError, RuntimeError):
    """Label Studio cannot be used as asked. The message is one line: the cause, then the remedy; never a token.

    ``status`` is the HTTP status where an answer was the cause.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may succeed: the server was away, too slow, or had an error of its own."""
        return self.away or (self.status or 0) >= 500

    @property
    def away(self) -> bool:
        """Whether nobody answered, or somebody who stands before the server and does not reach it either."""
        return self.status in (502, 503, 504)


class UnansweredError(ProjectError):
    """Nobody was there, or the answer did not come in time."""

    @property
    def away(self) -> bool:
        return True


def connect(url: str, api_key: str, timeout: float = 60.0) -> LabelStudio:
    """A client that has reached the server and whose token was accepted.

    Args:
        url: of Label Studio, with its path if it is served under one.
        api_key: a legacy token or a personal access token.
        timeout: seconds for one call.

    Raises:
        ProjectError: no address or token, nobody there, not Label Studio, the token is refused.
    """
    try:
        # With its last slash, or the SDK forgets a path when it exchanges a personal access token.
        base = address("LABEL_STUDIO_URL", url) + "/"
    except SettingsError as error:
        raise ProjectError(str(error)) from None
    if not api_key:
        raise ProjectError(f"no token for Label Studio: copy into LABEL_STUDIO_API_KEY {TOKEN}")
    try:
        # A redirect that is followed would take a personal access token along to be refreshed, wherever it leads.
        client = LabelStudio(base_url=base, api_key=api_key, timeout=timeout, max_retries=0, follow_redirects=False)
    except ApiError as error:  # a personal access token whose time is over
        raise ProjectError(_refused_token(base), error.status_code) from None
    try:
        user = call(client, "GET", "api/current-user/whoami", attempts=1)
    except ProjectError as error:
        if error.status == 404:
            raise ProjectError(_stranger(base), 404) from None
        raise
    if not isinstance(user, dict) or "email" not in user:
        raise ProjectError(_stranger(base))
    return client


def https_trouble(error: Exception, name: str) -> str | None:
    """What is wrong with an address that begins with https, given as `name`; None where `error` has another cause."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"its certificate is not trusted: let this machine trust it, or give in {name} an address that it is for"
    return f"what answers there speaks no https: write http:// in {name}" if "[SSL" in str(error) else None


def base_url(client: LabelStudio) -> str:
    """The server's address, ending with a slash."""
    return client._client_wrapper.get_base_url().rstrip("/") + "/"


def authorization(client: LabelStudio) -> dict[str, str]:
    """The header that proves who we are, for requests to the server's own origin only.

    Raises:
        ProjectError: a personal access token cannot be exchanged (server not there, token refused).
    """
    try:
        return {"Authorization": client._client_wrapper.get_headers()["Authorization"]}
    except (ApiError, httpx.HTTPError, ValueError) as error:
        raise _explained(client, error, "the token exchange") from None


def call(
    client: LabelStudio,
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    attempts: int = ATTEMPTS,
    timeout: float | None = None,
    **body: Any,
) -> Any:
    """One call to the server; GET, PATCH and DELETE are repeated when the connection or the server fails.

    A POST is repeated only when no connection came about, because the server may have done what it did not
    answer.

    Args:
        path: without a leading slash ("api/projects/1").
        timeout: seconds, if not the client's.
        body: ``json``, ``content`` (with ``headers``) or ``files``, as httpx takes them.

    Returns:
        The decoded JSON; None if the answer is empty.

    Raises:
        ProjectError: the server cannot be reached or refuses; ``status`` tells its answer.
    """
    options: dict[str, Any] = {"max_retries": 0, **({"timeout": timeout} if timeout else {})}
    http = client._client_wrapper.httpx_client

    def once() -> httpx.Response:
        response = http.request(path, method=method, params=dict(params or {}), request_options=options, **body)
        return response.raise_for_status()

    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(0.25, max=5),
        retry=retry_if_exception(lambda error: _passes(error, method in REPEATABLE)),
        reraise=True,
    )
    try:
        with waiting():
            response = retrying(once)
        return response.json() if response.content else None
    except (ApiError, httpx.HTTPError, ValueError) as error:
        # Without its cause: the SDK's error prints headers, and httpx' error keeps the request.
        raise _explained(client, error, f"{method} {path}") from None


def chunks(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in groups that one call can carry: at most `most`, and BYTES_A_CALL unless one alone is larger."""
    chunk: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if chunk and (len(chunk) == most or total + size > BYTES_A_CALL):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk


def _passes(error: BaseException, repeatable: bool) -> bool:
    """Whether another attempt may succeed and cannot do harm."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return True
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    return repeatable and (status >= 500 or status == 429 or isinstance(error, httpx.TransportError))


def _explained(client: LabelStudio, error: Exception, what: str) -> ProjectError:
    """`error` as one line with cause and remedy."""
    base = base_url(client)
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return UnansweredError(f"Label Studio at {base} took too long over {what}: is it overloaded?")
    if trouble := https_trouble(error, "LABEL_STUDIO_URL"):
        return ProjectError(f"no Label Studio answers at {base}: {trouble}")
    if isinstance(error, httpx.TransportError):
        cause = str(error) or type(error).__name__
        return UnansweredError(f"no Label Studio answers at {base} ({cause}): start it or correct LABEL_STUDIO_URL")
    if isinstance(error, ValueError) or not isinstance(error, (ApiError, httpx.HTTPStatusError)):
        return ProjectError(_stranger(base))
    if isinstance(error, ApiError):
        status, detail = error.status_code or 0, _detail(error.body)
    else:
        status, detail = error.response.status_code, _body_detail(error.response)
    if 300 <= status < 400:
        where = error.response.headers.get("location") if isinstance(error, httpx.HTTPStatusError) else None
        return ProjectError(f"{base} redirects to {where or 'elsewhere'}: correct LABEL_STUDIO_URL accordingly", status)
    detail = detail.replace(client._client_wrapper._tokens_client._api_key, "***")
    if status == 401:
        return ProjectError(_refused_token(base), status)
    if "reserved network address" in detail or "reserved IP" in detail:
        return ProjectError(PRIVATE_ADDRESS, status)
    if status == 403:
        return ProjectError(f"Label Studio at {base} does not let this token's user do {what}: {detail}", status)
    return ProjectError(f"Label Studio at {base} answered {status} to {what}: {detail or 'nothing'}", status)


def _stranger(base: str) -> str:
    return f"what answers at {base} is not Label Studio: correct LABEL_STUDIO_URL"


def _refused_token(base: str) -> str:
    return f"Label Studio at {base} refuses the token: copy into LABEL_STUDIO_API_KEY {TOKEN}"


def _body_detail(response: httpx.Response) -> str:
    try:
        return _detail(response.json())
    except ValueError:
        return f"{response.headers.get('content-type') or 'no type'} and not JSON; is it Label Studio?"


def _detail(body: Any) -> str:
    """What a Label Studio error body says, on one line of bearable length."""
    if isinstance(body, dict):
        parts = [body.get("detail"), *_leaves(body.get("validation_errors"))]
        body = "; ".join(str(part) for part in parts if part)
    line = " ".join(str(body).split())
    return line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 1] + "…"


def _leaves(errors: Any) -> list[str]:
    if isinstance(errors, dict):
        return [leaf for value in errors.values() for leaf in _leaves(value)]
    if isinstance(errors, list):
        return [leaf for value in errors for leaf in _leaves(value)]
    return [str(errors)] if errors else []
