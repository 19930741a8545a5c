"""The client for asyncio, against the same server."""

from __future__ import annotations

import asyncio

import pytest

from codegen import AsyncAgent, NotFound, WaitTimeout

from conftest import Server


def open_agent(server: Server) -> AsyncAgent:
    return AsyncAgent(org_id=1, token=server.token, base_url=server.url)


def test_runs_work_side_by_side(server: Server) -> None:
    async def story() -> None:
        async with open_agent(server) as agent:
            tasks = await asyncio.gather(*(agent.run(f"Run {n}", tags=["side"]) for n in range(5)))
            await asyncio.gather(*(task.wait(timeout=120) for task in tasks))
            assert [task.status for task in tasks] == ["completed"] * 5
            assert [task.id async for task in agent.runs(tag="side")] == sorted((t.id for t in tasks), reverse=True)
            assert agent.current_job in tasks and (await agent.get_status() or {})["status"] == "COMPLETE"

    asyncio.run(story())


def test_a_run_is_followed_told_more_and_looked_at(server: Server) -> None:
    async def story() -> None:
        async with open_agent(server) as agent:
            repository = await agent.add_repository(server.repository())
            assert repository in [one async for one in agent.repositories()]
            rule = await agent.add_rule("Be kind.", repo_id=repository.id)
            assert [one async for one in agent.rules(repo_id=repository.id)] == [rule]
            await agent.remove_rule(rule.id, repo_id=repository.id)
            task = await agent.run("Say hello in a file", repo_id=repository.id)
            events = [event async for event in task.stream()]
            assert events[-1].kind == "end" and events[0].kind == "user_message"
            await task.refresh()
            assert task.status == "completed" and "+hello" in await task.diff() and len(task.pull_requests) == 1
            assert [entry.message_type async for entry in task.logs()][-1] == "FINAL_ANSWER"
            await (await task.resume("Once more")).wait(timeout=120)
            with pytest.raises(NotFound):
                await agent.get(999999)
            assert (await agent.me()).id and (await agent.organizations())[0].id == 1

    asyncio.run(story())


def test_waiting_ends_on_time_and_can_be_cancelled(busy: Server) -> None:
    async def story() -> None:
        async with open_agent(busy) as agent:
            task = await agent.run("Work for long")
            with pytest.raises(WaitTimeout):
                await task.wait(timeout=0.3)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task.wait(), 0.3)
            await (await task.stop()).wait(timeout=60)
            assert task.status == "cancelled"

    asyncio.run(story())
