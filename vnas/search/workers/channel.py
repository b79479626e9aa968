"""What a driver and a worker say to each other over a socket: four bytes of length, then a pickle.

    driver -> worker   Job, ...; then the end of the stream: no more will come
    worker -> driver   Ready | Refused, then for each job  Begun, Advanced, ..., Answered | Failed

The driver's end never blocks, whatever state the worker is in: half a message stays until the other half comes or the
worker is gone, and what the worker does not take yet is kept. The worker's end blocks.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vnas.errors import VnasError

_HEADER = struct.Struct("!I")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ready:
    """The evaluator is built."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The evaluator could not be built.

    Attributes:
        error: to raise in the driver.
        traceback: of an error that vnas did not raise; the other one then only holds it in words.
    """

    error: VnasError
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The next job is taken: if the process dies from here on, the job may be the reason."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The job goes on; the share that is done."""

    share: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The job is done; its attributes, of JSON's types only."""

    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The job came to nothing.

    Attributes:
        reason: in words.
        fault: as in ``Failure``.
        traceback: of an unexpected error.
        spent: whether the process is of no further use, since its device takes no more work from it.
    """

    reason: str
    fault: Literal["candidate", "unexpected"]
    traceback: str | None = None
    spent: bool = False


Message = Ready | Refused | Begun | Advanced | Answered | Failed


def packed(message: object) -> bytes:
    """A message as it goes over the socket.

    Raises:
        Exception: whatever pickle raises of an object that it cannot write.
    """
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(body)) + body


class DriverEnd:
    """The driver's end, which never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the worker's end is closed and all that came from it was received."""
        return self._ended

    @property
    def pending(self) -> bool:
        """Whether something is kept that the worker has not taken yet."""
        return bool(self._outgoing)

    def fileno(self) -> int:
        """To wait on."""
        return self._connection.fileno()

    def send(self, frame: bytes) -> None:
        """Send what ``packed`` made, or keep it for ``flush``."""
        self._outgoing += frame
        self.flush()

    def flush(self) -> None:
        """Send as much as goes of what is kept. If the worker is gone, all of it is dropped."""
        try:
            while self._outgoing:
                del self._outgoing[: self._connection.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[Message]:
        """The messages that have come whole, without waiting for more."""
        try:
            while not self._ended:
                chunk = self._connection.recv(_READ_BYTES)
                self._incoming += chunk
                self._ended = not chunk
        except BlockingIOError:
            pass
        except OSError:
            self._ended = True
        return self._unpacked()

    def finish(self) -> None:
        """Tell the worker that no more will come."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._ended = True

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _unpacked(self) -> list[Message]:
        messages: list[Message] = []
        begin = 0
        while len(self._incoming) >= (body := begin + _HEADER.size):
            end = body + _HEADER.unpack_from(self._incoming, begin)[0]
            if len(self._incoming) < end:
                break
            messages.append(pickle.loads(self._incoming[body:end]))
            begin = end
        del self._incoming[:begin]
        return messages


class WorkerEnd:
    """The worker's end, which blocks; any thread may send.

    Args:
        connection: blocking.
        leave: called where nobody listens any more; ends the process, so that no error of it is seen.
    """

    def __init__(self, connection: socket.socket, leave: Callable[[], object]) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._leave = leave
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send one message."""
        with self._sending:
            try:
                self._connection.sendall(packed(message))
            except OSError:
                self._leave()

    def receive(self) -> Any:
        """The next message; None where no more will come."""
        try:
            header = self._stream.read(_HEADER.size)
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
            body = self._stream.read(length)
        except OSError:
            return None
        return pickle.loads(body) if length and len(body) == length else None

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()
        self._connection.close()
