#!/usr/bin/env python3
"""Measures many runs at once that wait for a slow model: bench/thousand.py [RUNS] prints figures as JSON.

Needs `cargo build --release`. Every run has its sandbox. The model is a local server that takes each question and answers
none of them.

- mib_per_run: of the server, the zygote and all supervisors, less the idle server: proportional (shared pages once) and
  resident; `server` is the server alone
- all_waiting_s: from the first POST until every run has asked the model
- processes: the server, the zygote and a supervisor a run; after the end the first two are left
- healthz_ms, list_ms: with all of them waiting, 200 requests each
- stopped_s: from the first stop until all have ended
- lost: runs that were taken from their worker meanwhile
"""
import asyncio, json, os, pathlib, resource, statistics, subprocess, sys, tempfile, threading, time, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import first_slice
from first_slice import TOKEN

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
asked = 0


async def provider(reader, writer):
    global asked
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: wait\n\n")
        while True:
            await asyncio.sleep(20)
            writer.write(b": wait\n\n")
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def serve_model(ready):
    async def main():
        server = await asyncio.start_server(provider, "127.0.0.1", 0, backlog=1024, limit=1 << 24)
        ready.append(server.sockets[0].getsockname()[1])
        await server.serve_forever()
    asyncio.run(main())


def family(pid):
    """The process and all below it. Supervisors are the zygote's children."""
    found, rest = [], [pid]
    while rest:
        pid = rest.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                rest += [int(p) for p in open(f"/proc/{pid}/task/{task}/children").read().split()]
        except OSError:
            pass
    return found


def memory(pids):
    rss = pss = 0
    for pid in pids:
        try:
            for line in open(f"/proc/{pid}/smaps_rollup"):
                if line.startswith("Rss:"):
                    rss += int(line.split()[1])
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1])
        except OSError:
            pass
    return rss / 1024, pss / 1024


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    ready = []
    threading.Thread(target=serve_model, args=(ready,), daemon=True).start()
    while not ready:
        time.sleep(0.01)
    with tempfile.TemporaryDirectory() as name:
        env = {k: v for k, v in os.environ.items() if not k.startswith("CODEGEN_") and not k.lower().endswith("_proxy")}
        env |= {"CODEGEN_ADMIN_TOKEN": TOKEN, "CODEGEN_DEFAULT_MODEL": "anthropic/claude-sonnet-4-5", "CODEGEN_RATE_LIMITS": "off",
                "CODEGEN_LOG": "error", "CODEGEN_MAX_CONCURRENT_RUNS": str(RUNS), "ANTHROPIC_API_KEY": "sk-none",
                "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{ready[0]}"}
        process = subprocess.Popen([first_slice.BINARY, "serve", "--addr", "127.0.0.1:0", "--data-dir", name + "/data"], env=env, stdout=subprocess.PIPE, text=True)
        url = process.stdout.readline().split()[-1]

        def call(path, body=None):
            request = urllib.request.Request(url + path, data=None if body is None else json.dumps(body).encode(), headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
            return json.load(urllib.request.urlopen(request))

        def latency(path):
            took = []
            for _ in range(200):
                began = time.perf_counter()
                call(path)
                took.append((time.perf_counter() - began) * 1000)
            return {"p50": round(statistics.median(took), 1), "p99": round(sorted(took)[197], 1)}

        try:
            call("/healthz")
            idle = memory(family(process.pid))
            idle_server = memory([process.pid])
            org = "/v1/organizations/1/agent/run"
            began = time.time()
            ids = [call(org, {"prompt": f"wait {n}"})["id"] for n in range(RUNS)]
            while asked < RUNS:
                assert process.poll() is None, "the server ended"
                assert time.time() - began < 900, f"{asked} of {RUNS} asked"
                time.sleep(0.1)
            waiting = time.time() - began
            time.sleep(5)
            everyone = family(process.pid)
            full = memory(everyone)
            server = memory([process.pid])
            healthz, listing = latency("/healthz"), latency("/v1/organizations/1/agent/runs?limit=50")
            statuses = [call(f"{org}/{id}")["status"] for id in ids]
            began = time.time()
            for id in ids:
                call(org + "/stop", {"agent_run_id": id})
            while any(call(f"{org}/{id}")["status"] == "ACTIVE" for id in (ids[0], ids[-1])) or "phase=\"finishing\"} 0" not in urllib.request.urlopen(url + "/metrics").read().decode():
                time.sleep(0.05)
            stopped = time.time() - began
            each = lambda a, b: round((a - b) / RUNS, 3)
            print(json.dumps({
                "runs": RUNS,
                "all_waiting_s": round(waiting, 1),
                "mib_per_run": {"proportional": each(full[1], idle[1]), "resident": each(full[0], idle[0]), "server": each(server[0], idle_server[0])},
                "processes": {"waiting": len(everyone), "after": len(family(process.pid))},
                "healthz_ms": healthz,
                "list_ms": listing,
                "lost": RUNS - statuses.count("ACTIVE") + (asked - RUNS),
                "stopped_s": round(stopped, 1),
            }, indent=1))
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
