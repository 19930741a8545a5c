"""What the pages show works as it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from conftest import Server
from test_agent import DOT

HERE = Path(__file__).parent


@pytest.mark.parametrize("page", [HERE / "../README.md", HERE / "../../../docs/python.md"], ids=["README.md", "docs/python.md"])
def test_every_example_of_a_page_works(page: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODEGEN_API_BASE_URL", server.url)
    monkeypatch.setenv("CODEGEN_API_TOKEN", server.token)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "screenshot.png").write_bytes(DOT)
    text = page.read_text()
    ours = {
        "YOUR_API_TOKEN": server.token,
        "https://codegen.example.com": server.url,
        "https://github.com/you/project": server.repository(),
    }
    for theirs, here in ours.items():
        text = text.replace(theirs, here)
    namespace: Dict[str, Any] = {}
    examples = re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    for language, example in examples:
        if language == "sh":
            subprocess.run(["bash", "-euc", example], check=True)
        else:
            exec(compile(example, str(page), "exec"), namespace)
