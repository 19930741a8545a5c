#!/usr/bin/env python3
"""Measures appends to logs: bench/log_append.py [RUNS] [ROWS] [SECONDS] prints figures as JSON.

Needs `cargo build --release --example log_append -p codegen-store`. So many runs (64) append batches of so many rows (10) at once,
each the next one when the last is acknowledged, which is when it is on the disk; for so many seconds (10), on SQLite and on a
PostgreSQL of this script's own with its usual settings (fsync on), which shares the machine.

- rows_per_s; p50_ms, p99_ms: from the call to the acknowledgement of a batch
- fdatasync_per_s: what the same disk does of write 4 KiB, fdatasync, in a loop, just before and just after; per_fdatasync: rows per one of these
- cpu_us_per_row: of the appending process alone, user and system
- load: of the machine before, over a minute

Settings in the environment: BENCH_DIR (a folder on the disk to measure), ONLY=sqlite|postgres, LOG_APPEND (the binary).
"""
import json, os, pathlib, pwd, resource, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOAD = os.environ.get("LOG_APPEND", str(ROOT / "target/release/examples/log_append"))
RUNS, ROWS, SECONDS = (list(sys.argv[1:]) + ["64", "10", "10"][len(sys.argv) - 1:])[:3]


def fdatasyncs(folder, seconds=2.0):
    path = pathlib.Path(folder) / "probe"
    block = os.urandom(4096)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.write(fd, block)
            os.fdatasync(fd)
            count += 1
        return count / seconds
    finally:
        os.close(fd)
        path.unlink()


def cpu():
    """Of programs that were started and have ended. Servers go on by themselves and are not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Postgres:
    """A server of its own, as one that keeps what it has acknowledged."""

    def __init__(self, folder):
        bins = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        initdb = str(bins[-1]) if bins else shutil.which("initdb")
        if not initdb:
            raise SystemExit("There is no PostgreSQL server here: scripts/bootstrap test installs one.")
        self.bin, self.data = pathlib.Path(initdb).parent, folder / "postgres/data"
        self.data.parent.mkdir()
        # PostgreSQL refuses to run as root.
        self.as_user = []
        if os.getuid() == 0:
            who = pwd.getpwnam("postgres")
            os.chmod(folder, 0o755)
            os.chown(self.data.parent, who.pw_uid, who.pw_gid)
            self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        self.run("initdb", "-D", str(self.data), "-U", "codegen", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8")
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.data.parent / "log"), "start",
                 "-o", f"-k {self.data.parent} -c listen_addresses=")
        self.url = f"postgres://codegen@localhost/postgres?host={self.data.parent}"

    def run(self, name, *args):
        subprocess.run([*self.as_user, str(self.bin / name), *args], check=True, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self):
        self.run("pg_ctl", "-D", str(self.data), "-m", "fast", "stop")


def main():
    results = {"runs": int(RUNS), "rows": int(ROWS), "seconds": int(SECONDS)}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as tmp:
        folder = pathlib.Path(tmp)
        for name in ("sqlite", "postgres"):
            if os.environ.get("ONLY", name) != name:
                continue
            server = Postgres(folder) if name == "postgres" else None
            try:
                load, spent, before = os.getloadavg()[0], cpu(), fdatasyncs(folder)
                place = server.url if server else str(folder / "data")
                out = subprocess.run([LOAD, place, RUNS, ROWS, SECONDS], check=True, stdout=subprocess.PIPE).stdout
                spent = cpu() - spent
                rate = (before + fdatasyncs(folder)) / 2
            finally:
                if server:
                    server.stop()
            figures = json.loads(out)
            results[name] = {**figures, "fdatasync_per_s": round(rate),
                             "per_fdatasync": round(figures["rows_per_s"] / rate, 1), "cpu_us_per_row": round(spent / figures["rows"] * 1e6, 1), "load": round(load, 1)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
