//! A stop at every stage of a run: it is done soon, leaves nothing behind and keeps the work.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use codegen_server::worker;
use codegen_store::{NewRepo, NewRun, Phase, Reason, Repo, Run};
use serde_json::json;

use crate::{
    engine::engine,
    fake_model::{Answer, FakeModel},
    git_host::git_raw,
    run_story::{Scene, finish, open_with, result, shell},
};

/// From the request to the end.
const SOON: Duration = Duration::from_secs(2);

/// Works on the run until `begun`, stops it, and gives it as it ended.
async fn stopped(scene: &Scene, run: &Run, begun: impl AsyncFnOnce()) -> Run {
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    tokio::time::timeout(Duration::from_secs(60), begun()).await.expect("the run comes that far");
    let asked = Instant::now();
    scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    scene.until(run, async |run| run.phase == Phase::Done).await;
    let took = asked.elapsed();
    work.await.unwrap().unwrap();
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!(run.reason, Some(Reason::Cancelled), "{} {:?}", result(&run), run.error_cause);
    assert!(took < SOON, "the stop took {took:?}");
    assert!(scene.app.engine.inventory().await.unwrap().is_empty(), "no sandbox is left");
    run
}

async fn with_model(scene: &Scene, repo: &Repo, model: &str) -> Run {
    let (org, user) = scene.app.store.first_org_and_admin().await.unwrap();
    let new = NewRun {
        user_id: user.id,
        repo_id: Some(repo.id),
        prompt: "Mend the test".to_owned(),
        model: Some(model.to_owned()),
        source_type: "API".to_owned(),
        push: true,
        ..NewRun::default()
    };
    scene.app.store.create_run(org.id, new, scene.app.now()).await.unwrap()
}

#[tokio::test]
async fn a_queued_run_stops_at_once_and_a_second_stop_changes_nothing() {
    let scene = Scene::new().await;
    let run = scene.queue(None, &[finish("Never.")]).await;
    let first = scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    assert_eq!((first.phase, first.reason), (Phase::Done, Some(Reason::Cancelled)));
    assert_eq!(scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap(), first);
}

#[tokio::test]
async fn a_run_stops_while_it_clones_from_a_remote_that_does_not_answer() {
    let scene = Scene::new().await;
    let remote = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}/some/repo.git", remote.local_addr().unwrap());
    let (org, _) = scene.app.store.first_org_and_admin().await.unwrap();
    let new = NewRepo::of_origin(&origin, Some("main"));
    let repo = scene.app.store.create_repo(org.id, new, scene.app.now()).await.unwrap();
    let run = scene.queue(Some(&repo), &[finish("Never.")]).await;
    let mut connection = None;
    let run = stopped(&scene, &run, async || connection = Some(remote.accept().await.unwrap())).await;
    assert!(result(&run).contains("Stopped"), "{}", result(&run));
    // Continued, it still has nothing to keep and can be stopped there again.
    scene.app.store.add_message(run.org_id, run.id, "Go on", &[], scene.app.now()).await.unwrap();
    stopped(&scene, &run, async || connection = Some(remote.accept().await.unwrap())).await;
}

#[tokio::test]
async fn a_run_stops_while_setup_commands_run_also_when_it_was_continued() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[finish("Done."), finish("Never.")]).await;
    let run = scene.work_on(&run).await;
    let commands = "trap '' TERM\necho begun\nsleep 600 &\nsleep 600\n";
    scene.app.store.set_setup_commands(repo.org_id, repo.id, commands).await.unwrap();
    scene.app.store.add_message(run.org_id, run.id, "Go on", &[], scene.app.now()).await.unwrap();
    let mut viewer = scene.app.watches.view(&scene.app.store.run_by_id(run.id).await.unwrap(), 0);
    let begun = async || {
        let mut text = String::new();
        while !text.contains("event: output\ndata: {\"kind\":\"output\",\"stage\":\"setup\",\"text\":\"begun") {
            text.push_str(std::str::from_utf8(&viewer.next().await.unwrap().unwrap()).unwrap());
        }
    };
    stopped(&scene, &run, begun).await;
}

