//! Log-ins of the web app: a random value, of which only the hash is kept, in place of a token until a time.

use sqlx::{FromRow, Row as _};

use crate::{
    Result, Store, Token, User,
    dialect::{Db, Row, Tx},
    members,
};

/// A session is marked as used at most once in this time, so that reading does not mean writing.
const SEEN_EACH_MS: i64 = 60_000;

/// A log-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Key.
    pub id: i64,
    /// Whose.
    pub user_id: i64,
    /// What it stands for.
    pub token_id: i64,
    /// How it was made: `token`, `password` or `oidc`.
    pub way: String,
    /// From where.
    pub address: String,
    /// By which browser, in its own words.
    pub agent: String,
    /// What the provider gave, for log-out there.
    pub id_token: Option<String>,
    /// When.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub seen_at: i64,
    /// Until when it counts, used or not.
    pub expires_at: i64,
}

/// A log-in to be made.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// What is kept of the cookie.
    pub hash: String,
    /// [`Session::user_id`].
    pub user_id: i64,
    /// Which token was shown; none where it was another way.
    pub token_id: Option<i64>,
    /// [`Session::way`].
    pub way: String,
    /// [`Session::address`].
    pub address: String,
    /// [`Session::agent`].
    pub agent: String,
    /// [`Session::id_token`].
    pub id_token: Option<String>,
    /// [`Session::expires_at`].
    pub expires_at: i64,
}

impl FromRow<'_, Row> for Session {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            token_id: row.try_get("token_id")?,
            way: row.try_get("way")?,
            address: row.try_get("address")?,
            agent: row.try_get("agent")?,
            id_token: row.try_get("id_token")?,
            created_at: row.try_get("created_at")?,
            seen_at: row.try_get("seen_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

impl Store {
    /// Adds a session; those that have expired are dropped.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_session(&self, new: NewSession, now: i64) -> Result<Session> {
        self.write(move |tx| Box::pin(async move { insert(tx, new, now).await })).await
    }

    /// The session with this hash, what it stands for and its user, unless it has expired or was not used for `idle_ms`.
    ///
    /// # Errors
    /// The database's.
    pub async fn session_by_hash(&self, hash: &str, now: i64, idle_ms: i64) -> Result<Option<(Session, Token, User)>> {
        let session = sqlx::query_as::<Db, Session>(
            "SELECT * FROM sessions WHERE hash = $1 AND expires_at > $2 AND seen_at > $3",
        )
        .bind(hash)
        .bind(now)
        .bind(now.saturating_sub(idle_ms))
        .fetch_optional(&self.quick)
        .await?;
        let Some(session) = session else { return Ok(None) };
        let token = sqlx::query_as::<Db, Token>(
            "SELECT * FROM tokens WHERE id = $1 AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(session.token_id)
        .bind(now)
        .fetch_optional(&self.quick)
        .await?;
        let Some(token) = token else { return Ok(None) };
        let user = self.user(session.user_id).await?;
        Ok(Some((session, token, user)))
    }

    /// Notes that a session is used.
    ///
    /// # Errors
    /// The database's.
    pub async fn session_seen(&self, session: &Session, now: i64) -> Result<()> {
        if now - session.seen_at < SEEN_EACH_MS {
            return Ok(());
        }
        let id = session.id;
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE sessions SET seen_at = $2 WHERE id = $1 AND seen_at < $2")
                    .bind(id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// A page of a user's sessions that count, newest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn sessions_of_user(
        &self,
        user_id: i64,
        now: i64,
        idle_ms: i64,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Session>, i64)> {
        let seen_after = now.saturating_sub(idle_ms);
        let sessions = sqlx::query_as::<Db, Session>(
            "SELECT * FROM sessions WHERE user_id = $1 AND expires_at > $2 AND seen_at > $3
             ORDER BY id DESC LIMIT $4 OFFSET $5",
        )
        .bind(user_id)
        .bind(now)
        .bind(seen_after)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total =
            sqlx::query_scalar("SELECT COUNT(*) FROM sessions WHERE user_id = $1 AND expires_at > $2 AND seen_at > $3")
                .bind(user_id)
                .bind(now)
                .bind(seen_after)
                .fetch_one(&self.readers)
                .await?;
        Ok((sessions, total))
    }

    /// Ends one session of a user; false where they have no such one.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_session(&self, user_id: i64, session_id: i64) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let ended = sqlx::query("DELETE FROM sessions WHERE id = $1 AND user_id = $2")
                    .bind(session_id)
                    .bind(user_id)
                    .execute(&mut tx.conn)
                    .await?;
                members::access_changed(tx, 0);
                Ok(ended.rows_affected() > 0)
            })
        })
        .await
    }

    /// Ends a user's sessions, but for the one that is to stay, and says how many.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_sessions(&self, user_id: i64, but: Option<i64>) -> Result<u64> {
        self.write(move |tx| Box::pin(async move { end_of_user(tx, user_id, but).await })).await
    }
}

/// Adds a session.
pub async fn insert(tx: &mut Tx, new: NewSession, now: i64) -> Result<Session> {
    sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(now).execute(&mut tx.conn).await?;
    let token_id = match new.token_id {
        Some(id) => id,
        // What a session without a token is counted and remembered by. No token has this for its hash.
        None => {
            sqlx::query_scalar(
                "INSERT INTO tokens (user_id, name, hash, created_at, of_logins) VALUES ($1, 'web app', $2, $3, 1)
                 ON CONFLICT (hash) DO UPDATE SET user_id = excluded.user_id RETURNING id",
            )
            .bind(new.user_id)
            .bind(format!("log-ins of user {}", new.user_id))
            .bind(now)
            .fetch_one(&mut tx.conn)
            .await?
        }
    };
    let session = sqlx::query_as::<Db, Session>(
        "INSERT INTO sessions (hash, user_id, token_id, way, address, agent, id_token, created_at, seen_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) RETURNING *",
    )
    .bind(new.hash)
    .bind(new.user_id)
    .bind(token_id)
    .bind(new.way)
    .bind(new.address)
    .bind(new.agent)
    .bind(new.id_token)
    .bind(now)
    .bind(new.expires_at)
    .fetch_one(&mut tx.conn)
    .await?;
    Ok(session)
}

/// Ends a user's sessions, but for one.
pub async fn end_of_user(tx: &mut Tx, user_id: i64, but: Option<i64>) -> Result<u64> {
    let ended = sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id <> $2")
        .bind(user_id)
        .bind(but.unwrap_or(0))
        .execute(&mut tx.conn)
        .await?;
    members::access_changed(tx, 0);
    Ok(ended.rows_affected())
}

/// Ends the sessions of a user who is a member of nothing any more.
pub async fn end_of_homeless(tx: &mut Tx, user_id: i64) -> Result<()> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM members WHERE user_id = $1)")
        .bind(user_id)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}
