//! A mirror is put in order without losing anything, whoever is killed meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{Cursor, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use codegen_server::{
    forge::git::{Kept, Mirror},
    worker::mirrors,
};
use codegen_store::{Phase, Reason};
use rand::Rng as _;

use crate::{
    git_host::{commit_file, git, git_raw},
    run_story::{Scene, finish, shell},
};

/// A pack of the newest commit of a folder without what its parent has.
fn newest(work: &Path) -> (String, Vec<u8>) {
    let commit = git(work, &["rev-parse", "HEAD"]);
    let mut packing = Command::new("git");
    packing.args(["pack-objects", "--revs", "--thin", "--stdout", "-q"]).current_dir(work);
    let mut packing = packing.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    packing.stdin.take().unwrap().write_all(format!("{commit}\n^{commit}^\n").as_bytes()).unwrap();
    (commit, packing.wait_with_output().unwrap().stdout)
}

#[tokio::test]
async fn two_hundred_kept_turns_are_not_two_hundred_packs_and_a_git_that_is_killed_loses_none_of_them() {
    let scene = Scene::new().await;
    let mirror = Mirror::of(&scene.app.config.data_dir, 1);
    mirror.fetch(&scene.origin().display().to_string(), None).await.unwrap();
    let mut most = 0;
    for turn in 0..200 {
        commit_file(&scene.work(), "turn.txt", &format!("{turn}\n"));
        let (commit, pack) = newest(&scene.work());
        mirror.import_pack(Kept::Workspace(7), &commit, Cursor::new(pack)).await.unwrap();
        if turn % 3 == 0 {
            // Dropped, it kills its git.
            let after = Duration::from_millis(rand::rng().random_range(0..30));
            tokio::time::timeout(after, mirror.join_packs()).await.ok();
        } else {
            mirror.join_packs().await.unwrap();
        }
        most = most.max(mirror.packs());
    }
    assert!(most < 40, "{most} packs");
    let kept = mirror.kept(Kept::Workspace(7)).await.unwrap().unwrap();
    assert_eq!(git(mirror.dir(), &["rev-list", "--count", &format!("main..{kept}")]), "200");
    let checked = git_raw(mirror.dir(), &["fsck", "--full", "--strict", "--no-dangling"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test]
async fn the_workspace_of_a_run_goes_when_its_run_ended_long_ago_and_its_objects_when_no_run_lives() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell("echo kept > kept.txt"), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    assert_eq!((run.phase, run.reason), (Phase::Done, Some(Reason::Complete)));
    let mirror = Mirror::of(&scene.app.config.data_dir, repo.id);
    commit_file(&scene.work(), "other.txt", "other\n");
    let (commit, pack) = newest(&scene.work());
    mirror.import_pack(Kept::Workspace(run.id), &commit, Cursor::new(pack)).await.unwrap();
    let live = scene.queue(Some(&repo), &[finish("Done.")]).await;

    let (store, data_dir, now) = (&scene.app.store, &scene.app.config.data_dir, scene.app.now());
    mirrors::tidy(store, data_dir, Some(1_000_000), now).await.unwrap();
    assert!(mirror.kept(Kept::Workspace(run.id)).await.unwrap().is_some(), "it ended just now");
    mirrors::tidy(store, data_dir, Some(1_000_000), now + 2_000_000).await.unwrap();
    assert!(mirror.kept(Kept::Workspace(run.id)).await.unwrap().is_none());
    assert!(mirror.has(&commit).await.unwrap(), "a run lives that may be built upon anything");
    store.request_stop(live.org_id, live.id, now).await.unwrap();
    mirrors::tidy(store, data_dir, None, now).await.unwrap();
    assert!(!mirror.has(&commit).await.unwrap());
    assert!(mirror.kept(Kept::Run(run.id)).await.unwrap().is_some(), "a run's own commits stay");
}
