"""Where the server is and who asks: from arguments, else the environment, else the log-ins that `codegen login` keeps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Union
from urllib.parse import urlsplit

from ._errors import CodegenError
from ._types import Json


@dataclass(frozen=True)
class Login:
    """A server, and who one is there."""

    base_url: str
    token: str = field(repr=False)
    org_id: Optional[int]

    @classmethod
    def find(cls, token: Optional[str], org_id: Union[int, str, None], base_url: Optional[str]) -> Login:
        saved = _saved()
        url = base_url or os.environ.get("CODEGEN_API_BASE_URL") or (saved[0]["url"] if saved else None)
        if not url:
            raise CodegenError("which server? Give base_url=, set CODEGEN_API_BASE_URL, or run `codegen login`")
        url = str(url).rstrip("/")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise CodegenError(f"base_url is no address of a server: {url}")
        # A token goes only to the server that it is of.
        none: Json = {}
        of_this_server = next((login for login in saved if login["url"] == url), none)
        token = token or os.environ.get("CODEGEN_API_TOKEN") or of_this_server.get("token")
        if not token:
            raise CodegenError("no token: give token=, set CODEGEN_API_TOKEN, or run `codegen login`")
        # A line end that came along from a file; what else is no token would end up in the words of an error.
        token = str(token).strip()
        if not (token.isascii() and token.isprintable()):
            raise CodegenError("the token has characters that no token has")
        org: Any = org_id if org_id is not None else os.environ.get("CODEGEN_ORG_ID") or of_this_server.get("org_id")
        try:
            return cls(url, token, None if org is None else int(org))
        except ValueError:
            raise CodegenError(f"org_id is no number: {org}") from None


def _saved() -> List[Json]:
    """The log-ins that the command keeps, the one in use first; without that one, none where it is named."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    try:
        kept: Any = json.loads(Path(base, "codegen", "login.json").read_text())
        named = os.environ.get("CODEGEN_PROFILE")
        in_use = named or kept["current"]
        logins: Json = dict(kept["profiles"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    first = logins.pop(in_use, None)
    if first is None and named:
        raise CodegenError(f"there is no profile {named!r} (`codegen login --profile {named}` makes it)")
    return [login for login in (first, *logins.values()) if login]
