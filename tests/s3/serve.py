"""The loopback S3 server of the tests: moto on a free port of 127.0.0.1.

Prints `listening <port>` once it accepts connections, and ends when its standard input does, so that it never
outlives the test that started it.

moto answers `If-None-Match: *` by looking whether the key exists and then writing it, on one thread for each
connection: two creators of one key could both win. Real S3 decides atomically. The lock puts that back; everything
else is moto's own.
"""

import os
import socket
import sys
import threading

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class QuietHandler(MotoRequestHandler):
    # Headers and body go out in two writes; without this the second waits for a delayed acknowledgement.
    disable_nagle_algorithm = True

    def log(self, *_args):
        pass


class OnePutAtATime:
    def __init__(self, app):
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT":
            return self.app(environ, start_response)
        with self.lock:
            return self.app(environ, start_response)


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    app = OnePutAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    server.socket.listen(socket.SOMAXCONN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(f"listening {server.port}", flush=True)
    server.serve_forever()


main()
