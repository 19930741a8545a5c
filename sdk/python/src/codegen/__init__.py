"""Run code agents on a codegen server.

    from codegen import Agent

    agent = Agent(org_id=1, token="...")
    task = agent.run(prompt="Fix the failing test", repo_id=7).wait()
    print(task.status, task.result)
"""

from importlib.metadata import version

from ._agent import Agent, Task
from ._async import AsyncAgent, AsyncTask
from ._errors import (
    AllowanceUsedUp,
    ApiError,
    AuthenticationError,
    CodegenError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    WaitTimeout,
)
from ._images import Image
from ._types import Event, LogEntry, Organization, PullRequest, Repository, Rule, Run, Status, User

__version__ = version("codegen")

__all__ = [
    "Agent",
    "AllowanceUsedUp",
    "ApiError",
    "AsyncAgent",
    "AsyncTask",
    "AuthenticationError",
    "CodegenError",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Image",
    "InvalidRequest",
    "LogEntry",
    "NotFound",
    "Organization",
    "PermissionDenied",
    "PullRequest",
    "RateLimited",
    "Repository",
    "Rule",
    "Run",
    "ServerError",
    "Status",
    "Task",
    "User",
    "WaitTimeout",
    "__version__",
]
