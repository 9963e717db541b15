"""Images of tasks: where the token goes, what is refused, and that the cache never holds half a file."""

import io
import json
import re
import socket
import struct
import threading
import time
from contextlib import suppress

import jwt
import pytest
from label_studio_sdk import LabelStudio
from PIL import Image

from backend import connections
from backend.connections import Guard, RefusedError
from backend.image_limits import ImageLimits
from backend.images import ImageError, fetch_image
from tests.web import Server

TOKEN = "5ec2e7" * 6 + "0000"
NAMED = ImageLimits(hosts=("127.0.0.1",))  # where `elsewhere` is; Label Studio's own port needs no name


def picture(size=(8, 6), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def studio():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def elsewhere():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(studio):
    return LabelStudio(base_url=studio.url, api_key=TOKEN)


def test_a_relative_address_is_label_studios_and_gets_the_token_once(studio, client, tmp_path):
    studio.pages["/data/upload/1/a%20b.png"] = (200, {}, picture())
    first = fetch_image("/data/upload/1/a%20b.png", client, tmp_path / "cache")
    assert first.read_bytes() == picture()
    assert first.suffix == ".png"
    assert fetch_image(studio.url + "/data/upload/1/a%20b.png", client, tmp_path / "cache") == first
    assert [request.headers["Authorization"] for request in studio.asked] == [f"Token {TOKEN}"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_a_personal_access_token_is_exchanged_and_sent_as_bearer(studio, tmp_path):
    refresh = jwt.encode({"token_type": "refresh", "exp": 4e9}, "k" * 32)
    access = jwt.encode({"token_type": "access", "exp": 4e9}, "k" * 32)
    studio.pages["/api/token/refresh/"] = (
        200, {"Content-Type": "application/json"}, json.dumps({"access": access}).encode()
    )  # fmt: skip
    studio.pages["/data/x.png"] = (200, {}, picture())
    fetch_image("/data/x.png", LabelStudio(base_url=studio.url + "/", api_key=refresh), tmp_path)
    assert json.loads(studio.asked[0].body) == {"refresh": refresh}
    assert studio.asked[1].headers["Authorization"] == f"Bearer {access}"


def test_other_hosts_never_see_the_token_not_even_after_a_redirect(studio, elsewhere, client, tmp_path):
    elsewhere.pages["/direct.png"] = elsewhere.pages["/redirected.png"] = (200, {}, picture())
    studio.pages["/data/away.png"] = (302, {"Location": f"{elsewhere.url}/redirected.png"}, b"")
    fetch_image(f"{elsewhere.url}/direct.png", client, tmp_path, NAMED)
    fetch_image("/data/away.png", client, tmp_path, NAMED)
    assert studio.asked[0].headers["Authorization"] == f"Token {TOKEN}"
    assert [request.path for request in elsewhere.asked] == ["/direct.png", "/redirected.png"]
    for request in elsewhere.asked:
        assert "Authorization" not in request.headers
        assert TOKEN not in str(request.headers)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/data/upload/1/x.png", True),
        ("/data/local-files/?d=x.png", True),
        ("/storage-data/uploaded/?filepath=x.png", True),
        ("/tasks/3/presign/?fileuri=x", True),
        ("/projects/3/resolve/?fileuri=x", True),
        ("/static/samples/sample.jpg", False),
        ("/api/projects/7/next", False),
        ("/api/data/x.png", False),
        ("/tasks/3/presign", False),
        ("/database/x.png", False),
    ],
)
def test_the_token_is_sent_where_label_studio_keeps_images_only(path, sent, studio, client, tmp_path):
    studio.pages[path] = studio.pages["/studio" + path] = (200, {}, picture())
    fetch_image(path, client, tmp_path)
    below = LabelStudio(base_url=studio.url + "/studio/", api_key=TOKEN)  # served under a path
    fetch_image("/studio" + path, below, tmp_path)
    fetch_image(path, below, tmp_path / "outside")
    assert ["Authorization" in request.headers for request in studio.asked] == [sent, sent, False]


def test_a_redirect_to_another_path_of_label_studio_does_not_take_the_token_along(studio, client, tmp_path):
    studio.pages["/data/x.png"] = (302, {"Location": "/api/x.png"}, b"")
    studio.pages["/api/x.png"] = (302, {"Location": "/data/y.png"}, b"")
    studio.pages["/data/y.png"] = (200, {}, picture())
    fetch_image("/data/x.png", client, tmp_path)
    assert ["Authorization" in request.headers for request in studio.asked] == [True, False, True]


