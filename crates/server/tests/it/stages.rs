//! The stages before the agent begins, as they are shown.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::worker;
use codegen_store::Reason;

use crate::run_story::{Scene, finish, result};

#[tokio::test]
async fn the_output_of_fetch_and_setup_is_shown_as_it_comes_and_its_last_line_is_kept() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let commands = "printf 'one\\ntwo\\n'\nprintf 'no break'";
    scene.app.store.set_setup_commands(repo.org_id, repo.id, commands).await.unwrap();
    let run = scene.queue(Some(&repo), &[finish("Done.")]).await;
    let mut viewer = scene.app.watches.view(&run, 0);
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    let mut all = String::new();
    while let Some(bytes) = viewer.next().await.unwrap() {
        all.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    work.await.unwrap().unwrap();
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    let place = |words: &str| all.find(words).unwrap_or_else(|| panic!("{words} in {all}"));
    let output = |stage: &str| place(&format!("event: output\ndata: {{\"kind\":\"output\",\"stage\":\"{stage}\""));
    let stage = |name: &str, state: &str| place(&format!("\"name\":\"{name}\",\"state\":\"{state}\""));
    for name in ["fetch", "setup"] {
        assert!(stage(name, "started") < output(name) && output(name) < stage(name, "done"), "{name}: {all}");
    }
    let stages = scene.entries(&run, "stage").await;
    let last_line = |name: &str| {
        stages.iter().find(|s| s["name"] == name && s["state"] == "done").unwrap()["last_line"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(last_line("fetch").contains("objects") || last_line("fetch").contains("Total"), "{stages:?}");
    assert_eq!(last_line("setup"), "no break");
}

#[tokio::test]
async fn a_stage_that_fails_says_so_and_why() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.dir.path().join("gone.git")).await;
    let run = scene.queue(Some(&repo), &[finish("Never.")]).await;
    let run = scene.work_on(&run).await;
    let stages = scene.entries(&run, "stage").await;
    let failed: Vec<_> = stages.iter().filter(|stage| stage["state"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{stages:?}");
    assert_eq!(failed[0]["name"], "fetch");
    assert!(failed[0]["detail"].as_str().unwrap().contains("no git repository"), "{stages:?}");
}
