#!/usr/bin/env python3
"""Measures the API beside a FastAPI server with the same routes, authentication and database: bench/api/bench.py [BINARY].

Both are asked in turn, over the same loopback, with 16 connections kept open, in rounds; figures are of the median round.
The client is this script, two processes, on the same cores. Prints a line for each operation and, last, all of it as JSON.

- per_s: answers a second; p50_ms, p99_ms: from request to whole answer
- cpu_us: the server's own processor time per request, user and system, all its processes
- nothing: GET /healthz of codegen, to see what the client can ask at most

Settings in the environment: RUNS (1000000), SECONDS of each measurement (5), ROUNDS (3), CONNECTIONS (16), PEER=none.
"""
import json, multiprocessing, os, pathlib, select, shutil, socket, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
from seed import seed

BINARY = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/codegen")
RUNS = int(os.environ.get("RUNS", 1_000_000))
SECONDS = float(os.environ.get("SECONDS", 5))
ROUNDS = int(os.environ.get("ROUNDS", 3))
CONNECTIONS = int(os.environ.get("CONNECTIONS", 16))
CLIENTS = 2
TOKEN = "cgn_bench-token-of-the-admin-00000000"
PACKAGES = ["fastapi==0.121.1", "uvicorn[standard]==0.38.0", "aiosqlite==0.21.0"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until_answers(url, process):
    for _ in range(1200):
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"the server of {url} ended with {process.returncode}")
            time.sleep(0.05)
    raise SystemExit(f"{url} does not answer")


def serve(data_dir, port):
    env = {**os.environ, "CODEGEN_ADMIN_TOKEN": TOKEN, "CODEGEN_RATE_LIMITS": "off", "CODEGEN_DATA_DIR": str(data_dir),
           "ANTHROPIC_API_KEY": "sk-none", "CODEGEN_ALLOW_LOCAL_REPOS": "on", "NO_COLOR": "1"}
    process = subprocess.Popen([BINARY, "serve", "--addr", f"127.0.0.1:{port}", *os.environ.get("SERVE", "").split()],
                               env=env, stdout=subprocess.DEVNULL, stderr=open(data_dir.parent / "codegen.log", "ab"))
    until_answers(f"http://127.0.0.1:{port}/readyz", process)
    return process


def peer_python():
    venv = ROOT / "target/parts/fastapi"
    python = venv / "bin/python"
    mark = venv / "complete"
    if not mark.exists() or mark.read_text().split() != PACKAGES:
        print(f"Installing {' '.join(PACKAGES)} into target/parts.", file=sys.stderr)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
        mark.write_text("\n".join(PACKAGES))
    return python


def serve_peer(database, port):
    workers = str(os.cpu_count() or 2)
    process = subprocess.Popen(
        [str(peer_python()), "-m", "uvicorn", "peer:app", "--host", "127.0.0.1", "--port", str(port), "--workers", workers,
         "--no-access-log", "--log-level", "warning"], cwd=HERE, env={**os.environ, "DATABASE": str(database)})
    until_answers(f"http://127.0.0.1:{port}/v1/organizations/1/agent/run/1", process)
    return process


def cpu_seconds(pid):
    """Of a process and all below it, ended ones too where they were waited for."""
    total, rest = 0, [pid]
    while rest:
        pid = rest.pop()
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
            total += sum(int(f) for f in fields[11:15])
            for task in os.listdir(f"/proc/{pid}/task"):
                rest += [int(p) for p in open(f"/proc/{pid}/task/{task}/children").read().split()]
        except OSError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


def request(method, path, body=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def client(port, requests, connections, seconds, out):
    """Asks again on each connection as soon as it is answered, one request after the other of a list."""
    poll = select.epoll()
    open_ones, turn = {}, 0
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock.fileno(), select.EPOLLIN)
        open_ones[sock.fileno()] = [sock, b"", 0, 0.0]
    clock = time.perf_counter
    latencies, bad = [], 0
    end = clock() + seconds
    for one in open_ones.values():
        one[3] = clock()
        one[0].sendall(requests[turn % len(requests)])
        turn += 1
    waiting = len(open_ones)
    while waiting:
        for fd, _ in poll.poll(30):
            one = open_ones[fd]
            chunk = one[0].recv(1 << 18)
            if not chunk:
                raise SystemExit("the server closed a connection")
            one[1] = one[1] + chunk if one[1] else chunk
            if not one[2]:
                split = one[1].find(b"\r\n\r\n")
                if split < 0:
                    continue
                head = one[1][:split].lower()
                at = head.find(b"content-length:")
                one[2] = split + 4 + int(head[at + 15:].split(b"\r\n", 1)[0])
                bad += not one[1].startswith(b"HTTP/1.1 200")
            if len(one[1]) < one[2]:
                continue
            now = clock()
            latencies.append(now - one[3])
            one[1], one[2] = b"", 0
            if now < end:
                one[3] = now
                one[0].sendall(requests[turn % len(requests)])
                turn += 1
            else:
                waiting -= 1
    out.put((latencies, bad))


