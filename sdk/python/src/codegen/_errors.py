"""What can go wrong, each with the server's own sentence."""

from __future__ import annotations

from typing import Any, Optional


class CodegenError(Exception):
    """Everything that this package raises on its own account."""


class ConnectionFailed(CodegenError):
    """The server gave no answer, after as many tries as were allowed."""


class WaitTimeout(CodegenError, TimeoutError):
    """A run was still at work at the end of the time that it was waited for. It goes on."""


class ApiError(CodegenError):
    """The server refused a request."""

    def __init__(self, message: str, status_code: int, body: Any = None, retry_after: Optional[float] = None) -> None:
        super().__init__(f"{message} (HTTP {status_code})")
        #: The server's sentence.
        self.message = message
        self.status_code = status_code
        #: The answer as it came: JSON where it is that, else text.
        self.body = body
        #: Seconds that the server asks to wait for, where it does.
        self.retry_after = retry_after


class AuthenticationError(ApiError):
    """401: there is no token, or the server does not know it."""


class AllowanceUsedUp(ApiError):
    """402: the organization's runs or money of this month are used up."""


class PermissionDenied(ApiError):
    """403: the token's owner may not do this here."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: the state of things does not allow it."""


class InvalidRequest(ApiError):
    """422: something about the request is wrong; the message says everything that is."""


class RateLimited(ApiError):
    """429: too many requests, and more waiting than this client does by itself."""


class ServerError(ApiError):
    """500 and above."""


BY_STATUS: dict[int, type[ApiError]] = {
    401: AuthenticationError,
    402: AllowanceUsedUp,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
    429: RateLimited,
}
