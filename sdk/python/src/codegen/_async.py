"""The client for asyncio: `Agent`, awaited."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import AsyncIterator, List, Optional, Sequence, Type, Union

import httpx

from . import _core
from ._core import Core, Flow
from ._images import Image
from ._link import AsyncLink
from ._login import Login
from ._run import RunView
from ._types import Event, Json, LogEntry, Organization, Repository, Rule, Run, User


class AsyncAgent:
    """Runs agents on a codegen server, as `Agent` does and with the same names."""

    def __init__(
        self,
        token: Optional[str] = None,
        org_id: Union[int, str, None] = None,
        base_url: Optional[str] = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 4,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        self._link = AsyncLink(Core(Login.find(token, org_id, base_url), max_retries), timeout, http_client)
        #: The run that was started last.
        self.current_job: Optional[AsyncTask] = None

    @property
    def base_url(self) -> str:
        return self._link.core.base_url

    @property
    def org_id(self) -> Optional[int]:
        """The organization; none before the first request where none was named."""
        return self._link.core.org_id

    async def run(
        self,
        prompt: str,
        *,
        repo_id: Optional[int] = None,
        base_branch: Optional[str] = None,
        model: Optional[str] = None,
        agent_type: Optional[str] = None,
        images: Sequence[Image] = (),
        metadata: Optional[Json] = None,
        tags: Sequence[str] = (),
        output_schema: Optional[Json] = None,
        idempotency_key: Optional[str] = None,
    ) -> AsyncTask:
        """Starts a run and gives it at once; the work goes on by itself.

        `images` are paths, bytes or data URIs. With an `output_schema` (JSON schema) the run ends with an `output` that fits it. The
        same `idempotency_key` never starts a second run; without one, each call has its own, so that a retry starts none either.
        """
        flow = self._link.core.create(
            prompt,
            repo_id=repo_id,
            base_branch=base_branch,
            model=model,
            agent_type=agent_type,
            images=images,
            metadata=metadata,
            tags=tags,
            output_schema=output_schema,
            idempotency_key=idempotency_key,
        )
        self.current_job = AsyncTask(self._link, await self._link.do(flow))
        return self.current_job

    async def get(self, run_id: int) -> AsyncTask:
        """A run by its number."""
        return AsyncTask(self._link, await self._link.do(self._link.core.get(run_id)))

    async def runs(
        self,
        *,
        status: Optional[str] = None,
        source_type: Optional[str] = None,
        user_id: Optional[int] = None,
        repo_id: Optional[int] = None,
        tag: Optional[str] = None,
        text: Optional[str] = None,
        since: Optional[datetime] = None,
        until: Optional[datetime] = None,
        archived: Optional[bool] = None,
    ) -> AsyncIterator[AsyncTask]:
        """Runs, newest first, asked for as they are looked at. `status` is the API's word, as `COMPLETE`."""
        request = _core.runs_request(
            status=status,
            source_type=source_type,
            user_id=user_id,
            repo_id=repo_id,
            tag=tag,
            text=text,
            since=since and since.isoformat(),
            until=until and until.isoformat(),
            archived=archived,
        )
        async for run in self._link.pages(self._link.core.runs, request):
            yield AsyncTask(self._link, run)

    async def get_status(self) -> Optional[Json]:
        """The run that was started last, looked at anew."""
        task = self.current_job
        if task is None:
            return None
        await task.refresh()
        return {"id": task.id, "status": task.status, "result": task.result, "web_url": task.web_url}

    def repositories(self) -> AsyncIterator[Repository]:
        """Repositories that runs can work in."""
        return self._link.pages(self._link.core.repositories, _core.list_request("/repos"))

    async def add_repository(self, url: str) -> Repository:
        """Adds the repository with this git URL, or finds it again."""
        return await self._link.do(self._link.core.add_repository(url))

    def rules(self, *, repo_id: Optional[int] = None) -> AsyncIterator[Rule]:
        """What agents shall keep to, in the organization or in one repository."""
        return self._link.pages(self._link.core.rules, _core.list_request(_core.rules_path(repo_id)))

    async def add_rule(self, text: str, *, repo_id: Optional[int] = None) -> Rule:
        return await self._link.do(self._link.core.add_rule(text, repo_id))

    async def remove_rule(self, rule_id: int, *, repo_id: Optional[int] = None) -> None:
        await self._link.do(self._link.core.remove_rule(rule_id, repo_id))

    async def me(self) -> User:
        """Whose token this is."""
        return await self._link.do(self._link.core.me())

    async def organizations(self) -> List[Organization]:
        return await self._link.do(self._link.core.organizations())

    async def close(self) -> None:
        """Closes the connections, unless they were given."""
        await self._link.close()

    async def __aenter__(self) -> AsyncAgent:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncAgent(org_id={self.org_id}, base_url={self.base_url!r})"


class AsyncTask(RunView):
    """A run: how it was when it was last looked at, and what can be done with it."""

    def __init__(self, link: AsyncLink, run: Run) -> None:
        super().__init__(run)
        self._link = link

    async def refresh(self) -> AsyncTask:
        """Looks at the run again."""
        return await self._now(self._link.core.get(self.id))

    async def wait(self, timeout: Optional[float] = None) -> AsyncTask:
        """Waits for the run's end, however it ends; raises `WaitTimeout` where that takes more seconds than these."""
        return await self._now(self._link.core.wait(self.id, timeout))

    async def resume(self, prompt: str, *, images: Sequence[Image] = (), idempotency_key: Optional[str] = None) -> AsyncTask:
        """Tells the run more: at its next step while it works, else it goes on."""
        return await self._now(self._link.core.resume(self.id, prompt, images, idempotency_key))

    async def stop(self) -> AsyncTask:
        """Asks the run to end; its work is kept. `wait` waits until it has."""
        return await self._now(self._link.core.stop(self.id))

    def logs(self, *, after: int = 0, reverse: bool = False) -> AsyncIterator[LogEntry]:
        """What the run did so far, asked for as it is looked at."""
        return self._link.pages(self._link.core.logs, _core.logs_request(self.id, after, reverse))

    def stream(self, *, after: int = 0) -> AsyncIterator[Event]:
        """The run's events from its beginning, or after an entry, and on as they happen, up to its end.

        Goes on by itself where the connection breaks: each entry of the log comes once and in order.
        """
        return self._link.events(self.id, after)

    async def diff(self) -> str:
        """What the run changed so far, as a patch."""
        return await self._link.do(self._link.core.diff(self.id))

    async def _now(self, flow: Flow[Run]) -> AsyncTask:
        self.run = await self._link.do(flow)
        return self
