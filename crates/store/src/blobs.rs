//! What is too large for a row (full outputs, patches), in chunks.

use crate::{Error, Result, Store};

/// Small enough that reading one does not hold up the connection.
const CHUNK: usize = 256 * 1024;

impl Store {
    /// Keeps bytes under a name of this run, in place of what was there.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run is not this organization's.
    pub async fn put_blob(&self, org_id: i64, run_id: i64, name: &str, bytes: &[u8]) -> Result<()> {
        let (name, bytes) = (name.to_owned(), bytes.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let ours: Option<i64> = sqlx::query_scalar("SELECT id FROM runs WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(run_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                ours.ok_or(Error::NotFound)?;
                sqlx::query("DELETE FROM blobs WHERE run_id = $1 AND name = $2")
                    .bind(run_id)
                    .bind(&name)
                    .execute(&mut tx.conn)
                    .await?;
                // An empty blob is one empty chunk: it is there.
                let chunks = if bytes.is_empty() { vec![bytes.as_slice()] } else { bytes.chunks(CHUNK).collect() };
                for (number, chunk) in (0_i64..).zip(chunks) {
                    sqlx::query("INSERT INTO blobs (run_id, name, chunk, bytes) VALUES ($1, $2, $3, $4)")
                        .bind(run_id)
                        .bind(&name)
                        .bind(number)
                        .bind(chunk)
                        .execute(&mut tx.conn)
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The bytes kept under a name of this run, if any.
    ///
    /// # Errors
    /// The database's.
    pub async fn blob(&self, org_id: i64, run_id: i64, name: &str) -> Result<Option<Vec<u8>>> {
        let chunks: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT blobs.bytes FROM blobs JOIN runs ON runs.id = blobs.run_id
             WHERE runs.org_id = $1 AND blobs.run_id = $2 AND blobs.name = $3 ORDER BY blobs.chunk",
        )
        .bind(org_id)
        .bind(run_id)
        .bind(name)
        .fetch_all(&self.readers)
        .await?;
        Ok(if chunks.is_empty() { None } else { Some(chunks.concat()) })
    }
}
