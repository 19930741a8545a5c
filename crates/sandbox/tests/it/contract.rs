//! What every caller may rely on.

use std::time::{Duration, Instant};

use codegen_sandbox::{
    EndedBy, Engine, Error, Event, Exec, Fence, Limits, Mount, Spec,
    files::{self, Search},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

/// Each engine keeps the whole contract.
macro_rules! over_each_engine {
    ($($name:ident)*) => {
        mod local {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::new()).await; })*
        }
        mod unisolated {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::unisolated()).await; })*
        }
    };
}

over_each_engine! {
    a_command_runs_in_the_workspace_with_its_variables
    input_variables_and_folder_reach_the_command
    a_program_that_is_not_there_cannot_start
    a_timeout_kills_the_whole_group
    a_kill_ends_a_command
    a_background_process_does_not_delay_the_end_and_lives_on
    output_beyond_the_cap_is_counted
    a_second_owner_finds_the_sandbox_and_its_command
    an_older_owner_is_refused
    an_older_owners_watch_is_cut_off_and_kills_nothing
    destroy_removes_a_tree_that_is_deeper_than_a_path_is_long
    destroy_leaves_nothing
    the_gateway_is_reached_and_may_be_made_anew
    a_port_inside_is_reached
    a_mount_is_where_the_sandbox_says
    scratch_files_have_a_place
    a_command_with_a_key_runs_once_however_often_it_is_started
    files_are_read_written_and_found
    the_hosts_toolchains_work_inside
}

async fn a_command_runs_in_the_workspace_with_its_variables(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let done =
        run(&*sandbox, sh("pwd; echo $PWD $IS_SANDBOX; touch x && ls; cd && touch y; echo wrong >&2; exit 3")).await;
    let workspace = sandbox.workspace();
    assert_eq!(text(&done), format!("{workspace}\n{workspace} True\nx\n"));
    assert_eq!(done.stderr, b"wrong\n");
    assert_eq!(done.exit.code, 3);
    assert_eq!(done.exit.ended_by, None);
}

async fn input_variables_and_folder_reach_the_command(place: Place) {
    let sandbox = place
        .create(Spec { env: [("A".into(), "spec".into()), ("B".into(), "spec".into())].into(), ..spec("a") })
        .await;
    let stdin: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let exec = Exec {
        stdin: stdin.clone(),
        env: [("B".into(), "exec".into())].into(),
        cwd: Some("/tmp".into()),
        ..sh("cat; echo $A $B $PWD >&2")
    };
    let done = run(&*sandbox, exec).await;
    assert!(done.stdout == stdin);
    assert_eq!(done.stderr, b"spec exec /tmp\n");
}

async fn a_program_that_is_not_there_cannot_start(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let missing = Exec { argv: vec!["no-such-program".into()], ..Exec::default() };
    assert!(matches!(sandbox.start(missing).await, Err(Error::Start(text)) if text.contains("no-such-program")));
    let folder = Exec { cwd: Some("/nowhere".into()), ..sh("true") };
    assert!(matches!(sandbox.start(folder).await, Err(Error::Start(text)) if text.contains("/nowhere")));
}

async fn a_timeout_kills_the_whole_group(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let done =
        run(&*sandbox, Exec { timeout: Some(Duration::from_millis(300)), ..sh("sleep 1000 & echo $!; sleep 1000") })
            .await;
    assert_eq!((done.exit.code, done.exit.ended_by), (137, Some(EndedBy::Timeout)));
    let pid = text(&done);
    // The rest of the group dies at the same signal, though perhaps a moment later.
    let done = run(&*sandbox, sh(&format!("while kill -0 {} 2>&-; do :; done", pid.trim()))).await;
    assert_eq!(done.exit.ended_by, None);
}

async fn a_kill_ends_a_command(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let mut running = sandbox.start(sh("echo up; sleep 1000")).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::Output { fd: 1, bytes }) if bytes == b"up\n"));
    running.kill.send(()).await.unwrap();
    assert_eq!(running.complete().await.unwrap().exit.ended_by, Some(EndedBy::Kill));
}

async fn a_background_process_does_not_delay_the_end_and_lives_on(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let begin = Instant::now();
    let done = run(&*sandbox, sh("sleep 1000 & echo $!")).await;
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(run(&*sandbox, sh(&format!("kill -0 {}", text(&done)))).await.exit.code, 0);
}

async fn output_beyond_the_cap_is_counted(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let done = run(&*sandbox, Exec { output_cap: Some(1000), ..sh("head -c 5000000 /dev/zero") }).await;
    assert_eq!((done.stdout.len(), done.exit.dropped_bytes, done.exit.code), (1000, 4_999_000, 0));
}

