//! Databases as a whole: backups while others write, and moving between SQLite and PostgreSQL.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use codegen_store::{At, Copied, Cursor, DATABASE, Error, Progress, RunFilter, Store};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tempfile::TempDir;

use crate::{Fixture, fill, postgres::new_schema};

fn silent(_: Progress<'_>) {}

async fn sqlite(path: &Path) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
}

/// A SQLite database with rows in every table; the next organization is number 41.
async fn filled(dir: &Path) -> std::path::PathBuf {
    Store::open(dir).await.unwrap().close().await;
    let path = dir.join(DATABASE);
    let mut conn = sqlite(&path).await;
    sqlx::raw_sql("PRAGMA foreign_keys = OFF").execute(&mut conn).await.unwrap();
    let statements = format!("BEGIN; {}; COMMIT", fill::statements(&mut conn, false).await.join("; "));
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut conn).await.unwrap();
    sqlx::raw_sql("UPDATE sqlite_sequence SET seq = 40 WHERE name = 'orgs'").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    path
}

/// Fails where a table of one is missing in the other or has other rows.
async fn assert_same(path: &Path, mut other: AnyConnection) {
    let mut conn = sqlite(path).await;
    for table in fill::tables(&mut conn).await {
        let columns = fill::columns(&mut conn, &table).await;
        let (ours, theirs) =
            (fill::rows(&mut conn, &table, &columns).await, fill::rows(&mut other, &table, &columns).await);
        assert!(ours.len() >= 2, "{table} has no rows");
        assert_eq!(ours, theirs, "{table}");
    }
}

#[tokio::test]
async fn a_copy_has_every_row_of_every_table_and_goes_on_counting_where_the_other_was() {
    let (dir, url) = (TempDir::new().unwrap(), new_schema().await);
    let path = filled(dir.path()).await;
    let mut told = BTreeSet::new();
    let copied = codegen_store::copy(&path, &url, &mut |progress| {
        told.insert(format!("{} {} of {}", progress.what, progress.done, progress.of));
    })
    .await
    .unwrap();
    assert!(copied.contains(&Copied { table: "runs".to_owned(), rows: 2 }), "{copied:?}");
    assert!(told.contains("runs 2 of 2"), "{told:?}");
    assert_same(&path, AnyConnection::connect(&url).await.unwrap()).await;

    // No table of either database is left out but what the search makes again.
    let mut conn = AnyConnection::connect(&url).await.unwrap();
    let there: BTreeSet<String> = sqlx::query_scalar(
        "SELECT CAST(table_name AS TEXT) FROM information_schema.tables
         WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let left_out = ["_sqlx_migrations", "search", "search_state"].map(str::to_owned);
    let expected: BTreeSet<String> = copied.into_iter().map(|copied| copied.table).chain(left_out).collect();
    assert_eq!(there, expected);

    // And back.
    let back = TempDir::new().unwrap();
    let file = back.path().join(DATABASE);
    codegen_store::backup(At::Url(&url), &file, &mut silent).await.unwrap();
    assert_same(&file, AnyConnection::connect(&url).await.unwrap()).await;
    assert_same(&file, sqlite(&path).await).await;
    for store in [Store::connect(&url, None).await.unwrap(), Store::open(back.path()).await.unwrap()] {
        assert_eq!(store.create_org("next", 1).await.unwrap().id, 41);
        store.close().await;
    }
}

#[tokio::test]
async fn a_copy_into_a_database_that_is_not_empty_is_refused_and_changes_nothing() {
    let (dir, target) = (TempDir::new().unwrap(), Fixture::on(Some(new_schema().await)).await);
    let url = target.url.as_deref().unwrap();
    let path = filled(dir.path()).await;
    let refused = codegen_store::copy(&path, url, &mut silent).await.unwrap_err();
    assert!(matches!(&refused, Error::Conflict(said) if said.contains("is not empty")), "{refused:?}");
    assert!(!refused.to_string().contains("codegen@"), "{refused}");
    assert_eq!(target.store.first_org_and_admin().await.unwrap(), (target.org.clone(), target.user.clone()));
}

#[tokio::test]
async fn a_copy_that_cannot_be_whole_leaves_the_target_empty_and_names_the_table() {
    let (dir, url) = (TempDir::new().unwrap(), new_schema().await);
    let path = filled(dir.path()).await;
    let mut conn = sqlite(&path).await;
    sqlx::raw_sql("UPDATE rules SET text = 'a' || char(0)").execute(&mut conn).await.unwrap();
    let refused = codegen_store::copy(&path, &url, &mut silent).await.unwrap_err();
    assert!(matches!(&refused, Error::Copy { table, .. } if table == "rules"), "{refused:?}");
    sqlx::raw_sql("UPDATE rules SET text = 'a'").execute(&mut conn).await.unwrap();
    codegen_store::copy(&path, &url, &mut silent).await.unwrap();
}

#[tokio::test]
async fn migrating_says_from_what_to_what_and_the_second_time_that_there_is_nothing_to_do() {
    let dir = TempDir::new().unwrap();
    let (file, url) = (dir.path().join(DATABASE), new_schema().await);
    for at in [At::File(&file), At::Url(&url)] {
        let first = codegen_store::migrate(at).await.unwrap();
        assert_eq!(first.from, None);
        assert!(first.applied.contains(&1) && first.applied.contains(&first.to), "{first:?}");
        let second = codegen_store::migrate(at).await.unwrap();
        assert_eq!((second.from, second.to, second.applied), (Some(first.to), first.to, vec![]));
        assert!(!second.database.contains("codegen@"), "{}", second.database);
    }
}

#[tokio::test]
async fn a_backup_made_while_others_write_is_one_moment_of_the_database() {
    let fixture = Fixture::new().await;
    let copy = TempDir::new().unwrap();
    let (file, database) = (copy.path().join(DATABASE), fixture.dir.path().join(DATABASE));
    let at = fixture.url.as_deref().map_or(At::File(&database), At::Url);
    let done = AtomicBool::new(false);
    let writes = async {
        let mut n = 0;
        while !done.load(Ordering::Relaxed) || n < 50 {
            fixture.queue(&format!("run {n}")).await;
            n += 1;
        }
    };
    let backup = async {
        fixture.queue("before").await;
        codegen_store::backup(at, &file, &mut silent).await.unwrap();
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writes, backup);
    let store = Store::open(copy.path()).await.unwrap();
    let (runs, total) = store.runs(fixture.org.id, &RunFilter::default(), Cursor::Skip(0), 10_000).await.unwrap();
    assert_eq!(runs.len() as i64, total, "rows and counters are of the same moment");
    assert!(total > 0);
    for run in runs {
        assert_eq!(store.log(run.id, 0, 10).await.unwrap().len(), 1);
    }
}
