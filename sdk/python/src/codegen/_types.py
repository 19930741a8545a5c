"""What the API tells, as typed values. Keys that this version does not know are in `raw`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union

T = TypeVar("T")
#: A JSON object.
Json = Dict[str, Any]

_AT_WORK = ("ACTIVE", "PENDING", "RUNNING", "EVALUATION", "PAUSED")
# The documentation's words, for which the API has others.
_WORDS = {
    "completed": ("COMPLETE",),
    "running": ("ACTIVE",),
    "failed": ("FAILED", "ERROR", "TIMEOUT", "MAX_ITERATIONS_REACHED", "OUT_OF_TOKENS"),
    "canceled": ("CANCELLED",),
}


class Status(str):
    """The API's word for how a run is: a `str` such as `"COMPLETE"`, which also equals the documentation's `"completed"`.

    Lower case is the loose form: `"failed"` equals every end without success that nobody asked for. As a key of a dict or in a
    set, a status is the API's word.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return str.__eq__(self, other) or str.__eq__(self, other.upper()) or str(self) in _WORDS.get(str(other), ())

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    @property
    def done(self) -> bool:
        """Whether the run has ended, however."""
        return str(self) not in _AT_WORK

    @property
    def succeeded(self) -> bool:
        """Whether the run has ended well."""
        return str(self) == "COMPLETE"


@dataclass(frozen=True)
class PullRequest:
    """A pull request that a run opened."""

    id: int
    url: str
    title: str
    head_branch: str
    #: `open` or `closed`.
    state: str
    merged: bool
    number: Optional[int]
    created_at: Optional[datetime]

    @classmethod
    def parse(cls, raw: Json) -> PullRequest:
        return cls(
            id=raw["id"],
            url=raw.get("url") or "",
            title=raw.get("title") or "",
            head_branch=raw.get("head_branch_name") or "",
            state=raw.get("state") or "open",
            merged=bool(raw.get("merged")),
            number=raw.get("number"),
            created_at=time_of(raw.get("created_at")),
        )


@dataclass(frozen=True)
class Run:
    """A run as it was when it was looked at."""

    id: int
    org_id: int
    status: Status
    #: The agent's last words, once there are some.
    result: Optional[str]
    summary: Optional[str]
    #: Where people watch it.
    web_url: str
    created_at: Optional[datetime]
    #: Where it was asked for: `API`, `SLACK`, ...
    source_type: Optional[str]
    pull_requests: List[PullRequest]
    metadata: Optional[Json]
    tags: List[str]
    archived: bool
    #: The structured result of a run with an `output_schema`.
    output: Any
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def parse(cls, raw: Json) -> Run:
        return cls(
            id=raw["id"],
            org_id=raw["organization_id"],
            status=Status(raw.get("status") or "ACTIVE"),
            result=raw.get("result"),
            summary=raw.get("summary"),
            web_url=raw.get("web_url") or "",
            created_at=time_of(raw.get("created_at")),
            source_type=raw.get("source_type"),
            pull_requests=list(map(PullRequest.parse, raw.get("github_pull_requests") or ())),
            metadata=raw.get("metadata"),
            tags=raw.get("tags") or [],
            archived=bool(raw.get("archived")),
            output=raw.get("output"),
            raw=raw,
        )


@dataclass(frozen=True)
class LogEntry:
    """One thing that a run did or was told."""

    #: Its place in the run's log.
    seq: int
    #: `ACTION`, `PLAN_EVALUATION`, `USER_MESSAGE`, `FINAL_ANSWER`, `ERROR`, ...
    message_type: str
    tool_name: Optional[str]
    tool_input: Optional[Json]
    tool_output: Optional[Json]
    #: What the model said on the way.
    thought: Optional[str]
    observation: Union[Json, str, None]
    created_at: Optional[datetime]

    @classmethod
    def parse(cls, raw: Json) -> LogEntry:
        return cls(
            seq=raw.get("seq") or 0,
            message_type=raw.get("message_type") or "",
            tool_name=raw.get("tool_name"),
            tool_input=raw.get("tool_input"),
            tool_output=raw.get("tool_output"),
            thought=raw.get("thought"),
            observation=raw.get("observation"),
            created_at=time_of(raw.get("created_at")),
        )


@dataclass(frozen=True)
class Event:
    """Something that happened in a run, as it is told live."""

    #: `reply`, `call_started`, `call_finished`, `user_message`, `stage`, `result`, `status`, ..., live `text` and `output`, and `end`.
    kind: str
    #: Of an entry of the log: its place there. Live words and output have none.
    seq: Optional[int]
    data: Json

    @property
    def text(self) -> str:
        """What was said or printed, where it is that."""
        said = self.data.get("text", self.data.get("output"))
        return said if isinstance(said, str) else ""


@dataclass(frozen=True)
class Repository:
    """A repository that runs can work in."""

    id: int
    name: str
    full_name: str
    description: Optional[str]
    archived: bool
    language: Optional[str]
    setup_status: str

    @classmethod
    def parse(cls, raw: Json) -> Repository:
        return cls(
            id=raw["id"],
            name=raw["name"],
            full_name=raw["full_name"],
            description=raw.get("description"),
            archived=bool(raw.get("archived")),
            language=raw.get("language"),
            setup_status=raw.get("setup_status") or "",
        )


@dataclass(frozen=True)
class Rule:
    """Something that agents shall keep to."""

    id: int
    text: str
    position: int
    enabled: bool

    @classmethod
    def parse(cls, raw: Json) -> Rule:
        return cls(id=raw["id"], text=raw["text"], position=raw["position"], enabled=raw["enabled"])


@dataclass(frozen=True)
class User:
    """A person, or a service account."""

    id: int
    name: str
    email: Optional[str]
    role: Optional[str]

    @classmethod
    def parse(cls, raw: Json) -> User:
        name = raw.get("full_name") or raw.get("github_username") or ""
        return cls(id=raw["id"], name=name, email=raw.get("email"), role=raw.get("role"))


@dataclass(frozen=True)
class Organization:
    """Where people, repositories and runs belong."""

    id: int
    name: str

    @classmethod
    def parse(cls, raw: Json) -> Organization:
        return cls(id=raw["id"], name=raw["name"])


def time_of(text: Optional[str]) -> Optional[datetime]:
    """A moment, or none where there is none to be read."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None


def items_of(parse: Callable[[Json], T]) -> Callable[[Json], List[T]]:
    """Reads a page's items."""
    return lambda page: [parse(item) for item in page["items"]]
