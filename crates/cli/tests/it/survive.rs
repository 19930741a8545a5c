//! Runs that lose their server, their sandbox, their command, or all at once, at moments that a seed chooses, come to the one same end.
//! `CODEGEN_SEEDS=200` tries as many, `CODEGEN_SEED=7` only that one; both print how long each restart took to its next step.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fixture::{Fixture, git};

const TOKEN: &str = "token-of-the-survival-test";
/// Hits at which a server is ended: the store's commits are most of what it does.
const FAILPOINTS: &[(&str, u64)] = &[
    ("commit.before", 70),
    ("commit.after", 70),
    ("append.before", 30),
    ("append.after", 30),
    ("sandbox.before", 1),
    ("sandbox.after", 1),
    ("prepared.after", 1),
    ("keep.before", 2),
    ("keep.after", 2),
    ("push.before", 2),
    ("push.after", 2),
    ("pull_request.before", 2),
    ("pull_request.after", 2),
    ("destroy.before", 2),
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The server, at the nth hit of a failpoint.
    Failpoint(&'static str, u64),
    /// SIGKILL for the server.
    Server(Duration),
    /// SIGTERM for the server.
    Stop(Duration),
    /// SIGKILL for the sandbox's first process.
    Supervisor(Duration),
    /// SIGKILL for a command of the agent.
    Command(Duration),
    /// SIGKILL for all of them.
    Everything(Duration),
    /// SIGSTOP, a second server on the same data with the lock taken away, SIGCONT.
    Usurped(Duration),
}

impl Fault {
    fn loses_sandbox(self) -> bool {
        matches!(self, Self::Supervisor(_) | Self::Everything(_))
    }

    fn kills_command(self) -> bool {
        matches!(self, Self::Command(_))
    }
}

fn plan(seed: u64) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let faults = random.random_range(1..=3);
    let mut plan: Vec<Fault> = (0..faults)
        .map(|_| {
            let after = Duration::from_millis(random.random_range(0..1500));
            match random.random_range(0..12) {
                0..5 => {
                    let (name, most) = FAILPOINTS[random.random_range(0..FAILPOINTS.len())];
                    Fault::Failpoint(name, random.random_range(1..=most))
                }
                5..7 => Fault::Server(after),
                7 => Fault::Stop(after),
                8 => Fault::Supervisor(after),
                9 => Fault::Command(after),
                _ => Fault::Everything(after),
            }
        })
        .collect();
    if seed % 10 == 9 {
        plan.insert(0, Fault::Usurped(Duration::from_millis(random.random_range(200..1500))));
    }
    plan
}

/// What the agent does; each line of steps.txt is written by one step.
fn replies() -> Value {
    let shell = |command: &str| json!({"text": command, "calls": [{"name": "shell", "input": {"command": command}}]});
    let finish = |summary: &str| json!({"text": "", "calls": [{"name": "finish", "input": {"summary": summary, "success": true}}]});
    json!([
        shell("echo one >> steps.txt"),
        shell("echo two >> steps.txt; sleep 0.4; echo two-end >> steps.txt"),
        {"text": "", "calls": [{"name": "write", "input": {"path": "notes.txt", "content": "old\n"}}]},
        {"text": "", "calls": [{"name": "edit", "input": {"path": "notes.txt", "old": "old", "new": "old and new"}}]},
        shell("echo three >> steps.txt; git add -A; git commit -qm 'Own commit' || true"),
        {"text": "", "calls": [
            {"name": "read", "input": {"path": "total.py"}},
            {"name": "shell", "input": {"command": "echo four >> steps.txt; sleep 0.2"}},
            {"name": "grep", "input": {"pattern": "def"}}
        ]},
        finish("The first part"),
        shell("echo five >> steps.txt; sleep 0.2"),
        shell("echo six >> steps.txt"),
        finish("The second part"),
    ])
}

const LINES: &[&str] = &["one", "two", "two-end", "three", "four", "five", "six"];

