"""The process of a model: `python -m petiole.workers.process.model_server MODULE:FUNCTION`; model_process starts it."""

from __future__ import annotations

import faulthandler
import importlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from petiole.workers.process.model_process import ModelFiles, receive_message, send_message

REQUEST_TIMEOUT_S = 120.0
FIRST_CLIENT_TIMEOUT_S = 60.0


class ModelServer:
    """Answers the requests of its clients, one at a time, and ends with the last client."""

    def __init__(self, respond: Callable[[bytes], bytes], files: ModelFiles) -> None:
        self._respond = respond
        self._files = files
        self._model = threading.Lock()
        self._clients = 0
        self._counting = threading.Lock()

    def serve(self) -> None:
        """Serve clients. Does not return: the process ends."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._files.socket))
            listener.listen(64)
            first = threading.Timer(FIRST_CLIENT_TIMEOUT_S, self._end_without_clients)
            first.daemon = True
            first.start()
            while True:
                connection, _ = listener.accept()
                with self._counting:
                    self._clients += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        """Answer one client until it leaves. If the model fails, the client is disconnected and the log tells why."""
        with connection:
            try:
                while (request := _receive(connection)) is not None:
                    response = self._respond_in_time(request)
                    with suppress(OSError):  # the client has left
                        send_message(connection, response)
            except BaseException:  # noqa: BLE001 - the model's; the client is disconnected
                traceback.print_exc()  # before the client is, which reads it
        with self._counting:
            self._clients -= 1
        self._end_without_clients()

    def _respond_in_time(self, request: bytes) -> bytes:
        with self._model:
            # This also works while a model holds Python's lock, where a timer of `threading` does not.
            faulthandler.dump_traceback_later(REQUEST_TIMEOUT_S, exit=True)
            try:
                return self._respond(request)
            finally:
                faulthandler.cancel_dump_traceback_later()

    def _end_without_clients(self) -> None:
        with self._files.locked(), self._counting:
            if self._clients == 0:
                # A client that connects at this moment is disconnected, and starts another server.
                self._files.socket.unlink(missing_ok=True)
                os._exit(0)


def _receive(connection: socket.socket) -> bytes | None:
    try:
        return receive_message(connection)
    except (EOFError, OSError):  # the client has left
        return None


def main() -> None:
    """Load the model, then serve."""
    faulthandler.enable()
    module, _, function = sys.argv[1].partition(":")
    respond = getattr(importlib.import_module(module), function)()
    ModelServer(respond, ModelFiles.of(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
