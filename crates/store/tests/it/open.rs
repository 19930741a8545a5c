use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use codegen_store::{Error, Store};
use tempfile::TempDir;

use crate::{Fixture, ada};

#[tokio::test]
async fn a_second_open_of_a_data_directory_is_refused_until_the_first_is_closed() {
    let dir = TempDir::new().unwrap();
    assert!(!codegen_store::is_locked(dir.path()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "looking leaves nothing");
    let first = Store::open(dir.path()).await.unwrap();
    assert!(codegen_store::is_locked(dir.path()));
    let Err(refused) = Store::open(dir.path()).await else { panic!("opened twice") };
    assert!(matches!(&refused, Error::Locked(path) if path == dir.path()), "{refused:?}");
    assert!(refused.to_string().contains("--data-dir"), "{refused}");
    first.close().await;
    assert!(!codegen_store::is_locked(dir.path()));
    Store::open(dir.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_with_what_to_do_and_left_as_it_was() {
    let dir = TempDir::new().unwrap();
    let database = dir.path().join("codegen.db");
    let garbage = "not a database ".repeat(1000);
    std::fs::write(&database, &garbage).unwrap();
    let Err(refused) = Store::open(dir.path()).await else { panic!("opened") };
    let said = refused.to_string();
    assert!(said.contains(database.to_str().unwrap()) && said.contains("codegen restore"), "{said}");
    assert_eq!(std::fs::read_to_string(&database).unwrap(), garbage, "left as it was");
}

#[tokio::test]
async fn a_closed_directory_opens_again_also_while_other_programs_are_being_started() {
    let dir = TempDir::new().unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let starting: Vec<_> = (0..2)
        .map(|_| {
            let ended = ended.clone();
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..150 {
        let refused = match Store::open(dir.path()).await {
            Ok(store) => {
                store.close().await;
                None
            }
            Err(refused) => Some(refused),
        };
        if refused.is_some() {
            ended.store(true, Ordering::Relaxed);
        }
        assert!(refused.is_none(), "{refused:?}");
    }
    ended.store(true, Ordering::Relaxed);
    starting.into_iter().for_each(|thread| thread.join().unwrap());
}

#[tokio::test]
async fn a_closed_store_refuses_instead_of_hanging() {
    let fixture = Fixture::new().await;
    let clone = fixture.store.clone();
    fixture.store.close().await;
    assert!(matches!(clone.create_org("late", 1).await, Err(Error::Closed)));
    assert!(clone.org(fixture.org.id).await.is_err());
    clone.close().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_was() {
    let fixture = Fixture::on_sqlite().await;
    fixture.store.close().await;
    let path = fixture.dir.path().join("codegen.db");
    let sqlite = sqlx::SqlitePool::connect_with(sqlx::sqlite::SqliteConnectOptions::new().filename(&path)).await;
    let sqlite = sqlite.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', 1, x'00', 0)",
    )
    .execute(&sqlite)
    .await
    .unwrap();
    sqlite.close().await;
    let Err(refused) = Store::open(fixture.dir.path()).await else { panic!("a newer database was opened") };
    assert!(matches!(refused, Error::NewerDatabase { found: 99, known: 1..99, .. }), "{refused:?}");
    assert!(refused.to_string().contains("newer codegen"), "{refused}");
    assert!(!codegen_store::is_locked(fixture.dir.path()), "a refused open frees the directory");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named_in_the_error() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let Err(refused) = Store::open(&file.join("data")).await else { panic!("a directory below a file") };
    let said = refused.to_string();
    assert!(said.contains(file.to_str().unwrap()) && said.contains("--data-dir"), "{said}");
}

#[tokio::test]
async fn the_data_directory_and_its_files_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("data");
    let store = Store::open(&dir).await.unwrap();
    for (name, expected) in
        [("", 0o700), ("lock", 0o600), ("codegen.db", 0o600), ("codegen.db-wal", 0o600), ("codegen.db-shm", 0o600)]
    {
        let mode = dir.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected, "{name}");
    }
    store.close().await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let fixture = Fixture::new().await;
    let (store, org, user) = (&fixture.store, &fixture.org, &fixture.user);
    let run = store
        .create_run(
            org.id,
            codegen_store::NewRun {
                user_id: user.id,
                prompt: "fix it".to_owned(),
                images: vec!["data:image/png;base64,AA==".to_owned()],
                metadata: Some("{\"b\":1,  \"a\":1e400}".to_owned()),
                source_type: "API".to_owned(),
                push: true,
                ..codegen_store::NewRun::default()
            },
            10,
        )
        .await
        .unwrap();
    let claim = store.claim_run("w1", 11).await.unwrap().unwrap().claim();
    store.append_log(&claim, "notice", r#"{"kind":"notice","text":"hi"}"#, false, 12).await.unwrap();
    store.intend(&claim, "push", "push", "{}", 13).await.unwrap();
    store.put_blob(org.id, run.id, "patch", b"+1").await.unwrap();
    let (before, log) = (store.run_by_id(run.id).await.unwrap(), store.log(run.id, 0, 10).await.unwrap());
    store.close().await;

    let store = fixture.open_again().await;
    assert_eq!(store.run(org.id, run.id).await.unwrap(), before);
    assert_eq!(before.metadata.as_deref(), Some("{\"b\":1,  \"a\":1e400}"), "byte for byte");
    assert_eq!(before.images, ["data:image/png;base64,AA=="]);
    assert_eq!(store.log(run.id, 0, 10).await.unwrap(), log);
    assert_eq!(log.len(), 2);
    assert_eq!(store.effects(run.id).await.unwrap().len(), 1);
    assert_eq!(store.blob(org.id, run.id, "patch").await.unwrap().unwrap(), b"+1");
    assert!(store.bootstrap("Again", ada(), "other", 20).await.unwrap().is_none());
    assert_eq!(store.first_org_and_admin().await.unwrap(), (org.clone(), user.clone()));
    assert_eq!(store.owner_of_token("hash", None, 9).await.unwrap().unwrap().user, *user);
    assert!(store.owner_of_token("other", None, 9).await.unwrap().is_none());
}