struct Scene {
    fixture: std::sync::Arc<Fixture>,
    model: String,
    server: Child,
    url: String,
    faults: std::vec::IntoIter<Fault>,
    happened: Vec<Fault>,
    killer: Option<std::thread::JoinHandle<Option<(Child, String)>>>,
    started: Instant,
    waits_for_step: bool,
    recoveries: Vec<Duration>,
    /// Durable entries as they were streamed.
    seen: BTreeMap<u64, String>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let fixture = std::sync::Arc::new(Fixture::new());
        let model = format!("scripted:{}", fixture.script(&replies()).display());
        let faults = plan(seed).into_iter();
        let (server, url) = start(&fixture, &model, None);
        let mut scene = Self {
            fixture,
            model,
            server,
            url,
            faults,
            happened: Vec::new(),
            killer: None,
            started: Instant::now(),
            waits_for_step: false,
            recoveries: Vec::new(),
            seen: BTreeMap::new(),
        };
        // The first server begins with the first fault, too.
        kill_process(Pid::from_child(&scene.server), Signal::KILL).unwrap();
        scene.revive();
        scene.waits_for_step = false;
        scene
    }

    fn data(&self) -> PathBuf {
        self.fixture.dir.path().join("data")
    }

    /// Waits for the server's end and starts the next one with the next fault.
    fn revive(&mut self) {
        let began = Instant::now();
        while self.server.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(20), "the server neither answers nor ends");
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(usurper) = self.killer.take().and_then(|killer| killer.join().unwrap()) {
            assert!(!self.server.wait().unwrap().success(), "a server whose place was taken says so");
            (self.server, self.url) = usurper;
            return;
        }
        let fault = self.faults.next();
        let failpoint = match fault {
            Some(Fault::Failpoint(name, nth)) => Some(format!("{name}={nth}")),
            _ => None,
        };
        self.started = Instant::now();
        self.waits_for_step = true;
        (self.server, self.url) = start(&self.fixture, &self.model, failpoint.as_deref());
        let Some(fault) = fault else { return };
        self.happened.push(fault);
        let (pid, data) = (Pid::from_child(&self.server), self.data());
        let kill = move |pid| {
            kill_process(pid, Signal::KILL).ok(); // it may have ended before
        };
        match fault {
            Fault::Failpoint(..) => {}
            Fault::Usurped(after) => {
                let (fixture, model) = (self.fixture.clone(), self.model.clone());
                self.killer = Some(std::thread::spawn(move || {
                    std::thread::sleep(after);
                    // Stopped in the middle of a transaction it keeps every other process from the database.
                    for _ in 0..10 {
                        kill_process(pid, Signal::STOP).unwrap();
                        std::fs::remove_file(data.join("lock")).ok(); // the last try may have taken it
                        let usurper = try_start(&fixture, &model, None);
                        kill_process(pid, Signal::CONT).unwrap();
                        if usurper.is_some() {
                            return usurper;
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    panic!("no server takes the stopped one's place");
                }));
            }
            Fault::Server(after)
            | Fault::Stop(after)
            | Fault::Supervisor(after)
            | Fault::Command(after)
            | Fault::Everything(after) => {
                self.killer = Some(std::thread::spawn(move || {
                    std::thread::sleep(after);
                    match fault {
                        Fault::Server(_) => kill(pid),
                        Fault::Stop(_) => drop(kill_process(pid, Signal::TERM)),
                        Fault::Supervisor(_) => supervisors(&data).into_iter().for_each(kill),
                        Fault::Command(_) => {
                            let commands = supervisors(&data).into_iter().flat_map(children);
                            commands.filter(|pid| is_agents(*pid)).for_each(kill);
                        }
                        _ => {
                            let all = children(pid).into_iter().chain(supervisors(&data)).collect::<Vec<_>>();
                            kill(pid);
                            all.into_iter().for_each(kill);
                        }
                    }
                    None
                }));
            }
        }
    }

    fn kill_and_revive(&mut self) {
        kill_process(Pid::from_child(&self.server), Signal::KILL).unwrap();
        self.revive();
    }

    /// One request, again after a restart where the server does not answer.
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Value {
        loop {
            match http(&self.url, method, path, body) {
                Some((200 | 201, value)) => return value,
                Some((status, value)) => panic!("{method} {path}: {status} {value}"),
                None => self.revive(),
            }
        }
    }

    /// Follows the run to its end, through restarts, and checks that nothing that was streamed ever changes.
    fn follow(&mut self, run: &str) -> Value {
        loop {
            let path = format!("/v1/organizations/1/agent/run/{run}/events");
            let last = self.seen.keys().next_back().copied().unwrap_or(0);
            if let Some(mut stream) = request(&self.url, "GET", &path, &format!("Last-Event-ID: {last}\r\n"), "") {
                let (mut id, mut kind) = (None, String::new());
                let mut line = String::new();
                if stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                    assert!(line.contains(" 200 "), "run {run} is gone: {line}");
                }
                line.clear();
                while stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                    let text = line.trim_end();
                    if let Some(value) = text.strip_prefix("id: ") {
                        id = value.parse::<u64>().ok();
                    } else if let Some(value) = text.strip_prefix("event: ") {
                        kind = value.to_owned();
                    } else if let Some(data) = text.strip_prefix("data: ") {
                        if kind == "end" {
                            return serde_json::from_str(data).unwrap();
                        }
                        if let Some(id) = id.take() {
                            let before = self.seen.insert(id, data.to_owned());
                            assert!(before.is_none(), "entry {id} came twice");
                            if self.waits_for_step && kind != "notice" && kind != "status" {
                                self.recoveries.push(self.started.elapsed());
                                self.waits_for_step = false;
                            }
                        }
                    }
                    line.clear();
                }
            }
            // The stream ends when the server drains, too.
            if http(&self.url, "GET", "/healthz", &Value::Null).is_none() {
                self.revive();
            }
        }
    }

    fn lost_sandbox(&self) -> bool {
        self.happened.iter().any(|fault| fault.loses_sandbox())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn start(fixture: &Fixture, model: &str, failpoint: Option<&str>) -> (Child, String) {
    // A server that a failpoint ends before it says its address is one more restart.
    let started = try_start(fixture, model, failpoint).or_else(|| try_start(fixture, model, None));
    started.expect("the server starts")
}

fn try_start(fixture: &Fixture, model: &str, failpoint: Option<&str>) -> Option<(Child, String)> {
    let mut process = fixture
        .codegen()
        .args(["serve", "--addr", "127.0.0.1:0"])
        .env("CODEGEN_DEFAULT_MODEL", model)
        .env("CODEGEN_ADMIN_TOKEN", TOKEN)
        .env("CODEGEN_RATE_LIMITS", "off")
        .envs(failpoint.map(|plan| ("FAILPOINT", plan)))
        .stdout(Stdio::piped())
        .stderr(if std::env::var_os("CODEGEN_SEED").is_some() { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .unwrap();
    let line = BufReader::new(process.stdout.take().unwrap()).lines().next();
    if let Some(Ok(line)) = line {
        return Some((process, line.strip_prefix("codegen is at ").unwrap().to_owned()));
    }
    process.wait().unwrap();
    None
}

fn request(url: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<BufReader<TcpStream>> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).ok()?;
    // Heartbeats come sooner than this.
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    Some(BufReader::new(stream))
}

fn http(url: &str, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut answer = String::new();
    request(url, method, path, "", &body)?.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// The first processes of all sandboxes of a data directory.
fn supervisors(data: &std::path::Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir(data.join("sandboxes")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("process.json")).ok())
        .filter_map(|state| serde_json::from_slice::<Value>(&state).ok())
        .filter_map(|state| Pid::from_raw(i32::try_from(state["pid"].as_i64()?).ok()?))
        .collect()
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Whether the process is a command of the agent, not one of codegen's own.
fn is_agents(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| line.starts_with(b"bash\0"))
}

fn survive(seed: u64) -> Vec<Duration> {
    let mut scene = Scene::new(seed);
    // The server is ended at the very moment in which it has acknowledged something.
    let at_once = seed % 5 == 3;
    let repos = "/v1/organizations/1/repos";
    let repo = scene.ask("POST", repos, &json!({ "url": scene.fixture.origin() }));
    let runs = "/v1/organizations/1/agent/runs";
    // Asked again after a crash, so it is looked whether the first time was enough.
    let run = loop {
        let there = scene.ask("GET", runs, &Value::Null);
        if let Some(run) = there["items"].as_array().and_then(|runs| runs.first()) {
            break run["id"].to_string();
        }
        let body = json!({ "prompt": "Take all steps", "repo_id": repo["id"] });
        match http(&scene.url, "POST", "/v1/organizations/1/agent/run", &body) {
            Some((200, run)) => {
                // What was acknowledged is there, whatever happens next.
                if at_once {
                    scene.kill_and_revive();
                }
                break run["id"].to_string();
            }
            Some((status, value)) => panic!("{status} {value}"),
            None => scene.revive(),
        }
    };
    let end = scene.follow(&run);
    assert_eq!(end["status"], "COMPLETE", "{end} {:#?}", scene.seen);
    let follow_up = json!({ "agent_run_id": run.parse::<i64>().unwrap(), "prompt": "Go on" });
    loop {
        let messages = scene.seen.values().filter(|data| data.contains("\"Go on\"")).count();
        let taken =
            messages > 0 || http(&scene.url, "POST", "/v1/organizations/1/agent/run/resume", &follow_up).is_some();
        if taken && at_once {
            scene.kill_and_revive();
        }
        if !taken {
            scene.revive();
            // Whether it was taken is in the log.
            let path = format!("/v1/organizations/1/agent/run/{run}/logs?limit=100");
            let logs = scene.ask("GET", &path, &Value::Null);
            if !logs.to_string().contains("\"Go on\"") {
                continue;
            }
        }
        break;
    }
    let end = scene.follow(&run);
    assert_eq!(end["status"], "COMPLETE", "{end} {:#?}", scene.seen);
    check(&mut scene, &run);
    std::mem::take(&mut scene.recoveries)
}

fn check(scene: &mut Scene, run: &str) {
    let entries: Vec<Value> = scene.seen.values().map(|data| serde_json::from_str(data).unwrap()).collect();
    let all = || format!("{:?}\n{:#?}", scene.happened, scene.seen);
    let seqs: Vec<u64> = scene.seen.keys().copied().collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "no entry is missing: {}", all());
    let of = |kind: &str| entries.iter().filter(|e| e["kind"] == kind).collect::<Vec<_>>();
    let replies = replies().as_array().unwrap().clone();
    assert_eq!(of("reply").len(), replies.len(), "each answer is there once: {}", all());
    let mut calls: Vec<&str> = of("call_finished").iter().map(|e| e["call_id"].as_str().unwrap()).collect();
    let results = calls.len();
    calls.sort_unstable();
    calls.dedup();
    assert_eq!((calls.len(), results), (12, 12), "each call has one result: {}", all());
    let interrupted =
        of("call_finished").iter().filter(|e| e["output"].as_str().unwrap().contains("interrupted")).count();
    assert!(interrupted == 0 || scene.lost_sandbox(), "a call is only lost with its sandbox: {}", all());

    let branches = git(&scene.fixture.origin(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    assert_eq!(branches.lines().count(), 1, "one branch: {branches}");
    let steps = git(&scene.fixture.origin(), &["show", &format!("{branches}:steps.txt")]);
    for line in LINES {
        let times = steps.lines().filter(|step| step == line).count();
        assert!(times <= 1, "{line} was done {times} times: {}", all());
        let excused = scene.lost_sandbox() || (*line == "two-end" && scene.happened.iter().any(|f| f.kills_command()));
        let killed = of("call_finished").iter().any(|e| e["exit_code"] == 137);
        assert!(times == 1 || excused || killed, "{line} was lost: {}", all());
    }
    let run = scene.ask("GET", &format!("/v1/organizations/1/agent/run/{run}"), &Value::Null);
    let pulls = run["github_pull_requests"].as_array().unwrap();
    assert_eq!(pulls.len(), 1, "one pull request: {run}");
    assert_eq!(pulls[0]["head_branch_name"], branches.as_str(), "{run}");

    // Nothing is left, and the server ends as it should.
    while scene.killer.as_ref().is_some_and(|killer| !killer.is_finished()) {
        std::thread::sleep(Duration::from_millis(2));
    }
    if scene.killer.is_some() && !matches!(scene.happened.last(), Some(Fault::Supervisor(_) | Fault::Command(_))) {
        scene.revive();
    }
    kill_process(Pid::from_child(&scene.server), Signal::TERM).unwrap();
    scene.server.wait().unwrap();
    (scene.server, scene.url) = start(&scene.fixture, &scene.model, None);
    let left = |folder: &str| {
        let entries = std::fs::read_dir(scene.data().join(folder)).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().into_string().unwrap()).filter(|n| !n.starts_with('.')).collect::<Vec<_>>()
    };
    let began = Instant::now();
    while !left("sandboxes").is_empty() || !left("gateways").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?} {:?}", left("sandboxes"), left("gateways"));
        std::thread::sleep(Duration::from_millis(2));
    }
    let data = scene.data().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&data), "{mounts}");
    kill_process(Pid::from_child(&scene.server), Signal::TERM).unwrap();
    assert!(scene.server.wait().unwrap().success());
}

#[test]
fn runs_survive_faults_at_moments_that_a_seed_chooses() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds: Vec<u64> = match (number("CODEGEN_SEED"), number("CODEGEN_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (0..count.unwrap_or(20)).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let recoveries = std::sync::Mutex::new(Vec::new());
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    match std::panic::catch_unwind(|| survive(*seed)) {
                        Ok(times) => recoveries.lock().unwrap().extend(times),
                        Err(_) => failed.lock().unwrap().push(*seed),
                    }
                }
            });
        }
    });
    let mut times = recoveries.into_inner().unwrap();
    times.sort_unstable();
    if let (Some(p50), Some(p99)) = (times.get(times.len() / 2), times.get(times.len() * 99 / 100)) {
        println!("{} restarts under a run; to its next step p50 {p50:?}, p99 {p99:?}", times.len());
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these seeds failed (CODEGEN_SEED=N shows one): {failed:?}");
}
