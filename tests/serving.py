"""A real HTTP server on loopback that answers JSON, for tests of what talks to endpoints."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and answers JSON, and logs nothing."""

    def read(self) -> dict[str, Any]:
        """Return the request's content, empty when it has none."""
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        """Send `content`."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_chat(self, *texts: str) -> None:
        """Send each text as a choice of a chat completion."""
        self.answer({"choices": [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]})

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(handler: type[JsonHandler]) -> Generator[str]:
    """Serve on a free port; yields the address, ending in /v1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
