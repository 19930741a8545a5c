//! What is kept, and what is not: disk use, pruning, backups, and what runs and servers leave behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, git, text},
    server::Server,
};

/// Goes on for a while by itself, so that what happens meanwhile finds it under way.
const WAITS: &str = "echo once >> log.txt; for i in $(seq 100); do read -t 0.05 x < /dev/zero || true; done";

fn calls(commands: &[&str]) -> Value {
    let mut replies: Vec<Value> = commands
        .iter()
        .map(|command| json!({"text": "", "calls": [{"name": "shell", "input": {"command": command}}]}))
        .collect();
    replies.push(json!({"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]}));
    Value::from(replies)
}

fn model(fixture: &Fixture, commands: &[&str]) -> String {
    format!("scripted:{}", fixture.script(&calls(commands)).display())
}

fn data(fixture: &Fixture) -> PathBuf {
    fixture.dir.path().join("data")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Sandboxes of a data directory; one may be going just now.
fn sandbox_ids(data: &Path) -> impl Iterator<Item = String> + use<> {
    names(&data.join("sandboxes")).into_iter().filter(|name| !name.starts_with('.'))
}

/// The same, which live, with their supervisors.
fn sandboxes(data: &Path) -> Vec<(String, i64)> {
    sandbox_ids(data)
        .map(|id| {
            let state = fs::read(data.join("sandboxes").join(&id).join("process.json")).unwrap();
            (id, serde_json::from_slice::<Value>(&state).unwrap()["pid"].as_i64().unwrap())
        })
        .collect()
}

fn items<'a>(usage: &'a Value, kind: &str) -> Vec<&'a Value> {
    usage["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).collect()
}

#[test]
fn df_names_what_uses_the_disk_and_prune_frees_it_beside_a_running_server() {
    let fixture = Fixture::new();
    let long = model(&fixture, &["echo change > new.txt; seq 1 300000"]);
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &long)]);
    let repo = server.add_repo();
    let run = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));

    let usage = server.json(&["df"]);
    assert_eq!(usage["in_use"], true);
    assert!(items(&usage, "outputs")[0]["bytes"].as_u64().unwrap() > 1_000_000, "{usage:#}");
    assert_eq!(items(&usage, "mirror")[0]["state"], "kept", "{usage:#}");
    assert!(items(&usage, "mirror")[0]["name"].as_str().unwrap().contains("origin"), "{usage:#}");
    assert_eq!(items(&usage, "outputs")[0]["state"], "kept", "the defaults drop nothing that is young");
    let before = server.json(&["agent", "--id", "1"]);

    let all = ["prune", "--all", "--older-than", "0m"];
    let planned = server.json(&[&all[..], &["--dry-run"]].concat());
    assert_eq!(planned["outputs"][0]["id"], 1);
    assert_eq!(items(&server.json(&["df"]), "mirror").len(), 1, "a dry run drops nothing");
    let pruned = server.json(&all);
    assert_eq!(planned["mirrors"], pruned["mirrors"]);
    assert!(pruned["freed"]["outputs"].as_u64().unwrap() > 1_000_000, "{pruned:#}");
    assert!(pruned["freed"]["traces"].as_u64().unwrap() > 10_000, "{pruned:#}");
    let [before_it, after_it] = [0, 1].map(|n| pruned["database_bytes"][n].as_u64().unwrap());
    assert!(after_it + 1_000_000 < before_it, "the server goes on, and its files shrink: {before_it} to {after_it}");
    let was = items(&usage, "database")[0]["bytes"].as_u64().unwrap();
    let usage = server.json(&["df"]);
    assert!(items(&usage, "database")[0]["bytes"].as_u64().unwrap() + 1_000_000 < was, "{usage:#}");
    assert!(items(&usage, "mirror").is_empty() && items(&usage, "outputs").is_empty(), "{usage:#}");
    assert_eq!(items(&usage, "patches").len(), 1, "the diff stays");

    assert_eq!(server.json(&["agent", "--id", "1"]), before, "the run's row stays");
    let trace = text(&server.client(&["agent", "--id", "1", "--follow"]));
    assert!(trace.contains("The trace of this run was dropped on"), "{trace}");
    assert!(trace.contains("full outputs of this run's commands were dropped on"), "{trace}");
    let again = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(again.status.success(), "the mirror is fetched again: {}", text(&again));

    assert_eq!(server.terminate(), Some(0));
    let output = fixture.codegen().args(["prune", "--outputs", "--older-than", "0m", "--json"]).output().unwrap();
    let alone: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert_eq!(alone["outputs"][0]["id"], 2, "without a server it opens the store itself: {alone:#}");
    let [before, after] = [0, 1].map(|n| alone["database_bytes"][n].as_u64().unwrap());
    assert!(after + 1_000_000 < before, "the file shrinks: {before} to {after}");
    let output = fixture.codegen().args(["df", "--json"]).output().unwrap();
    let usage: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert_eq!(usage["in_use"], false);
}

