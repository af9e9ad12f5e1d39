"""A collector on loopback that takes traces by OTLP over HTTP and keeps them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span


class Collector:
    """What came, while `collecting` runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        """As they came, unpacked."""

    def resources(self) -> list[ResourceSpans]:
        found = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        return [one for each in found for one in each.resource_spans]

    def spans(self) -> list[tuple[str, Span]]:
        """All spans, each behind the peer id of its node."""
        return [
            (owner.value.string_value, span)
            for one in self.resources()
            for owner in one.resource.attributes
            if owner.key == "service.instance.id"
            for scope in one.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            zipped = self.headers.get("content-encoding") == "gzip"
            collector.bodies.append(gzip.decompress(body) if zipped else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, line: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
