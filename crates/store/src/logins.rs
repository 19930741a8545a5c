//! How people prove who they are: passwords, identities at an OpenID provider, and how often they may try.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, NewSession, NewUser, Result, Role, Session, Store, User,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    sessions, users,
};

/// A user who has a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// Whose.
    pub user: User,
    /// As argon2id, with parameters and salt.
    pub hash: String,
    /// When it was set.
    pub changed_at: i64,
}

impl FromRow<'_, Row> for Password {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { user: User::from_row(row)?, hash: row.try_get("hash")?, changed_at: row.try_get("changed_at")? })
    }
}

/// How many log-ins may fail within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptLimits {
    /// Milliseconds that are looked back upon.
    pub within_ms: i64,
    /// From one address.
    pub per_address: i64,
    /// For one account.
    pub per_account: i64,
}

/// Whether a log-in may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It may, and counts as failed until [`Store::attempt_succeeded`].
    Counted(i64),
    /// Too many have failed; milliseconds to wait.
    TooMany(i64),
}

/// Who a provider says that somebody is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Address of the provider.
    pub issuer: String,
    /// Their id there.
    pub subject: String,
    /// What is known of them; its `github_user_id` is used where they are new.
    pub user: NewUser,
    /// The organization they become a member of.
    pub org_id: i64,
    /// What the provider's groups say about them.
    pub role: GivenRole,
}

/// What groups say about a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenRole {
    /// They have no say: new members get this role, that of others stays.
    AtFirst(Role),
    /// They decide at each log-in.
    Always(Role),
    /// They decide that this is no member.
    None,
}

/// What came of a log-in at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is made for a log-in, and moved once")]
pub enum Entered {
    /// A session.
    In(User, Session),
    /// In no group that lets them in. If they were a member they are none any more, unless they are the last admin.
    NoRole,
}

const BY_NAME: &str = "SELECT users.*, passwords.hash, passwords.changed_at FROM passwords
    JOIN users ON users.id = passwords.user_id
    WHERE users.github_username = $1 OR users.email = $1 OR LOWER(users.github_username) = $2 OR LOWER(users.email) = $2
    ORDER BY users.id LIMIT 2";

impl Store {
    /// The user with a password who has this name or e-mail address; none where several have.
    ///
    /// # Errors
    /// The database's.
    pub async fn password_by_name(&self, name: &str) -> Result<Option<Password>> {
        let mut found = sqlx::query_as::<Db, Password>(BY_NAME)
            .bind(name)
            .bind(name.to_lowercase())
            .fetch_all(&self.readers)
            .await?;
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// A user's password, if they have one.
    ///
    /// # Errors
    /// The database's.
    pub async fn password(&self, user_id: i64) -> Result<Option<Password>> {
        let found = sqlx::query_as::<Db, Password>(
            "SELECT users.*, passwords.hash, passwords.changed_at FROM passwords
             JOIN users ON users.id = passwords.user_id WHERE users.id = $1",
        )
        .bind(user_id)
        .fetch_optional(&self.quick)
        .await?;
        Ok(found)
    }

    /// Whether anybody has a password.
    ///
    /// # Errors
    /// The database's.
    pub async fn any_password(&self) -> Result<bool> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT user_id FROM passwords LIMIT 1").fetch_optional(&self.quick).await?;
        Ok(found.is_some())
    }

    /// The users with this name or e-mail address, at most a few.
    ///
    /// # Errors
    /// The database's.
    pub async fn users_by_name(&self, name: &str) -> Result<Vec<User>> {
        let users = sqlx::query_as::<Db, User>(
            "SELECT * FROM users WHERE github_username = $1 OR email = $1
             OR LOWER(github_username) = $2 OR LOWER(email) = $2 ORDER BY id LIMIT 10",
        )
        .bind(name)
        .bind(name.to_lowercase())
        .fetch_all(&self.readers)
        .await?;
        Ok(users)
    }

