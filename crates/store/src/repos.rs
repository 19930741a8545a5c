//! Repositories of an organization.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    members,
    row::flag,
    runs,
};

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// Last part of the full name.
    pub name: String,
    /// `owner/name`, or what comes nearest.
    pub full_name: String,
    /// For people.
    pub description: Option<String>,
    /// Path or URL; unique in the organization.
    pub origin: String,
    /// Branch to start from, when known.
    pub default_branch: Option<String>,
    /// The contract's word.
    pub setup_status: String,
    /// Run at the start of each run, one shell.
    pub setup_commands: String,
    /// Main language.
    pub language: Option<String>,
    /// `public`, `private`.
    pub visibility: Option<String>,
    /// No work here any more.
    pub archived: bool,
    /// When.
    pub created_at: i64,
}

/// A repository to be added.
#[derive(Debug, Clone, Default)]
pub struct NewRepo {
    /// [`Repo::name`].
    pub name: String,
    /// [`Repo::full_name`].
    pub full_name: String,
    /// [`Repo::description`].
    pub description: Option<String>,
    /// [`Repo::origin`].
    pub origin: String,
    /// [`Repo::default_branch`].
    pub default_branch: Option<String>,
    /// [`Repo::language`].
    pub language: Option<String>,
    /// [`Repo::visibility`].
    pub visibility: Option<String>,
}

impl NewRepo {
    /// A repository named after the end of its path or URL.
    #[must_use]
    pub fn of_origin(origin: &str, default_branch: Option<&str>) -> Self {
        let plain = origin.trim_end_matches('/').trim_end_matches("/.git");
        let plain = plain.strip_suffix(".git").unwrap_or(plain);
        // A URL's path begins after its host: `https://host/a/b`, `ssh://host/a/b`, `git@host:a/b`.
        let path = match plain.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, path)| path),
            None if plain.starts_with(['/', '.']) => plain,
            None => plain.split_once(':').map_or(plain, |(_, path)| path),
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let name = parts.last().map_or("repository", |part| part).to_owned();
        let full_name = match parts.as_slice() {
            [.., owner, name] => format!("{owner}/{name}"),
            _ => name.clone(),
        };
        Self {
            name,
            full_name,
            origin: origin.to_owned(),
            default_branch: default_branch.map(str::to_owned),
            ..Self::default()
        }
    }
}

