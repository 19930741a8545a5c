//! An organization as a whole: everything of it written out, and everything of it removed.
//!
//! Both go by the lists below. A table that is in none of them fails the test at the end of this file.

use futures::TryStreamExt as _;
use serde_json::{Map, Value, json};
use sqlx::{Column as _, Row as _};

use crate::{
    Error, Org, Reason, Result, Store,
    audit::{self, Entry},
    dialect::{self, Db, Row, Tx},
    members,
    phase::Phase,
    runs, tokens,
};

/// What is written out, by name: rows of `$1`, without secrets.
const EXPORTED: &[(&str, &str)] = &[
    ("organization", "SELECT id, name, enable_pr_creation, enable_rules_detection, created_at FROM orgs WHERE id = $1"),
    (
        "members",
        "SELECT users.id, users.github_user_id, users.github_username, users.email, users.full_name, users.avatar_url,
                users.service_org_id, users.created_at, members.role
         FROM users JOIN members ON members.user_id = users.id WHERE members.org_id = $1 ORDER BY users.id",
    ),
    (
        "service_account_tokens",
        "SELECT tokens.id, tokens.user_id, tokens.name, tokens.hint, tokens.scopes, tokens.created_at,
                tokens.expires_at, tokens.last_used_at
         FROM tokens JOIN users ON users.id = tokens.user_id WHERE users.service_org_id = $1 ORDER BY tokens.id",
    ),
    (
        "invitations",
        "SELECT id, role, email, invited_by, created_at, expires_at FROM invitations WHERE org_id = $1 ORDER BY id",
    ),
    (
        "repos",
        "SELECT id, name, full_name, description, origin, default_branch, setup_status, setup_commands, language,
                visibility, archived, created_at, deleted_at
         FROM repos WHERE org_id = $1 ORDER BY id",
    ),
    ("runs", "SELECT * FROM runs WHERE org_id = $1 ORDER BY id"),
    (
        "run_inputs",
        "SELECT run_inputs.* FROM run_inputs JOIN runs ON runs.id = run_inputs.run_id
         WHERE runs.org_id = $1 ORDER BY run_inputs.run_id",
    ),
    (
        "run_tags",
        "SELECT run_id, tag FROM run_tags WHERE org_id = $1 ORDER BY run_id, tag",
    ),
    (
        "log",
        "SELECT log.* FROM log JOIN runs ON runs.id = log.run_id WHERE runs.org_id = $1 ORDER BY log.run_id, log.seq",
    ),
    (
        "effects",
        "SELECT effects.* FROM effects JOIN runs ON runs.id = effects.run_id
         WHERE runs.org_id = $1 ORDER BY effects.run_id, effects.key",
    ),
    (
        "retention",
        "SELECT retention.* FROM retention JOIN runs ON runs.id = retention.run_id
         WHERE runs.org_id = $1 ORDER BY retention.run_id",
    ),
    ("pull_requests", "SELECT * FROM pull_requests WHERE org_id = $1 ORDER BY id"),
    ("check_bans", "SELECT * FROM check_bans WHERE org_id = $1 ORDER BY run_id"),
    (
        "check_runs",
        "SELECT check_runs.* FROM check_runs JOIN runs ON runs.id = check_runs.run_id
         WHERE runs.org_id = $1 ORDER BY check_runs.run_id",
    ),
    (
        "check_suite_settings",
        "SELECT check_suite_settings.* FROM check_suite_settings JOIN repos ON repos.id = check_suite_settings.repo_id
         WHERE repos.org_id = $1 ORDER BY repos.id",
    ),
    ("claude_sessions", "SELECT * FROM claude_sessions WHERE org_id = $1 ORDER BY run_id"),
    ("connect_tokens", "SELECT user_id, expires_at FROM connect_tokens WHERE org_id = $1 ORDER BY expires_at"),
    ("oauth_tokens", "SELECT * FROM oauth_tokens WHERE org_id = $1 ORDER BY id"),
    ("rules", "SELECT * FROM rules WHERE org_id = $1 ORDER BY id"),
    (
        "webhook_endpoints",
        "SELECT id, url, description, events, enabled, disabled_reason, failures, failing_since, previous_until, created_at
         FROM webhook_endpoints WHERE org_id = $1 ORDER BY id",
    ),
    (
        "webhook_deliveries",
        "SELECT id, endpoint_id, message_id, event, run_id, data, state, attempts, next_try_at, tried_at, duration_ms, status,
                answer, error, tries, created_at
         FROM webhook_deliveries WHERE org_id = $1 ORDER BY id",
    ),
    ("model_providers", "SELECT * FROM model_providers WHERE org_id = $1 ORDER BY id"),
    // That there are such secrets, not what they are.
    (
        "secrets",
        "SELECT table_name, row_id, column_name, changed_at FROM secrets WHERE org_id = $1
         ORDER BY table_name, row_id, column_name",
    ),
    ("org_limits", "SELECT * FROM org_limits WHERE org_id = $1"),
    ("org_usage", "SELECT * FROM org_usage WHERE org_id = $1 ORDER BY month"),
    ("audit", "SELECT * FROM audit WHERE org_id = $1 ORDER BY id"),
];

