"""Carries flows out: sends what they want sent, waits where they want to wait."""

from __future__ import annotations

import asyncio
import time
from typing import AsyncIterator, Callable, Iterator, List, Optional, Tuple, TypeVar

import httpx

from ._core import Core, Flow, Outcome, Pause, Request
from ._stream import SILENCE, Feed
from ._types import Event

T = TypeVar("T")


class Link:
    """A client's connections to its server."""

    def __init__(self, core: Core, timeout: float, http: Optional[httpx.Client]) -> None:
        self.core = core
        self._timeout = timeout
        self._own = http is None
        self._http = http or httpx.Client()

    def do(self, flow: Flow[T]) -> T:
        """Carries a flow out."""
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
                continue
            try:
                outcome = self._http.send(self._http_request(step, self._timeout))
            except httpx.TransportError as error:
                outcome = error

    def pages(self, flow: Callable[[Request], Flow[Tuple[List[T], Optional[Request]]]], first: Request) -> Iterator[T]:
        request: Optional[Request] = first
        while request is not None:
            items, request = self.do(flow(request))
            yield from items

    def events(self, run_id: int, after: int) -> Iterator[Event]:
        feed = Feed(self.core, self.do(self.core.org_path(f"/agent/run/{run_id}/events")), after)
        while not feed.done:
            why: Optional[httpx.TransportError] = None
            try:
                response = self._http.send(self._http_request(feed.request(), SILENCE), stream=True)
                try:
                    if response.is_success:
                        for chunk in response.iter_bytes():
                            yield from feed.push(chunk)
                    else:
                        response.read()
                        time.sleep(feed.refused(response))
                        continue
                finally:
                    response.close()
            except httpx.TransportError as error:
                why = error
            if not feed.done:
                time.sleep(feed.lost(why))

    def _http_request(self, request: Request, timeout: float) -> httpx.Request:
        return self._http.build_request(**self.core.http(request, timeout))

    def close(self) -> None:
        """Closes the connections, unless they were given."""
        if self._own:
            self._http.close()


class AsyncLink:
    """The same for asyncio."""

    def __init__(self, core: Core, timeout: float, http: Optional[httpx.AsyncClient]) -> None:
        self.core = core
        self._timeout = timeout
        self._own = http is None
        self._http = http or httpx.AsyncClient()

    async def do(self, flow: Flow[T]) -> T:
        """Carries a flow out."""
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
                continue
            try:
                outcome = await self._http.send(self._http_request(step, self._timeout))
            except httpx.TransportError as error:
                outcome = error

    async def pages(self, flow: Callable[[Request], Flow[Tuple[List[T], Optional[Request]]]], first: Request) -> AsyncIterator[T]:
        request: Optional[Request] = first
        while request is not None:
            items, request = await self.do(flow(request))
            for item in items:
                yield item

    async def events(self, run_id: int, after: int) -> AsyncIterator[Event]:
        feed = Feed(self.core, await self.do(self.core.org_path(f"/agent/run/{run_id}/events")), after)
        while not feed.done:
            why: Optional[httpx.TransportError] = None
            try:
                response = await self._http.send(self._http_request(feed.request(), SILENCE), stream=True)
                try:
                    if response.is_success:
                        async for chunk in response.aiter_bytes():
                            for event in feed.push(chunk):
                                yield event
                    else:
                        await response.aread()
                        await asyncio.sleep(feed.refused(response))
                        continue
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                why = error
            if not feed.done:
                await asyncio.sleep(feed.lost(why))

    def _http_request(self, request: Request, timeout: float) -> httpx.Request:
        return self._http.build_request(**self.core.http(request, timeout))

    async def close(self) -> None:
        """Closes the connections, unless they were given."""
        if self._own:
            await self._http.aclose()
