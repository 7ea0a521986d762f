"""A stand-in for Google Cloud Storage on the loopback address: ``python -m tests.bucket PORT``.

It is gcp-storage-emulator, with what TensorStore and array_record need of the real service and the
emulator leaves out: the generation of an object in the answer to a read, conditions on it
(``ifGenerationMatch``, ``ifGenerationNotMatch``;
https://cloud.google.com/storage/docs/request-preconditions), ranges that count from the end of an
object, and several connections at once.

POST /break/N?part=TEXT makes it close the connection, without a response, of the next N requests
whose address holds TEXT.
"""

import contextlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

BUCKET = "bucket"


class Bucket:
    """A running stand-in.

    Attributes:
        environment: variables with which every library that we use finds it.
    """

    def __init__(self, port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        self._address = address
        self.environment = {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
            # Without it the first call of gcsfs asks a service that is not there.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def break_connections(self, count: int, part: str) -> None:
        """Closes the connection of the next ``count`` requests whose address holds ``part``."""
        request = urllib.request.Request(
            f"{self._address}/break/{count}?part={part}", data=b"", method="POST"
        )
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def running_bucket() -> Iterator[Bucket]:
    """A stand-in with an empty bucket, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "tests.bucket", str(port)]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[1])
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(
                    "no stand-in of a bucket: pip install gcsfs gcp-storage-emulator"
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield Bucket(port)
    finally:
        process.kill()
        process.wait()


def _serve(port: int) -> None:
    import logging

    from gcp_storage_emulator import server

    logging.disable(logging.CRITICAL)
    lock = threading.Lock()
    broken = {"count": 0, "part": ""}

    def conditional(handler: Callable) -> Callable:
        """Answers one request at a time, if what it asks of the object's generation holds."""

        def handle(request: Any, response: Any, storage: Any) -> None:
            with lock:
                generation = _generation(storage, request)
                refusal = _refusal(request, generation)
                if refusal is None:
                    if generation:
                        response["x-goog-generation"] = str(generation)
                        _count_range_from_start(storage, request)
                    handler(request, response, storage)
                    return
            response.status = refusal
            if refusal is not HTTPStatus.NOT_MODIFIED:
                response.json({"error": {"code": int(refusal), "message": "conditionNotMet"}})

        return handle

    def start_breaking(request: Any, response: Any, storage: Any) -> None:
        broken.update(count=int(request.params["count"]), part=request.query["part"][0])

    class RequestHandler(server.RequestHandler):
        """Closes connections without a response, as POST /break asks for."""

        protocol_version = "HTTP/1.1"

        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            path = unquote(self.path)
            if broken["count"] and broken["part"] in path and not path.startswith("/break/"):
                broken["count"] -= 1
                self.close_connection = True
                return False
            return True

    class QuietServer(http.server.ThreadingHTTPServer):
        """Says nothing of clients that close their connection."""

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    for _, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            handlers[method] = conditional(handler)
    breaking = (r"^/break/(?P<count>\d+)$", {server.POST: start_breaking})
    server.HANDLERS = (breaking, *server.HANDLERS)
    server.RequestHandler = RequestHandler
    server.server.HTTPServer = QuietServer
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()


def _count_range_from_start(storage: Any, request: Any) -> None:
    headers = request._request_handler.headers
    last = re.fullmatch(r"bytes=-(\d+)", headers.get("Range", ""))
    if last:
        size = int(storage.get_file_obj(BUCKET, request.params["object_id"])["size"])
        headers.replace_header("Range", f"bytes={max(0, size - int(last[1]))}-")


def _generation(storage: Any, request: Any) -> int:
    """That of the object which a request is about; 0 if there is none."""
    from gcp_storage_emulator.exceptions import NotFound

    name = (request.params or {}).get("object_id") or request.query.get("name", [None])[0]
    if name is None and request.query.get("uploadType") == ["multipart"]:
        name = request.data["meta"]["name"]
    try:
        return int(storage.get_file_obj(BUCKET, name)["generation"]) if name else 0
    except NotFound:
        return 0


def _refusal(request: Any, generation: int) -> HTTPStatus | None:
    wanted, unwanted = (
        request.query.get(f"ifGeneration{kind}", [None])[0] for kind in ("Match", "NotMatch")
    )
    if wanted is not None and int(wanted) != generation:
        return HTTPStatus.PRECONDITION_FAILED
    if unwanted is not None and int(unwanted) == generation != 0:
        read = request.method == "GET"
        return HTTPStatus.NOT_MODIFIED if read else HTTPStatus.PRECONDITION_FAILED
    return None


if __name__ == "__main__":
    os.environ.pop("STORAGE_EMULATOR_HOST", None)
    _serve(int(sys.argv[1]))
