"""The hosted service's own clients, as they are on PyPI, against the server at CODEGEN_API_BASE_URL: `public_clients.py PART`.

Each part is a person's way through one client; what it should have seen and did not is an AssertionError.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

TOKEN = os.environ["TOKEN"]
HOME = Path(os.environ["HOME"])
CLI = str(Path(sys.executable).with_name("codegen"))
# What the public CLI shows in place of repositories that it did not get.
MADE_UP = ["codegen-sdk", "web-frontend", "api-backend", "mobile-app", "docs-site", "cli-tools", "data-pipeline", "ml-models"]


def cli(*args, code=0, cwd=None, **env):
    """Runs a command, requires its exit status and gives what it printed, without colours and line breaks."""
    done = subprocess.run(
        [CLI, *args], cwd=cwd, env={**os.environ, "COLUMNS": "200", **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert done.returncode == code, f"codegen {args} ended with {done.returncode}:\n{said}"
    assert not any(name in said for name in MADE_UP), f"the made-up repositories:\n{said}"
    return said


def on_terminal(*args, until, keys, code=0):
    """Runs a command on a terminal, presses keys once it shows a text, and gives what it showed up to its end."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(CLI, [CLI, *args])
    shown = ""
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline, f"codegen {args} does not end:\n{shown}"
        if until in shown and not select.select([terminal], [], [], 0.2)[0]:
            os.write(terminal, keys.encode())
            continue
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert ended == code, f"codegen {args} ended with {ended}:\n{shown}"
    return shown


def without_telemetry():
    """What answering no to the first question leaves."""
    said = subprocess.run([CLI, "--version"], input="n\n" * 4, capture_output=True, text=True, timeout=120)
    assert "0.57.0" in said.stdout, said


def no_more_questions():
    assert "Enable anonymous telemetry" not in cli("--version")


def wait(task):
    deadline = time.monotonic() + 120
    while task.status not in ("COMPLETE", "FAILED", "ERROR"):
        assert time.monotonic() < deadline, task.status
        time.sleep(0.1)
        task.refresh()


def sdk():
    from codegen import Agent
    from codegen_api_client.exceptions import ApiException

    agent = Agent(org_id=1, token=TOKEN)
    task = agent.run(prompt="Leave a review on PR #123")
    assert task.status == "ACTIVE" and task.result is None, vars(task)
    assert task.web_url == f"{os.environ['CODEGEN_API_BASE_URL']}/runs/{task.id}", task.web_url
    wait(task)
    assert (task.status, task.result) == ("COMPLETE", "All is well."), vars(task)
    assert agent.get_status() == {"id": task.id, "status": "COMPLETE", "result": "All is well.", "web_url": task.web_url}
    # The SDK does not strip a slash from its base URL.
    slashed = Agent(org_id=1, token=TOKEN, base_url=os.environ["CODEGEN_API_BASE_URL"] + "/")
    wait(slashed.run(prompt="Once more"))
    try:
        Agent(org_id=1, token="wrong").run(prompt="No")
    except ApiException as refused:
        assert refused.status == 401 and "message" in json.loads(refused.body), refused
    else:
        raise AssertionError("a wrong token was let in")
    generated(task.id)


def generated(run):
    """Every operation of the generated client, whose models refuse what the contract does not say."""
    import codegen_api_client as api
    from codegen_api_client.exceptions import ApiException

    bearer = f"Bearer {TOKEN}"
    client = api.ApiClient(api.Configuration(host=os.environ["CODEGEN_API_BASE_URL"], access_token=TOKEN))
    users, organizations, agents = api.UsersApi(client), api.OrganizationsApi(client), api.AgentsApi(client)
    members = users.get_users_v1_organizations_org_id_users_get("1", authorization=bearer)
    assert (members.total, members.page, members.pages) == (1, 1, 1), members
    me = members.items[0]
    assert users.get_user_v1_organizations_org_id_users_user_id_get("1", str(me.id), authorization=bearer) == me
    page = organizations.get_organizations_v1_organizations_get(authorization=bearer, skip=0, limit=10)
    assert (page.total, page.size, page.items[0].id) == (1, 10, 1) and page.items[0].settings is not None, page
    assert organizations.get_organizations_v1_organizations_get(authorization=bearer, skip=5).items == []
    new = api.CreateAgentRunInput(prompt="Say hello")
    created = agents.create_agent_run_v1_organizations_org_id_agent_run_post(1, new, authorization=bearer)
    assert (created.organization_id, created.status) == (1, "ACTIVE") and created.id > run, created
    get = agents.get_agent_run_v1_organizations_org_id_agent_run_agent_run_id_get
    assert get(run, 1, authorization=bearer).result == "All is well."
    for call, status in [
        (lambda: users.get_users_v1_organizations_org_id_users_get("99", authorization=bearer), 403),
        (lambda: get(9999, 1, authorization=bearer), 404),
        (lambda: organizations.get_organizations_v1_organizations_get(authorization="Bearer wrong"), 401),
    ]:
        try:
            call()
        except ApiException as refused:
            assert refused.status == status, refused
        else:
            raise AssertionError(f"expected {status}")


