//! Every schema that a database of codegen's may have, with rows in each of its tables, becomes this version's.

use std::collections::BTreeMap;

use sqlx::{
    AssertSqlSafe, Connection as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgConnection,
    sqlite::SqliteConnection,
};

use super::{At, Connection, postgres, sqlite};
use crate::Store;

#[path = "../../tests/it/fill.rs"]
mod fill;
#[path = "../../tests/it/postgres.rs"]
mod server;

/// The first migrations of those that there are, in the order of their numbers.
fn first(count: usize, text: impl Fn(i64, &'static str) -> String) -> Migrator {
    let mut all: Vec<_> = sqlite::MIGRATIONS.to_vec();
    all.sort();
    let some = all.into_iter().take(count).map(|(version, name, sql)| {
        let sql = AssertSqlSafe(text(version, sql)).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(some.collect())
}

/// A SQLite database of an earlier schema, with rows; gives how many each table has.
async fn earlier(path: &std::path::Path, count: usize) -> BTreeMap<String, usize> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    first(count, |_, sql| sql.to_owned()).run_direct(None, &mut conn, false).await.unwrap();
    conn.close().await.unwrap();
    let mut conn = open(path).await;
    sqlx::raw_sql("PRAGMA foreign_keys = OFF").execute(&mut conn).await.unwrap();
    let fill = format!("BEGIN; {}; COMMIT", fill::statements(&mut conn, false).await.join("; "));
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut conn).await.unwrap();
    counts(&mut conn).await
}

async fn open(path: &std::path::Path) -> Connection {
    sqlx::any::install_default_drivers();
    Connection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
}

async fn counts(sqlite: &mut Connection) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for table in fill::tables(sqlite).await {
        let columns = fill::columns(sqlite, &table).await;
        counts.insert(table.clone(), fill::rows(sqlite, &table, &columns).await.len());
    }
    counts
}

/// What was there is there, and new runs can be made.
async fn assert_works(store: &Store) {
    let run = store.run(1, 1).await.unwrap();
    assert!(run.prompt.starts_with("prompt 1: é"), "{run:?}");
    assert!(store.log(1, 0, 10).await.unwrap().iter().all(|entry| entry.body.starts_with("body 1")));
    let asked = crate::NewRun { user_id: 1, prompt: "new".to_owned(), ..crate::NewRun::default() };
    assert_eq!(store.create_run(1, asked, 5).await.unwrap().id, 3);
}

#[tokio::test]
async fn each_schema_of_sqlite_with_rows_in_it_becomes_this_versions() {
    for count in 1..=sqlite::MIGRATIONS.len() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join(crate::DATABASE);
        let before = earlier(&path, count).await;
        let migrated = super::migrate(At::File(&path)).await.unwrap();
        assert_eq!(migrated.applied.len(), sqlite::MIGRATIONS.len() - count);
        let mut conn = open(&path).await;
        let broken: Vec<String> =
            sqlx::query_scalar("SELECT \"table\" FROM pragma_foreign_key_check").fetch_all(&mut conn).await.unwrap();
        assert!(broken.is_empty(), "after {count}: {broken:?}");
        let after = counts(&mut conn).await;
        for (table, rows) in before {
            assert_eq!(after.get(&table), Some(&rows), "{table} after {count}");
        }
        let store = Store::open(dir.path()).await.unwrap();
        assert_works(&store).await;
        store.close().await;
    }
}

#[tokio::test]
async fn each_schema_of_postgresql_with_rows_in_it_becomes_this_versions() {
    for count in 1..=sqlite::MIGRATIONS.len() {
        let (dir, url) = (tempfile::TempDir::new().unwrap(), server::new_schema().await);
        let path = dir.path().join(crate::DATABASE);
        let before = earlier(&path, count).await;
        let statements = fill::statements(&mut open(&path).await, true).await;
        let mut conn = PgConnection::connect(&url).await.unwrap();
        first(count, postgres::text).run_direct(None, &mut conn, false).await.unwrap();
        // Keys are not looked at while it is filled, in the order of names.
        let fill = format!("SET session_replication_role = replica; {}", statements.join("; "));
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let migrated = super::migrate(At::Url(&url)).await.unwrap();
        assert_eq!(migrated.applied.len(), sqlite::MIGRATIONS.len() - count);
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for (table, rows) in before {
            let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
            let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
            assert_eq!(found, rows as i64, "{table} after {count}");
        }
        let store = Store::connect(&url, None).await.unwrap();
        assert_works(&store).await;
        store.close().await;
    }
}
