#!/usr/bin/env python3
"""A service that costs nothing, and says what reached it.

    service.py ADDRESS_FILE LOG [--hang-up]

Listens on loopback, on a port from the OS. Each request is one JSON line in
the log, with its method, path and the names of its headers. With `--hang-up`
it closes the connection instead of answering.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(BaseHTTPRequestHandler):
    """Answers everything, once it is in the log."""

    protocol_version = "HTTP/1.1"
    log = None
    hang_up = False

    def answer(self):
        """One request."""
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        names = [name.lower() for name in self.headers]
        self.log.write(json.dumps({"method": self.command, "path": self.path, "headers": names}) + "\n")
        self.log.flush()
        if self.hang_up:
            self.close_connection = True
            return
        body = b'{"free":true}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # pylint: disable=invalid-name

    def log_message(self, *_arguments):
        """Nothing on stderr."""


def main():
    address_file, log, *options = sys.argv[1:]
    Service.hang_up = options == ["--hang-up"]
    with open(log, "a", encoding="utf-8") as Service.log:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        with open(f"{address_file}.new", "w", encoding="utf-8") as file:
            file.write(f"127.0.0.1:{server.server_address[1]}")
        os.rename(f"{address_file}.new", address_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
