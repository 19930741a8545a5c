"""A real server with a model that reads from a script, the one whose command the wheel brought."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, List, Tuple

import pytest

from codegen import Agent

CODEGEN = Path(sys.executable).with_name("codegen")
Replies = List[Dict[str, Any]]


def say(text: str, *calls: Tuple[str, Dict[str, Any]]) -> Dict[str, Any]:
    return {"text": text, "calls": [{"name": name, "input": arguments} for name, arguments in calls]}


def shell(command: str, text: str = "") -> Dict[str, Any]:
    return say(text, ("shell", {"command": command}))


def finish(summary: str) -> Dict[str, Any]:
    return say("", ("finish", {"summary": summary, "success": True}))


class Server:
    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder = folder
        self.url = url
        self.token = token

    def agent(self, **options: Any) -> Agent:
        given: Dict[str, Any] = {"org_id": 1, "token": self.token, "base_url": self.url, **options}
        return Agent(**given)

    def repository(self) -> str:
        """A git repository with one commit."""
        path = self.folder / "origin"
        if not path.exists():
            git = ["git", "-C", str(path), "-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
            subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
            (path / "total.py").write_text("def total(xs):\n    return sum(xs)\n")
            subprocess.run([*git, "add", "-A"], check=True)
            subprocess.run([*git, "commit", "-q", "-m", "Start"], check=True)
        return str(path)


def clean_environment() -> Dict[str, str]:
    ours = ("CODEGEN_", "XDG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours) and not name.endswith("_API_KEY")}


@contextmanager
def serving(
    folder: Path, replies: Replies, addr: str = "127.0.0.1:0", token: str = "", **settings: str
) -> Generator[Server, None, None]:
    """A server on a folder; on one that a server left behind with its token."""
    script = folder / "script.json"
    script.write_text(json.dumps({"replies": replies}))
    environment = {
        **clean_environment(),
        "CODEGEN_DATA_DIR": str(folder / "data"),
        "CODEGEN_DEFAULT_MODEL": f"scripted:{script}",
        "CODEGEN_RATE_LIMITS": "off",
        **settings,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(CODEGEN), "serve", "--addr", addr], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().replace("codegen is at ", "")
        token = token or process.stdout.readline().strip().replace("token (shown once): ", "")
        assert token.startswith("cgn_"), (folder / "log").read_text()
        yield Server(folder, url, token)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its runs look around and are done at once; in a repository they leave a file."""
    replies = [shell("echo hello | tee hello.txt", "I look around first."), finish("All is well.")]
    with serving(tmp_path_factory.mktemp("server"), replies) as server:
        yield server


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its runs work until they are stopped."""
    with serving(tmp_path_factory.mktemp("busy"), [shell("echo begun; sleep 600")]) as server:
        yield server


@pytest.fixture
def agent(server: Server) -> Iterator[Agent]:
    with server.agent() as agent:
        yield agent