#[tokio::test]
async fn a_run_stops_while_the_model_hangs_before_and_within_its_answer() {
    for (model, within) in [("anthropic/claude-sonnet-4-5", true), ("openai/gpt-4.1", true), ("openai/gpt-4.1", false)]
    {
        let (_never, told) = tokio::sync::oneshot::channel();
        let hangs = if within { Answer::Hangs } else { Answer::CallWhen(told, "shell", json!({})) };
        let writes = Answer::Call("write", json!({"path": "kept.txt", "content": "kept\n"}));
        let fake = FakeModel::start(vec![writes, hangs]).await;
        let scene = Scene::with(|config| fake.configure(config)).await;
        let repo = scene.repo(&scene.origin()).await;
        let run = with_model(&scene, &repo, model).await;
        let run = stopped(&scene, &run, async || fake.asked(2).await).await;
        assert!(scene.diff(&run).await.contains("+kept"), "{model}");
    }
}

#[tokio::test]
async fn a_run_stops_while_it_waits_to_ask_a_busy_model_again() {
    let fake = FakeModel::start(vec![Answer::Busy]).await;
    let scene = Scene::with(|config| fake.configure(config)).await;
    let repo = scene.repo(&scene.origin()).await;
    let run = with_model(&scene, &repo, "anthropic/claude-sonnet-4-5").await;
    stopped(&scene, &run, async || {
        scene
            .until(&run, async |run| {
                let notices = scene.entries(run, "notice").await;
                notices.iter().any(|n| n["text"].as_str().unwrap().contains("trying again in 60"))
            })
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_run_stops_during_a_command_whose_children_ignore_signals_and_keeps_what_it_wrote() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let command = "trap '' TERM INT HUP\n(trap '' TERM INT HUP; sleep 600) &\nsetsid sleep 600 &\necho kept > kept.txt\n\
                   echo begun\nwait\nsleep 600";
    let run = scene.queue(Some(&repo), &[shell(command), finish("Never.")]).await;
    let mut viewer = scene.app.watches.view(&run, 0);
    let begun = async || {
        let mut text = String::new();
        while !text.contains("\"text\":\"begun") {
            text.push_str(std::str::from_utf8(&viewer.next().await.unwrap().unwrap()).unwrap());
        }
    };
    let run = stopped(&scene, &run, begun).await;
    assert!(scene.diff(&run).await.contains("+kept"));
    let calls = scene.entries(&run, "call_finished").await;
    assert!(calls[0]["output"].as_str().unwrap().contains("the run was stopped"), "{}", calls[0]);
}

#[tokio::test]
async fn a_run_stops_while_it_pushes_to_a_remote_that_hangs() {
    let scene = Scene::new().await;
    let hook = scene.origin().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let begun = scene.dir.path().join("begun");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\nexec sleep 600\n", begun.display())).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell("echo kept > kept.txt"), finish("Done.")]).await;
    let run = stopped(&scene, &run, async || {
        while !begun.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(scene.diff(&run).await.contains("+kept"));
    assert!(result(&run).contains("Stopped before the branch was pushed"), "{}", result(&run));
    let branch = run.branch.clone().unwrap();
    assert!(!git_raw(&scene.origin(), &["rev-parse", "--verify", "-q", &branch]).status.success());
    // Continued with a remote that answers, the work goes out.
    std::fs::remove_file(&hook).unwrap();
    scene.app.store.add_message(run.org_id, run.id, "Go on", &[], scene.app.now()).await.unwrap();
    let script = run.model.clone().unwrap();
    let script = script.strip_prefix("scripted:").unwrap();
    let replies = [shell("echo kept > kept.txt"), finish("Done."), finish("Done now.")];
    std::fs::write(script, json!({ "replies": replies }).to_string()).unwrap();
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    assert!(git_raw(&scene.origin(), &["rev-parse", "--verify", "-q", &branch]).status.success());
}

/// Works on runs until they are in their second command, then ends the process that did as a crash does.
async fn crashed(scene: &mut Scene, runs: &[&Run], slots: usize) {
    let serving = tokio::spawn(worker::run(scene.app.clone()));
    for run in runs {
        scene.until(run, async |run| scene.entries(run, "call_started").await.len() == 2).await;
        scene.until_kept(run, "kept.txt").await;
    }
    serving.abort();
    serving.await.unwrap_err();
    scene.app.store.close().await;
    let engine = engine(&scene.dir.path().join("data"));
    scene.app = open_with(scene.dir.path(), engine, |config| config.max_concurrent_runs = slots).await;
}

#[tokio::test]
async fn a_run_that_waits_to_go_on_after_a_crash_stops_soon_and_keeps_its_work_though_every_slot_is_taken() {
    let mut scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let busy = scene.queue(Some(&repo), &[shell("touch kept.txt"), shell("sleep 600"), finish("Never.")]).await;
    let run = scene.queue(Some(&repo), &[shell("echo kept > kept.txt"), shell("sleep 600"), finish("Never.")]).await;
    crashed(&mut scene, &[&busy, &run], 1).await;
    let serving = tokio::spawn(worker::run(scene.app.clone()));
    // Claimed anew, and not as the worker that is gone left it.
    scene.until(&busy, async |busy| busy.attempt == 2 && busy.phase == Phase::Running).await;
    assert_eq!(scene.app.store.run_by_id(run.id).await.unwrap().phase, Phase::Queued, "its slot is taken");
    let asked = Instant::now();
    scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    scene.until(&run, async |run| run.phase == Phase::Done).await;
    let took = asked.elapsed();
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!(run.reason, Some(Reason::Cancelled), "{} {:?}", result(&run), run.error_cause);
    assert!(took < SOON, "the stop took {took:?}");
    assert!(scene.diff(&run).await.contains("+kept") && run.branch.is_some());
    assert_eq!(scene.app.store.run_by_id(busy.id).await.unwrap().phase, Phase::Running, "the other one goes on");
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_whose_sandbox_is_lost_when_it_is_stopped_says_what_is_kept() {
    let mut scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell("echo kept > kept.txt"), shell("sleep 600"), finish("Never.")]).await;
    crashed(&mut scene, &[&run], 2).await;
    scene.lose_sandboxes().await;
    scene.app.store.requeue_orphans("another", &[], scene.app.now()).await.unwrap();
    let asked = scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    assert_eq!(asked.phase, Phase::Queued, "a worker looks whether there is work");
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Cancelled), "{} {:?}", result(&run), run.error_cause);
    assert!(result(&run).starts_with("Stopped.\n\nIts sandbox is gone; the work is kept"), "{}", result(&run));
    assert!(scene.diff(&run).await.contains("+kept"));
    // Continued, it has that work.
    let script = run.model.clone().unwrap();
    let replies = [shell("true"), shell("true"), shell("cat kept.txt"), finish("Done.")];
    std::fs::write(script.strip_prefix("scripted:").unwrap(), json!({ "replies": replies }).to_string()).unwrap();
    scene.app.store.add_message(run.org_id, run.id, "Go on", &[], scene.app.now()).await.unwrap();
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{} {:?}", result(&run), run.error_cause);
    let calls = scene.entries(&run, "call_finished").await;
    assert!(calls.iter().any(|call| call["output"] == "kept\n"), "{calls:?}");
}

/// Adds a file that git takes 4 s to read.
const SLOW: &str =
    "echo '*.slow filter=slow' > .gitattributes; git config filter.slow.clean 'sleep 4; cat'; echo kept > a.slow";

#[tokio::test]
async fn a_workspace_that_takes_long_to_commit_does_not_hold_a_stop_up_and_is_kept_afterwards() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell(SLOW), shell("sleep 600"), finish("Never.")]).await;
    let begun = async || scene.until(&run, async |run| scene.entries(run, "call_started").await.len() == 2).await;
    let run = stopped(&scene, &run, begun).await;
    assert!(result(&run).contains("too large to be committed in the time that a stop has"), "{}", result(&run));
    assert!(scene.diff(&run).await.contains("+kept"), "what took longer was kept after the end");
}

#[tokio::test]
async fn a_stop_while_a_finished_run_is_committed_does_not_wait_for_it() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell(SLOW), finish("Done.")]).await;
    let run = stopped(&scene, &run, async || scene.until(&run, async |run| run.phase == Phase::Finishing).await).await;
    assert!(scene.diff(&run).await.contains("+kept"));
}
