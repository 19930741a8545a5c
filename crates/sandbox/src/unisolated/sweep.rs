//! Finds and kills what commands of a sandbox left running on the host, by the variable that they all inherit.

use std::{
    collections::BTreeSet,
    fs, io,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

/// The variable, and the sandbox's folder is its value.
pub const MARK: &str = "CODEGEN_SANDBOX_FOLDER";
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

struct Process {
    pid: i32,
    parent: i32,
    session: i32,
}

/// Kills processes until none is left: those with the mark, those of the given sessions, and their descendants.
///
/// A process that cleared its variables, left its session and lost its parent is not found.
pub async fn sweep(folder: &str, sessions: &BTreeSet<i32>) -> io::Result<()> {
    let mark = format!("{MARK}={folder}");
    let began = Instant::now();
    loop {
        let found = find(&mark, sessions)?;
        if found.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("its processes {found:?} did not end within {PATIENCE:?}")));
        }
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::KILL).ok(); // It has just ended, or is another user's.
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn find(mark: &str, sessions: &BTreeSet<i32>) -> io::Result<BTreeSet<i32>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = BTreeSet::new();
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Some(process) = living(pid).filter(|_| pid != own) else { continue };
        let marked = || {
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        if sessions.contains(&process.session) || marked() {
            found.insert(pid);
        }
        processes.push(process);
    }
    // Until nothing is added: children may come before their parents.
    loop {
        let before = found.len();
        found.extend(processes.iter().filter(|p| found.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>());
        if found.len() == before {
            return Ok(found);
        }
    }
}

/// None for what has ended, reaped or not.
fn living(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if matches!(state, "Z" | "X") {
        return None;
    }
    Some(Process { pid, parent: parent.parse().ok()?, session: session.parse().ok()? })
}
