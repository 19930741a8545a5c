//! What is encrypted at rest, seen from outside: the API, the database's file, and what git is given.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use codegen_server::secrets;
use codegen_store::NewRepo;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    api::TestApp,
    git_host::{commit_file, git},
    github::Remote,
};

const REPOS: &str = "/v1/organizations/1/repos";

/// A repository behind a password.
async fn remote(dir: &Path, password: &str) -> Remote {
    std::fs::create_dir_all(dir.join("srv/acme")).unwrap();
    git(dir, &["init", "-q", "--bare", "-b", "main", "srv/acme/demo.git"]);
    git(dir, &["clone", "-q", "srv/acme/demo.git", "work"]);
    git(&dir.join("work"), &["checkout", "-q", "-B", "main"]);
    commit_file(&dir.join("work"), "a.txt", "a\n");
    git(&dir.join("work"), &["push", "-q", "origin", "main"]);
    Remote::serve(&dir.join("srv"), password).await
}

/// Whether any file of the data directory holds these words.
fn on_disk(data_dir: &Path, words: &str) -> bool {
    let files = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files
        .map(|path| std::fs::read(path).unwrap())
        .any(|bytes| bytes.windows(words.len()).any(|w| w == words.as_bytes()))
}

#[tokio::test]
async fn an_origin_s_password_is_used_and_neither_shown_nor_kept_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote(dir.path(), "hunter2-hunter2").await;
    let app = TestApp::new().await;
    let (status, repo) = app.post(REPOS, &json!({"url": remote.url(Some("hunter2-hunter2"))})).await;
    assert_eq!((status, &repo["full_name"]), (200, &json!("acme/demo")));
    let (status, branches) = app.get(&format!("{REPOS}/{}/branches", repo["id"])).await;
    assert_eq!((status, &branches["branches"]), (200, &json!(["main"])), "{branches}");

    let id = repo["id"].as_i64().unwrap();
    let row = app.app.store.repo(1, id).await.unwrap();
    assert_eq!(row.origin, remote.url(None), "its row has what may be shown");
    assert_eq!(app.app.origin(&row).await.unwrap().expose_secret(), remote.url(Some("hunter2-hunter2")));
    let data_dir = app.app.config.data_dir.clone();
    assert!(!on_disk(&data_dir, "hunter2"));
    let mode = std::fs::metadata(data_dir.join(secrets::FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (status, refused) = app.post(REPOS, &json!({"url": remote.url(Some("wrong-wrong"))})).await;
    assert_eq!(status, 422);
    assert!(!refused.to_string().contains("wrong-wrong"), "{refused}");
    let (_, again) = app.post(REPOS, &json!({"url": remote.url(Some("hunter2-hunter2"))})).await;
    assert_eq!(again["id"], repo["id"], "with or without a password it is the same repository");
}

#[tokio::test]
async fn passwords_of_an_earlier_version_are_encrypted_at_the_start() {
    let app = TestApp::new().await;
    let mut ids = Vec::new();
    for origin in [
        "https://me:hunter2-a@h.example/acme/shop.git",
        "https://you:hunter2-b@h.example/acme/shop.git",
        "https://h.example/@scope/x",
    ] {
        ids.push(app.app.store.create_repo(1, NewRepo::of_origin(origin, None), 0).await.unwrap().id);
    }
    let app = app.restart().await;
    assert!(!on_disk(&app.app.config.data_dir, "hunter2"));
    let mut found = Vec::new();
    for id in &ids {
        let row = app.app.store.repo(1, *id).await.unwrap();
        found.push((row.origin.clone(), app.app.origin(&row).await.unwrap().expose_secret().to_owned()));
    }
    let shop = "https://h.example/acme/shop.git";
    assert_eq!(found[0], (shop.to_owned(), "https://me:hunter2-a@h.example/acme/shop.git".to_owned()));
    assert_eq!(
        found[1],
        (format!("{shop}#{}", ids[1]), "https://you:hunter2-b@h.example/acme/shop.git".to_owned()),
        "two of one address stay two"
    );
    assert_eq!(found[2].0, found[2].1);
}

#[tokio::test]
async fn after_a_rotation_and_a_start_the_old_key_is_not_needed_any_more() {
    let app = TestApp::new().await;
    let origin = "https://me:hunter2@h.example/acme/shop.git".into();
    let repo = app.app.add_repo(1, &origin, None).await.unwrap();
    let file = app.app.config.data_dir.join(secrets::FILE);
    let old = std::fs::read_to_string(&file).unwrap();
    secrets::rotate(&app.app.config.data_dir).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().ends_with(&old));

    let app = app.restart().await;
    assert_eq!(app.app.origin(&repo).await.unwrap().expose_secret(), origin.expose_secret());
    let new = std::fs::read_to_string(&file).unwrap().replace(&old, "");
    std::fs::write(&file, &new).unwrap();
    let app = app.restart().await;
    assert_eq!(app.app.origin(&repo).await.unwrap().expose_secret(), origin.expose_secret());

    std::fs::write(&file, &old).unwrap();
    let app = app.restart().await;
    let (status, refused) = app.get(&format!("{REPOS}/{}/branches", repo.id)).await;
    assert_eq!(status, 502);
    assert!(refused["message"].as_str().unwrap().contains(secrets::FILE), "{refused}");
}
