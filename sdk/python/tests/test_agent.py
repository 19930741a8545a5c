"""The client against a real server."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path

import pytest

import codegen
import codegen.agents
from codegen import Agent, AuthenticationError, CodegenError, InvalidRequest, NotFound, PermissionDenied, WaitTimeout

from conftest import CODEGEN, Server, clean_environment

DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def test_the_documentations_example_works_as_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_API_BASE_URL", server.url)
    # Initialize the Agent with your organization ID and API token
    agent = Agent(org_id="1", token=server.token)
    # Run an agent with a prompt
    task = agent.run(prompt="Leave a review on PR #123")
    # Check the initial status
    assert task.status == "ACTIVE"
    # Refresh the task to get updated status (tasks can take time)
    while task.status not in ("completed", "failed"):
        time.sleep(0.1)
        task.refresh()
    assert task.status == "completed"
    assert task.result == "All is well."
    assert str(task.status) == "COMPLETE" and f"{task.status}" == "COMPLETE"
    assert agent.get_status() == {"id": task.id, "status": "COMPLETE", "result": "All is well.", "web_url": task.web_url}


def test_programs_that_import_from_where_the_hosted_sdk_has_it_run_too(server: Server) -> None:
    from codegen.agents.agent import Agent as HostedAgent
    from codegen.agents.agent import AgentTask

    assert codegen.agents.Agent is HostedAgent is Agent
    task = HostedAgent(server.token, 1, server.url).run("Say hello")
    assert isinstance(task, AgentTask) and (task.id, task.org_id) == (task.run.id, 1)
    task.stop()


def test_a_run_keeps_what_it_was_started_with_and_is_found_again(agent: Agent) -> None:
    task = agent.run("Say hello", metadata={"ticket": "A-1"}, tags=["nightly", "api"]).wait(timeout=60)
    assert task.status.succeeded and task.done and task.output is None
    assert (task.metadata, task.tags, task.pull_requests) == ({"ticket": "A-1"}, ["nightly", "api"], [])
    assert task.created_at is not None and task.created_at.tzinfo is not None
    assert task.web_url == f"{agent.base_url}/runs/{task.id}"
    assert agent.get(task.id).run == task.run
    assert [run.id for run in agent.runs(tag="api", status="COMPLETE", source_type="API")] == [task.id]
    assert list(agent.runs(since=task.created_at, tag="no such tag")) == []


def test_lists_go_on_over_their_pages(agent: Agent) -> None:
    started = [agent.run(f"Run {n}", tags=["many"]).id for n in range(105)]
    assert [task.id for task in agent.runs(tag="many")] == started[::-1]
    for task in agent.runs(tag="many"):
        task.stop()


def test_a_run_in_a_repository_leaves_a_change_and_a_pull_request(server: Server, agent: Agent) -> None:
    repository = agent.add_repository(server.repository())
    assert agent.add_repository(server.repository()) == repository
    assert repository in list(agent.repositories()) and repository.name == "origin"
    task = agent.run("Say hello in a file", repo_id=repository.id, base_branch="main").wait(timeout=120)
    assert task.status == "completed", task.result
    assert "+hello" in task.diff()
    (pull_request,) = task.pull_requests
    assert (pull_request.state, pull_request.merged) == ("open", False) and pull_request.head_branch.startswith("codegen/")


def test_the_log_tells_what_was_done_forwards_and_backwards(agent: Agent) -> None:
    task = agent.run("Say hello").wait(timeout=60)
    entries = list(task.logs())
    kinds = [entry.message_type for entry in entries]
    assert kinds == ["PLAN_EVALUATION", "ACTION", "ACTION", "FINAL_ANSWER"], entries
    assert entries[0].thought == "I look around first."
    assert entries[1].tool_name == "shell" and entries[1].tool_output is not None
    assert entries[1].tool_output["output"] == "hello\n"
    assert [entry.seq for entry in task.logs(reverse=True)] == [entry.seq for entry in entries][::-1]
    assert list(task.logs(after=entries[1].seq)) == entries[2:]


def test_a_run_is_followed_as_it_happens_up_to_its_end(agent: Agent) -> None:
    task = agent.run("Say hello")
    events = list(task.stream())
    seqs = [event.seq for event in events if event.seq is not None]
    assert seqs == list(range(1, len(seqs) + 1)), "each entry once, in order"
    assert [event.text for event in events if event.kind == "reply"] == ["I look around first.", ""]
    assert events[-1].kind == "end" and events[-1].data["status"] == "COMPLETE"
    later = [event.seq for event in task.stream(after=seqs[-2])]
    assert later == [seqs[-1], None]


def test_a_run_is_told_more_and_goes_on(agent: Agent) -> None:
    task = agent.run("Say hello").wait(timeout=60)
    again = task.resume("And goodbye", images=[DOT])
    assert again is task and task.status == "running"
    task.wait(timeout=60)
    said = [entry.observation for entry in task.logs() if entry.message_type == "USER_MESSAGE"]
    assert "And goodbye" in said, said


def test_waiting_ends_on_time_and_a_stopped_run_is_cancelled(busy: Server) -> None:
    with busy.agent() as agent:
        task = agent.run("Work for long")
        began = time.monotonic()
        with pytest.raises(WaitTimeout, match="still ACTIVE after 0.5 seconds"):
            task.wait(timeout=0.5)
        assert 0.5 <= time.monotonic() - began < 2.5
        with pytest.raises(TimeoutError):
            task.wait(timeout=0)
        next(event for event in task.stream() if event.kind == "call_started")
        task.stop().wait(timeout=60)
        assert task.status == "cancelled" and task.status == "CANCELLED"


def test_images_are_taken_from_files_bytes_and_data_uris(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "dot.png"
    file.write_bytes(DOT)
    uri = "data:image/png;base64," + base64.b64encode(DOT).decode()
    agent.run("What is in these?", images=[file, str(file), DOT, uri]).stop()
    with pytest.raises(ValueError, match="no PNG, JPEG, GIF or WebP"):
        agent.run("And in this?", images=[Path(__file__)])
    with pytest.raises(FileNotFoundError):
        agent.run("And here?", images=["nowhere.png"])


def test_rules_are_added_listed_and_removed(agent: Agent) -> None:
    rule = agent.add_rule("Write tests first.")
    assert rule in list(agent.rules()) and rule.enabled
    agent.remove_rule(rule.id)
    assert rule not in list(agent.rules())


def test_a_result_fits_the_schema_that_was_asked_for(server: Server, agent: Agent) -> None:
    schema = {"type": "object", "properties": {"files": {"type": "array"}}, "required": ["files"]}
    task = agent.run("Which files?", output_schema=schema).wait(timeout=60)
    # The script gives none, so the run says that it has none.
    assert not task.status.succeeded and task.output is None and task.result


def test_refusals_are_errors_with_the_servers_words(server: Server, agent: Agent) -> None:
    with pytest.raises(AuthenticationError, match="Missing or invalid API token") as refused:
        server.agent(token="wrong").me()
    assert refused.value.status_code == 401
    with pytest.raises(PermissionDenied):
        server.agent(org_id=99).run("Say hello")
    with pytest.raises(NotFound, match="Agent run not found"):
        agent.get(999999)
    with pytest.raises(InvalidRequest, match="body.prompt: String should have at least 1 character"):
        agent.run("  ")
    with pytest.raises(InvalidRequest, match="base_branch|repo_id"):
        agent.run("Say hello", repo_id="one")  # type: ignore[arg-type]  # what a caller without types does


def test_the_organization_is_the_users_first_where_none_is_named(server: Server) -> None:
    agent = server.agent(org_id=None)
    assert agent.org_id is None and agent.me().name and agent.organizations()[0].id == 1
    assert agent.run("Say hello").org_id == 1 == agent.org_id


def test_a_log_in_of_the_command_is_used_for_its_own_server_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**clean_environment(), "XDG_CONFIG_HOME": str(tmp_path)}
    login = [str(CODEGEN), "login", "--url", server.url, "--token", server.token]
    subprocess.run([*login, "--profile", "work"], env=environment, check=True, stdout=subprocess.DEVNULL)
    for name in ("CODEGEN_API_BASE_URL", "CODEGEN_API_TOKEN", "CODEGEN_ORG_ID", "CODEGEN_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Agent().me() == server.agent().me() and Agent().org_id == 1
    monkeypatch.setenv("CODEGEN_PROFILE", "home")
    with pytest.raises(CodegenError, match="no profile 'home'"):
        Agent()
    monkeypatch.setenv("CODEGEN_PROFILE", "work")
    assert Agent().base_url == server.url
    with pytest.raises(CodegenError, match="no token"):
        Agent(base_url="http://127.0.0.1:1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    with pytest.raises(CodegenError, match="which server"):
        Agent(token="any")
    with pytest.raises(CodegenError, match="no address"):
        Agent(token="any", base_url="localhost:8080")
    with pytest.raises(CodegenError, match="no number"):
        Agent(token="any", base_url=server.url, org_id="ours")


def test_a_token_is_not_shown(server: Server) -> None:
    agent = server.agent()
    task = agent.run("Say hello")
    assert server.token not in f"{agent!r} {task!r} {task.run!r}"
    task.stop()


def test_a_token_from_a_file_may_end_with_a_line_and_what_is_no_token_is_not_repeated(server: Server) -> None:
    assert server.agent(token=server.token + "\n").me().id
    with pytest.raises(CodegenError) as refused:
        server.agent(token="secret\nsecret")
    assert "secret" not in str(refused.value)


def test_the_command_comes_with_the_package() -> None:
    said = subprocess.run([str(CODEGEN), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"codegen {codegen.__version__}"
