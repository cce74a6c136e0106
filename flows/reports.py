"""Serve the stages' HTML reports on loopback while `up` runs: a page of the UI cannot link to a file."""

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_SERVED = re.compile(r"^/[\w.-]+/[\w.-]+/(report|index)\.html$")


@contextmanager
def report_server(root: Path, port: int) -> Generator[str]:
    """Serve `<stage>/<fingerprint>/report.html` and `runs/<run>/index.html` of a store; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Reports, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Reports(SimpleHTTPRequestHandler):
    """Serve reports and nothing else of the store; what they show came from documents, so no script may run."""

    def do_GET(self) -> None:  # noqa: N802 (named by the standard library)
        """Answer a request for a report; everything else is not found."""
        if not _SERVED.match(self.path) or ".." in self.path:
            self.send_error(HTTPStatus.NOT_FOUND, "only reports are served here")
            return
        super().do_GET()

    def do_HEAD(self) -> None:  # noqa: N802
        """Refuse: a report is only read."""
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    def end_headers(self) -> None:
        """Forbid scripts and outside resources."""
        self.send_header("Content-Security-Policy", "default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: the terminal belongs to `up`."""
