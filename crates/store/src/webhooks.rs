//! Endpoints that are told of events, and deliveries to them: rows written in the transaction of their event, so that a
//! crash loses none. What is sent, and how, is not known here.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    events::told,
    row::{flag, unreadable},
    secrets::{self, Sealed},
};

/// An address that is told of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// Where to.
    pub url: String,
    /// For people.
    pub description: String,
    /// Which events; none for all.
    pub events: Vec<String>,
    /// Whether anything is sent.
    pub enabled: bool,
    /// Why codegen itself turned it off; a sentence.
    pub disabled_reason: Option<String>,
    /// Tries in a row that failed.
    pub failures: i64,
    /// Since when.
    pub failing_since: Option<i64>,
    /// Until when the secret before the last rotation is signed with, too.
    pub previous_until: Option<i64>,
    /// When.
    pub created_at: i64,
}

impl FromRow<'_, Row> for Endpoint {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let events: String = row.try_get("events")?;
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            url: row.try_get("url")?,
            description: row.try_get("description")?,
            events: events.split_whitespace().map(str::to_owned).collect(),
            enabled: flag(row, "enabled")?,
            disabled_reason: row.try_get("disabled_reason")?,
            failures: row.try_get("failures")?,
            failing_since: row.try_get("failing_since")?,
            previous_until: row.try_get("previous_until")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Endpoint {
    /// As the audit log has it: an address may end in a secret of the receiver's.
    fn told(&self) -> Value {
        let host = self.url.split('/').nth(2).unwrap_or_default();
        json!({ "host": host, "description": self.description, "events": self.events, "enabled": self.enabled })
    }
}

/// What can be set of an endpoint; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// [`Endpoint::url`].
    pub url: Option<String>,
    /// [`Endpoint::description`].
    pub description: Option<String>,
    /// [`Endpoint::events`].
    pub events: Option<Vec<String>>,
    /// [`Endpoint::enabled`].
    pub enabled: Option<bool>,
}

/// One event for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// To whom.
    pub endpoint_id: i64,
    /// The same at each try.
    pub message_id: String,
    /// One of [`crate::EVENTS`], or `ping`.
    pub event: String,
    /// About which run.
    pub run_id: Option<i64>,
    /// JSON.
    pub data: String,
    /// `pending`, `delivered`, `failed`.
    pub state: String,
    /// Tries so far, the one under way among them.
    pub attempts: i64,
    /// When a pending one is due.
    pub next_try_at: i64,
    /// When it was last tried.
    pub tried_at: Option<i64>,
    /// How long that took.
    pub duration_ms: Option<i64>,
    /// HTTP status of the answer.
    pub status: Option<i64>,
    /// The answer's beginning.
    pub answer: Option<String>,
    /// Why there was no good answer; a sentence.
    pub error: Option<String>,
    /// What came of the newest tries, oldest first: JSON objects as [`Store::settle_delivery`] makes them.
    pub tries: Vec<Value>,
    /// When the event was.
    pub created_at: i64,
}

impl FromRow<'_, Row> for Delivery {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            endpoint_id: row.try_get("endpoint_id")?,
            message_id: row.try_get("message_id")?,
            event: row.try_get("event")?,
            run_id: row.try_get("run_id")?,
            data: row.try_get("data")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            next_try_at: row.try_get("next_try_at")?,
            tried_at: row.try_get("tried_at")?,
            duration_ms: row.try_get("duration_ms")?,
            status: row.try_get("status")?,
            answer: row.try_get("answer")?,
            error: row.try_get("error")?,
            tries: serde_json::from_str(row.try_get("tries")?).map_err(|error| unreadable("tries", error))?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// How a try went.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// [`Delivery::duration_ms`].
    pub duration_ms: i64,
    /// [`Delivery::status`].
    pub status: Option<i64>,
    /// [`Delivery::answer`].
    pub answer: Option<String>,
    /// [`Delivery::error`]; none where the receiver took it.
    pub error: Option<String>,
    /// When a failed one is tried again; none: it is given up.
    pub next_try_at: Option<i64>,
    /// Turns the endpoint off, with this sentence.
    pub disable: Option<String>,
}