/// Removes what is of one run, which is `$1`; in this order.
pub const OF_RUN: &[&str] = &[
    "DELETE FROM run_tags WHERE run_id = $1",
    "DELETE FROM search_state WHERE run_id = $1",
    "DELETE FROM check_bans WHERE run_id = $1",
    "DELETE FROM check_runs WHERE run_id = $1 OR opener_id = $1",
    "DELETE FROM claude_sessions WHERE run_id = $1",
    "DELETE FROM log WHERE run_id = $1",
    "DELETE FROM blobs WHERE run_id = $1",
    "DELETE FROM effects WHERE run_id = $1",
    "DELETE FROM retention WHERE run_id = $1",
    "DELETE FROM run_inputs WHERE run_id = $1",
    "DELETE FROM pull_requests WHERE run_id = $1",
    "DELETE FROM runs WHERE id = $1",
];

/// Removes what is left of an organization without runs, which is `$1`; in this order.
const OF_ORG: &[&str] = &[
    "DELETE FROM run_counts WHERE org_id = $1",
    "DELETE FROM run_blocks WHERE org_id = $1",
    "DELETE FROM invitations WHERE org_id = $1",
    "DELETE FROM rules WHERE org_id = $1",
    "DELETE FROM webhook_deliveries WHERE org_id = $1",
    "DELETE FROM webhook_endpoints WHERE org_id = $1",
    "DELETE FROM model_providers WHERE org_id = $1",
    "DELETE FROM secrets WHERE org_id = $1",
    "DELETE FROM org_limits WHERE org_id = $1",
    "DELETE FROM org_usage WHERE org_id = $1",
    "DELETE FROM user_turns WHERE org_id = $1",
    "DELETE FROM oauth_tokens WHERE org_id = $1",
    "DELETE FROM connect_tokens WHERE org_id = $1",
    "DELETE FROM check_suite_settings WHERE repo_id IN (SELECT id FROM repos WHERE org_id = $1)",
    "DELETE FROM repos WHERE org_id = $1",
    "DELETE FROM members WHERE org_id = $1",
    "DELETE FROM users WHERE service_org_id = $1",
    "DELETE FROM orgs WHERE id = $1",
    // Only now lets the log itself be removed.
    "DELETE FROM audit WHERE org_id = $1",
];

/// Runs that are removed in one commit.
const BATCH: i64 = 8;

/// An organization that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedOrg {
    /// Which organization.
    pub id: i64,
    /// Since when.
    pub deleted_at: i64,
    /// Its runs that are not done.
    pub live_runs: i64,
}