def test_cookies_of_label_studio_do_not_reach_another_port(studio, elsewhere, client, tmp_path):
    studio.pages["/a.png"] = (200, {"Set-Cookie": "sessionid=secret; Path=/"}, picture())
    elsewhere.pages["/b.png"] = (200, {}, picture())
    fetch_image("/a.png", client, tmp_path)
    fetch_image(f"{elsewhere.url}/b.png", client, tmp_path, NAMED)
    assert "Cookie" not in elsewhere.asked[0].headers


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("file:///etc/passwd", "only http and https"),
        ("data:image/png;base64,AAAA", "only http and https"),
        ("ftp://example.org/x.png", "only http and https"),
        ("s3://bucket/x.png", "only http and https"),  # of no project
        ("", "not the address of an image"),
        (None, "not the address of an image"),
        ("http://[::1", "not an address"),
        ("http://images.example.org:99999/x.png", "not an address"),
        ("http://images.example.org:abc/x.png", "not an address"),
        ("http://xn--/x.png", "not an address"),
        ("http://xn--a.example.org/x.png", "not an address"),
        ("http://images.example.org/\ud800.png", "not an address"),
        ("/data/\ud800.png", "not an address"),
    ],
)
def test_other_schemes_are_refused_before_anything_is_asked(url, cause, studio, client, tmp_path):
    with pytest.raises(ImageError, match=cause):
        fetch_image(url, client, tmp_path)
    assert studio.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=a/%2e%2e/%2e%2e/etc/passwd",
        "/data/local-files/?d=..%5c..%5cetc",
        "/data/local-files/?d=%252e%252e/etc/passwd",
        "/data/%2e%2e/x.png",
    ],
)
def test_a_path_that_climbs_is_refused_before_anything_is_asked(url, studio, client, tmp_path):
    with pytest.raises(ImageError, match="climbs out of its folder"):
        fetch_image(url, client, tmp_path)
    assert studio.asked == []


def test_other_hosts_are_asked_nothing_unless_they_are_named_even_after_a_redirect(studio, elsewhere, client, tmp_path):
    elsewhere.pages["/x.png"] = (200, {}, picture())
    studio.pages["/away.png"] = (302, {"Location": f"{elsewhere.url}/x.png"}, b"")
    for url in (f"{elsewhere.url}/x.png", "/away.png"):
        with pytest.raises(ImageError, match="127.0.0.1 is neither Label Studio nor .* TSP_IMAGE_HOSTS"):
            fetch_image(url, client, tmp_path)
    assert elsewhere.asked == []
    assert fetch_image("/away.png", client, tmp_path, NAMED).read_bytes() == picture()


def test_redirects_end(studio, client, tmp_path):
    studio.pages["/round.png"] = (302, {"Location": "/round.png"}, b"")
    with pytest.raises(ImageError, match="more than 5 redirects"):
        fetch_image("/round.png", client, tmp_path)
    assert len(studio.asked) == 6


ADDRESSES = {
    "public.example.org": ["93.184.216.34"],
    "inner.example.org": ["10.1.2.3"],
    "both.example.org": ["93.184.216.34", "fd00::1"],
    "mapped.example.org": ["::ffff:192.168.1.1"],
    "metadata.example.org": ["169.254.169.254"],
    "group.example.org": ["224.0.0.251"],
    "2130706433": ["127.0.0.1"],
    "nat64.example.org": ["64:ff9b::a00:1"],
    "local-nat64.example.org": ["64:ff9b:1::a00:1"],
    "6to4.example.org": ["2002:a00:1::1"],
    "teredo.example.org": ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "last-bits.example.org": ["::7f00:1"],
    "site.example.org": ["fec0::1"],
    "translated.example.org": ["::ffff:0:10.0.0.1"],
    "six.example.org": ["2606:2800:220:1:248:1893:25c8:1946"],
}


