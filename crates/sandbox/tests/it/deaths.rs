//! Parts of the local engine that are killed, stopped or lost, each by a real signal.

use std::{collections::BTreeSet, path::Path, process::Command};

use codegen_sandbox::{EndedBy, Engine, Error, Event, Fence, Sandbox};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn supervisor(folder: &Path) -> i32 {
    let process: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("process.json")).unwrap()).unwrap();
    process["pid"].as_i64().unwrap().try_into().unwrap()
}

/// State and parent of a process that is there.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Everything in a sandbox, by the host's numbers.
fn inside(supervisor: i32) -> BTreeSet<i32> {
    let all: Vec<i32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = BTreeSet::from([supervisor]);
    loop {
        let before = found.len();
        found.extend(
            all.iter().filter(|pid| stat(**pid).is_some_and(|(_, parent)| found.contains(&parent))).collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.unwrap();
}

fn cgroups_of(id: &str) -> String {
    let found = Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("codegen-{id}-*")]).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

async fn assert_gone(engine: &dyn Engine, sandbox: &dyn Sandbox) {
    assert!(matches!(sandbox.start(sh("true")).await, Err(Error::Gone(_))));
    assert!(matches!(sandbox.reattach("long").await, Err(Error::Gone(_))));
    assert!(matches!(sandbox.connect(80).await, Err(Error::Gone(_))));
    let attached = engine.attach(sandbox.id(), Fence { incarnation: 9, attempt: 9 }).await;
    assert!(matches!(attached, Err(Error::Gone(_))));
}

#[tokio::test]
async fn a_killed_supervisor_takes_everything_inside_with_it() {
    let place = Place::new();
    let sandbox = place.create(spec("killed")).await;
    run(&*sandbox, sh("sleep 1000 & setsid sleep 1000 & true")).await;
    let mut running = sandbox.start(sh("echo up; sleep 1000")).await.unwrap();
    running.events.recv().await.unwrap();
    let pid = supervisor(&place.folder("killed"));
    let all = inside(pid);
    assert!(all.len() >= 4, "{all:?}");
    signal(pid, Signal::KILL);
    assert!(matches!(running.complete().await, Err(Error::Gone(_))));
    until(|| !all.iter().any(|pid| lives(*pid))).await;
    assert_gone(&*place.engine, &*sandbox).await;
    place.engine.destroy("killed").await.unwrap();
    assert!(!place.folder("killed").exists());
    assert_eq!(cgroups_of("killed"), "");
}

#[tokio::test]
async fn a_stopped_supervisor_is_let_go_on_for_whoever_needs_it_and_is_destroyed() {
    let place = Place::new();
    let sandbox = place.create(spec("stopped")).await;
    let mut running = sandbox.start(sh("echo up; sleep 1000")).await.unwrap();
    running.events.recv().await.unwrap();
    let supervisor = supervisor(&place.folder("stopped"));
    signal(supervisor, Signal::STOP);
    assert_eq!(text(&run(&*sandbox, sh("echo again")).await), "again\n");
    signal(supervisor, Signal::STOP);
    running.kill.send(()).await.unwrap();
    assert_eq!(running.complete().await.unwrap().exit.ended_by, Some(EndedBy::Kill));
    signal(supervisor, Signal::STOP);
    place.engine.attach("stopped", Fence { incarnation: 9, attempt: 9 }).await.unwrap();
    signal(supervisor, Signal::STOP);
    place.engine.destroy("stopped").await.unwrap();
    assert!(!place.folder("stopped").exists() && !lives(supervisor));
}

#[tokio::test]
async fn a_sandbox_whose_supervisors_record_cannot_be_read_is_found_again_and_removed() {
    if !limited_by_cgroups() {
        return;
    }
    let place = Place::new();
    let sandbox = place.create(spec("torn")).await;
    let supervisor = supervisor(&place.folder("torn"));
    std::fs::write(place.folder("torn").join("process.json"), "{\"pid\":").unwrap();
    assert!(place.engine.lives("torn").await);
    let again = place.again().attach("torn", Fence { incarnation: 9, attempt: 9 }).await.unwrap();
    assert_eq!(text(&run(&*again, sh("echo there")).await), "there\n");
    drop((sandbox, again));
    place.engine.destroy("torn").await.unwrap();
    assert!(!lives(supervisor) && !place.folder("torn").exists());
    assert_eq!(cgroups_of("torn"), "");
}

#[tokio::test]
async fn the_layer_of_an_earlier_version_goes_once_no_sandbox_of_then_is_left() {
    let place = Place::new();
    let sandboxes = place.dir.path().join("sandboxes");
    let earlier = sandboxes.join(".skeleton-0000000000000000");
    place.create(spec("then")).await;
    std::fs::create_dir(&earlier).unwrap();
    let next = place.again();
    assert!(next.sweep().await.unwrap().is_empty() && earlier.exists(), "it may still be in use");
    next.destroy("then").await.unwrap();
    assert_eq!(next.sweep().await.unwrap().len(), 1);
    assert!(!earlier.exists());
}

#[tokio::test]
async fn without_its_zygote_an_engine_says_to_restart_and_sandboxes_live_on() {
    let place = Place::new();
    let dir = place.dir.path().join("sandboxes");
    let (engine, zygote) = doomed_engine_at(dir);
    let sandbox = engine.create(&spec("orphan")).await.unwrap();
    signal(zygote, Signal::KILL);
    until(|| !lives(zygote)).await;
    for error in [engine.create(&spec("late")).await.err().unwrap(), engine.destroy("late").await.err().unwrap()] {
        let Error::Io(_, why) = &error else { panic!("{error:?}") };
        assert!(why.to_string().contains("restart codegen"), "{error}");
    }
    assert_eq!(text(&run(&*sandbox, sh("echo alive")).await), "alive\n");
    // What a restart finds.
    assert_eq!(place.engine.inventory().await.unwrap(), ["late", "orphan"]);
    let found = place.engine.attach("orphan", Fence::default()).await.unwrap();
    assert_eq!(text(&run(&*found, sh("echo alive")).await), "alive\n");
    place.engine.destroy("late").await.unwrap();
    place.engine.destroy("orphan").await.unwrap();
}

#[tokio::test]
async fn a_sandbox_whose_creator_died_before_it_was_its_owner_is_found_and_ended() {
    let place = Place::new();
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "deaths::a_creator_that_is_killed", "--nocapture"])
        .env("SANDBOXES", place.dir.path().join("sandboxes"))
        .output()
        .unwrap();
    assert!(!server.status.success());
    let pid = supervisor(&place.folder("half"));
    place.engine.destroy("half").await.unwrap();
    assert!(!lives(pid));
    assert!(!place.folder("half").exists());
    assert_eq!(cgroups_of("half"), "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other half of the test above, which runs it in a process of its own"]
