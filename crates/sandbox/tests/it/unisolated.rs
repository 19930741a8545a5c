//! The engine of `--unsafe-no-sandbox`, where it differs from the isolated ones.

use std::{process::Command, time::Duration};

use codegen_sandbox::{Engine, Error, Exec, Fence, User};

use crate::support::*;

/// Whether a process with this number lives.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn it_claims_no_isolation() {
    let place = Place::unisolated();
    let sandbox = place.create(spec("a")).await;
    assert!(!sandbox.isolation().isolated() && !place.engine.isolation().isolated());
    assert!(sandbox.isolation().missing.iter().any(|missing| missing.contains("network policy")));
    assert!(Place::new().engine.isolation().isolated());
}

#[tokio::test]
async fn commands_get_a_list_of_variables_and_a_home_of_their_own() {
    let place = Place::unisolated();
    let sandbox = place.create(spec("a")).await;
    let done =
        run(&*sandbox, sh("env; grep NoNewPrivs /proc/self/status; [ $(cut -d' ' -f6 /proc/$$/stat) = $$ ]")).await;
    let (said, folder) = (text(&done), place.folder("a").canonicalize().unwrap());
    assert!(said.contains(&format!("HOME={}/home\n", folder.display())), "{said}");
    assert!(said.contains(&format!("TMPDIR={}/tmp\n", folder.display())), "{said}");
    assert!(said.contains("NoNewPrivs:\t1"), "{said}");
    // Cargo and nextest set these for this process.
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_err() || !said.contains("CARGO_MANIFEST_DIR"), "{said}");
    assert_eq!(done.exit.code, 0, "a session of its own has no terminal");
}

#[tokio::test]
async fn there_is_no_root_of_the_sandboxs_own() {
    let place = Place::unisolated();
    let sandbox = place.create(spec("a")).await;
    let setup = Exec { user: User::Setup, ..sh("true") };
    assert!(matches!(sandbox.start(setup).await, Err(Error::Start(text)) if text.contains("without isolation")));
}

#[tokio::test]
async fn destroy_ends_what_left_its_group_its_session_or_its_variables() {
    let place = Place::unisolated();
    let sandbox = place.create(spec("a")).await;
    let other = place.create(spec("b")).await;
    let scripts = [
        "setsid sh -c 'sleep 1000 & sleep 1000' >&- 2>&- & echo $!",
        "(setsid sleep 1000 >&- 2>&- & echo $!)",
        "setsid sh -c 'env -i sleep 1000 & echo $!; sleep 1000' & sleep 0.2",
    ];
    let mut pids = Vec::new();
    for script in scripts {
        pids.push(text(&run(&*sandbox, sh(script)).await));
    }
    let kept = text(&run(&*other, sh("sleep 1000 >&- 2>&- & echo $!")).await);
    let running = sandbox.start(sh("echo up; sleep 1000")).await.unwrap();
    assert!(pids.iter().all(|pid| lives(pid)), "{pids:?}");
    place.engine.destroy("a").await.unwrap();
    assert!(pids.iter().all(|pid| !lives(pid)), "{pids:?}");
    assert!(matches!(running.complete().await, Err(Error::Gone(_))));
    assert!(matches!(sandbox.start(sh("true")).await, Err(Error::Gone(_))));
    assert!(lives(&kept), "another sandbox's process is left alone");
}

#[tokio::test]
async fn after_a_restart_the_work_is_there_and_the_commands_are_gone() {
    let place = Place::unisolated();
    let dir = place.dir.path().join("sandboxes");
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "unisolated::a_server_that_is_killed", "--nocapture"])
        .env("SANDBOXES", &dir)
        .output()
        .unwrap();
    assert!(!server.status.success());
    let pid = std::fs::read_to_string(dir.join("orphan/workspace/pid")).unwrap();
    assert!(lives(&pid), "a command outlives a server that is killed");
    assert!(matches!(place.engine.attach("orphan", Fence::default()).await, Err(Error::Fenced(_))));
    let sandbox = place.engine.attach("orphan", Fence { incarnation: 0, attempt: 2 }).await.unwrap();
    assert!(!lives(&pid), "its next owner ends it");
    assert!(sandbox.reattach("long").await.unwrap().is_none());
    assert_eq!(text(&run(&*sandbox, sh("cat work")).await), "kept\n");
}

#[tokio::test]
#[ignore = "the other half of the test above, which runs it in a process of its own"]
async fn a_server_that_is_killed() {
    let Some(dir) = std::env::var_os("SANDBOXES") else { return };
    let engine = unisolated_at(dir.as_ref());
    let fence = Fence { incarnation: 0, attempt: 1 };
    let sandbox = engine.create(&codegen_sandbox::Spec { fence, ..spec("orphan") }).await.unwrap();
    let long = sh("echo kept > work; echo $$ > pid; echo up; sleep 1000");
    let mut running = sandbox.start(Exec { key: Some("long".into()), ..long }).await.unwrap();
    running.events.recv().await.unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_engine_that_ends_in_order_ends_its_commands() {
    let place = Place::unisolated();
    let pid = {
        let engine = unisolated_at(&place.dir.path().join("sandboxes"));
        let sandbox = engine.create(&spec("a")).await.unwrap();
        let mut running = sandbox.start(sh("echo $$; sleep 1000")).await.unwrap();
        let Some(codegen_sandbox::Event::Output { bytes, .. }) = running.events.recv().await else { panic!("its pid") };
        String::from_utf8(bytes).unwrap()
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        while lives(&pid) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_folder_without_permissions_is_removed_for_an_ordinary_user_too() {
    let place = Place::unisolated();
    let sandbox = place.create(spec("a")).await;
    run(&*sandbox, sh("mkdir -p x/y && touch x/y/z && ln -s / x/root && chmod 0 x/y x")).await;
    place.engine.destroy("a").await.unwrap();
    assert!(!place.folder("a").exists());
}
