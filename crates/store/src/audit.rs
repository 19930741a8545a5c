//! Who changed what: a log that only grows, written in the transaction of the change.
//!
//! Who asks is known to the task that serves a request, not passed through each function: so no change can be written
//! without it, and one whose code records nothing itself is recorded by its operation.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use serde_json::Value;
use sqlx::{FromRow, Row as _};

use crate::{
    BoxFuture, Result, Store,
    dialect::{Db, Row, Tx},
};

/// Who asks for what.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    /// Whose token.
    pub user_id: i64,
    /// Their name.
    pub user_name: String,
    /// By which token.
    pub token_id: i64,
    /// Its name.
    pub token_name: String,
    /// From where.
    pub address: Option<String>,
    /// In which organization, where it is known.
    pub org_id: Option<i64>,
    /// Where the request may change something: what it asks for, of what.
    pub operation: Option<(String, String)>,
    /// When.
    pub at: i64,
}

tokio::task_local! {
    /// Of the request that this task serves.
    static ASKING: RefCell<Option<Arc<Actor>>>;
    /// Of the change that the writer is at.
    static RECORDING: Recording;
}

struct Recording {
    actor: Option<Arc<Actor>>,
    done: Cell<bool>,
}

/// Serves a request, whose actor is not known yet.
pub async fn serving<F: Future>(request: F) -> F::Output {
    ASKING.scope(RefCell::new(None), request).await
}

/// From now on this task's changes are this actor's. Outside of [`serving`] they are nobody's.
pub fn act_as(actor: Actor) {
    ASKING.try_with(|asking| asking.replace(Some(Arc::new(actor)))).ok();
}

/// The actor's organization has become known.
pub fn act_in(org_id: i64) {
    let set = |asking: &RefCell<Option<Arc<Actor>>>| {
        if let Some(actor) = asking.borrow_mut().as_mut() {
            Arc::make_mut(actor).org_id = Some(org_id);
        }
    };
    ASKING.try_with(set).ok();
}

/// Whose changes this task's are.
pub fn actor() -> Option<Arc<Actor>> {
    ASKING.try_with(|asking| asking.borrow().clone()).ok().flatten()
}

/// Does a change for an actor, and records it where its code has not.
pub(crate) async fn recording<T: Send>(
    actor: Option<Arc<Actor>>,
    tx: &mut Tx,
    work: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send,
) -> Result<T> {
    let by_operation = actor.as_ref().and_then(|actor| Some((actor.clone(), actor.operation.clone()?)));
    let recording = Recording { actor, done: Cell::new(false) };
    let change = async {
        let outcome = work(tx).await?;
        let Some((actor, (action, target))) = by_operation else { return Ok(outcome) };
        if !RECORDING.with(|recording| recording.done.get()) {
            let entry = Entry { action: &action, target, before: Value::Null, after: Value::Null };
            match actor.org_id {
                Some(org_id) => record(tx, org_id, entry, actor.at).await?,
                None => record_of_user(tx, actor.user_id, entry, actor.at).await?,
            }
        }
        Ok(outcome)
    };
    RECORDING.scope(recording, change).await
}

/// What is recorded of a change.
pub(crate) struct Entry<'a> {
    /// `thing.happened`.
    pub action: &'a str,
    /// `thing:id`.
    pub target: String,
    /// What was, without secrets.
    pub before: Value,
    /// What is, without secrets.
    pub after: Value,
}

impl<'a> Entry<'a> {
    /// Of something that came to be or happened.
    pub fn new(action: &'a str, kind: &str, id: i64, after: Value) -> Self {
        Self { action, target: format!("{kind}:{id}"), before: Value::Null, after }
    }
}

/// Says that this write, though for a request that may change something, changes nothing.
pub(crate) fn nothing_changed() {
    RECORDING.try_with(|recording| recording.done.set(true)).ok();
}

fn told(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}

