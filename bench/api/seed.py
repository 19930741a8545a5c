"""Fills the database of a data directory that codegen has migrated with runs that have ended."""
import pathlib, sqlite3, sys, time


def seed(path, runs):
    db = sqlite3.connect(path, isolation_level=None)
    # Only while it is made; the servers set their own.
    for pragma in ("journal_mode = WAL", "synchronous = OFF", "cache_size = -262144", "foreign_keys = OFF"):
        db.execute(f"PRAGMA {pragma}")
    began = time.time()
    now = int(began * 1000)
    org, user = db.execute("SELECT org_id, user_id FROM members ORDER BY org_id, user_id LIMIT 1").fetchone()
    first = db.execute("SELECT COALESCE(MAX(id), 0) FROM runs").fetchone()[0]
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :runs) "
    about = {"runs": runs, "first": first, "org": org, "user": user, "now": now}
    db.execute("BEGIN")
    db.execute(numbers + """
        INSERT INTO runs (id, org_id, user_id, model, source_type, phase, reason, result, summary, push, open_pr,
            attempt, steps, tokens_in, tokens_out, cost, log_seq, message_seq, contract_logs,
            created_at, queued_at, started_at, ended_at)
        SELECT :first + i, :org, :user, 'anthropic/claude-sonnet-4-5', 'API', 'done', 'complete',
            'Mended the test of module ' || i || ' and saw it pass.', 'Mend the test of module ' || i, 0, 0,
            1, 12, 40000, 2000, 0.15, 2, 1, 1,
            :now - (:runs - i) * 60, :now - (:runs - i) * 60, :now - (:runs - i) * 60, :now - (:runs - i) * 60 + 50000
        FROM n""", about)
    db.execute(numbers + """
        INSERT INTO run_inputs (run_id, prompt, images, metadata)
        SELECT :first + i, 'The test of module ' || i || ' fails since the last release. Find out why, mend the code and '
            || 'leave the test as it is. Say in a sentence what was wrong.', '[]', '{"ticket": "T-' || i || '"}' FROM n""", about)
    db.execute(numbers + """
        INSERT INTO log (run_id, seq, kind, contract, created_at, body)
        SELECT :first + i, 1, 'user_message', 0, :now - (:runs - i) * 60,
            '{"kind":"user_message","text":"The test of module ' || i || ' fails."}' FROM n""", about)
    db.execute(numbers + """
        INSERT INTO log (run_id, seq, kind, contract, created_at, body)
        SELECT :first + i, 2, 'result', 1, :now - (:runs - i) * 60,
            '{"kind":"result","text":"Mended the test of module ' || i || '.","is_error":false}' FROM n""", about)
    db.execute("""
        INSERT INTO run_counts (org_id, user_id, source_type, runs) VALUES (:org, :user, 'API', :runs)
        ON CONFLICT (org_id, user_id, source_type) DO UPDATE SET runs = run_counts.runs + :runs""", about)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "run_blocks" in tables:
        db.execute("""
            INSERT INTO run_blocks (org_id, block, runs) SELECT org_id, id / 4096, COUNT(*) FROM runs WHERE true GROUP BY 1, 2
            ON CONFLICT (org_id, block) DO UPDATE SET runs = excluded.runs""")
    if "search_state" in tables:
        # As if the search had seen them: what is measured is not the search.
        db.execute("INSERT INTO search_state (run_id, seq) SELECT id, log_seq FROM runs WHERE true ON CONFLICT DO NOTHING")
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return time.time() - began


if __name__ == "__main__":
    seconds = seed(pathlib.Path(sys.argv[1]) / "codegen.db", int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
    print(f"seeded in {seconds:.1f} s")