#[test]
fn a_mirror_of_a_live_run_never_goes() {
    let fixture = Fixture::new();
    let waits = model(&fixture, &[WAITS]);
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &waits)]);
    let repo = server.add_repo();
    server.run_until(&repo, &["\"kind\":\"call\"", "call_started"]);
    let pruned = server.json(&["prune", "--mirrors", "--older-than", "0m"]);
    assert_eq!(pruned["mirrors"], json!([]));
    let usage = server.json(&["df"]);
    assert_eq!(items(&usage, "mirror")[0]["state"], "live", "{usage:#}");
    assert_eq!(items(&usage, "sandbox")[0]["state"], "live", "{usage:#}");
    assert_eq!(items(&usage, "sandbox")[0]["run_id"], 1, "{usage:#}");
}

#[test]
fn commits_of_a_run_that_were_not_pushed_outlive_their_mirror() {
    let fixture = Fixture::new();
    let fails = json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": "echo mine > mine.txt"}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "gave up", "success": false}}]},
        {"text": "", "calls": [{"name": "shell", "input": {"command": "cat mine.txt"}}]},
        {"text": "", "expect": "mine", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]);
    let model = format!("scripted:{}", fixture.script(&fails).display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let repo = server.add_repo();
    let first = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(text(&first).contains("ERROR"), "{}", text(&first));
    assert_eq!(git(&fixture.origin(), &["branch", "--list", "codegen/*"]), "", "nothing was pushed");
    let commit = git(&data(&fixture).join("mirrors/1.git"), &["rev-parse", "refs/codegen/runs/1"]);
    assert_eq!(server.json(&["prune", "--mirrors", "--older-than", "0m"])["mirrors"][0]["id"], 1);
    assert!(!data(&fixture).join("mirrors/1.git").exists());
    let second = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(!text(&second).is_empty());
    assert_eq!(git(&data(&fixture).join("mirrors/1.git"), &["rev-parse", "refs/codegen/runs/1"]), commit);
    assert_eq!(git(&data(&fixture).join("mirrors/1.git"), &["show", &format!("{commit}:mine.txt")]), "mine");
}

