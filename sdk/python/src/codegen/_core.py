"""Requests and what becomes of their answers, once for both clients. Nothing here sends or waits: a `Flow` says what it wants,
a request or a pause, and is told what came of it."""

from __future__ import annotations

import math
import random
import time
import uuid
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Callable, Dict, Generator, List, Optional, Sequence, Tuple, TypeVar, Union, cast

import httpx

from ._errors import BY_STATUS, ApiError, CodegenError, ConnectionFailed, ServerError, WaitTimeout
from ._images import Image, data_uri
from ._login import Login
from ._types import Json, LogEntry, Organization, Repository, Rule, Run, User, items_of

T = TypeVar("T")

#: Statuses after which the same request may do better.
_PASSING = (408, 429, 500, 502, 503, 504)
#: Seconds that a server may ask to wait for.
LONGEST_WAIT = 60.0
#: Seconds: the first pause before another try, and the longest.
_FIRST, _LONGEST = 0.25, 8.0
#: Seconds between two looks at a run that is waited for.
_LOOK, _SELDOM = 0.2, 3.0
_PAGE = 100
_CONNECT, _LEAST = 10.0, 1.0


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    params: Json = field(default_factory=lambda: {})
    body: Optional[Json] = None
    headers: Dict[str, str] = field(default_factory=lambda: {})
    #: The moment (`time.monotonic`) from which nobody wants the answer any more.
    until: Optional[float] = None

    @property
    def keyed(self) -> bool:
        return "Idempotency-Key" in self.headers

    @property
    def repeatable(self) -> bool:
        """Whether a second one has no second effect."""
        return self.method in ("GET", "PUT", "DELETE") or self.keyed


@dataclass(frozen=True)
class Pause:
    """Some seconds of nothing."""

    seconds: float


Step = Union[Request, Pause]
#: What came of a step: of a request an answer or none, of a pause nothing.
Outcome = Union[httpx.Response, httpx.TransportError, None]
Flow = Generator[Step, Outcome, T]


