//! What happens when checks of a pull request fail: a repository's settings, and pull requests that nothing happens for.

use std::collections::BTreeMap;

use serde_json::from_str;
use sqlx::{FromRow, Row as _};

use crate::{
    Error, NewRun, Result, Run, Store,
    dialect::{Db, Row, Tx},
    new_runs,
    row::unreadable,
    runs,
};

/// What to do about failing checks in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSuiteSettings {
    /// Tries of each check.
    pub check_retry_count: i64,
    /// Checks that nothing is done about.
    pub ignored_checks: Vec<String>,
    /// Tries of some checks, by name.
    pub check_retry_counts: BTreeMap<String, i64>,
    /// Words for the agent on some checks, by name.
    pub custom_prompts: BTreeMap<String, String>,
    /// Apps whose failures are taken up without waiting for the other checks.
    pub high_priority_apps: Vec<String>,
}

impl Default for CheckSuiteSettings {
    fn default() -> Self {
        Self {
            check_retry_count: 3,
            ignored_checks: Vec::new(),
            check_retry_counts: BTreeMap::new(),
            custom_prompts: BTreeMap::new(),
            high_priority_apps: Vec::new(),
        }
    }
}

/// A change of [`CheckSuiteSettings`]; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct CheckSuiteChange {
    /// [`CheckSuiteSettings::check_retry_count`].
    pub check_retry_count: Option<i64>,
    /// [`CheckSuiteSettings::ignored_checks`].
    pub ignored_checks: Option<Vec<String>>,
    /// [`CheckSuiteSettings::check_retry_counts`].
    pub check_retry_counts: Option<BTreeMap<String, i64>>,
    /// [`CheckSuiteSettings::custom_prompts`].
    pub custom_prompts: Option<BTreeMap<String, String>>,
    /// [`CheckSuiteSettings::high_priority_apps`].
    pub high_priority_apps: Option<Vec<String>>,
}

impl FromRow<'_, Row> for CheckSuiteSettings {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let text = |column| row.try_get::<String, _>(column);
        Ok(Self {
            check_retry_count: row.try_get("check_retry_count")?,
            ignored_checks: from_str(&text("ignored_checks")?).map_err(|e| unreadable("ignored_checks", e))?,
            check_retry_counts: from_str(&text("check_retry_counts")?)
                .map_err(|e| unreadable("check_retry_counts", e))?,
            custom_prompts: from_str(&text("custom_prompts")?).map_err(|e| unreadable("custom_prompts", e))?,
            high_priority_apps: from_str(&text("high_priority_apps")?)
                .map_err(|e| unreadable("high_priority_apps", e))?,
        })
    }
}

/// What became of a ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banned {
    /// The run that opened the pull request, or may.
    pub opener_id: i64,
    /// Runs that were asked to stop.
    pub stopped: Vec<i64>,
}

/// What became of the end of a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbanned {
    /// The run that opened the pull request, or may.
    pub opener_id: i64,
    /// There was a ban.
    pub was_banned: bool,
}

const SETTINGS: &str = "SELECT s.* FROM check_suite_settings s JOIN repos ON repos.id = s.repo_id
                        WHERE repos.org_id = $1 AND repos.id = $2";

impl Store {
    /// What to do about failing checks in a repository.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the repository is not this organization's.
    pub async fn check_suite_settings(&self, org_id: i64, repo_id: i64) -> Result<CheckSuiteSettings> {
        self.repo(org_id, repo_id).await?;
        let settings = sqlx::query_as::<Db, CheckSuiteSettings>(SETTINGS)
            .bind(org_id)
            .bind(repo_id)
            .fetch_optional(&self.quick)
            .await?;
        Ok(settings.unwrap_or_default())
    }

    /// Changes what to do about failing checks in a repository.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the repository is not this organization's.
    pub async fn change_check_suite_settings(
        &self,
        org_id: i64,
        repo_id: i64,
        change: CheckSuiteChange,
    ) -> Result<CheckSuiteSettings> {
        self.write(move |tx| Box::pin(async move { change_settings(tx, org_id, repo_id, change).await })).await
    }