    /// Sets a user's password and ends their sessions.
    ///
    /// # Errors
    /// [`Error::Conflict`] where somebody else who has a password has the same name or e-mail address.
    pub async fn set_password(&self, user_id: i64, hash: &str, now: i64) -> Result<()> {
        let hash = hash.to_owned();
        self.write(move |tx| Box::pin(async move { set_password(tx, user_id, &hash, now).await })).await
    }

    /// Sets a user's password where it is still the one that was shown, ends their sessions, and begins a new one.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it was changed meanwhile.
    pub async fn change_password(&self, before: &str, hash: &str, new: NewSession, now: i64) -> Result<Session> {
        let (before, hash) = (before.to_owned(), hash.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let still = sqlx::query_scalar::<_, String>("SELECT hash FROM passwords WHERE user_id = $1")
                    .bind(new.user_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                if still.as_deref() != Some(&*before) {
                    return Err(Error::Conflict("The password was changed meanwhile.".to_owned()));
                }
                set_password(tx, new.user_id, &hash, now).await?;
                sessions::insert(tx, new, now).await
            })
        })
        .await
    }

    /// Counts a log-in that is about to be tried, unless too many have failed.
    ///
    /// # Errors
    /// The database's.
    pub async fn attempt(&self, address: &str, account: &str, limits: AttemptLimits, now: i64) -> Result<Attempt> {
        let (address, account) = (address.to_owned(), account.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                audit::nothing_changed();
                let since = now - limits.within_ms;
                sqlx::query("DELETE FROM login_attempts WHERE at <= $1").bind(since).execute(&mut tx.conn).await?;
                // The one whose end makes room again.
                let address_full: Option<i64> = sqlx::query_scalar(
                    "SELECT at FROM login_attempts WHERE address = $1 ORDER BY at DESC LIMIT 1 OFFSET $2",
                )
                .bind(&address)
                .bind(limits.per_address - 1)
                .fetch_optional(&mut tx.conn)
                .await?;
                let account_full: Option<i64> = sqlx::query_scalar(
                    "SELECT at FROM login_attempts WHERE account = $1 ORDER BY at DESC LIMIT 1 OFFSET $2",
                )
                .bind(&account)
                .bind(limits.per_account - 1)
                .fetch_optional(&mut tx.conn)
                .await?;
                if let Some(at) = address_full.max(account_full) {
                    return Ok(Attempt::TooMany((at - since).max(1)));
                }
                let id = sqlx::query_scalar(
                    "INSERT INTO login_attempts (address, account, at) VALUES ($1, $2, $3) RETURNING id",
                )
                .bind(address)
                .bind(account)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                Ok(Attempt::Counted(id))
            })
        })
        .await
    }

    /// Forgets a log-in that did not fail, and that others failed for its account: its owner is there. What failed from
    /// the address stays counted, else who has one account could try all others from there.
    ///
    /// # Errors
    /// The database's.
    pub async fn attempt_succeeded(&self, id: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                audit::nothing_changed();
                let account: Option<String> =
                    sqlx::query_scalar("DELETE FROM login_attempts WHERE id = $1 RETURNING account")
                        .bind(id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                sqlx::query("UPDATE login_attempts SET account = '' WHERE account = $1")
                    .bind(account)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Lets somebody in whom a provider knows: makes them a user where they are new, gives them their role, and begins a
    /// session. The last admin of an organization stays one.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such organization.
    pub async fn enter(&self, identity: Identity, session: NewSession, now: i64) -> Result<Entered> {
        self.write(move |tx| Box::pin(async move { enter(tx, identity, session, now).await })).await
    }
}

async fn set_password(tx: &mut Tx, user_id: i64, hash: &str, now: i64) -> Result<()> {
    let user = sqlx::query_as::<Db, User>("SELECT * FROM users WHERE id = $1")
        .bind(user_id)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or(Error::NotFound)?;
    if user.service_org_id.is_some() {
        return Err(Error::Conflict("A service account logs in by token only.".to_owned()));
    }
    for name in [Some(&user.github_username), user.email.as_ref()].into_iter().flatten() {
        let same = sqlx::query_as::<Db, Password>(BY_NAME)
            .bind(name)
            .bind(name.to_lowercase())
            .fetch_all(&mut tx.conn)
            .await?;
        if same.iter().any(|other| other.user.id != user_id) {
            return Err(Error::Conflict(format!("Somebody else who has a password is called {name} too.")));
        }
    }
    sqlx::query(
        "INSERT INTO passwords (user_id, hash, changed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at",
    )
    .bind(user_id)
    .bind(hash)
    .bind(now)
    .execute(&mut tx.conn)
    .await?;
    sessions::end_of_user(tx, user_id, None).await?;
    let entry = Entry::new("user.password_changed", "user", user_id, Value::Null);
    audit::record_of_user(tx, user_id, entry, now).await
}

async fn enter(tx: &mut Tx, identity: Identity, mut session: NewSession, now: i64) -> Result<Entered> {
    let org: Option<i64> = sqlx::query_scalar("SELECT id FROM orgs WHERE id = $1")
        .bind(identity.org_id)
        .fetch_optional(&mut tx.conn)
        .await?;
    org.ok_or(Error::NotFound)?;
    let known = sqlx::query_as::<Db, User>(
        "SELECT users.* FROM identities JOIN users ON users.id = identities.user_id
         WHERE identities.issuer = $1 AND identities.subject = $2",
    )
    .bind(&identity.issuer)
    .bind(&identity.subject)
    .fetch_optional(&mut tx.conn)
    .await?;
    let user = match (known, identity.role) {
        (Some(user), role) => {
            let user = sqlx::query_as::<Db, User>(
                "UPDATE users SET email = COALESCE($2, email), full_name = COALESCE($3, full_name),
                 avatar_url = COALESCE($4, avatar_url) WHERE id = $1 RETURNING *",
            )
            .bind(user.id)
            .bind(&identity.user.email)
            .bind(&identity.user.full_name)
            .bind(&identity.user.avatar_url)
            .fetch_one(&mut tx.conn)
            .await?;
            match role {
                GivenRole::Always(role) => {
                    // The one that the user was made with.
                    let github_user_id = user.github_user_id.clone();
                    users::insert(tx, identity.org_id, NewUser { github_user_id, ..identity.user }, role, now).await?
                }
                // Whom an admin has removed does not come back by logging in.
                GivenRole::AtFirst(_) => user,
                GivenRole::None => {
                    if !leaves(tx, identity.org_id, user.id, now).await? {
                        return Ok(Entered::NoRole);
                    }
                    user
                }
            }
        }
        (None, GivenRole::None) => return Ok(Entered::NoRole),
        (None, GivenRole::AtFirst(role) | GivenRole::Always(role)) => {
            let user = users::insert(tx, identity.org_id, identity.user, role, now).await?;
            sqlx::query("INSERT INTO identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)")
                .bind(identity.issuer)
                .bind(identity.subject)
                .bind(user.id)
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
            user
        }
    };
    session.user_id = user.id;
    let session = sessions::insert(tx, session, now).await?;
    Ok(Entered::In(user, session))
}

/// Takes a user out of an organization and ends their sessions; true where they stay, as its last admin.
async fn leaves(tx: &mut Tx, org_id: i64, user_id: i64, now: i64) -> Result<bool> {
    let role: Option<String> = sqlx::query_scalar("SELECT role FROM members WHERE org_id = $1 AND user_id = $2")
        .bind(org_id)
        .bind(user_id)
        .fetch_optional(&mut tx.conn)
        .await?;
    if role.as_deref() == Some(Role::Admin.as_str()) && users::admins(tx, org_id).await? < 2 {
        return Ok(true);
    }
    if let Some(role) = role {
        sqlx::query("DELETE FROM members WHERE org_id = $1 AND user_id = $2")
            .bind(org_id)
            .bind(user_id)
            .execute(&mut tx.conn)
            .await?;
        let entry =
            Entry { before: json!({ "role": role }), ..Entry::new("member.removed", "user", user_id, Value::Null) };
        audit::record(tx, org_id, entry, now).await?;
    }
    sessions::end_of_user(tx, user_id, None).await?;
    Ok(false)
}
