//! What changes of an organization's members: roles, leaving, and service accounts, which are no people.

use serde_json::json;

use crate::{
    Change, ChangeKind, Error, Member, Org, Result, Role, Store, User,
    audit::{self, Entry},
    connections,
    dialect::{Db, Tx},
    orgs, sessions, tokens, users,
};

impl Store {
    /// Makes a further organization, with its first admin.
    ///
    /// # Errors
    /// The database's.
    pub async fn found_org(&self, name: &str, admin: i64, now: i64) -> Result<Org> {
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let org = orgs::insert(tx, &name, now).await?;
                join(tx, org.id, admin, Role::Admin, now).await?;
                Ok(org)
            })
        })
        .await
    }

    /// Changes a member's role.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] where it is the last admin's.
    pub async fn change_role(&self, org_id: i64, user_id: i64, role: Role, now: i64) -> Result<Member> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = member(tx, org_id, user_id).await?;
                if before.role == Role::Admin && role != Role::Admin {
                    spare_an_admin(tx, org_id, &before).await?;
                }
                users::set_role(tx, org_id, user_id, role).await?;
                let entry = Entry {
                    before: json!({ "role": before.role.as_str() }),
                    ..Entry::new("member.role_changed", "user", user_id, json!({ "role": role.as_str() }))
                };
                audit::record(tx, org_id, entry, now).await?;
                access_changed(tx, org_id);
                Ok(Member { role, ..before })
            })
        })
        .await
    }

    /// Takes a member out of an organization. A service account's tokens go with it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] where it is the last admin.
    pub async fn remove_member(&self, org_id: i64, user_id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = member(tx, org_id, user_id).await?;
                spare_an_admin(tx, org_id, &before).await?;
                let action = if before.user.service_org_id == Some(org_id) {
                    tokens::delete_of_user(tx, user_id).await?;
                    "service_account.removed"
                } else {
                    "member.removed"
                };
                sqlx::query("DELETE FROM members WHERE org_id = $1 AND user_id = $2")
                    .bind(org_id)
                    .bind(user_id)
                    .execute(&mut tx.conn)
                    .await?;
                connections::forget(tx, org_id, user_id, None).await?;
                let was = json!({ "name": before.user.github_username, "role": before.role.as_str() });
                let entry = Entry { before: was, ..Entry::new(action, "user", user_id, json!(null)) };
                audit::record(tx, org_id, entry, now).await?;
                sessions::end_of_homeless(tx, user_id).await?;
                access_changed(tx, org_id);
                Ok(())
            })
        })
        .await
    }

    /// Makes a service account; `key` tells it from all others.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_service_account(
        &self,
        org_id: i64,
        key: &str,
        name: &str,
        role: Role,
        now: i64,
    ) -> Result<Member> {
        let (key, name) = (key.to_owned(), name.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let user = sqlx::query_as::<Db, User>(
                    "INSERT INTO users (github_user_id, github_username, full_name, service_org_id, created_at)
                     VALUES ($1, $2, $2, $3, $4) RETURNING *",
                )
                .bind(key)
                .bind(&name)
                .bind(org_id)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                insert(tx, org_id, user.id, role).await?;
                let after = json!({ "name": name, "role": role.as_str() });
                audit::record(tx, org_id, Entry::new("service_account.created", "user", user.id, after), now).await?;
                Ok(Member { user, role })
            })
        })
        .await
    }

    /// A page of an organization's service accounts, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn service_accounts(&self, org_id: i64, skip: i64, limit: i64) -> Result<(Vec<Member>, i64)> {
        let accounts = sqlx::query_as::<Db, Member>(
            "SELECT users.*, members.role FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND users.service_org_id = $1 ORDER BY users.id LIMIT $2 OFFSET $3",
        )
        .bind(org_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND users.service_org_id = $1",
        )
        .bind(org_id)
        .fetch_one(&self.readers)
        .await?;
        Ok((accounts, total))
    }

    /// One service account.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's, or a person.
    pub async fn service_account(&self, org_id: i64, user_id: i64) -> Result<Member> {
        let member = self.org_member(org_id, user_id).await?;
        member.filter(|member| member.user.service_org_id == Some(org_id)).ok_or(Error::NotFound)
    }
}

/// Tells everyone that watches that someone may do less than before.
pub fn access_changed(tx: &mut Tx, org_id: i64) {
    tx.changes.push(Change { org_id, run_id: 0, kind: ChangeKind::AccessChanged });
}

/// Makes a user a member, with the entry.
pub async fn join(tx: &mut Tx, org_id: i64, user_id: i64, role: Role, now: i64) -> Result<User> {
    insert(tx, org_id, user_id, role).await?;
    let user =
        sqlx::query_as::<Db, User>("SELECT * FROM users WHERE id = $1").bind(user_id).fetch_one(&mut tx.conn).await?;
    let after = json!({ "name": user.github_username, "role": role.as_str() });
    audit::record(tx, org_id, Entry::new("member.added", "user", user_id, after), now).await?;
    Ok(user)
}

async fn insert(tx: &mut Tx, org_id: i64, user_id: i64, role: Role) -> Result<()> {
    sqlx::query("INSERT INTO members (org_id, user_id, role) VALUES ($1, $2, $3)")
        .bind(org_id)
        .bind(user_id)
        .bind(role.as_str())
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// A member, as the change finds them.
pub async fn member(tx: &mut Tx, org_id: i64, user_id: i64) -> Result<Member> {
    sqlx::query_as::<Db, Member>(
        "SELECT users.*, members.role FROM users JOIN members ON members.user_id = users.id
         WHERE members.org_id = $1 AND members.user_id = $2",
    )
    .bind(org_id)
    .bind(user_id)
    .fetch_optional(&mut tx.conn)
    .await?
    .ok_or(Error::NotFound)
}

/// Refuses where this is the only person who is an admin. A service account does not count: nobody logs in as one.
async fn spare_an_admin(tx: &mut Tx, org_id: i64, member: &Member) -> Result<()> {
    let counts = member.role == Role::Admin && member.user.service_org_id.is_none();
    if counts && users::admins(tx, org_id).await? <= 1 {
        let sentence = "This is the organization's last admin; make someone else one first.";
        return Err(Error::Conflict(sentence.to_owned()));
    }
    Ok(())
}