#[test]
fn a_backup_taken_in_the_middle_of_a_run_is_restored_elsewhere_and_the_run_goes_on() {
    let fixture = Fixture::new();
    // The script goes on by the trace's length: in the restored directory the second command is the interrupted one.
    let waits = model(&fixture, &["echo first", &format!("echo begun; {WAITS}"), "echo after"]);
    let env = [("CODEGEN_DEFAULT_MODEL", waits.as_str())];
    let server = Server::logged_in(&fixture, &env);
    let token = server.token.clone().unwrap();
    let repo = server.add_repo();
    // Not its answer, which names the command too: until the command has begun, nothing is interrupted.
    let id = server.run_until(&repo, &["\"text\":\"begun"]);
    let into = fixture.dir.path().join("backup.tar");
    let made = server.json(&["backup", into.to_str().unwrap()]);
    assert_eq!(made["mirrors"], 1, "{made:#}");
    let again = server.client(&["backup", into.to_str().unwrap()]);
    assert!(!again.status.success(), "a backup replaces nothing");
    let listed = std::process::Command::new("tar").arg("tf").arg(&into).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "codegen.db\nmirrors/1.bundle\nmanifest.json\n");

    let live = server.client(&["restore", into.to_str().unwrap()]);
    assert!(!live.status.success() && text(&live).contains("is using"), "{}", text(&live));
    let other = fixture.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "").unwrap();
    let to = ["--data-dir", other.to_str().unwrap()];
    let refused = server.client(&[&["restore", into.to_str().unwrap()][..], &to].concat());
    assert!(!refused.status.success() && text(&refused).contains("not an empty"), "{}", text(&refused));
    fs::remove_file(other.join("mine")).unwrap();
    let restored = server.json(&[&["restore", into.to_str().unwrap()][..], &to].concat());
    assert_eq!(restored["live_runs"], json!([id.parse::<i64>().unwrap()]), "{restored:#}");
    assert!(restored["incarnation"].as_i64().unwrap() > 0);
    let kept = fs::read_to_string(other.join("incarnation")).unwrap();
    assert_eq!(kept.trim(), restored["incarnation"].to_string());
    assert!(!data(&fixture).join("incarnation").exists(), "the former one's stays what it was");
    drop(server);

    let env = [env[0], ("CODEGEN_DATA_DIR", other.to_str().unwrap())];
    let server = Server::start(&fixture, &env);
    server.log_in(&token);
    let run = server.client(&["agent", "--id", &id, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));
    assert!(text(&run).contains("restored from a backup"), "{}", text(&run));
    assert!(text(&run).contains("interrupted"), "{}", text(&run));
    let branches = git(&fixture.origin(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    assert!(branches.is_empty() || branches.starts_with("codegen/"), "{branches}");
}

#[test]
fn a_damaged_or_cut_off_backup_restores_nothing() {
    let fixture = Fixture::new();
    drop(Server::first(&fixture, &[]));
    let into = fixture.dir.path().join("backup.tar");
    let made = fixture.codegen().arg("backup").arg(&into).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let whole = fs::read(&into).unwrap();
    let mut damaged = whole.clone();
    damaged[3000] ^= 1;
    for (bytes, says) in [(&whole[..whole.len() / 2], ""), (&damaged[..], "damaged"), (b"no tar at all", "")] {
        let file = fixture.dir.path().join("bad.tar");
        fs::write(&file, bytes).unwrap();
        let other = fixture.dir.path().join("other");
        let output = fixture.codegen().arg("restore").arg(&file).arg("--data-dir").arg(&other).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(says), "{}", text(&output));
        assert!(!other.exists(), "nothing is left");
        assert!(names(fixture.dir.path()).iter().all(|name| !name.starts_with(".codegen")), "nor beside");
    }
}

#[test]
fn a_second_server_is_refused_while_the_first_is_stopped_and_the_directory_is_free_when_it_is_killed() {
    let fixture = Fixture::new();
    let mut server = Server::first(&fixture, &[]);
    server.signal(Signal::STOP);
    for _ in 0..3 {
        let second = fixture.codegen().args(["serve", "--addr", "127.0.0.1:0"]).output().unwrap();
        assert!(!second.status.success());
        assert!(text(&second).contains("another codegen is using"), "{}", text(&second));
    }
    // A stopped process is killed without being continued.
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert_eq!(Server::start(&fixture, &[]).terminate(), Some(0));
}

#[test]
fn a_sandbox_outlives_a_server_that_is_ended_alone_and_the_next_one_attaches_to_it() {
    for signal in [Signal::TERM, Signal::KILL] {
        let fixture = Fixture::new();
        let waits = model(&fixture, &[WAITS, "echo after"]);
        let env = [("CODEGEN_DEFAULT_MODEL", waits.as_str())];
        let mut server = Server::logged_in(&fixture, &env);
        let token = server.token.take().unwrap();
        let repo = server.add_repo();
        let id = server.run_until(&repo, &["\"kind\":\"call\"", "call_started"]);
        let before = sandboxes(&data(&fixture));
        let [(sandbox, pid)] = &before[..] else { panic!("{before:?}") };
        let group = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = group(server.process.id());
        assert!(group(*pid as u32) != own || !group(*pid as u32).contains(sandbox), "a sandbox has groups of its own");
        server.signal(signal);
        server.process.wait().unwrap();
        drop(server);
        assert_eq!(sandboxes(&data(&fixture)), before);
        assert!(Path::new("/proc").join(pid.to_string()).exists(), "its supervisor lives");

        let server = Server::start(&fixture, &env);
        server.log_in(&token);
        let run = server.client(&["agent", "--id", &id, "--follow"]);
        assert!(run.status.success(), "{}", text(&run));
        assert!(!text(&run).contains("The sandbox was lost"), "{}", text(&run));
    }
}