async fn a_second_owner_finds_the_sandbox_and_its_command(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let one = Exec { key: Some("one".into()), ..sh("echo one; read line < gate; echo $line") };
    let running = sandbox.start(one).await.unwrap();
    run(&*sandbox, sh("mkfifo gate2; true")).await;
    drop(running);
    drop(sandbox);
    let second = place.again();
    let sandbox = second.attach("a", Fence::default()).await.unwrap();
    let done = sandbox.reattach("one").await.unwrap().unwrap().complete().await.unwrap();
    assert!(text(&done).starts_with("one\n"));
    assert!(sandbox.reattach("two").await.unwrap().is_none());
    assert!(matches!(second.attach("b", Fence::default()).await, Err(Error::Gone(_))));
}

async fn an_older_owner_is_refused(place: Place) {
    let first = Fence { incarnation: 1, attempt: 1 };
    let old = place.create(Spec { fence: first, ..spec("a") }).await;
    let new = place.engine.attach("a", Fence { incarnation: 1, attempt: 2 }).await.unwrap();
    assert!(matches!(old.start(sh("true")).await, Err(Error::Fenced(_))));
    assert!(matches!(place.engine.attach("a", first).await, Err(Error::Fenced(_))));
    assert_eq!(run(&*new, sh("true")).await.exit.code, 0);
}

async fn destroy_leaves_nothing(place: Place) {
    let sandbox = place.create(spec("gone-test")).await;
    run(&*sandbox, sh("mkdir -p a/b; chmod 0 a/b; sleep 1000 & setsid sleep 1000 & true")).await;
    place.engine.destroy("gone-test").await.unwrap();
    place.engine.destroy("gone-test").await.unwrap();
    assert!(!place.folder("gone-test").exists());
    assert!(matches!(sandbox.start(sh("true")).await, Err(Error::Gone(_))));
    assert!(matches!(place.engine.attach("gone-test", Fence::default()).await, Err(Error::Gone(_))));
    let left =
        std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", "codegen-gone-test*"]).output().unwrap();
    assert!(left.stdout.is_empty());
}

async fn the_gateway_is_reached_and_may_be_made_anew(place: Place) {
    let socket = place.dir.path().join("gateway.sock");
    let serve = |socket: &std::path::Path| {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                stream.write_all(&bytes.to_ascii_uppercase()).await.unwrap();
            }
        })
    };
    let server = serve(&socket);
    let sandbox = place.create(Spec { gateway: Some(socket.clone()), ..spec("a") }).await;
    let ask = "import os,socket\ns=socket.create_connection(('127.0.0.1',int(os.environ['http_proxy'].rsplit(':')[-1])))\ns.sendall(b'hello'*100000)\ns.shutdown(1)\nn=0\nwhile True:\n b=s.recv(65536)\n if not b: break\n assert b.startswith(b'H') or True\n n+=len(b)\nprint(n)";
    let exec = || Exec { argv: ["/usr/bin/python3", "-c", ask].map(String::from).into(), ..Exec::default() };
    assert_eq!(text(&run(&*sandbox, exec()).await), "500000\n");
    server.abort();
    server.await.unwrap_err();
    std::fs::remove_file(&socket).unwrap();
    serve(&socket);
    assert_eq!(text(&run(&*sandbox, exec()).await), "500000\n");
    assert!(text(&run(&*sandbox, sh("env")).await).contains("https_proxy=http://127.0.0.1:"));
}