def measure(port, pid, requests):
    out = multiprocessing.Queue()
    share = CONNECTIONS // CLIENTS
    clients = [multiprocessing.Process(target=client, args=(port, requests[n::CLIENTS] or requests, share, SECONDS, out))
               for n in range(CLIENTS)]
    cpu, began = cpu_seconds(pid), time.perf_counter()
    for process in clients:
        process.start()
    parts = [out.get(timeout=SECONDS + 120) for _ in clients]
    took = time.perf_counter() - began
    cpu = cpu_seconds(pid) - cpu
    for process in clients:
        process.join()
    latencies = sorted(latency for part, _ in parts for latency in part)
    bad = sum(bad for _, bad in parts)
    if bad:
        raise SystemExit(f"{bad} of {len(latencies)} answers were not 200")
    at = lambda part: round(latencies[min(len(latencies) - 1, int(len(latencies) * part))] * 1000, 2)
    return {"per_s": round(len(latencies) / max(took, SECONDS), 1), "p50_ms": at(0.5), "p99_ms": at(0.99),
            "cpu_us": round(cpu / len(latencies) * 1e6, 1)}


def main():
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as tmp:
        data = pathlib.Path(tmp) / "data"
        data.mkdir()
        ports = [free_port(), free_port()]
        made = serve(data, ports[0])
        made.terminate()
        made.wait()
        print(f"seeded {RUNS} runs in {seed(data / 'codegen.db', RUNS):.1f} s", flush=True)
        servers = {}
        try:
            if os.environ.get("PEER") != "none":
                (pathlib.Path(tmp) / "peer").mkdir()
                copy = pathlib.Path(tmp) / "peer/codegen.db"
                subprocess.run(["cp", "--reflink=auto", str(data / "codegen.db"), str(copy)], check=True)
                servers["fastapi"] = (serve_peer(copy, ports[1]), ports[1])
            servers["codegen"] = (serve(data, ports[0]), ports[0])
            # New runs wait: what is measured is taking them, not working on them.
            wait = urllib.request.Request(
                f"http://127.0.0.1:{ports[0]}/v1/organizations/1/limits", method="PUT", data=b'{"concurrent_runs": 0}',
                headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
            urllib.request.urlopen(wait).read()
            org = "/v1/organizations/1/agent"
            step = max(1, RUNS // 997)
            prompt = json.dumps({"prompt": "The test of module 7 fails since the last release. Find out why.", "metadata": {"ticket": "T-7"},
                                 "model": "anthropic/claude-sonnet-4-5"})
            operations = {
                "nothing": [request("GET", "/healthz")],
                "get run": [request("GET", f"{org}/run/{1 + n * step % RUNS}") for n in range(997)],
                "runs, first page": [request("GET", f"{org}/runs")],
                "runs, skip 90%": [request("GET", f"{org}/runs?skip={RUNS * 9 // 10}&limit=100")],
                "runs, by key": [request("GET", f"{org}/runs?before={RUNS // 10}&limit=100")],
                "post run": [request("POST", f"{org}/run", prompt)],
            }
            results = {}
            for name, requests in operations.items():
                rounds = {server: [] for server in servers}
                for _ in range(ROUNDS):
                    for server, (process, port) in servers.items():
                        if server == "fastapi" and name in ("nothing", "runs, by key"):
                            continue
                        rounds[server].append(measure(port, process.pid, requests))
                results[name] = {server: {key: statistics.median(r[key] for r in figures) for key in figures[0]}
                                 for server, figures in rounds.items() if figures}
                line = "  ".join(f"{server}: {f['per_s']:>9}/s p50 {f['p50_ms']:>7} ms p99 {f['p99_ms']:>7} ms cpu {f['cpu_us']:>8} us"
                                 for server, f in results[name].items())
                both = results[name]
                if len(both) == 2:
                    line += (f"  x{both['codegen']['per_s'] / both['fastapi']['per_s']:.1f}"
                             f" (cpu x{both['fastapi']['cpu_us'] / max(both['codegen']['cpu_us'], 0.1):.1f})")
                print(f"{name:>18}  {line}", flush=True)
            print(json.dumps({"runs": RUNS, "connections": CONNECTIONS, "seconds": SECONDS, "rounds": ROUNDS, "results": results}))
        finally:
            for process, _ in servers.values():
                process.terminate()
            for process, _ in servers.values():
                process.wait()


if __name__ == "__main__":
    main()
