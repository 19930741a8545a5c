//! Room that SQLite's file takes, and how it gives it back.

use super::{Readers, Tx, Writing};
use crate::Result;

/// Writes the database anew. It can give back empty pages a few at a time afterwards.
pub async fn rebuild(conn: &mut Writing) -> Result<()> {
    sqlx::query("PRAGMA auto_vacuum = INCREMENTAL").execute(&mut *conn).await?;
    sqlx::query("VACUUM").execute(&mut *conn).await?;
    // The main file takes its new size when the write-ahead log is folded into it.
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(conn).await?;
    Ok(())
}

/// Brings the write-ahead log into the main file and cuts it off, which is what gives room back to the file system. Whoever reads
/// an older state is waited for, and nobody writes meanwhile, so that is not for long.
pub async fn fold(conn: &mut Writing) -> Result<bool> {
    // Most of it while others write.
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_all(&mut *conn).await?;
    sqlx::raw_sql("PRAGMA busy_timeout = 1000").execute(&mut *conn).await?;
    let folded = sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *conn).await;
    sqlx::raw_sql("PRAGMA busy_timeout = 10000").execute(conn).await?;
    match folded {
        Ok(busy) => Ok(busy == 0),
        // SQLITE_BUSY.
        Err(error) if super::code(&error).is_some_and(|code| code == "5") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives up to `pages` empty pages back to the file system.
pub async fn give_back(tx: &mut Tx, pages: u32) -> Result<()> {
    // Each step of the statement frees one page, so it is read to its end.
    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA incremental_vacuum({pages})"))).fetch_all(&mut tx.conn).await?;
    Ok(())
}

/// Bytes of pages that hold nothing.
pub async fn free_bytes(readers: &Readers) -> Result<i64> {
    let pages: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(readers).await?;
    let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(readers).await?;
    Ok(pages * size)
}

/// Whether [`give_back`] works on this database. Asked of the connection that may have changed it: others do not look again.
pub async fn gives_back(tx: &mut Tx) -> Result<bool> {
    let mode: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut tx.conn).await?;
    Ok(mode == 2)
}
