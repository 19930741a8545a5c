//! Times the local engine: create to exit of `true`, and a further exec; in turn with bubblewrap where that is installed, which
//! has no overlay, limits or way in. `make bench` runs it in release.

use std::{
    error::Error,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use codegen_sandbox::{
    Engine, Exec, Spec,
    local::{Caller, LocalEngine, Zygote},
};

const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let zygote = Zygote::fork(Caller { path: "/usr/bin:/bin".to_owned(), ..Caller::default() })?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(zygote))
}

async fn measure(zygote: Zygote) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let engine = LocalEngine::new(zygote, dir.path().join("sandboxes"))?;
    let exec = || Exec { argv: vec!["true".to_owned()], ..Exec::default() };
    let (mut creates, mut execs, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let id = format!("bench-{round}");
        let begin = Instant::now();
        let sandbox = engine.create(&Spec { id: id.clone(), ..Spec::default() }).await?;
        sandbox.start(exec()).await?.complete().await?;
        creates.push(begin.elapsed());
        let begin = Instant::now();
        sandbox.start(exec()).await?.complete().await?;
        execs.push(begin.elapsed());
        engine.destroy(&id).await?;
        peers.extend(bubblewrap());
    }
    print("create to exit of true", creates);
    print("a further exec of true", execs);
    if peers.is_empty() {
        println!("bubblewrap is not installed, so nothing stands beside these");
    } else {
        print("bubblewrap: start to exit of true", peers);
    }
    Ok(())
}

/// How long it takes to start `true` with the same namespaces.
fn bubblewrap() -> Option<Duration> {
    let links = ["bin", "lib", "lib64"].map(|name| [format!("usr/{name}"), format!("/{name}")]);
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    for [target, link] in &links {
        command.args(["--symlink", target, link]);
    }
    let begin = Instant::now();
    let status = command.arg("true").stdin(Stdio::null()).status().ok()?;
    status.success().then(|| begin.elapsed())
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{what}: p50 {:?}, p99 {:?} ({} rounds)", at(50), at(99), times.len());
}
