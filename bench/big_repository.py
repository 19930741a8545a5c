#!/usr/bin/env python3
"""Measures a repository with much history: bench/big_repository.py [BINARY] prints medians as JSON.

The repository has 1 GB of history that does not compress and a tree of 50 MB in 5,000 files.

- first_result_ms.cold: POST agent/run to the first tool call's result, the mirror not there yet (once; a local clone is beside it)
- first_result_ms.warm: the same with the mirror there (20 runs)
"""
import json, os, pathlib, statistics, subprocess, tempfile, time

from first_slice import Server, git

HISTORY, TREE, FILES = 1 << 30, 50_000_000, 5_000


def history(folder):
    """Written by fast-import: 64 commits of one file of random bytes that the next one replaces, then the tree."""
    git(folder.parent, "init", "-q", "-b", "main", folder.name)
    writer = subprocess.Popen(["git", "-c", "core.compression=0", "fast-import", "--quiet"], cwd=folder, stdin=subprocess.PIPE)
    say = lambda text: writer.stdin.write(text.encode())

    def commit(message, files):
        say(f"commit refs/heads/main\ncommitter b <b@example.com> 1700000000 +0000\ndata {len(message)}\n{message}\ndeleteall\n")
        for name, content in files:
            say(f"M 100644 inline {name}\ndata {len(content)}\n")
            writer.stdin.write(content + b"\n")
        say("\n")

    for i in range(64):
        commit(f"Step {i}", [("large.bin", os.urandom(HISTORY // 64))])
    commit("The tree", ((f"src/{i % 50}/file{i}.txt", os.urandom(TREE // FILES // 2).hex().encode()) for i in range(FILES)))
    writer.stdin.close()
    assert writer.wait() == 0


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        history(folder / "repo")
        turn = {"text": "", "calls": [{"name": "shell", "input": {"command": "true"}}]}
        finish = {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": True}}]}
        (folder / "script.json").write_text(json.dumps({"replies": [turn, finish]}))
        server = Server(folder, folder / "script.json")
        repo = server.call("/v1/organizations/1/repos", {"url": str(folder / "repo")})["id"]
        times = []
        for _ in range(21):
            began = time.perf_counter()
            run = server.call("/v1/organizations/1/agent/run", {"prompt": "go", "repo_id": repo})["id"]
            times.append((server.until(run, b"call_finished") - began) * 1000)
            server.until(run, b"end")
        server.end()
        began = time.perf_counter()
        subprocess.run(["git", "clone", "-q", "--no-local", str(folder / "repo"), str(folder / "clone")], check=True)
        clone = (time.perf_counter() - began) * 1000
        cold, warm = times[0], sorted(times[1:])
        print(json.dumps({
            "git_clone_ms": round(clone),
            "first_result_ms": {"cold": round(cold), "warm": {"p50": round(statistics.median(warm)), "max": round(warm[-1])}},
        }, indent=1))


if __name__ == "__main__":
    main()
