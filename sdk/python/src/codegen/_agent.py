"""The client that waits for its answers."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Iterator, List, Optional, Sequence, Type, Union

import httpx

from . import _core
from ._core import Core, Flow
from ._images import Image
from ._link import Link
from ._login import Login
from ._run import RunView
from ._types import Event, Json, LogEntry, Organization, Repository, Rule, Run, User


class Agent:
    """Runs agents on a codegen server.

    What is not given is taken from `CODEGEN_API_BASE_URL`, `CODEGEN_API_TOKEN` and `CODEGEN_ORG_ID`, then from `codegen login`; the
    organization is the user's first where none is named. May be shared between threads, and closed, or used as a context manager.
    """

    def __init__(
        self,
        token: Optional[str] = None,
        org_id: Union[int, str, None] = None,
        base_url: Optional[str] = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 4,
        http_client: Optional[httpx.Client] = None,
    ) -> None:
        self._link = Link(Core(Login.find(token, org_id, base_url), max_retries), timeout, http_client)
        #: The run that was started last.
        self.current_job: Optional[Task] = None

    @property
    def base_url(self) -> str:
        return self._link.core.base_url

    @property
    def org_id(self) -> Optional[int]:
        """The organization; none before the first request where none was named."""
        return self._link.core.org_id

    def run(
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
    ) -> Task:
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
        self.current_job = Task(self._link, self._link.do(flow))
        return self.current_job

    def get(self, run_id: int) -> Task:
        """A run by its number."""
        return Task(self._link, self._link.do(self._link.core.get(run_id)))

    def runs(
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
    ) -> Iterator[Task]:
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
        for run in self._link.pages(self._link.core.runs, request):
            yield Task(self._link, run)

    def get_status(self) -> Optional[Json]:
        """The run that was started last, looked at anew."""
        task = self.current_job
        if task is None:
            return None
        task.refresh()
        return {"id": task.id, "status": task.status, "result": task.result, "web_url": task.web_url}

    def repositories(self) -> Iterator[Repository]:
        """Repositories that runs can work in."""
        return self._link.pages(self._link.core.repositories, _core.list_request("/repos"))

    def add_repository(self, url: str) -> Repository:
        """Adds the repository with this git URL, or finds it again."""
        return self._link.do(self._link.core.add_repository(url))

    def rules(self, *, repo_id: Optional[int] = None) -> Iterator[Rule]:
        """What agents shall keep to, in the organization or in one repository."""
        return self._link.pages(self._link.core.rules, _core.list_request(_core.rules_path(repo_id)))

    def add_rule(self, text: str, *, repo_id: Optional[int] = None) -> Rule:
        return self._link.do(self._link.core.add_rule(text, repo_id))

    def remove_rule(self, rule_id: int, *, repo_id: Optional[int] = None) -> None:
        self._link.do(self._link.core.remove_rule(rule_id, repo_id))

    def me(self) -> User:
        """Whose token this is."""
        return self._link.do(self._link.core.me())

    def organizations(self) -> List[Organization]:
        return self._link.do(self._link.core.organizations())

    def close(self) -> None:
        """Closes the connections, unless they were given."""
        self._link.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Agent(org_id={self.org_id}, base_url={self.base_url!r})"


class Task(RunView):
    """A run: how it was when it was last looked at, and what can be done with it."""

    def __init__(self, link: Link, run: Run) -> None:
        super().__init__(run)
        self._link = link

    def refresh(self) -> Task:
        """Looks at the run again."""
        return self._now(self._link.core.get(self.id))

    def wait(self, timeout: Optional[float] = None) -> Task:
        """Waits for the run's end, however it ends; raises `WaitTimeout` where that takes more seconds than these."""
        return self._now(self._link.core.wait(self.id, timeout))

    def resume(self, prompt: str, *, images: Sequence[Image] = (), idempotency_key: Optional[str] = None) -> Task:
        """Tells the run more: at its next step while it works, else it goes on."""
        return self._now(self._link.core.resume(self.id, prompt, images, idempotency_key))

    def stop(self) -> Task:
        """Asks the run to end; its work is kept. `wait` waits until it has."""
        return self._now(self._link.core.stop(self.id))

    def logs(self, *, after: int = 0, reverse: bool = False) -> Iterator[LogEntry]:
        """What the run did so far, asked for as it is looked at."""
        return self._link.pages(self._link.core.logs, _core.logs_request(self.id, after, reverse))

    def stream(self, *, after: int = 0) -> Iterator[Event]:
        """The run's events from its beginning, or after an entry, and on as they happen, up to its end.

        Goes on by itself where the connection breaks: each entry of the log comes once and in order.
        """
        return self._link.events(self.id, after)

    def diff(self) -> str:
        """What the run changed so far, as a patch."""
        return self._link.do(self._link.core.diff(self.id))

    def _now(self, flow: Flow[Run]) -> Task:
        self.run = self._link.do(flow)
        return self
