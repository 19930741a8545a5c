"""Does with the official library what a user's client does, and prints what came of it as JSON.

mcp_client.py http URL TOKEN | stdio COMMAND [ARGUMENT ...]
"""
import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client


def transport():
    if sys.argv[1] == "stdio":
        return stdio_client(StdioServerParameters(command=sys.argv[2], args=sys.argv[3:], env=dict(os.environ)))
    headers = {"Authorization": f"Bearer {sys.argv[3]}", "x-organization-id": "1"}
    return streamable_http_client(sys.argv[2], http_client=httpx2.AsyncClient(headers=headers, timeout=60))


def text(result):
    return result.content[0].text


async def use(session):
    told = []

    async def heard(progress, total, message):
        told.append(message)

    run = json.loads(text(await session.call_tool("create_agent_run", {"prompt": "hello"})))
    wait = {"agent_run_id": run["id"], "timeout_seconds": 60}
    ended = json.loads(text(await session.call_tool("wait_for_agent_run", wait, progress_callback=heard)))
    absent = (await session.call_tool("get_agent_run", {"agent_run_id": 999})).model_dump(by_alias=True)
    log = await session.read_resource(f"codegen://runs/{run['id']}/log")
    return {
        "tools": [tool.name for tool in (await session.list_tools()).tools],
        "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
        "rules": (await session.get_prompt("organization_rules")).messages[0].content.text,
        "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
        "templates": len((await session.list_resource_templates()).resource_templates),
        "log": log.contents[0].text,
        "status": ended["status"],
        "told": told,
        "absent": [absent["isError"], absent["content"][0]["text"]],
    }


async def main():
    # As clients of before 2026-07-28 begin, and as those of since.
    async with transport() as streams, ClientSession(streams[0], streams[1]) as session:
        begun = await session.initialize()
        old = await use(session)
        old["version"] = begun.protocol_version
    async with Client(transport()) as client:
        new = await use(client)
    print(json.dumps({"old": old, "new": new}))


asyncio.run(main())
