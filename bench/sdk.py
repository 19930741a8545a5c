"""What the Python SDK adds to a request, beside httpx alone: `python bench/sdk.py CODEGEN`, in an environment with the package."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from codegen import Agent, Run

REQUESTS = 2000


def microseconds(ask):
    """The middle of many requests, after some that warm up."""
    times = []
    for _ in range(REQUESTS + 100):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1e6)
    return median(times[100:])


with tempfile.TemporaryDirectory() as folder:
    script = Path(folder, "script.json")
    script.write_text(json.dumps({"replies": [{"calls": [{"name": "finish", "input": {"summary": "Done.", "success": True}}]}]}))
    settings = {"CODEGEN_DATA_DIR": f"{folder}/data", "CODEGEN_DEFAULT_MODEL": f"scripted:{script}", "CODEGEN_RATE_LIMITS": "off"}
    server = subprocess.Popen(
        [sys.argv[1], "serve", "--addr", "127.0.0.1:0"], env={**os.environ, **settings}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    try:
        url = server.stdout.readline().strip().replace("codegen is at ", "")
        token = server.stdout.readline().strip().replace("token (shown once): ", "")
        agent = Agent(org_id=1, token=token, base_url=url)
        task = agent.run("Say hello").wait()
        plain = httpx.Client(headers={"Authorization": f"Bearer {token}"})
        address = f"{url}/v1/organizations/1/agent/run/{task.id}"
        # In turns, so that what else the machine does falls on both.
        rounds = [(microseconds(lambda: plain.get(address).json()), microseconds(lambda: agent.get(task.id))) for _ in range(3)]
        alone, with_sdk = median(r[0] for r in rounds), median(r[1] for r in rounds)
        raw = task.run.raw
        began = time.perf_counter()
        for _ in range(REQUESTS):
            Run.parse(raw)
        parsing = (time.perf_counter() - began) / REQUESTS * 1e6
        print(f"look at a run: httpx alone {alone:.0f} us, the SDK {with_sdk:.0f} us (+{with_sdk - alone:.0f} us; typed result {parsing:.0f} us)")
    finally:
        server.terminate()
        server.wait()
