//! What is encrypted at rest, by the place that it belongs to. Only ciphertext comes here.

use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    dialect::{Db, Row, Tx},
};

/// What a secret belongs to: the column of a row that it would stand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose.
    pub org_id: i64,
    /// Name of the table.
    pub table: String,
    /// Key of the row.
    pub row_id: i64,
    /// Name of the column.
    pub column: String,
}

impl Place {
    /// A place.
    #[must_use]
    pub fn new(org_id: i64, table: &str, row_id: i64, column: &str) -> Self {
        Self { org_id, table: table.to_owned(), row_id, column: column.to_owned() }
    }
}

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it belongs to.
    pub place: Place,
    /// With the id of its key.
    pub ciphertext: String,
}

impl FromRow<'_, Row> for Sealed {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let place = Place {
            org_id: row.try_get("org_id")?,
            table: row.try_get("table_name")?,
            row_id: row.try_get("row_id")?,
            column: row.try_get("column_name")?,
        };
        Ok(Self { place, ciphertext: row.try_get("ciphertext")? })
    }
}

impl Store {
    /// Keeps a secret; one that was at its place is gone.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_secret(&self, sealed: Sealed, now: i64) -> Result<()> {
        self.write(move |tx| Box::pin(async move { put(tx, &sealed, now).await })).await
    }

    /// The ciphertext at a place.
    ///
    /// # Errors
    /// The database's.
    pub async fn secret(&self, place: &Place) -> Result<Option<String>> {
        let found = sqlx::query_scalar(
            "SELECT ciphertext FROM secrets
             WHERE org_id = $1 AND table_name = $2 AND row_id = $3 AND column_name = $4",
        )
        .bind(place.org_id)
        .bind(&place.table)
        .bind(place.row_id)
        .bind(&place.column)
        .fetch_optional(&self.quick)
        .await?;
        Ok(found)
    }

    /// Every secret, for those who encrypt them anew.
    ///
    /// # Errors
    /// The database's.
    pub async fn secrets(&self) -> Result<Vec<Sealed>> {
        let all =
            sqlx::query_as::<Db, Sealed>("SELECT * FROM secrets ORDER BY org_id, table_name, row_id, column_name")
                .fetch_all(&self.readers)
                .await?;
        Ok(all)
    }

    /// Puts another ciphertext in the place of one; false where that one is not there any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn replace_secret(&self, old: Sealed, ciphertext: String, now: i64) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let replaced = sqlx::query(
                    "UPDATE secrets SET ciphertext = $6, changed_at = $7
                     WHERE org_id = $1 AND table_name = $2 AND row_id = $3 AND column_name = $4 AND ciphertext = $5",
                )
                .bind(old.place.org_id)
                .bind(old.place.table)
                .bind(old.place.row_id)
                .bind(old.place.column)
                .bind(old.ciphertext)
                .bind(ciphertext)
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
                Ok(replaced.rows_affected() == 1)
            })
        })
        .await
    }

    /// Repositories of every organization whose origin still stands with a password in the row: (organization,
    /// repository, origin). Whether there is one is for the caller to see; here is what has a user at all.
    ///
    /// # Errors
    /// The database's.
    pub async fn origins_with_users(&self) -> Result<Vec<(i64, i64, String)>> {
        let found = sqlx::query_as("SELECT org_id, id, origin FROM repos WHERE origin LIKE '%://%@%' ORDER BY id")
            .fetch_all(&self.readers)
            .await?;
        Ok(found)
    }

    /// Moves a repository's whole origin to encrypted storage and leaves what may be shown in its row. Where another
    /// repository of the organization has that already, this one's gets its id behind it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn seal_origin(&self, sealed: Sealed, shown: &str, now: i64) -> Result<()> {
        let shown = shown.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let (org_id, repo_id) = (sealed.place.org_id, sealed.place.row_id);
                let taken: Option<i64> =
                    sqlx::query_scalar("SELECT id FROM repos WHERE org_id = $1 AND origin = $2 AND id <> $3")
                        .bind(org_id)
                        .bind(&shown)
                        .bind(repo_id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                let shown = if taken.is_some() { format!("{shown}#{repo_id}") } else { shown };
                put(tx, &sealed, now).await?;
                let changed = sqlx::query("UPDATE repos SET origin = $3 WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(repo_id)
                    .bind(shown)
                    .execute(&mut tx.conn)
                    .await?;
                if changed.rows_affected() == 0 { Err(Error::NotFound) } else { Ok(()) }
            })
        })
        .await
    }
}

/// Keeps a secret within a transaction.
pub async fn put(tx: &mut Tx, sealed: &Sealed, now: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO secrets (org_id, table_name, row_id, column_name, ciphertext, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (org_id, table_name, row_id, column_name)
             DO UPDATE SET ciphertext = excluded.ciphertext, changed_at = excluded.changed_at",
    )
    .bind(sealed.place.org_id)
    .bind(&sealed.place.table)
    .bind(sealed.place.row_id)
    .bind(&sealed.place.column)
    .bind(&sealed.ciphertext)
    .bind(now)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Forgets all secrets of a row.
pub async fn forget(tx: &mut Tx, org_id: i64, table: &str, row_id: i64) -> Result<()> {
    sqlx::query("DELETE FROM secrets WHERE org_id = $1 AND table_name = $2 AND row_id = $3")
        .bind(org_id)
        .bind(table)
        .bind(row_id)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}