impl Store {
    /// The names of what [`Store::export_rows`] writes out.
    #[must_use]
    pub fn exported() -> Vec<&'static str> {
        EXPORTED.iter().map(|(name, _)| *name).collect()
    }

    /// Gives every row of one kind of an organization, as JSON. Returns how many there were.
    ///
    /// # Errors
    /// The database's; what `each` says, as [`Error::Answer`].
    pub async fn export_rows<E: std::error::Error + Send + Sync + 'static>(
        &self,
        org_id: i64,
        kind: &str,
        mut each: impl FnMut(Map<String, Value>) -> std::result::Result<(), E>,
    ) -> Result<u64> {
        let (_, sql) = EXPORTED.iter().find(|(name, _)| *name == kind).ok_or(Error::NotFound)?;
        let mut rows = sqlx::query::<Db>(*sql).bind(org_id).fetch(&self.readers);
        let mut count = 0;
        while let Some(row) = rows.try_next().await? {
            each(object(&row)?).map_err(|error| Error::Answer(Box::new(error)))?;
            count += 1;
        }
        Ok(count)
    }

    /// The blobs of an organization: run and name.
    ///
    /// # Errors
    /// The database's.
    pub async fn blob_names(&self, org_id: i64) -> Result<Vec<(i64, String)>> {
        let names = sqlx::query_as(
            "SELECT DISTINCT blobs.run_id, blobs.name FROM blobs JOIN runs ON runs.id = blobs.run_id
             WHERE runs.org_id = $1 ORDER BY blobs.run_id, blobs.name",
        )
        .bind(org_id)
        .fetch_all(&self.readers)
        .await?;
        Ok(names)
    }

    /// Makes an organization nobody's: its members and tokens count for nothing, its waiting runs end and those under way
    /// are asked to. [`Store::remove_part`] does the rest.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_org(&self, org_id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let gone = sqlx::query_as::<Db, Org>(
                    "UPDATE orgs SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL RETURNING *",
                )
                .bind(org_id)
                .bind(now)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                let was = json!({ "name": gone.name });
                let entry =
                    Entry { before: was, ..Entry::new("organization.deleted", "organization", org_id, json!(null)) };
                audit::record(tx, org_id, entry, now).await?;
                let robots: Vec<i64> = sqlx::query_scalar("SELECT id FROM users WHERE service_org_id = $1")
                    .bind(org_id)
                    .fetch_all(&mut tx.conn)
                    .await?;
                for robot in robots {
                    tokens::delete_of_user(tx, robot).await?;
                }
                for sql in ["DELETE FROM members WHERE org_id = $1", "DELETE FROM invitations WHERE org_id = $1"] {
                    sqlx::query(sql).bind(org_id).execute(&mut tx.conn).await?;
                }
                for run_id in live_runs(tx, org_id).await? {
                    match runs::request_stop(tx, org_id, run_id, now).await {
                        // A session at its own machine is not stopped from here; it ends with the organization.
                        Ok(_) | Err(Error::Conflict(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                members::access_changed(tx, org_id);
                Ok(())
            })
        })
        .await
    }

    /// Organizations that are to be removed.
    ///
    /// # Errors
    /// The database's.
    pub async fn deleted_orgs(&self) -> Result<Vec<DeletedOrg>> {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
            "SELECT orgs.id, orgs.deleted_at, COUNT(runs.id) FROM orgs
             LEFT JOIN runs ON runs.org_id = orgs.id AND runs.phase <> 'done'
             WHERE orgs.deleted_at IS NOT NULL GROUP BY orgs.id, orgs.deleted_at ORDER BY orgs.id",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(|(id, deleted_at, live_runs)| DeletedOrg { id, deleted_at, live_runs }).collect())
    }

    /// Ends what still lives of a deleted organization; whoever works on it writes nothing more.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_runs_of_deleted(&self, org_id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for run_id in live_runs(tx, org_id).await? {
                    runs::end(tx, run_id, Reason::Cancelled, "Its organization was deleted.", None, now).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The repositories that are somebody's; the mirrors of others may go.
    ///
    /// # Errors
    /// The database's.
    pub async fn living_repos(&self) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar(
            "SELECT repos.id FROM repos JOIN orgs ON orgs.id = repos.org_id
             WHERE repos.deleted_at IS NULL AND orgs.deleted_at IS NULL ORDER BY repos.id",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(ids)
    }

    /// Removes a part of a deleted organization whose runs are done; says whether nothing is left of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the organization is not deleted.
    pub async fn remove_part(&self, org_id: i64) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let deleted: Option<i64> =
                    sqlx::query_scalar("SELECT id FROM orgs WHERE id = $1 AND deleted_at IS NOT NULL")
                        .bind(org_id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                deleted.ok_or(Error::NotFound)?;
                let some: Vec<i64> =
                    sqlx::query_scalar("SELECT id FROM runs WHERE org_id = $1 AND phase = 'done' ORDER BY id LIMIT $2")
                        .bind(org_id)
                        .bind(BATCH)
                        .fetch_all(&mut tx.conn)
                        .await?;
                for run_id in &some {
                    dialect::forget(tx, *run_id, 0, i64::MAX).await?;
                    for sql in OF_RUN {
                        sqlx::query::<Db>(*sql).bind(run_id).execute(&mut tx.conn).await?;
                    }
                }
                if !some.is_empty() {
                    return Ok(false);
                }
                // Answers to keyed requests are of tokens of people, who stay.
                sqlx::query("DELETE FROM idempotency_keys WHERE path LIKE $1")
                    .bind(format!("%/organizations/{org_id}/%"))
                    .execute(&mut tx.conn)
                    .await?;
                for sql in OF_ORG {
                    sqlx::query::<Db>(*sql).bind(org_id).execute(&mut tx.conn).await?;
                }
                Ok(true)
            })
        })
        .await
    }
}

