#!/usr/bin/env python3
"""Measures the first slice with a built binary: bench/first_slice.py [BINARY] prints medians as JSON.

- ready_ms: `codegen serve` from fork to the first 200 of /readyz, on a data directory that exists (20 starts)
- idle_rss_mib: resident memory of the server and its zygote, idle
- first_result_ms: POST agent/run to the first tool call's result in the run's events, warm, small repository (30 runs)
- turn_ms: a 50-turn scripted session of one shell command a turn, whole session divided by turns (3 sessions)
"""
import json, os, pathlib, statistics, subprocess, sys, tempfile, time, urllib.request

BINARY = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].isdigit() else "target/release/codegen")
TOKEN = "cgn_benchmark_0123456789"


def git(folder, *args):
    subprocess.run(["git", "-c", "user.name=b", "-c", "user.email=b@example.com", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)


class Server:
    def __init__(self, folder, script):
        env = {k: v for k, v in os.environ.items() if not k.startswith("CODEGEN_")}
        env |= {"CODEGEN_ADMIN_TOKEN": TOKEN, "CODEGEN_DEFAULT_MODEL": f"scripted:{script}", "CODEGEN_RATE_LIMITS": "off", "CODEGEN_LOG": "error"}
        self.began = time.perf_counter()
        self.process = subprocess.Popen([BINARY, "serve", "--addr", "127.0.0.1:0", "--data-dir", str(folder / "data")], env=env, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        while True:
            try:
                urllib.request.urlopen(self.url + "/readyz").read()
                break
            except OSError:
                assert self.process.poll() is None, "the server ended"
        self.ready = time.perf_counter() - self.began

    def call(self, path, body=None):
        request = urllib.request.Request(self.url + path, data=None if body is None else json.dumps(body).encode(), headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def until(self, run_id, kind):
        request = urllib.request.Request(f"{self.url}/v1/organizations/1/agent/run/{run_id}/events", headers={"Authorization": f"Bearer {TOKEN}"})
        for line in urllib.request.urlopen(request):
            if line.startswith(b"event: " + kind):
                return time.perf_counter()
        raise AssertionError("no " + kind.decode())

    def rss_mib(self):
        pids = [self.process.pid] + [int(p) for p in open(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read().split()]
        kib = sum(int(l.split()[1]) for p in pids for l in open(f"/proc/{p}/status") if l.startswith("VmRSS"))
        return kib / 1024

    def end(self):
        self.process.terminate()
        self.process.wait()


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        git(folder, "init", "-q", "-b", "main", "repo")
        (folder / "repo" / "a.txt").write_text("a\n")
        git(folder / "repo", "add", "-A")
        git(folder / "repo", "commit", "-q", "-m", "Start")
        finish = {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": True}}]}
        turn = {"text": "", "calls": [{"name": "shell", "input": {"command": "true"}}]}
        (folder / "short.json").write_text(json.dumps({"replies": [turn, finish]}))
        (folder / "long.json").write_text(json.dumps({"replies": [turn] * 50 + [finish]}))
        ready = []
        for _ in range(20):
            server = Server(folder, folder / "short.json")
            ready.append(server.ready * 1000)
            server.end()
        server = Server(folder, folder / "short.json")
        rss = server.rss_mib()
        repo = server.call("/v1/organizations/1/repos", {"url": str(folder / "repo")})["id"]
        first = []
        for i in range(31):
            began = time.perf_counter()
            run = server.call("/v1/organizations/1/agent/run", {"prompt": "go", "repo_id": repo})["id"]
            ended = server.until(run, b"call_finished")
            server.until(run, b"end")
            if i:
                first.append((ended - began) * 1000)
        server.end()
        server = Server(folder, folder / "long.json")
        turns = []
        for _ in range(3):
            run = server.call("/v1/organizations/1/agent/run", {"prompt": "go", "repo_id": repo})["id"]
            began = server.until(run, b"reply")
            turns.append((server.until(run, b"result") - began) * 1000 / 50)
        server.end()
        quantile = lambda xs, q: sorted(xs)[min(len(xs) - 1, int(len(xs) * q))]
        print(json.dumps({
            "ready_ms": {"p50": round(statistics.median(ready), 1), "p99": round(quantile(ready, 0.99), 1)},
            "idle_rss_mib": round(rss, 1),
            "first_result_ms": {"p50": round(statistics.median(first), 1), "p99": round(quantile(first, 0.99), 1)},
            "turn_ms": {"p50": round(statistics.median(turns), 2)},
        }, indent=1))


if __name__ == "__main__":
    main()
