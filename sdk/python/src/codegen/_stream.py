"""A run's events over connections that may break: what is kept between them."""

from __future__ import annotations

import json
from typing import Iterator, Optional

import httpx

from ._core import LONGEST_WAIT, Core, Request, pause, refusal
from ._errors import ApiError, RateLimited, ServerError
from ._types import Event, Json

#: The server says something at least every 15 seconds.
SILENCE = 60.0


class Feed:
    """Takes bytes of the stream and gives events, each entry of the log once."""

    def __init__(self, core: Core, path: str, after: int) -> None:
        self._core = core
        self._path = path
        self._seen = after
        self._lost = 0
        self._rest = b""
        #: Whether the run's last event came.
        self.done = False

    def request(self) -> Request:
        """The stream from where it was left."""
        self._rest = b""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._seen)}
        return Request("GET", self._path, headers=headers)

    def push(self, chunk: bytes) -> Iterator[Event]:
        """Bytes of the stream, and the events that are complete with them."""
        # Cut by hand: httpx takes characters that may stand in JSON for ends of lines.
        *events, self._rest = (self._rest + chunk.replace(b"\r\n", b"\n")).split(b"\n\n")
        for lines in events:
            # A sign of life is one, too, however quiet the run.
            self._lost = 0
            event = _event(lines.decode())
            if event is None or self.done:
                continue
            if event.seq is not None:
                self._seen = event.seq
            self.done = event.kind == "end"
            yield event

    def lost(self, why: Optional[httpx.TransportError]) -> float:
        """The connection ended early; gives the seconds to wait before the next, or raises where there were too many."""
        self._lost += 1
        if self._lost > self._core.patience:
            raise self._core.no_answer(why)
        return pause(self._lost, None)

    def refused(self, response: httpx.Response) -> float:
        """The stream was refused; gives the seconds to wait, or raises."""
        error: ApiError = refusal(response)
        self._lost += 1
        seconds = pause(self._lost, error.retry_after)
        passing = isinstance(error, (ServerError, RateLimited)) and seconds <= LONGEST_WAIT
        if not passing or self._lost > self._core.patience:
            raise error
        return seconds


def _event(lines: str) -> Optional[Event]:
    """An event from its lines; none where they are only a sign of life."""
    kind, seq, data = "", None, ""
    for line in lines.split("\n"):
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            seq = int(value)
        elif name == "data":
            data += value
    if not data:
        return None
    body: Json = json.loads(data)
    return Event(kind, seq, body)