async fn live_runs(tx: &mut Tx, org_id: i64) -> Result<Vec<i64>> {
    let ids = sqlx::query_scalar("SELECT id FROM runs WHERE org_id = $1 AND phase <> $2 ORDER BY id")
        .bind(org_id)
        .bind(Phase::Done.as_str())
        .fetch_all(&mut tx.conn)
        .await?;
    Ok(ids)
}

/// A row as JSON, whatever its columns.
fn object(row: &Row) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    for column in row.columns() {
        let at = column.ordinal();
        let value = if let Ok(number) = row.try_get::<Option<i64>, _>(at) {
            json!(number)
        } else if let Ok(number) = row.try_get::<Option<f64>, _>(at) {
            json!(number)
        } else {
            json!(row.try_get::<Option<String>, _>(at)?)
        };
        object.insert(column.name().to_owned(), value);
    }
    Ok(object)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Tables that hold nothing of an organization's but what the lists reach by other tables, and what is of people, who
    /// stay.
    const OTHERS: [&str; 16] = [
        "_sqlx_migrations",
        "sqlite_sequence",
        "tokens",
        "sessions",
        "idempotency_keys",
        "rate_windows",
        "workers",
        "passwords",
        "identities",
        "login_attempts",
        // The search, whose entries go by their run's key.
        "search",
        "search_config",
        "search_content",
        "search_data",
        "search_docsize",
        "search_idx",
    ];

    #[tokio::test]
    async fn every_table_is_removed_with_its_organization_and_written_out_or_known_to_be_no_part_of_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .fetch_all(&store.readers)
            .await
            .unwrap();
        assert!(tables.len() > 15, "{tables:?}");
        for table in tables.iter().filter(|table| !OTHERS.contains(&table.as_str())) {
            let removed = format!("DELETE FROM {table} ");
            assert!(
                OF_RUN.iter().chain(OF_ORG).any(|sql| sql.starts_with(&removed)),
                "{table} stays when its organization is deleted: add it to OF_RUN or OF_ORG, or to OTHERS"
            );
            // Blobs are written out as files, counters count what is written out, turns are the queue's.
            if !["blobs", "run_blocks", "run_counts", "search_state", "user_turns"].contains(&table.as_str()) {
                let from = [format!("FROM {table} "), format!("JOIN {table} ")];
                assert!(
                    EXPORTED.iter().any(|(_, sql)| from.iter().any(|from| sql.contains(from))),
                    "{table} is not written out with its organization: add it to EXPORTED, without secrets"
                );
            }
        }
        for kind in Store::exported() {
            store.export_rows::<std::fmt::Error>(1, kind, |_| Ok(())).await.unwrap();
        }
    }
}