async fn a_port_inside_is_reached(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let serve = "import socket\ns=socket.create_server(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nc,_=s.accept()\nc.sendall(b'hi')\nc.close()";
    let exec = Exec { argv: ["/usr/bin/python3", "-c", serve].map(String::from).into(), ..Exec::default() };
    let mut running = sandbox.start(exec).await.unwrap();
    let Some(Event::Output { bytes, .. }) = running.events.recv().await else { panic!("it says its port") };
    let mut stream = sandbox.connect(String::from_utf8(bytes).unwrap().trim().parse().unwrap()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hi");
    assert!(sandbox.connect(9).await.is_err());
}

async fn files_are_read_written_and_found(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let workspace = sandbox.workspace();
    let at = |path: &str| format!("{workspace}/{path}");
    files::write(&*sandbox, &at("src/one.rs"), b"fn one() {}\n").await.unwrap();
    files::write(&*sandbox, &at("two.txt"), b"One\0").await.unwrap();
    assert_eq!(files::read(&*sandbox, &at("src/one.rs"), 1000).await.unwrap(), b"fn one() {}\n");
    assert!(
        matches!(files::read(&*sandbox, &at("none"), 1000).await, Err(Error::Io(_, e)) if e.kind() == std::io::ErrorKind::NotFound)
    );
    assert_eq!(files::glob(&*sandbox, workspace, "*.rs", 10).await.unwrap(), ["src/one.rs"]);
    let search =
        Search { folder: workspace.into(), pattern: "ONE\\(".into(), ignore_case: true, most: 10, ..Search::default() };
    let found = files::grep(&*sandbox, &search).await.unwrap();
    assert_eq!((found.len(), found[0].path.as_str(), found[0].line), (1, "src/one.rs", 1));
}

async fn the_hosts_toolchains_work_inside(place: Place) {
    let sandbox = place.create(spec("a")).await;
    for program in ["git", "cargo", "node", "python3"] {
        let outside = std::process::Command::new(program).arg("--version").output();
        if !outside.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let done = run(&*sandbox, Exec { argv: vec![program.into(), "--version".into()], ..Exec::default() }).await;
        assert_eq!(done.exit.code, 0, "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

async fn a_mount_is_where_the_sandbox_says(place: Place) {
    let shown = place.dir.path().join("shown");
    std::fs::create_dir(&shown).unwrap();
    std::fs::write(shown.join("file"), "seen").unwrap();
    std::fs::set_permissions(place.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mount = Mount { source: shown, target: "/opt/some/where".into(), read_only: true };
    let sandbox = place.create(Spec { mounts: vec![mount], ..spec("a") }).await;
    let place = sandbox.mounted("/opt/some/where/file");
    assert_eq!(files::read(&*sandbox, &place, 100).await.unwrap(), b"seen");
}

async fn scratch_files_have_a_place(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let done = run(&*sandbox, sh("mktemp")).await;
    assert!(text(&done).starts_with(&format!("{}/", sandbox.scratch())), "{}", text(&done));
}

async fn a_command_with_a_key_runs_once_however_often_it_is_started(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let once = || Exec { key: Some("once".into()), ..sh("echo run >> runs; cat runs") };
    for _ in 0..3 {
        assert_eq!(text(&run(&*sandbox, once()).await), "run\n");
    }
    let other = Exec { key: Some("other".into()), ..once() };
    assert_eq!(text(&run(&*sandbox, other).await), "run\nrun\n");
    let file = format!("{}/file", sandbox.workspace());
    assert!(!files::written(&*sandbox, "write", &file).await.unwrap());
    for content in [b"first".as_slice(), b"second"] {
        files::write_once(&*sandbox, Some("write"), &file, content).await.unwrap();
    }
    assert!(files::written(&*sandbox, "write", &file).await.unwrap());
    assert_eq!(files::read(&*sandbox, &file, 100).await.unwrap(), b"first");
}

async fn an_older_owners_watch_is_cut_off_and_kills_nothing(place: Place) {
    let old = place.create(spec("a")).await;
    let long = sh("echo up; until [ -e go ]; do :; done; echo end");
    let mut watched = old.start(Exec { key: Some("long".into()), ..long }).await.unwrap();
    watched.events.recv().await.unwrap();
    let new = place.again().attach("a", Fence { incarnation: 0, attempt: 1 }).await.unwrap();
    let kill = watched.kill.clone();
    assert!(matches!(watched.complete().await, Err(Error::Gone(_))));
    kill.send(()).await.ok(); // Nobody takes it, or nobody heeds it.
    run(&*new, sh("touch go")).await;
    let done = new.reattach("long").await.unwrap().unwrap().complete().await.unwrap();
    assert_eq!((text(&done).as_str(), done.exit.ended_by), ("up\nend\n", None));
    assert!(matches!(old.reattach("long").await, Err(Error::Fenced(_))));
    assert!(matches!(old.connect(1).await, Err(Error::Fenced(_))));
}

async fn destroy_removes_a_tree_that_is_deeper_than_a_path_is_long(place: Place) {
    let sandbox = place.create(spec("a")).await;
    let dig = "import os\nfor n in range(200):\n os.mkdir('d'*60)\n os.chdir('d'*60)\n open('file','w').close()\n if n%50==0: os.mkdir('.%d'%n)\nprint('dug')";
    let exec = Exec { argv: ["python3", "-c", dig].map(String::from).into(), ..Exec::default() };
    assert_eq!(text(&run(&*sandbox, exec).await), "dug\n");
    place.engine.destroy("a").await.unwrap();
    assert!(!place.folder("a").exists());
}

#[tokio::test]
async fn a_command_has_the_agents_id_and_home() {
    let place = Place::new();
    let sandbox = place.create(spec("a")).await;
    assert_eq!(text(&run(&*sandbox, sh("pwd; id -u; echo $HOME")).await), "/workspace\n1000\n/home/agent\n");
}

#[tokio::test]
async fn a_removal_asked_for_twice_leaves_the_next_sandbox_of_that_name_alone() {
    let place = Place::new();
    place.create(spec("again")).await;
    for _ in 0..10 {
        let (first, next) = tokio::join!(place.engine.destroy("again"), async {
            place.engine.destroy("again").await.unwrap();
            let sandbox = place.create(spec("again")).await;
            run(&*sandbox, sh("touch kept; ls")).await
        });
        first.unwrap();
        assert_eq!(text(&next), "kept\n");
    }
}

#[tokio::test]
async fn the_owner_after_a_restore_outranks_every_attempt_before_it() {
    let place = Place::new();
    let before = Fence { incarnation: 0, attempt: 7 };
    let old = place.create(Spec { fence: before, ..spec("a") }).await;
    let new = place.engine.attach("a", Fence { incarnation: 1, attempt: 1 }).await.unwrap();
    assert!(matches!(old.start(sh("true")).await, Err(Error::Fenced(_))));
    assert!(matches!(place.engine.attach("a", Fence { incarnation: 0, attempt: 8 }).await, Err(Error::Fenced(_))));
    assert_eq!(run(&*new, sh("true")).await.exit.code, 0);
}

#[tokio::test]
async fn the_memory_limit_kills_and_says_so() {
    let place = Place::new();
    let limits = Limits { memory_mib: 64, ..Limits::default() };
    let sandbox = place.create(Spec { limits, ..spec("a") }).await;
    let done = run(&*sandbox, sh("exec tail /dev/zero")).await;
    assert_ne!(done.exit.code, 0);
    assert_eq!(run(&*sandbox, sh("true")).await.exit.code, 0);
    if limited_by_cgroups() {
        assert_eq!(done.exit.ended_by, Some(EndedBy::Memory));
    }
}

#[tokio::test]
async fn a_fork_bomb_is_bounded() {
    let place = Place::new();
    let sandbox = place.create(Spec { limits: Limits { processes: 50, ..Limits::default() }, ..spec("a") }).await;
    let bomb = Exec { timeout: Some(Duration::from_secs(2)), ..sh("f() { f | f & }; f; sleep 1") };
    run(&*sandbox, bomb).await;
    place.engine.destroy("a").await.unwrap();
    assert!(place.engine.inventory().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_command_outlives_the_server_that_started_it() {
    let place = Place::new();
    let server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "contract::a_server_that_is_killed", "--nocapture"])
        .env("SANDBOXES", place.dir.path().join("sandboxes"))
        .output()
        .unwrap();
    assert!(!server.status.success());
    let sandbox = place.engine.attach("orphan", Fence { incarnation: 0, attempt: 2 }).await.unwrap();
    run(&*sandbox, sh("touch go")).await;
    let done = sandbox.reattach("long").await.unwrap().unwrap().complete().await.unwrap();
    assert_eq!((text(&done).as_str(), done.exit.code), ("one\ntwo\n", 7));
}

#[tokio::test]
#[ignore = "the other half of the test above, which runs it in a process of its own"]
async fn a_server_that_is_killed() {
    let Some(dir) = std::env::var_os("SANDBOXES") else { return };
    let engine = engine_at(dir.into());
    let sandbox = engine.create(&spec("orphan")).await.unwrap();
    let long = sh("echo one; until [ -e go ]; do :; done; echo two; exit 7");
    let mut running = sandbox.start(Exec { key: Some("long".into()), ..long }).await.unwrap();
    running.events.recv().await.unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn groups_without_a_sandbox_are_swept_and_those_of_a_sandbox_are_not() {
    if !limited_by_cgroups() {
        return;
    }
    let place = Place::new();
    place.create(spec("old")).await;
    let state = std::fs::read(place.dir.path().join("sandboxes/old/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let folders = state["cgroups"]["folders"].as_array().unwrap();
    let folders: Vec<std::path::PathBuf> = folders.iter().map(|f| f.as_str().unwrap().into()).collect();
    place.engine.destroy("old").await.unwrap();
    assert!(folders.iter().all(|folder| !folder.exists()));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let live = place.create(spec("live")).await;
    assert_eq!(place.engine.sweep().await.unwrap().len(), folders.len());
    assert!(folders.iter().all(|folder| !folder.exists()));
    assert_eq!(run(&*live, sh("true")).await.exit.code, 0);
    assert!(place.engine.sweep().await.unwrap().is_empty());
}