    /// Marks the pull request of a run, so that failing checks start no runs for it any more, and asks every run that
    /// works on it to stop. The run may be any of these.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn ban_checks(&self, org_id: i64, run_id: i64, user_id: i64, now: i64) -> Result<Banned> {
        self.write(move |tx| {
            Box::pin(async move {
                let opener_id = opener(tx, org_id, run_id).await?;
                sqlx::query(
                    "INSERT INTO check_bans (run_id, org_id, user_id, created_at) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (run_id) DO NOTHING",
                )
                .bind(opener_id)
                .bind(org_id)
                .bind(user_id)
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
                let live: Vec<i64> = sqlx::query_scalar(
                    "SELECT id FROM runs WHERE org_id = $1 AND phase <> 'done' AND phase <> 'elsewhere'
                         AND (id = $2 OR id IN (SELECT run_id FROM check_runs WHERE opener_id = $2)) ORDER BY id",
                )
                .bind(org_id)
                .bind(opener_id)
                .fetch_all(&mut tx.conn)
                .await?;
                for id in &live {
                    runs::request_stop(tx, org_id, *id, now).await?;
                }
                Ok(Banned { opener_id, stopped: live })
            })
        })
        .await
    }

    /// Lifts the mark of [`Store::ban_checks`].
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn unban_checks(&self, org_id: i64, run_id: i64) -> Result<Unbanned> {
        self.write(move |tx| {
            Box::pin(async move {
                let opener_id = opener(tx, org_id, run_id).await?;
                let lifted = sqlx::query("DELETE FROM check_bans WHERE run_id = $1 AND org_id = $2")
                    .bind(opener_id)
                    .bind(org_id)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(Unbanned { opener_id, was_banned: lifted.rows_affected() > 0 })
            })
        })
        .await
    }

    /// Queues a run because checks of a pull request failed: the one way in which check events start runs. None where
    /// the pull request is banned.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the pull request is not this organization's.
    pub async fn create_check_run(
        &self,
        org_id: i64,
        pull_request_id: i64,
        new: NewRun,
        now: i64,
    ) -> Result<Option<Run>> {
        self.write(move |tx| {
            Box::pin(async move {
                let opener_id: Option<i64> =
                    sqlx::query_scalar("SELECT run_id FROM pull_requests WHERE org_id = $1 AND id = $2")
                        .bind(org_id)
                        .bind(pull_request_id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                let opener_id = opener_id.ok_or(Error::NotFound)?;
                let ban: Option<i64> = sqlx::query_scalar("SELECT run_id FROM check_bans WHERE run_id = $1")
                    .bind(opener_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                if ban.is_some() {
                    return Ok(None);
                }
                let run = new_runs::create(tx, org_id, new, now).await?;
                sqlx::query("INSERT INTO check_runs (run_id, opener_id) VALUES ($1, $2)")
                    .bind(run.id)
                    .bind(opener_id)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(Some(run))
            })
        })
        .await
    }
}

async fn change_settings(
    tx: &mut Tx,
    org_id: i64,
    repo_id: i64,
    change: CheckSuiteChange,
) -> Result<CheckSuiteSettings> {
    // An update that changes nothing: it keeps the row from others until the commit, on every database.
    let ours: Option<i64> =
        sqlx::query_scalar("UPDATE repos SET name = name WHERE org_id = $1 AND id = $2 RETURNING id")
            .bind(org_id)
            .bind(repo_id)
            .fetch_optional(&mut tx.conn)
            .await?;
    ours.ok_or(Error::NotFound)?;
    let before = sqlx::query_as::<Db, CheckSuiteSettings>(SETTINGS)
        .bind(org_id)
        .bind(repo_id)
        .fetch_optional(&mut tx.conn)
        .await?
        .unwrap_or_default();
    let settings = CheckSuiteSettings {
        check_retry_count: change.check_retry_count.unwrap_or(before.check_retry_count),
        ignored_checks: change.ignored_checks.unwrap_or(before.ignored_checks),
        check_retry_counts: change.check_retry_counts.unwrap_or(before.check_retry_counts),
        custom_prompts: change.custom_prompts.unwrap_or(before.custom_prompts),
        high_priority_apps: change.high_priority_apps.unwrap_or(before.high_priority_apps),
    };
    sqlx::query(
        "INSERT INTO check_suite_settings (repo_id, check_retry_count, ignored_checks, check_retry_counts,
                                           custom_prompts, high_priority_apps)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (repo_id) DO UPDATE SET check_retry_count = excluded.check_retry_count,
             ignored_checks = excluded.ignored_checks, check_retry_counts = excluded.check_retry_counts,
             custom_prompts = excluded.custom_prompts, high_priority_apps = excluded.high_priority_apps",
    )
    .bind(repo_id)
    .bind(settings.check_retry_count)
    .bind(serde_json::json!(settings.ignored_checks).to_string())
    .bind(serde_json::json!(settings.check_retry_counts).to_string())
    .bind(serde_json::json!(settings.custom_prompts).to_string())
    .bind(serde_json::json!(settings.high_priority_apps).to_string())
    .execute(&mut tx.conn)
    .await?;
    Ok(settings)
}

/// The run whose pull request a run works on: its own, or another's.
async fn opener(tx: &mut Tx, org_id: i64, run_id: i64) -> Result<i64> {
    let opener_id: Option<i64> = sqlx::query_scalar(
        "SELECT COALESCE(check_runs.opener_id, runs.id) FROM runs LEFT JOIN check_runs ON check_runs.run_id = runs.id
         WHERE runs.org_id = $1 AND runs.id = $2",
    )
    .bind(org_id)
    .bind(run_id)
    .fetch_optional(&mut tx.conn)
    .await?;
    opener_id.ok_or(Error::NotFound)
}