def commands():
    without_telemetry()
    no_more_questions()
    repo, work = os.environ["REPO"], os.environ["WORK"]
    # An organization without repositories; the list is kept by the CLI until the next log-in.
    shown = on_terminal("login", "--token", TOKEN, until="/recent", keys="q")
    assert "Could not fetch" not in shown and "Stored token" in shown, shown
    listed = cli("repo", "--list-repos")
    assert "codegen repo add" in listed, listed
    assert f"(ID: 1) (current)" in cli("profile", "list"), "the organization is the default one"
    assert "Set default organization" in cli("profile")
    assert "Default organization set to" in cli("org", "--set-default", "1", cwd=HOME)
    name = json.loads((HOME / ".codegen/auth.json").read_text())["organization"]["name"]
    assert name in cli("org", "--list")
    listed = cli("integrations")
    assert f"Integrations for {name}" in listed and "active)" in listed, listed
    print("ADD A REPOSITORY", flush=True)
    sys.stdin.readline()
    on_terminal("login", "--token", TOKEN, until="/recent", keys="q")
    assert Path(repo).stem in cli("repo", "--list-repos")
    assert "Agent Run Created" in cli("agent", "--prompt", "Mend the test.", "--repo-id", "1")
    deadline = time.monotonic() + 120
    while (run := json.loads(cli("agent", "--id", "1", "--json")))["status"] == "ACTIVE":
        assert time.monotonic() < deadline, run
    assert run["status"] == "COMPLETE" and len(run["github_pull_requests"]) == 1, run
    listed = cli("agents")
    assert "Complete" in listed and run["web_url"] in listed and "of 1 API agent runs" in listed, listed
    assert "PR #" in on_terminal("tui", until="PR #", keys="q")
    # Another's `origin`, by its address at GitHub.
    assert "Repository match confirmed" in cli("agent", "--id", "1", "pull", cwd=work)
    branch = subprocess.run(["git", "branch", "--show-current"], cwd=work, capture_output=True, text=True).stdout.strip()
    assert branch == run["github_pull_requests"][0]["head_branch_name"], branch
    assert "not found" in cli("agent", "--id", "99", code=1)
    assert "Background Agent Run Created" in cli("claude", "-b", "Go on.")
    # No command of 0.57.0 leads to it, but its code is there.
    listed = subprocess.run(
        [sys.executable, "-c", "from codegen.cli.commands.tools.main import tools; tools(None)"],
        env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert "create_agent_run" in listed.stdout and "tools available" in listed.stdout, listed


def ask(method, path, body=None):
    """The API, without any client."""
    request = urllib.request.Request(
        os.environ["CODEGEN_API_BASE_URL"] + path, method=method, data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def claude():
    """`codegen claude` around a stand-in for Claude Code, which does on disk what that does."""
    without_telemetry()
    on_terminal("login", "--token", TOKEN, until="/recent", keys="q")
    ask("POST", "/v1/organizations/1/rules", {"text": "Write tests first."})
    stand_in = HOME / "bin/claude"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" claude_stand_in "$@"\n')
    stand_in.chmod(0o755)
    # Hooks are run as `python3`.
    path = f"{stand_in.parent}:{Path(CLI).parent}:{os.environ['PATH']}"
    cli("claude", "--no-mcp", cwd=HOME, PATH=path)
    (run,) = ask("GET", "/v1/organizations/1/agent/runs?source_type=LOCAL")["items"]
    assert run["status"] == "COMPLETE" and told(run["id"], "All is done."), run


def claude_stand_in():
    """Writes a transcript of a short session and ends once the server has its last line."""
    arguments = sys.argv[2:]
    if arguments == ["--version"]:
        return print("2.1.197 (Claude Code)")
    assert arguments[0] == "--session-id" and arguments[2] == "--append-system-prompt", arguments
    assert "Write tests first." in arguments[3], arguments
    run = json.loads((HOME / ".codegen/claude-session.json").read_text())["agent_run_id"]
    hook(run, "UserPromptSubmit", "ACTIVE")
    transcript = HOME / ".claude/projects" / os.getcwd().replace("/", "-") / f"{arguments[1]}.jsonl"
    transcript.parent.mkdir(parents=True)
    # The client passes on what is written once it watches, which it tells nobody.
    n = 0
    while not told(run, "Hello"):
        n += 1
        write(transcript, "user", f"Hello {n}")
        time.sleep(0.2)
    write(transcript, "assistant", [{"type": "text", "text": "All is done."}])
    while not told(run, "All is done."):
        time.sleep(0.1)
    hook(run, "Stop", "COMPLETE")


def write(transcript, who, content):
    line = {"type": who, "uuid": str(uuid.uuid4()), "sessionId": transcript.stem, "message": {"role": who, "content": content}}
    with transcript.open("a") as file:
        file.write(json.dumps(line) + "\n")


def told(run, words):
    return words in json.dumps(ask("GET", f"/v1/organizations/1/agent/run/{run}/logs"))


def hook(run, event, status):
    command = json.loads((HOME / ".claude/settings.json").read_text())["hooks"][event][0]["hooks"][0]["command"]
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert ask("GET", f"/v1/organizations/1/agent/run/{run}")["status"] == status


if __name__ == "__main__":
    {part.__name__: part for part in (sdk, commands, claude, claude_stand_in)}[sys.argv[1]]()