@pytest.mark.parametrize(
    ("host", "hosts", "refused"),
    [
        ("studio.example.org", (), None),
        ("public.example.org", (), "neither Label Studio nor"),
        ("public.example.org", ("public.example.org",), None),
        ("PUBLIC.example.org", ("public.example.org",), None),
        ("public.example.org", ("example.org",), "neither Label Studio nor"),
        ("public.example.org", ("*.example.org",), None),
        ("public.example.org.evil.net", ("*.example.org",), "neither Label Studio nor"),
        ("public.example.org", ("*",), None),
        ("inner.example.org", ("*",), "leads into a private network .10.1.2.3."),
        ("inner.example.org", ("*", "inner.example.org"), None),
        ("both.example.org", ("*",), "private network .fd00::1."),
        ("mapped.example.org", ("*",), "private network"),
        ("metadata.example.org", ("*",), "private network"),
        ("group.example.org", ("*",), "private network"),
        ("2130706433", ("*",), "private network .127.0.0.1."),
        ("nat64.example.org", ("*",), "private network"),
        ("local-nat64.example.org", ("*",), "private network"),
        ("6to4.example.org", ("*",), "private network"),
        ("teredo.example.org", ("*",), "private network"),
        ("last-bits.example.org", ("*",), "private network"),
        ("site.example.org", ("*",), "private network"),
        ("translated.example.org", ("*",), "private network"),
        ("six.example.org", ("*",), None),
        ("nowhere.example.org", ("*",), "has no address"),
    ],
)
def test_which_hosts_may_be_asked(host, hosts, refused, monkeypatch):
    lead(monkeypatch, ADDRESSES | {"studio.example.org": ["10.0.0.7"]})
    limits, studio = ImageLimits(hosts=hosts), "http://studio.example.org"
    guard = Guard(time.monotonic() + 60, lambda host, port, peers: limits.refusal_of_peers(host, port, studio, peers))
    found = limits.refusal(f"https://{host}/x.png", studio)
    if found is None:
        try:
            guard.addresses(host.lower(), 443)
        except RefusedError as error:
            found = str(error)
    assert (found is None) == (refused is None)
    assert refused is None or re.search(refused, found)


def lead(monkeypatch, addresses):
    """Let names lead to addresses, in this process only."""

    def lookup(name, port, type):
        if name not in addresses:
            raise OSError("Name or service not known")
        return [(None, None, None, "", (address, port)) for address in addresses[name]]

    monkeypatch.setattr(connections, "getaddrinfo", lookup)


def test_another_port_of_label_studios_host_is_another_host():
    limits = ImageLimits()
    assert limits.refusal("http://studio.example.org:8080/x", "http://studio.example.org:8080/") is None
    assert limits.refusal("https://studio.example.org/x", "http://studio.example.org:8080/") is None
    assert limits.refusal("http://studio.example.org:9000/x", "http://studio.example.org:8080/")


def test_the_connection_goes_to_the_address_that_was_checked(elsewhere, client, tmp_path, monkeypatch):
    elsewhere.pages["/x.png"] = (200, {}, picture())
    port = elsewhere.url.rsplit(":", 1)[1]
    looked_up = []

    def lookup(name, port, type):
        looked_up.append(name)
        return [(None, None, None, "", ("127.0.0.1", port))]

    monkeypatch.setattr(connections, "getaddrinfo", lookup)
    inner = f"http://inner.example.org:{port}/x.png"
    with pytest.raises(ImageError, match=r"inner.example.org leads into a private network \(127.0.0.1\)"):
        fetch_image(inner, client, tmp_path, ImageLimits(hosts=("*.example.org",)))
    assert elsewhere.asked == [], "not even connected"
    assert list(tmp_path.iterdir()) == []
    fetch_image(inner, client, tmp_path, ImageLimits(hosts=("inner.example.org",)))
    assert looked_up == ["inner.example.org"] * 2, "once each: there is no second answer to fall for"
    assert elsewhere.asked[0].headers["Host"] == f"inner.example.org:{port}"


def test_the_next_address_of_a_name_is_tried_where_nobody_answers(elsewhere, client, tmp_path, monkeypatch):
    elsewhere.pages["/x.png"] = (200, {}, picture())
    port = elsewhere.url.rsplit(":", 1)[1]
    lead(monkeypatch, {"two.example.org": ["127.0.0.2", "127.0.0.1"]})  # the server listens on the second only
    named = ImageLimits(hosts=("two.example.org",))
    assert fetch_image(f"http://two.example.org:{port}/x.png", client, tmp_path, named).read_bytes() == picture()