impl Store {
    /// Adds an endpoint. Its id is known before its secret can be encrypted, so the caller makes that of it.
    ///
    /// # Errors
    /// [`Error::Conflict`] beyond `most` of an organization; what `seal` says.
    pub async fn create_endpoint(
        &self,
        org_id: i64,
        new: EndpointChange,
        most: i64,
        seal: impl FnOnce(i64) -> Result<Sealed> + Clone + Send + 'static,
        now: i64,
    ) -> Result<Endpoint> {
        self.write(move |tx| {
            Box::pin(async move {
                let there: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM webhook_endpoints WHERE org_id = $1")
                    .bind(org_id)
                    .fetch_one(&mut tx.conn)
                    .await?;
                if there >= most {
                    return Err(Error::Conflict(format!("An organization has at most {most} webhook endpoints.")));
                }
                let endpoint = sqlx::query_as::<Db, Endpoint>(
                    "INSERT INTO webhook_endpoints (org_id, url, description, events, enabled, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
                )
                .bind(org_id)
                .bind(new.url.unwrap_or_default())
                .bind(new.description.unwrap_or_default())
                .bind(words(&new.events.unwrap_or_default()))
                .bind(i64::from(new.enabled.unwrap_or(true)))
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                secrets::put(tx, &seal(endpoint.id)?, now).await?;
                let entry = Entry::new("webhook.created", "webhook", endpoint.id, endpoint.told());
                audit::record(tx, org_id, entry, now).await?;
                Ok(endpoint)
            })
        })
        .await
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn endpoint(&self, org_id: i64, id: i64) -> Result<Endpoint> {
        sqlx::query_as::<Db, Endpoint>("SELECT * FROM webhook_endpoints WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// A page of an organization's endpoints, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn endpoints(&self, org_id: i64, skip: i64, limit: i64) -> Result<(Vec<Endpoint>, i64)> {
        let endpoints = sqlx::query_as::<Db, Endpoint>(
            "SELECT * FROM webhook_endpoints WHERE org_id = $1 ORDER BY id LIMIT $2 OFFSET $3",
        )
        .bind(org_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar("SELECT COUNT(*) FROM webhook_endpoints WHERE org_id = $1")
            .bind(org_id)
            .fetch_one(&self.readers)
            .await?;
        Ok((endpoints, total))
    }

    /// Changes an endpoint. One that is turned on begins anew: what waited for it is sent.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn change_endpoint(&self, org_id: i64, id: i64, change: EndpointChange, now: i64) -> Result<Endpoint> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = read(tx, org_id, id).await?.told();
                let endpoint = sqlx::query_as::<Db, Endpoint>(
                    "UPDATE webhook_endpoints SET url = COALESCE($3, url), description = COALESCE($4, description),
                         events = COALESCE($5, events), enabled = COALESCE($6, enabled),
                         disabled_reason = CASE WHEN $6 = 1 THEN NULL ELSE disabled_reason END,
                         failures = CASE WHEN $6 = 1 THEN 0 ELSE failures END,
                         failing_since = CASE WHEN $6 = 1 THEN NULL ELSE failing_since END
                     WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(change.url)
                .bind(change.description)
                .bind(change.events.map(|events| words(&events)))
                .bind(change.enabled.map(i64::from))
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                let entry = Entry { before, ..Entry::new("webhook.changed", "webhook", id, endpoint.told()) };
                audit::record(tx, org_id, entry, now).await?;
                if endpoint.enabled {
                    tx.changes.push(told(org_id, None));
                }
                Ok(endpoint)
            })
        })
        .await
    }

    /// Removes an endpoint with its secrets and deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_endpoint(&self, org_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = read(tx, org_id, id).await?.told();
                sqlx::query("DELETE FROM webhook_deliveries WHERE org_id = $1 AND endpoint_id = $2")
                    .bind(org_id)
                    .bind(id)
                    .execute(&mut tx.conn)
                    .await?;
                secrets::forget(tx, org_id, "webhook_endpoints", id).await?;
                sqlx::query("DELETE FROM webhook_endpoints WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(id)
                    .execute(&mut tx.conn)
                    .await?;
                let entry = Entry { before, ..Entry::new("webhook.deleted", "webhook", id, Value::Null) };
                audit::record(tx, org_id, entry, now).await
            })
        })
        .await
    }

    /// Gives an endpoint a new secret; the one before is signed with, too, until a time.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn rotate_endpoint(
        &self,
        org_id: i64,
        id: i64,
        new: Sealed,
        previous: Sealed,
        until: i64,
        now: i64,
    ) -> Result<Endpoint> {
        self.write(move |tx| {
            Box::pin(async move {
                let endpoint = sqlx::query_as::<Db, Endpoint>(
                    "UPDATE webhook_endpoints SET previous_until = $3 WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(until)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                secrets::put(tx, &new, now).await?;
                secrets::put(tx, &previous, now).await?;
                let after = json!({ "previous_secret_until": until });
                audit::record(tx, org_id, Entry::new("webhook.secret_rotated", "webhook", id, after), now).await?;
                Ok(endpoint)
            })
        })
        .await
    }

    /// Queues an event for one endpoint alone, such as a ping.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn send_to_endpoint(&self, org_id: i64, id: i64, event: &str, data: Value, now: i64) -> Result<Delivery> {
        let event = event.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let delivery = sqlx::query_as::<Db, Delivery>(
                    "INSERT INTO webhook_deliveries (org_id, endpoint_id, message_id, event, data, state, next_try_at,
                                                     created_at)
                     SELECT org_id, id, $3, $4, $5, 'pending', $6, $6 FROM webhook_endpoints
                     WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(format!("evt_{}_{id}_{now:x}", event.replace('.', "_")))
                .bind(event)
                .bind(data.to_string())
                .bind(now)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                tx.changes.push(told(org_id, None));
                Ok(delivery)
            })
        })
        .await
    }

    /// A page of deliveries to an endpoint, newest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn deliveries(
        &self,
        org_id: i64,
        endpoint_id: i64,
        state: Option<String>,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Delivery>, i64)> {
        let deliveries = sqlx::query_as::<Db, Delivery>(
            "SELECT * FROM webhook_deliveries
             WHERE org_id = $1 AND endpoint_id = $2 AND (CAST($3 AS TEXT) IS NULL OR state = $3)
             ORDER BY id DESC LIMIT $4 OFFSET $5",
        )
        .bind(org_id)
        .bind(endpoint_id)
        .bind(&state)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar(
            "SELECT COUNT(*) FROM webhook_deliveries
             WHERE org_id = $1 AND endpoint_id = $2 AND (CAST($3 AS TEXT) IS NULL OR state = $3)",
        )
        .bind(org_id)
        .bind(endpoint_id)
        .bind(&state)
        .fetch_one(&self.readers)
        .await?;
        Ok((deliveries, total))
    }

    /// One delivery to an endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn delivery(&self, org_id: i64, endpoint_id: i64, id: i64) -> Result<Delivery> {
        sqlx::query_as::<Db, Delivery>(
            "SELECT * FROM webhook_deliveries WHERE org_id = $1 AND endpoint_id = $2 AND id = $3",
        )
        .bind(org_id)
        .bind(endpoint_id)
        .bind(id)
        .fetch_optional(&self.quick)
        .await?
        .ok_or(Error::NotFound)
    }

    /// Sends a delivery again from its first try, with its own id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] where it is under way.
    pub async fn replay_delivery(&self, org_id: i64, endpoint_id: i64, id: i64, now: i64) -> Result<Delivery> {
        self.write(move |tx| {
            Box::pin(async move {
                let state: String = sqlx::query_scalar(
                    "SELECT state FROM webhook_deliveries WHERE org_id = $1 AND endpoint_id = $2 AND id = $3",
                )
                .bind(org_id)
                .bind(endpoint_id)
                .bind(id)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                // One that waits for its next try is tried now, and keeps its count.
                let replayed = sqlx::query_as::<Db, Delivery>(
                    "UPDATE webhook_deliveries SET state = 'pending', next_try_at = $2,
                         attempts = CASE WHEN state = 'pending' THEN attempts ELSE 0 END
                     WHERE id = $1 AND (state <> 'pending' OR claimed_by IS NULL) RETURNING *",
                )
                .bind(id)
                .bind(now)
                .fetch_optional(&mut tx.conn)
                .await?;
                let replayed = replayed
                    .ok_or_else(|| Error::Conflict(format!("This delivery is {state} and being tried now.")))?;
                tx.changes.push(told(org_id, replayed.run_id));
                Ok(replayed)
            })
        })
        .await
    }
}

async fn read(tx: &mut Tx, org_id: i64, id: i64) -> Result<Endpoint> {
    sqlx::query_as::<Db, Endpoint>("SELECT * FROM webhook_endpoints WHERE org_id = $1 AND id = $2")
        .bind(org_id)
        .bind(id)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or(Error::NotFound)
}

/// As [`crate::events::emit`] looks for them.
fn words(events: &[String]) -> String {
    if events.is_empty() { String::new() } else { format!(" {} ", events.join(" ")) }
}