async fn a_creator_that_is_killed() {
    let Some(dir) = std::env::var_os("SANDBOXES") else { return };
    let recorded = Path::new(&dir).join("half/process.json");
    let engine = engine_at(dir.into());
    std::thread::spawn(move || {
        while std::fs::read(&recorded).unwrap_or_default().is_empty() {
            std::hint::spin_loop();
        }
        kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    });
    engine.create(&spec("half")).await.ok();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn connections_that_fill_the_way_out_do_not_keep_commands_out() {
    let place = Place::new();
    let socket = place.dir.path().join("gateway.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let gateway = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let sandbox = place.create(codegen_sandbox::Spec { gateway: Some(socket), ..spec("a") }).await;
    let flood = "import resource,socket,time\nresource.setrlimit(resource.RLIMIT_NOFILE,(resource.getrlimit(resource.RLIMIT_NOFILE)[1],)*2)\nheld=[]\nfor n in range(1500):\n s=socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1',3128)); held.append(s)\nprint('flooded',flush=True)\ntime.sleep(1000)";
    let exec = codegen_sandbox::Exec { argv: ["python3", "-c", flood].map(String::from).into(), ..sh("") };
    let mut running = sandbox.start(exec).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::Output { fd: 1, .. })));
    for _ in 0..20 {
        assert_eq!(text(&run(&*sandbox, sh("echo in")).await), "in\n");
    }
    gateway.abort();
}
