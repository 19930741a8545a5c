//! What organizations may use, and what they have used: runs and money by month, runs at once.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store, audit,
    dialect::{Db, Row, Tx},
};

/// What an organization may use; `None` sets no limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OrgLimits {
    /// Runs made in a month.
    pub runs_per_month: Option<i64>,
    /// US dollars spent in a month.
    pub cost_per_month: Option<f64>,
    /// Runs at once.
    pub concurrent_runs: Option<i64>,
    /// Runs at once of each user.
    pub concurrent_runs_per_user: Option<i64>,
    /// JSON that the caller understands: the organization's own rate limits.
    pub rate_limits: String,
}

impl OrgLimits {
    /// As the audit log has it.
    fn recorded(&self) -> Value {
        let rate_limits: Value = serde_json::from_str(&self.rate_limits).unwrap_or_default();
        json!({
            "runs_per_month": self.runs_per_month, "cost_per_month": self.cost_per_month,
            "concurrent_runs": self.concurrent_runs, "concurrent_runs_per_user": self.concurrent_runs_per_user,
            "rate_limits": rate_limits,
        })
    }
}

impl FromRow<'_, Row> for OrgLimits {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            runs_per_month: row.try_get("runs_per_month")?,
            cost_per_month: row.try_get("cost_per_month")?,
            concurrent_runs: row.try_get("concurrent_runs")?,
            concurrent_runs_per_user: row.try_get("concurrent_runs_per_user")?,
            rate_limits: row.try_get("rate_limits")?,
        })
    }
}

/// What an organization has used in a month.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OrgUsage {
    /// Runs made.
    pub runs: i64,
    /// US dollars spent.
    pub cost: f64,
}

impl FromRow<'_, Row> for OrgUsage {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { runs: row.try_get("runs")?, cost: row.try_get("cost")? })
    }
}

/// The month of a time, as `2026-11`, in UTC.
#[must_use]
pub fn month(now: i64) -> String {
    let time = Timestamp::from_millisecond(now).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
}

impl Store {
    /// What an organization may use; none where nobody has set anything.
    ///
    /// # Errors
    /// The database's.
    pub async fn org_limits(&self, org_id: i64) -> Result<Option<OrgLimits>> {
        let limits = sqlx::query_as::<Db, OrgLimits>("SELECT * FROM org_limits WHERE org_id = $1")
            .bind(org_id)
            .fetch_optional(&self.quick)
            .await?;
        Ok(limits)
    }

    /// Sets what an organization may use, all of it.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_org_limits(&self, org_id: i64, limits: OrgLimits, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = sqlx::query_as::<Db, OrgLimits>("SELECT * FROM org_limits WHERE org_id = $1")
                    .bind(org_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                let entry = audit::Entry {
                    action: "limits.changed",
                    target: format!("org:{org_id}"),
                    before: before.as_ref().map_or(Value::Null, OrgLimits::recorded),
                    after: limits.recorded(),
                };
                audit::record(tx, org_id, entry, now).await?;
                sqlx::query(
                    "INSERT INTO org_limits (org_id, runs_per_month, cost_per_month, concurrent_runs,
                                             concurrent_runs_per_user, rate_limits)
                     VALUES ($1, $2, CAST($3 AS DOUBLE PRECISION), $4, $5, $6)
                     ON CONFLICT (org_id) DO UPDATE SET runs_per_month = excluded.runs_per_month,
                         cost_per_month = excluded.cost_per_month, concurrent_runs = excluded.concurrent_runs,
                         concurrent_runs_per_user = excluded.concurrent_runs_per_user,
                         rate_limits = excluded.rate_limits",
                )
                .bind(org_id)
                .bind(limits.runs_per_month)
                // As text: Any tells PostgreSQL of an absent f64 as of a smaller number, and the statement would keep that.
                .bind(limits.cost_per_month.map(|cost| cost.to_string()))
                .bind(limits.concurrent_runs)
                .bind(limits.concurrent_runs_per_user)
                .bind(limits.rate_limits)
                .execute(&mut tx.conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// What an organization has used in the month of `now`.
    ///
    /// # Errors
    /// The database's.
    pub async fn org_usage(&self, org_id: i64, now: i64) -> Result<OrgUsage> {
        let usage = sqlx::query_as::<Db, OrgUsage>("SELECT runs, cost FROM org_usage WHERE org_id = $1 AND month = $2")
            .bind(org_id)
            .bind(month(now))
            .fetch_optional(&self.quick)
            .await?;
        Ok(usage.unwrap_or_default())
    }

    /// Whether an organization has spent all of its money of the month of `now`.
    ///
    /// # Errors
    /// The database's.
    pub async fn money_is_spent(&self, org_id: i64, now: i64) -> Result<bool> {
        let spent: Option<i64> = sqlx::query_scalar(
            "SELECT CAST(1 AS BIGINT) FROM org_limits LEFT JOIN org_usage
                 ON org_usage.org_id = org_limits.org_id AND org_usage.month = $2
             WHERE org_limits.org_id = $1 AND COALESCE(org_usage.cost, 0) >= org_limits.cost_per_month",
        )
        .bind(org_id)
        .bind(month(now))
        .fetch_optional(&self.quick)
        .await?;
        Ok(spent.is_some())
    }
}

/// Counts a run that is being made, or refuses it where the month's allowance is used up.
pub async fn count_run(tx: &mut Tx, org_id: i64, now: i64) -> Result<()> {
    // The row stays locked until the commit, so that of two runs at once only one is the last.
    let (made, spent, runs, cost): (i64, f64, Option<i64>, Option<f64>) = sqlx::query_as(
        "INSERT INTO org_usage (org_id, month, runs, cost) VALUES ($1, $2, 1, 0)
         ON CONFLICT (org_id, month) DO UPDATE SET runs = org_usage.runs + 1
         RETURNING runs, cost, (SELECT runs_per_month FROM org_limits WHERE org_limits.org_id = $1),
             (SELECT cost_per_month FROM org_limits WHERE org_limits.org_id = $1)",
    )
    .bind(org_id)
    .bind(month(now))
    .fetch_one(&mut tx.conn)
    .await?;
    if let Some(runs) = runs.filter(|runs| made > *runs) {
        let plural = if runs == 1 { "run" } else { "runs" };
        return Err(Error::UsedUp(format!(
            "The organization has made all of its {runs} {plural} of this month; its admins can allow more."
        )));
    }
    if let Some(cost) = cost.filter(|cost| spent >= *cost) {
        return Err(Error::UsedUp(format!(
            "The organization has spent all of its {cost} US dollars of this month; its admins can allow more."
        )));
    }
    Ok(())
}

/// Counts what a run's cost has grown by, before its row says so.
pub async fn count_cost(tx: &mut Tx, run_id: i64, cost: f64, now: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO org_usage (org_id, month, runs, cost)
         SELECT org_id, $2, 0, $3 - cost FROM runs WHERE id = $1 AND cost < $3
         ON CONFLICT (org_id, month) DO UPDATE SET cost = org_usage.cost + excluded.cost",
    )
    .bind(run_id)
    .bind(month(now))
    .bind(cost)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}