/// Records a change of an organization.
pub(crate) async fn record(tx: &mut Tx, org_id: i64, entry: Entry<'_>, now: i64) -> Result<()> {
    let actor = RECORDING.try_with(|recording| {
        recording.done.set(true);
        recording.actor.clone()
    });
    let actor = actor.ok().flatten();
    sqlx::query(
        "INSERT INTO audit (org_id, at, user_id, user_name, token_id, token_name, address, action, target, before, after)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(org_id)
    .bind(now)
    .bind(actor.as_ref().map(|actor| actor.user_id))
    .bind(actor.as_ref().map(|actor| &*actor.user_name))
    .bind(actor.as_ref().map(|actor| actor.token_id))
    .bind(actor.as_ref().map(|actor| &*actor.token_name))
    .bind(actor.as_ref().and_then(|actor| actor.address.as_deref()))
    .bind(entry.action)
    .bind(entry.target)
    .bind(told(&entry.before))
    .bind(told(&entry.after))
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}

/// Records what a user did with what is their own, in each of their organizations.
pub(crate) async fn record_of_user(tx: &mut Tx, user_id: i64, entry: Entry<'_>, now: i64) -> Result<()> {
    nothing_changed();
    let orgs: Vec<i64> = sqlx::query_scalar("SELECT org_id FROM members WHERE user_id = $1 ORDER BY org_id")
        .bind(user_id)
        .fetch_all(&mut tx.conn)
        .await?;
    for org_id in orgs {
        let Entry { action, target, before, after } = &entry;
        let entry = Entry { action, target: target.clone(), before: before.clone(), after: after.clone() };
        record(tx, org_id, entry, now).await?;
    }
    Ok(())
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Key; grows.
    pub id: i64,
    /// When.
    pub at: i64,
    /// Who; `None` where codegen did it by itself.
    pub user_id: Option<i64>,
    /// Their name then.
    pub user_name: Option<String>,
    /// By which token.
    pub token_id: Option<i64>,
    /// Its name then.
    pub token_name: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// What.
    pub action: String,
    /// Of what.
    pub target: String,
    /// What was, as JSON.
    pub before: Option<String>,
    /// What is, as JSON.
    pub after: Option<String>,
}

impl FromRow<'_, Row> for AuditEntry {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            user_id: row.try_get("user_id")?,
            user_name: row.try_get("user_name")?,
            token_id: row.try_get("token_id")?,
            token_name: row.try_get("token_name")?,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
        })
    }
}

/// Which entries; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this user.
    pub user_id: Option<i64>,
    /// Whose action begins so.
    pub action: Option<String>,
    /// Of this thing.
    pub target: Option<String>,
    /// Not older, unix milliseconds.
    pub since: Option<i64>,
    /// Older.
    pub until: Option<i64>,
}

impl Store {
    /// Entries of an organization's audit log before one of them, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn audit_before(
        &self,
        org_id: i64,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>> {
        let sql = "SELECT * FROM audit WHERE org_id = $1 AND id < $2
               AND (CAST($3 AS BIGINT) IS NULL OR user_id = $3)
               AND (CAST($4 AS TEXT) IS NULL OR SUBSTR(action, 1, LENGTH($4)) = $4)
               AND (CAST($5 AS TEXT) IS NULL OR target = $5)
               AND (CAST($6 AS BIGINT) IS NULL OR at >= $6) AND (CAST($7 AS BIGINT) IS NULL OR at < $7)
             ORDER BY id DESC LIMIT $8";
        self.audit_entries(sql, org_id, filter, before.unwrap_or(i64::MAX), limit).await
    }

    /// Entries of an organization's audit log after one of them, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn audit_after(
        &self,
        org_id: i64,
        filter: &AuditFilter,
        after: i64,
        limit: i64,
    ) -> Result<Vec<AuditEntry>> {
        let sql = "SELECT * FROM audit WHERE org_id = $1 AND id > $2
               AND (CAST($3 AS BIGINT) IS NULL OR user_id = $3)
               AND (CAST($4 AS TEXT) IS NULL OR SUBSTR(action, 1, LENGTH($4)) = $4)
               AND (CAST($5 AS TEXT) IS NULL OR target = $5)
               AND (CAST($6 AS BIGINT) IS NULL OR at >= $6) AND (CAST($7 AS BIGINT) IS NULL OR at < $7)
             ORDER BY id LIMIT $8";
        self.audit_entries(sql, org_id, filter, after, limit).await
    }

    async fn audit_entries(
        &self,
        sql: &'static str,
        org_id: i64,
        filter: &AuditFilter,
        from: i64,
        limit: i64,
    ) -> Result<Vec<AuditEntry>> {
        let entries = sqlx::query_as::<Db, AuditEntry>(sql)
            .bind(org_id)
            .bind(from)
            .bind(filter.user_id)
            .bind(&filter.action)
            .bind(&filter.target)
            .bind(filter.since)
            .bind(filter.until)
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        Ok(entries)
    }
}
