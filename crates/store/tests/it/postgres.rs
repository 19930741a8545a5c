//! A PostgreSQL server for the tests.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use sqlx::Connection as _;

/// The URL of a new, empty schema on the test server, which is started where none runs.
pub async fn new_schema() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let asked = tokio::task::spawn_blocking(|| Command::new(script).output().unwrap()).await.unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let server = String::from_utf8(asked.stdout).unwrap();
    let server = server.trim();
    let mut conn = sqlx::postgres::PgConnection::connect(server).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
    let schema = format!("test_{}_{pid}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    format!("{server}&options[search_path]={schema}")
}