impl FromRow<'_, Row> for Repo {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            name: row.try_get("name")?,
            full_name: row.try_get("full_name")?,
            description: row.try_get("description")?,
            origin: row.try_get("origin")?,
            default_branch: row.try_get("default_branch")?,
            setup_status: row.try_get("setup_status")?,
            setup_commands: row.try_get("setup_commands")?,
            language: row.try_get("language")?,
            visibility: row.try_get("visibility")?,
            archived: flag(row, "archived")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Store {
    /// Adds a repository; one with the same origin is returned as it is.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_repo(&self, org_id: i64, new: NewRepo, now: i64) -> Result<Repo> {
        self.write(move |tx| {
            Box::pin(async move {
                let added = sqlx::query_as::<Db, Repo>(
                    "INSERT INTO repos (org_id, name, full_name, description, origin, default_branch, setup_status,
                                        language, visibility, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, 'NOT_STARTED', $7, $8, $9)
                     ON CONFLICT (org_id, origin) DO NOTHING RETURNING *",
                )
                .bind(org_id)
                .bind(new.name)
                .bind(new.full_name)
                .bind(new.description)
                .bind(&new.origin)
                .bind(new.default_branch)
                .bind(new.language)
                .bind(new.visibility)
                .bind(now)
                .fetch_optional(&mut tx.conn)
                .await?;
                if let Some(repo) = added {
                    let entry = Entry::new("repository.added", "repo", repo.id, json!({ "full_name": repo.full_name }));
                    audit::record(tx, org_id, entry, now).await?;
                    return Ok(repo);
                }
                audit::nothing_changed();
                let there = sqlx::query_as::<Db, Repo>("SELECT * FROM repos WHERE org_id = $1 AND origin = $2")
                    .bind(org_id)
                    .bind(new.origin)
                    .fetch_one(&mut tx.conn)
                    .await?;
                Ok(there)
            })
        })
        .await
    }

    /// One repository.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's or was deleted.
    pub async fn repo(&self, org_id: i64, id: i64) -> Result<Repo> {
        sqlx::query_as::<Db, Repo>("SELECT * FROM repos WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// What a repository is or was called, also when it was deleted: its runs name it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn repo_name(&self, org_id: i64, id: i64) -> Result<String> {
        sqlx::query_scalar("SELECT full_name FROM repos WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// A page of an organization's repositories, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn repos(&self, org_id: i64, skip: i64, limit: i64) -> Result<(Vec<Repo>, i64)> {
        let repos = sqlx::query_as::<Db, Repo>(
            "SELECT * FROM repos WHERE org_id = $1 AND deleted_at IS NULL ORDER BY id LIMIT $2 OFFSET $3",
        )
        .bind(org_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar("SELECT COUNT(*) FROM repos WHERE org_id = $1 AND deleted_at IS NULL")
            .bind(org_id)
            .fetch_one(&self.readers)
            .await?;
        Ok((repos, total))
    }

    /// Changes a repository's settings.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn change_repo(&self, org_id: i64, id: i64, change: RepoChange, now: i64) -> Result<Repo> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = living(tx, org_id, id).await?;
                let after = sqlx::query_as::<Db, Repo>(
                    "UPDATE repos SET name = COALESCE($3, name), description = COALESCE($4, description),
                         default_branch = COALESCE($5, default_branch), archived = COALESCE($6, archived)
                     WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(change.name)
                .bind(change.description)
                .bind(change.default_branch)
                .bind(change.archived.map(i64::from))
                .fetch_one(&mut tx.conn)
                .await?;
                let entry =
                    Entry { before: before.told(), ..Entry::new("repository.updated", "repo", id, after.told()) };
                audit::record(tx, org_id, entry, now).await?;
                Ok(after)
            })
        })
        .await
    }

    /// Deletes a repository: its setup commands go, its runs end but stay to be looked at, and its address is free again.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_repo(&self, org_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = living(tx, org_id, id).await?;
                sqlx::query(
                    "UPDATE repos SET deleted_at = $3, setup_commands = '', origin = 'deleted:' || CAST(id AS TEXT)
                     WHERE org_id = $1 AND id = $2",
                )
                .bind(org_id)
                .bind(id)
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
                for sql in [
                    "DELETE FROM secrets WHERE org_id = $1 AND table_name = 'repos' AND row_id = $2",
                    "DELETE FROM rules WHERE org_id = $1 AND repo_id = $2",
                ] {
                    sqlx::query(sql).bind(org_id).bind(id).execute(&mut tx.conn).await?;
                }
                let live: Vec<i64> =
                    sqlx::query_scalar("SELECT id FROM runs WHERE org_id = $1 AND repo_id = $2 AND phase <> 'done'")
                        .bind(org_id)
                        .bind(id)
                        .fetch_all(&mut tx.conn)
                        .await?;
                for run_id in live {
                    runs::request_stop(tx, org_id, run_id, now).await?;
                }
                let entry =
                    Entry { before: before.told(), ..Entry::new("repository.deleted", "repo", id, json!(null)) };
                audit::record(tx, org_id, entry, now).await?;
                // Its mirror can go.
                members::access_changed(tx, org_id);
                Ok(())
            })
        })
        .await
    }

    /// Sets the commands that prepare a sandbox for this repository.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_setup_commands(&self, org_id: i64, id: i64, commands: &str) -> Result<Repo> {
        self.update_repo(
            "UPDATE repos SET setup_commands = $3 WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *",
            org_id,
            id,
            commands,
        )
        .await
    }

    /// Sets the contract's word for how far set-up is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_repo_setup_status(&self, org_id: i64, id: i64, status: &str) -> Result<Repo> {
        self.update_repo(
            "UPDATE repos SET setup_status = $3 WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *",
            org_id,
            id,
            status,
        )
        .await
    }

    /// Sets the branch that runs start from.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_default_branch(&self, org_id: i64, id: i64, branch: &str) -> Result<Repo> {
        self.update_repo(
            "UPDATE repos SET default_branch = $3 WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *",
            org_id,
            id,
            branch,
        )
        .await
    }

    async fn update_repo(&self, sql: &'static str, org_id: i64, id: i64, value: &str) -> Result<Repo> {
        let value = value.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query_as::<Db, Repo>(sql)
                    .bind(org_id)
                    .bind(id)
                    .bind(value)
                    .fetch_optional(&mut tx.conn)
                    .await?
                    .ok_or(Error::NotFound)
            })
        })
        .await
    }
}

/// A repository that was not deleted, as the change finds it.
async fn living(tx: &mut Tx, org_id: i64, id: i64) -> Result<Repo> {
    sqlx::query_as::<Db, Repo>("SELECT * FROM repos WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(org_id)
        .bind(id)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or(Error::NotFound)
}

/// What to change of a repository; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct RepoChange {
    /// [`Repo::name`].
    pub name: Option<String>,
    /// [`Repo::description`].
    pub description: Option<String>,
    /// [`Repo::default_branch`].
    pub default_branch: Option<String>,
    /// [`Repo::archived`].
    pub archived: Option<bool>,
}

impl Repo {
    /// As the audit log has it. An origin can hold a password, setup commands anything.
    fn told(&self) -> Value {
        json!({
            "name": self.name,
            "full_name": self.full_name,
            "description": self.description,
            "default_branch": self.default_branch,
            "archived": self.archived,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_after_its_origin() {
        for (origin, full_name, name) in [
            ("https://github.com/acme/shop.git", "acme/shop", "shop"),
            ("git@github.com:acme/shop.git", "acme/shop", "shop"),
            ("ssh://git@host:22/acme/shop", "acme/shop", "shop"),
            ("/srv/git/shop/.git", "git/shop", "shop"),
            ("/shop/", "shop", "shop"),
            ("file:///srv/shop.git", "srv/shop", "shop"),
            ("https://host", "host", "host"),
            ("/", "repository", "repository"),
        ] {
            let repo = NewRepo::of_origin(origin, None);
            assert_eq!((repo.full_name.as_str(), repo.name.as_str()), (full_name, name), "{origin}");
        }
    }
}
