#!/usr/bin/env python3
"""Gives a run of a server that is up a log of so many entries, as an agent would have left them: fill.py DATABASE RUN ENTRIES"""
import json
import random
import sqlite3
import sys
import time

database, run, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(7)
db = sqlite3.connect(database, timeout=30)
(seq,) = db.execute("SELECT log_seq FROM runs WHERE id = ?", (run,)).fetchone()
at = int(time.time() * 1000) - wanted * 1000
rows = []


def add(kind, contract, **body):
    global seq, at
    seq += 1
    at += rng.randrange(200, 1500)
    rows.append((run, seq, kind, contract, at, json.dumps({"kind": kind, **body})))


def call(step):
    if step % 5 == 0:
        old = "\n".join(f"    value_{n} = compute({n})" for n in range(rng.randrange(2, 9)))
        return "edit", {"path": f"src/module_{step % 40}.py", "old": old, "new": old.replace("compute", "cached")}, "edited"
    if step % 5 == 1:
        lines = [f"{n:6}\tdef function_{n}(argument): return argument + {n}" for n in range(rng.randrange(20, 400))]
        return "read", {"path": f"src/module_{step % 40}.py"}, "\n".join(lines)
    lines = [f"tests/test_{n % 30}.py::test_case_{n} PASSED [{n % 100:3}%]" for n in range(rng.randrange(3, 300))]
    return "shell", {"command": f"python3 -m pytest -x tests/part_{step}"}, "\n".join(lines)


step = 0
while len(rows) < wanted - 3:
    step += 1
    name, arguments, output = call(step)
    identity = f"filled-{step}"
    usage = {"input": 1200, "output": 240, "cache_read": 18000, "cache_write": 900}
    text = f"Step {step}: `module_{step % 40}` next, then its tests." if step % 3 else ""
    add("reply", int(bool(text)), text=text, calls=[{"id": identity, "name": name, "input": arguments}], usage=usage, cost=0.013)
    add("call_started", 0, call_id=identity)
    add("call_finished", 1, call_id=identity, name=name, input=arguments, output=output, is_error=False, exit_code=0, duration_ms=rng.randrange(20, 4000))
while len(rows) < wanted:
    add("notice", 0, text="the needle in the haystack" if len(rows) == wanted - 3 else "The work goes on.")
db.executemany("INSERT INTO log (run_id, seq, kind, contract, created_at, body) VALUES (?, ?, ?, ?, ?, ?)", rows)
contract = sum(row[3] for row in rows)
db.execute(
    "UPDATE runs SET log_seq = ?, contract_logs = contract_logs + ?, steps = ?, tokens_in = ?, tokens_out = ?, cost = ? WHERE id = ?",
    (seq, contract, step, step * 20100, step * 240, step * 0.013, run),
)
db.commit()