class Core:
    """Every operation as a flow."""

    def __init__(self, login: Login, max_retries: int) -> None:
        self.base_url = login.base_url
        self.org_id = login.org_id
        self.max_retries = max_retries
        #: Tries of who waits for a run or follows it, about a minute's worth: enough for a restart of the server.
        self.patience = 3 * max_retries
        self.headers = {"Authorization": f"Bearer {login.token}", "User-Agent": f"codegen-python/{version('codegen')}"}

    def http(self, request: Request, timeout: float) -> Dict[str, Any]:
        """A request in httpx's words."""
        if request.until is not None:
            timeout = min(timeout, max(request.until - time.monotonic(), _LEAST))
        return {
            "method": request.method,
            "url": self.base_url + request.path,
            "params": request.params,
            "json": request.body,
            "headers": {**self.headers, **request.headers},
            "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT)),
        }

    def ask(self, request: Request, parse: Callable[[Any], T]) -> Flow[T]:
        """Sends a request, again where that may help, and reads the answer."""
        answer = yield from self._answer(request)
        try:
            return parse(answer.json())
        except (ValueError, KeyError, TypeError) as error:
            raise CodegenError(f"{self.base_url} does not answer as a codegen server does") from error

    def ask_in_org(self, request: Request, parse: Callable[[Any], T]) -> Flow[T]:
        """The same below the organization's path."""
        path = yield from self.org_path(request.path)
        return (yield from self.ask(replace(request, path=path), parse))

    def org_path(self, rest: str) -> Flow[str]:
        """A path of the organization: the one that was named, else the user's first."""
        if self.org_id is None:
            organizations = yield from self.organizations()
            if not organizations:
                raise CodegenError("this user belongs to no organization yet")
            self.org_id = organizations[0].id
        return f"/v1/organizations/{self.org_id}{rest}"

    def _answer(self, request: Request) -> Flow[httpx.Response]:
        tries = 0
        most = self.patience if request.until is not None else self.max_retries
        while True:
            outcome = yield request
            tries += 1
            if isinstance(outcome, httpx.Response):
                if outcome.is_success:
                    return outcome
                refused = refusal(outcome)
                error: CodegenError = refused
                # 429 comes before any effect, like a connection that was never made.
                passing = outcome.status_code in _PASSING and (request.repeatable or outcome.status_code == 429)
                # The first try, whose answer was not waited for, is still under way.
                passing = passing or (outcome.status_code == 409 and tries > 1 and request.keyed)
                asked_for = refused.retry_after
            else:
                error = self.no_answer(outcome)
                passing = request.repeatable or isinstance(outcome, (httpx.ConnectError, httpx.ConnectTimeout))
                asked_for = None
            seconds = pause(tries, asked_for)
            if not passing or tries > most or seconds > LONGEST_WAIT:
                raise error
            if request.until is not None and time.monotonic() + seconds > request.until:
                yield Pause(max(request.until - time.monotonic(), 0.0))
                raise WaitTimeout("nothing was heard of the run at the end of the time that it was waited for") from error
            yield Pause(seconds)

    def no_answer(self, cause: Optional[BaseException]) -> ConnectionFailed:
        """An error with what kept the server from answering."""
        error = ConnectionFailed(f"no answer from {self.base_url}: {cause or 'the connection ended'}")
        error.__cause__ = cause
        return error

    # Who and where

    def me(self) -> Flow[User]:
        return self.ask(Request("GET", "/v1/users/me"), User.parse)

    def organizations(self) -> Flow[List[Organization]]:
        return self.ask(Request("GET", "/v1/organizations"), items_of(Organization.parse))

    # Runs

    def create(
        self,
        prompt: str,
        *,
        repo_id: Optional[int],
        base_branch: Optional[str],
        model: Optional[str],
        agent_type: Optional[str],
        images: Sequence[Image],
        metadata: Optional[Json],
        tags: Sequence[str],
        output_schema: Optional[Json],
        idempotency_key: Optional[str],
    ) -> Flow[Run]:
        wanted = {
            "prompt": prompt,
            "repo_id": repo_id,
            "base_branch": base_branch,
            "model": model,
            "agent_type": agent_type,
            "images": [data_uri(image) for image in images] or None,
            "metadata": metadata,
            "tags": list(tags) or None,
            "output_schema": output_schema,
        }
        body = {name: value for name, value in wanted.items() if value is not None}
        return self.ask_in_org(_once("/agent/run", body, idempotency_key), Run.parse)

    def get(self, run_id: int) -> Flow[Run]:
        return self.ask_in_org(Request("GET", f"/agent/run/{run_id}"), Run.parse)

    def resume(self, run_id: int, prompt: str, images: Sequence[Image], idempotency_key: Optional[str]) -> Flow[Run]:
        body: Json = {"agent_run_id": run_id, "prompt": prompt}
        if images:
            body["images"] = [data_uri(image) for image in images]
        return self.ask_in_org(_once("/agent/run/resume", body, idempotency_key), Run.parse)

    def stop(self, run_id: int) -> Flow[Run]:
        return self.ask_in_org(_once("/agent/run/stop", {"agent_run_id": run_id}, None), Run.parse)

    def wait(self, run_id: int, timeout: Optional[float]) -> Flow[Run]:
        """Looks at a run until it has ended, less and less often."""
        ends = math.inf if timeout is None else time.monotonic() + timeout
        between = _LOOK
        while True:
            run = yield from self.ask_in_org(Request("GET", f"/agent/run/{run_id}", until=ends), Run.parse)
            if run.status.done:
                return run
            left = ends - time.monotonic()
            if timeout is not None and left <= 0:
                raise WaitTimeout(f"run {run_id} is still {run.status} after {timeout:g} seconds")
            yield Pause(min(between, left))
            between = min(between * 1.5, _SELDOM)

    def diff(self, run_id: int) -> Flow[str]:
        path = yield from self.org_path(f"/agent/run/{run_id}/diff")
        return (yield from self._answer(Request("GET", path))).text

    # Lists, page by page: each gives items and the request of the next page, if there is one.

    def runs(self, request: Request) -> Flow[Tuple[List[Run], Optional[Request]]]:
        page = yield from self.ask_in_org(request, _object)
        return items_of(Run.parse)(page), _next(request, "before", page.get("next"))

    def logs(self, request: Request) -> Flow[Tuple[List[LogEntry], Optional[Request]]]:
        page = yield from self.ask_in_org(request, _object)
        entries = [LogEntry.parse(entry) for entry in page["logs"]]
        key = "before" if request.params["reverse"] else "after"
        return entries, _next(request, key, entries[-1].seq if len(entries) == _PAGE else None)

    def repositories(self, request: Request) -> Flow[Tuple[List[Repository], Optional[Request]]]:
        page = yield from self.ask_in_org(request, _object)
        return items_of(Repository.parse)(page), _next_of_pages(request, page)

    def rules(self, request: Request) -> Flow[Tuple[List[Rule], Optional[Request]]]:
        page = yield from self.ask_in_org(request, _object)
        return items_of(Rule.parse)(page), _next_of_pages(request, page)

    # Repositories and rules

    def add_repository(self, url: str) -> Flow[Repository]:
        # The server finds the one with this address again, so a second request does no harm; PUT it is not.
        return self.ask_in_org(_once("/repos", {"url": url}, None), Repository.parse)

    def add_rule(self, text: str, repo_id: Optional[int]) -> Flow[Rule]:
        return self.ask_in_org(Request("POST", rules_path(repo_id), body={"text": text}), Rule.parse)

    def remove_rule(self, rule_id: int, repo_id: Optional[int]) -> Flow[None]:
        path = yield from self.org_path(f"{rules_path(repo_id)}/{rule_id}")
        yield from self._answer(Request("DELETE", path))


