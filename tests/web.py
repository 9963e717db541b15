"""A small web server for tests, real enough for redirects, headers and broken answers."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


class Server:
    """Answers from ``pages`` (path -> (status, headers, body) or a callable), else with ``otherwise``, and records what
    was asked. A callable that answers None leaves the client without an answer.
    """

    def __init__(self):
        self.pages, self.asked = {}, []
        self.otherwise = (404, {}, b"no")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                request = SimpleNamespace(
                    method=self.command, path=self.path, headers=dict(self.headers.items()), body=body
                )
                outer.asked.append(request)
                page = outer.pages.get(self.path, outer.otherwise)
                answer = page(request) if callable(page) else page
                if answer is None:
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(BrokenPipeError):  # a client that gave up, as some tests want
                    self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
