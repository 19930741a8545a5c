"""What a run shows, for both clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any, List, Optional

from ._types import Json, PullRequest, Run, Status


class RunView:
    """A run as it was when it was last looked at."""

    def __init__(self, run: Run) -> None:
        #: All that is known of it.
        self.run = run

    @property
    def id(self) -> int:
        return self.run.id

    @property
    def org_id(self) -> int:
        return self.run.org_id

    @property
    def status(self) -> Status:
        """The API's word, as `COMPLETE`, which also equals `"completed"`."""
        return self.run.status

    @property
    def done(self) -> bool:
        """Whether it has ended, however."""
        return self.run.status.done

    @property
    def result(self) -> Optional[str]:
        """The agent's last words; none while it works."""
        return self.run.result

    @property
    def output(self) -> Any:
        """The structured result, of a run with an `output_schema`."""
        return self.run.output

    @property
    def summary(self) -> Optional[str]:
        return self.run.summary

    @property
    def web_url(self) -> str:
        """Where people watch it."""
        return self.run.web_url

    @property
    def created_at(self) -> Optional[datetime]:
        return self.run.created_at

    @property
    def pull_requests(self) -> List[PullRequest]:
        return self.run.pull_requests

    @property
    def metadata(self) -> Optional[Json]:
        return self.run.metadata

    @property
    def tags(self) -> List[str]:
        return self.run.tags

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id}, status={str(self.status)!r}, result={self.result!r})"