@pytest.mark.parametrize("where", ["in the status line", "in the headers", "in the body"])
def test_a_server_that_drips_has_no_more_time_than_one_that_is_silent(where, client, tmp_path):
    text = b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 200 + b"\r\nContent-Length: 5000\r\n\r\n" + b"c" * 5000
    begin = {"in the status line": 0, "in the headers": 24, "in the body": text.index(b"\r\n\r\n") + 4}[where]
    ended = threading.Event()

    def drip(listener):
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(text[:begin])
            for letter in text[begin:]:
                connection.sendall(bytes([letter]))
                if ended.wait(0.05):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        limits = ImageLimits(hosts=("127.0.0.1",), seconds=0.5)
        with pytest.raises(ImageError, match="did not answer in time"):
            fetch_image(f"http://127.0.0.1:{listener.getsockname()[1]}/x.png", client, tmp_path, limits)
        ended.set()
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_is_reset_is_a_line(client, tmp_path):
    def reset(listener):
        for _ in range(3):
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=reset, args=(listener,))
        thread.start()
        with pytest.raises(ImageError, match="is the server running"):
            fetch_image(f"http://127.0.0.1:{listener.getsockname()[1]}/x.png", client, tmp_path, NAMED)
        thread.join()


def test_names_are_not_looked_up_for_ever(client, tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(connections, "getaddrinfo", lambda name, port, type: released.wait(60))
    named = ImageLimits(hosts=("slow.example.org",), seconds=0.3)
    with pytest.raises(ImageError, match="did not answer in time"):
        fetch_image("http://slow.example.org/x.png", client, tmp_path, named)
    released.set()


def test_an_image_of_too_many_pixels_is_refused_by_its_header(studio, client, tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (9000, 8000)).save(buffer, "PNG")
    studio.pages["/bomb.png"] = (200, {}, buffer.getvalue())
    with pytest.raises(ImageError, match="9000 x 8000 pixels, more than 64 megapixels .TSP_IMAGE_MEGAPIXELS."):
        fetch_image("/bomb.png", client, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fetch_image("/bomb.png", client, tmp_path, ImageLimits(megapixels=72)).exists()


BROKEN = {
    "missing": ((404, {}, b"no"), "the server answered 404"),
    "no access": ((403, {}, b"no"), "the server answered 403"),
    "a login page": ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "not a whole image"),
    "half a PNG": ((200, {}, picture((200, 200))[:-30]), "not a whole image"),
    "cut off": ((200, {"Content-Length": "5000"}, picture()), "is the server running"),
    "empty": ((200, {}, b""), "0 bytes"),
    "announced too large": ((200, {"Content-Length": "999999"}, b""), "larger than 0.01 MB"),
    "too large": ((200, {}, b"x" * 20_000), "larger than 0.01 MB"),
    "to no name": ((302, {"Location": "http://xn--a.example.org/x.png"}, b""), "example.org|not allowed"),
    "to a file": ((302, {"Location": "file:///etc/passwd"}, b""), "redirects to file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_leave_a_clear_line_and_no_file(name, studio, client, tmp_path):
    studio.pages["/x.png?sig=secret"], cause = BROKEN[name]
    with pytest.raises(ImageError, match=cause) as caught:
        fetch_image("/x.png?sig=secret", client, tmp_path, ImageLimits(megabytes=0.01))
    message = str(caught.value)
    assert message.startswith(f"{studio.url}/x.png: ")
    assert "secret" not in message
    assert TOKEN not in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_server_error_is_tried_again(studio, client, tmp_path):
    answers = [(503, {}, b"busy"), (200, {}, picture())]
    studio.pages["/x.png"] = lambda request: answers.pop(0)
    assert fetch_image("/x.png", client, tmp_path).read_bytes() == picture()


def test_a_server_that_is_not_there_or_too_slow_is_named(studio, elsewhere, client, tmp_path):
    elsewhere.close()
    with pytest.raises(ImageError, match="is the server running"):
        fetch_image(f"{elsewhere.url}/x.png", client, tmp_path, NAMED)
    released = threading.Event()
    studio.pages["/slow.png"] = lambda request: (released.wait(20), (200, {}, picture()))[1]
    with pytest.raises(ImageError, match="did not answer in time"):
        fetch_image("/slow.png", client, tmp_path, ImageLimits(seconds=0.2))
    released.set()


def test_many_at_once_get_the_same_whole_file(studio, client, tmp_path):
    body = picture((500, 400), "JPEG")
    studio.pages["/x.jpg"] = (200, {}, body)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_image("/x.jpg", client, tmp_path).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [body] * 8
    assert len(list(tmp_path.iterdir())) == 1
