"""The same four operations with FastAPI, on a copy of the same database: the peer that codegen is measured beside.

Written as one would: pydantic models in and out, a token looked up by its hash, aiosqlite with a few connections, a
transaction for a new run. DATABASE says where the file is.
"""
import asyncio, datetime, hashlib, json, os
from contextlib import asynccontextmanager

import aiosqlite
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from pydantic import BaseModel

DATABASE = os.environ["DATABASE"]
BASE = "http://127.0.0.1"


class PullRequest(BaseModel):
    id: int
    title: str | None = None
    url: str | None = None
    created_at: str
    head_branch_name: str | None = None


class AgentRun(BaseModel):
    id: int
    organization_id: int
    status: str | None = None
    created_at: str | None = None
    web_url: str | None = None
    result: str | None = None
    summary: str | None = None
    source_type: str | None = None
    github_pull_requests: list[PullRequest] | None = []
    metadata: dict | None = None


class Page(BaseModel):
    items: list[AgentRun]
    total: int
    page: int
    size: int
    pages: int


class CreateRun(BaseModel):
    prompt: str
    images: list[str] | None = None
    metadata: dict | None = None
    repo_id: int | None = None
    model: str | None = None


async def connect():
    db = await aiosqlite.connect(DATABASE, isolation_level=None)
    db.row_factory = aiosqlite.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000", "cache_size = -16384"):
        await db.execute(f"PRAGMA {pragma}")
    return db


@asynccontextmanager
async def lifespan(app):
    app.state.readers = asyncio.Queue()
    connections = [await connect() for _ in range(8)]
    for connection in connections:
        app.state.readers.put_nowait(connection)
    app.state.writer, app.state.writing = await connect(), asyncio.Lock()
    yield
    for connection in [*connections, app.state.writer]:
        await connection.close()


app = FastAPI(lifespan=lifespan)


@asynccontextmanager
async def reader():
    db = await app.state.readers.get()
    try:
        yield db
    finally:
        app.state.readers.put_nowait(db)


async def rows(db, sql, *values):
    async with db.execute(sql, values) as cursor:
        return await cursor.fetchall()


async def member(org_id: int, authorization: str | None = Header(None)):
    scheme, _, token = (authorization or "").partition(" ")
    hashed = hashlib.sha256(token.encode()).hexdigest()
    async with reader() as db:
        found = await rows(db, "SELECT users.* FROM tokens JOIN users ON users.id = tokens.user_id WHERE hash = ?", hashed)
        if scheme.lower() != "bearer" or not found:
            raise HTTPException(401, "Missing or invalid API token.")
        user = found[0]
        if not await rows(db, "SELECT role FROM members WHERE org_id = ? AND user_id = ?", org_id, user["id"]):
            raise HTTPException(403, "You do not have access to this organization.")
    return user


def time(ms):
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")


async def shown(db, run):
    pulls = await rows(db, "SELECT * FROM pull_requests WHERE org_id = ? AND run_id = ? ORDER BY id", run["org_id"], run["id"])
    return AgentRun(
        id=run["id"], organization_id=run["org_id"], status="COMPLETE" if run["phase"] == "done" else "ACTIVE",
        created_at=time(run["created_at"]), web_url=f"{BASE}/runs/{run['id']}", result=run["result"], summary=run["summary"],
        source_type=run["source_type"], metadata=json.loads(run["metadata"]) if run["metadata"] else None,
        github_pull_requests=[PullRequest(
            id=pull["id"], title=pull["title"], url=pull["url"], created_at=time(pull["created_at"]),
            head_branch_name=pull["head_branch"]) for pull in pulls])


@app.get("/v1/organizations/{org_id}/agent/run/{run_id}", response_model=AgentRun)
async def get_run(org_id: int, run_id: int, user=Depends(member)):
    async with reader() as db:
        found = await rows(db, "SELECT * FROM full_runs WHERE org_id = ? AND id = ?", org_id, run_id)
        if not found:
            raise HTTPException(404, "Agent run not found.")
        return await shown(db, found[0])


@app.get("/v1/organizations/{org_id}/agent/runs", response_model=Page)
async def list_runs(org_id: int, user=Depends(member), skip: int = Query(0, ge=0), limit: int = Query(100, ge=1, le=100)):
    async with reader() as db:
        runs = await rows(
            db, """SELECT * FROM full_runs WHERE id IN (SELECT id FROM runs WHERE org_id = ? AND archived = 0 ORDER BY id DESC LIMIT ? OFFSET ?)
                   ORDER BY id DESC""", org_id, limit, skip)
        ids = [run["id"] for run in runs]
        # One query for the pull requests of the whole page.
        pulls = {}
        if ids:
            for pull in await rows(db, "SELECT * FROM pull_requests WHERE org_id = ? AND run_id BETWEEN ? AND ?", org_id, ids[-1], ids[0]):
                pulls.setdefault(pull["run_id"], []).append(pull)
        total = (await rows(db, "SELECT COALESCE(SUM(runs), 0) AS total FROM run_counts WHERE org_id = ?", org_id))[0]["total"]
    items = [AgentRun(
        id=run["id"], organization_id=run["org_id"], status="COMPLETE" if run["phase"] == "done" else "ACTIVE",
        created_at=time(run["created_at"]), web_url=f"{BASE}/runs/{run['id']}", result=run["result"], summary=run["summary"],
        source_type=run["source_type"], metadata=json.loads(run["metadata"]) if run["metadata"] else None,
        github_pull_requests=[PullRequest(
            id=pull["id"], title=pull["title"], url=pull["url"], created_at=time(pull["created_at"]),
            head_branch_name=pull["head_branch"]) for pull in pulls.get(run["id"], [])]) for run in runs]
    return Page(items=items, total=total, page=skip // limit + 1, size=limit, pages=-(-total // limit))


@app.post("/v1/organizations/{org_id}/agent/run", response_model=AgentRun)
async def create_run(org_id: int, body: CreateRun, user=Depends(member)):
    now = int(datetime.datetime.now().timestamp() * 1000)
    db = app.state.writer
    async with app.state.writing:
        await db.execute("BEGIN IMMEDIATE")
        try:
            run_id = (await rows(
                db, """INSERT INTO runs (org_id, user_id, repo_id, model, source_type, phase, push, open_pr, log_seq, message_seq,
                                         created_at, queued_at)
                       VALUES (?, ?, ?, ?, 'API', 'queued', 0, 0, 1, 1, ?, ?) RETURNING id""",
                org_id, user["id"], body.repo_id, body.model, now, now))[0]["id"]
            metadata = json.dumps(body.metadata) if body.metadata is not None else None
            await db.execute("INSERT INTO run_inputs (run_id, prompt, images, metadata) VALUES (?, ?, ?, ?)",
                             (run_id, body.prompt, json.dumps(body.images or []), metadata))
            await db.execute("""INSERT INTO run_counts (org_id, user_id, source_type, runs) VALUES (?, ?, 'API', 1)
                                ON CONFLICT (org_id, user_id, source_type) DO UPDATE SET runs = run_counts.runs + 1""",
                             (org_id, user["id"]))
            await db.execute("INSERT INTO log (run_id, seq, kind, contract, created_at, body) VALUES (?, 1, 'user_message', 0, ?, ?)",
                             (run_id, now, json.dumps({"kind": "user_message", "text": body.prompt})))
            await db.execute("COMMIT")
        except BaseException:
            await db.execute("ROLLBACK")
            raise
    async with reader() as db:
        run = (await rows(db, "SELECT * FROM full_runs WHERE id = ?", run_id))[0]
        return await shown(db, run)