/// Processes that have something of a data directory: a mount from it, or a control group of one of its sandboxes.
fn processes_of(data: &Path, sandbox_ids: &[String]) -> Vec<String> {
    let has = |path: PathBuf, words: &[String]| {
        let text = fs::read_to_string(path).unwrap_or_default();
        words.iter().any(|word| text.contains(word.as_str()))
    };
    let place = data.canonicalize().unwrap().display().to_string();
    let place = [place.strip_prefix("/tmp").unwrap_or(&place).to_owned()];
    names(Path::new("/proc"))
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| {
            let proc = Path::new("/proc").join(pid);
            has(proc.join("cgroup"), sandbox_ids) || has(proc.join("mountinfo"), &place)
        })
        .collect()
}

fn groups_of(sandbox_ids: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if sandbox_ids.iter().any(|id| entry.file_name().to_string_lossy().contains(id.as_str())) {
                    found.push(entry.path());
                }
                waiting.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn nothing_is_left_after_runs_that_ended_in_every_way() {
    let fixture = Fixture::new();
    let data = data(&fixture);
    let done = model(&fixture, &["echo done"]);
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &done)]);
    let token = server.token.clone().unwrap();
    let repo = server.add_repo();
    let complete = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(complete.status.success(), "{}", text(&complete));
    let missing = fixture.dir.path().join("gone.git");
    git(fixture.dir.path(), &["clone", "-q", "--bare", "origin.git", "gone.git"]);
    let gone = server.json(&["repo", "add", missing.to_str().unwrap()])["id"].to_string();
    fs::remove_dir_all(&missing).unwrap();
    let unprepared = server.client(&["agent", "--prompt", "Go.", "--repo-id", &gone, "--follow"]);
    assert!(!unprepared.status.success(), "{}", text(&unprepared));
    drop(server);

    let waits = model(&fixture, &[WAITS, "echo after"]);
    let env = [("CODEGEN_DEFAULT_MODEL", waits.as_str())];
    let mut server = Server::start(&fixture, &env);
    server.log_in(&token);
    let stopped = server.run_until(&repo, &["\"kind\":\"call\"", "call_started"]);
    let mut ids: Vec<String> = sandbox_ids(&data).collect();
    server.post(
        "/v1/organizations/1/agent/run/stop",
        &token,
        &json!({"agent_run_id": stopped.parse::<i64>().unwrap()}),
    );
    let end = server.client(&["agent", "--id", &stopped, "--follow"]);
    assert!(text(&end).contains("CANCELLED"), "{}", text(&end));
    let killed = server.run_until(&repo, &["\"kind\":\"call\"", "call_started"]);
    ids.extend(sandbox_ids(&data));
    assert!(!processes_of(&data, &ids).is_empty(), "the test sees what there is");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    // What a killed server can leave besides: a socket of a sandbox that never was, a half-made folder, a half-removed mirror.
    fs::write(data.join("gateways/run-99-1-00000000.sock"), "").unwrap();
    fs::create_dir_all(data.join("mirrors/.removed-9-0/objects")).unwrap();
    fs::create_dir(data.join("sandboxes/run-98-1-00000000")).unwrap();
    fs::create_dir(data.join("sandboxes/.new-4194304-0")).unwrap();
    let usage = fixture.codegen().args(["df", "--json"]).output().unwrap();
    let usage: Value = serde_json::from_slice(&usage.stdout).unwrap_or_else(|_| panic!("{}", text(&usage)));
    assert_eq!(items(&usage, "leftover").len(), 2, "{usage:#}");
    assert!(items(&usage, "sandbox").iter().any(|item| item["state"] == "prunable"), "{usage:#}");

    let server = Server::start(&fixture, &env);
    server.log_in(&token);
    let run = server.client(&["agent", "--id", &killed, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));
    ids.extend(sandbox_ids(&data));
    assert_eq!(server.terminate(), Some(0), "draining waits for the run's end");
    ids.sort();
    ids.dedup();
    assert!(!ids.is_empty());

    assert!(sandboxes(&data).is_empty(), "{:?}", sandboxes(&data));
    assert!(names(&data.join("sandboxes")).iter().all(|name| name.starts_with(".skeleton-")));
    assert_eq!(names(&data.join("gateways")), Vec::<String>::new());
    assert!(names(&data.join("mirrors")).iter().all(|name| !name.starts_with('.')));
    assert_eq!(groups_of(&ids), Vec::<PathBuf>::new());
    assert_eq!(processes_of(&data, &ids), Vec::<String>::new());
}

#[test]
fn systemd_is_told_when_the_server_is_ready_and_when_it_ends() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut buffer = [0; 256];
    let mut told = || {
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let server = Server::first(&fixture, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(told(), "READY=1");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(told(), "STOPPING=1");
}
