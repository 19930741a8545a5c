//! Addresses of repositories. What a person gave with a password is kept encrypted as a whole; a repository's row holds
//! what may be shown.

use anyhow::{Context, Result};
use codegen_store::{NewRepo, Place, Repo};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::info;

use crate::{App, forge::git};

fn place(org_id: i64, repo_id: i64) -> Place {
    Place::new(org_id, "repos", repo_id, "origin")
}

impl App {
    /// Adds a repository, or finds the one with this address; a password in the address is the one that is used from now on.
    ///
    /// # Errors
    /// The store's.
    pub async fn add_repo(&self, org_id: i64, origin: &SecretString, default_branch: Option<&str>) -> Result<Repo> {
        let shown = git::without_credentials(origin.expose_secret());
        let repo = self.store.create_repo(org_id, NewRepo::of_origin(&shown, default_branch), self.now()).await?;
        if shown != origin.expose_secret() {
            self.put_secret(place(org_id, repo.id), origin).await?;
        }
        Ok(repo)
    }

    /// The address that a repository is fetched from and pushed to.
    ///
    /// # Errors
    /// When its password cannot be read; a sentence.
    pub async fn origin(&self, repo: &Repo) -> Result<SecretString> {
        let whole = self.secret(&place(repo.org_id, repo.id)).await?;
        Ok(whole.unwrap_or_else(|| repo.origin.clone().into()))
    }

    /// Encrypts the passwords that an earlier version left in the rows of repositories.
    pub(crate) async fn seal_origins(&self) -> Result<()> {
        let mut moved = false;
        for (org_id, repo_id, origin) in self.store.origins_with_users().await.context("looking for passwords")? {
            let shown = git::without_credentials(&origin);
            if shown == origin {
                continue;
            }
            let sealed = self.keys.seal(place(org_id, repo_id), &origin.into())?;
            self.store.seal_origin(sealed, &shown, self.now()).await.context("encrypting an origin's password")?;
            info!(org.id = org_id, repo.id = repo_id, "the password of {shown} is encrypted now");
            moved = true;
        }
        if moved {
            // What a row held before stays in the file until its page is written anew.
            self.store.rebuild().await.context("writing the database without the passwords")?;
        }
        Ok(())
    }
}