def runs_request(**wanted: Any) -> Request:
    """A list of runs, by what was asked for of them."""
    params = {name: value for name, value in wanted.items() if value is not None}
    return Request("GET", "/agent/runs", params={**params, "limit": _PAGE})


def logs_request(run_id: int, after: int, reverse: bool) -> Request:
    """A run's log from after an entry."""
    params: Json = {"limit": _PAGE, "after": after, "reverse": reverse}
    return Request("GET", f"/agent/run/{run_id}/logs", params=params)


def list_request(path: str) -> Request:
    """A list without filters."""
    return Request("GET", path, params={"limit": _PAGE})


def rules_path(repo_id: Optional[int]) -> str:
    """Rules of a repository, or of the organization."""
    return "/rules" if repo_id is None else f"/repos/{repo_id}/rules"


def refusal(response: httpx.Response) -> ApiError:
    """The error of an answer, in the server's words where it has some."""
    status = response.status_code
    try:
        body: Any = response.json()
    except ValueError:
        body = response.text
    message = _sentence(body) or f"the server answered {status} {response.reason_phrase}".rstrip()
    kind = BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    return kind(message, status, body, _seconds(response.headers.get("retry-after")))


def pause(tries: int, asked_for: Optional[float]) -> float:
    """Seconds before another try: what the server asked for, else longer each time, and not all clients at once."""
    grown = min(_FIRST * 2.0 ** (tries - 1), _LONGEST) * random.uniform(0.75, 1.0)
    return grown if asked_for is None else max(asked_for, 0.0)


def _sentence(body: Any) -> Optional[str]:
    try:
        answer = _object(body)
    except (TypeError, ValueError):
        return None
    detail: Any = answer.get("detail")
    if isinstance(detail, list):
        failures = cast(List[Json], detail)
        return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in failures)
    message = answer.get("message", detail)
    return message if isinstance(message, str) else None


def _seconds(header: Optional[str]) -> Optional[float]:
    """`Retry-After`: seconds, or a date."""
    if not header:
        return None
    try:
        return float(header)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except (TypeError, ValueError):
        return None


def _once(path: str, body: Json, key: Optional[str]) -> Request:
    """A change that has its effect once however often it is sent."""
    return Request("POST", path, body=body, headers={"Idempotency-Key": key or str(uuid.uuid4())})


def _object(answer: Any) -> Json:
    return dict(answer)


def _next(request: Request, name: str, value: Any) -> Optional[Request]:
    return None if value is None else replace(request, params={**request.params, name: value})


def _next_of_pages(request: Request, page: Json) -> Optional[Request]:
    return _next(request, "skip", page["page"] * page["size"] if page["page"] < page["pages"] else None)
