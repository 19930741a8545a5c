#!/usr/bin/env python3
"""Measures many viewers of one run: bench/sse.py [VIEWERS] prints figures as JSON.

Needs `cargo build --release` and `cargo build --release --example sse_load -p codegen-server`. The viewers (one thread) share
the machine with the server. The run makes about 20 entries a second; it goes once without viewers, and what it costs by
itself is taken off.

- append_to_receipt_ms: from the append (its commit included) to the receipt, over all viewers and entries
- cpu_us_per_delivery: of the server (user and system), per viewer and entry
- kib_per_viewer: growth of the server's resident memory
"""
import json, os, pathlib, resource, sqlite3, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import first_slice
from first_slice import TOKEN, Server

VIEWERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
LOAD = os.path.join(os.path.dirname(first_slice.BINARY), "examples", "sse_load")
STEPS = 150


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid):
    return next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith("VmRSS"))


def started(server):
    """A run in its first command, which waits while viewers come."""
    run = server.call("/v1/organizations/1/agent/run", {"prompt": "go"})["id"]
    server.until(run, b"call_started")
    return run


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shell = lambda command: {"text": "", "calls": [{"name": "shell", "input": {"command": command}}]}
        finish = {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": True}}]}
        # Three entries a step.
        (folder / "script.json").write_text(json.dumps({"replies": [shell("sleep 10")] + [shell("sleep 0.135")] * STEPS + [finish]}))
        server = Server(folder, folder / "script.json")
        pid = server.process.pid

        run = started(server)
        time.sleep(8)
        before = cpu(pid)
        server.until(run, b"end")
        alone = cpu(pid) - before

        run = started(server)
        idle = rss_kib(pid)
        path = f"/v1/organizations/1/agent/run/{run}/events"
        out = folder / "receipts"
        load = subprocess.Popen([LOAD, server.url.split("//")[1], path, TOKEN, str(VIEWERS), str(out)], stdout=subprocess.PIPE, text=True)
        assert load.stdout.readline().strip() == "ready"
        time.sleep(1)
        watched = rss_kib(pid)
        before, began = cpu(pid), time.time()
        load.wait()
        used, took = cpu(pid) - before, time.time() - began
        grown = rss_kib(pid)
        database = sqlite3.connect(folder / "data" / "codegen.db")
        appended = dict(database.execute("SELECT seq, created_at FROM log WHERE run_id = ?", (run,)))
        late = []
        entries = set()
        for line in open(out):
            seq, at = line.split()
            # Those from before the viewers came were replayed.
            if appended[int(seq)] > began * 1000:
                entries.add(int(seq))
                late.append(int(at) / 1000 - appended[int(seq)])
        late.sort()
        server.end()
        assert len(late) == len(entries) * VIEWERS, (len(late), len(entries))
        quantile = lambda q: round(late[min(len(late) - 1, int(len(late) * q))], 1)
        print(json.dumps({
            "viewers": VIEWERS,
            "entries_a_second": round(len(entries) / took, 1),
            "append_to_receipt_ms": {"p50": quantile(0.5), "p99": quantile(0.99), "max": quantile(1)},
            "cpu_us_per_delivery": {"net": round((used - alone) / len(late) * 1e6, 1), "gross": round(used / len(late) * 1e6, 1)},
            "kib_per_viewer": {"idle": round((watched - idle) / VIEWERS, 1), "after_all": round((grown - idle) / VIEWERS, 1)},
        }, indent=1))


if __name__ == "__main__":
    main()
