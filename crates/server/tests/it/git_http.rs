//! Git over HTTP with a password, against `git http-backend`.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::forge::git::{self, Error, Mirror, Pushed};

use crate::{
    git_host::{commit_file, git as person},
    github::Remote,
};

#[tokio::test]
async fn an_origin_over_http_is_fetched_and_pushed_with_its_password_and_refused_without() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("srv/acme")).unwrap();
    person(dir.path(), &["init", "-q", "--bare", "-b", "main", "srv/acme/demo.git"]);
    let origin = dir.path().join("srv/acme/demo.git");
    person(&origin, &["config", "http.receivepack", "true"]);
    person(dir.path(), &["clone", "-q", "srv/acme/demo.git", "work"]);
    let work = dir.path().join("work");
    person(&work, &["checkout", "-q", "-B", "main"]);
    let commit = commit_file(&work, "a.txt", "a\n");
    person(&work, &["push", "-q", "origin", "main"]);
    let remote = Remote::serve(&dir.path().join("srv"), "p@ss/word").await;

    let url = remote.url(Some("p%40ss%2Fword"));
    assert_eq!(git::probe(&url).await.unwrap().default_branch.as_deref(), Some("main"));
    let mirror = Mirror::of(&dir.path().join("data"), 1);
    mirror.fetch(&url, None).await.unwrap();
    assert_eq!(mirror.push(&commit, "codegen/1-x", &url, None).await.unwrap(), Pushed::Now);
    assert_eq!(person(&origin, &["rev-parse", "codegen/1-x"]), commit);
    let config = std::fs::read_to_string(mirror.dir().join("config")).unwrap();
    assert!(!config.contains("word"), "no password is written down: {config}");

    for refused in [remote.url(None), remote.url(Some("wrong"))] {
        let error = git::probe(&refused).await.unwrap_err().to_string();
        assert!(error.contains("does not accept the credentials") && !error.contains("wrong"), "{error}");
    }
}

#[tokio::test]
async fn an_origin_that_is_away_is_asked_again_a_few_times() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}/acme/demo.git", listener.local_addr().unwrap());
    let mirror = Mirror::of(dir.path(), 1);
    let mut asked = 0;
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
            asked += 1;
        }
    };
    let error = tokio::select! {
        fetched = mirror.fetch(&origin, None) => fetched.unwrap_err(),
        () = hang_up => unreachable!(),
    };
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    assert!(asked >= 4, "asked {asked} times");
}
