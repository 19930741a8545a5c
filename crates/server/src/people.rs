//! `codegen user`: what an operator does about people on the server's own machine, with the server up or not.

use anyhow::{Context as _, Result, bail};
use codegen_store::{Error as StoreError, Store, User};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{config::Config, password};

/// Sets the password of the user with this name, e-mail address or id, and ends their log-ins.
///
/// # Errors
/// A sentence where there is no such user, or no such password.
pub async fn set_password(config: &Config, name: &str, password: &SecretString) -> Result<User> {
    if let Some(sentence) = password::refuse(password.expose_secret()) {
        bail!(sentence);
    }
    let store = match &config.database_url {
        Some(url) => Store::connect(url.expose_secret(), None).await?,
        None => match Store::open(&config.data_dir).await {
            Ok(store) => store,
            Err(StoreError::Locked(_)) => Store::open_beside(&config.data_dir).await?,
            Err(error) => return Err(error.into()),
        },
    };
    let done = async {
        let user = find(&store, name).await?;
        let now = jiff::Timestamp::now().as_millisecond();
        store.set_password(user.id, &password::hash(password)?, now).await.context("setting the password")?;
        Ok(user)
    };
    let done = done.await;
    store.close().await;
    done
}

async fn find(store: &Store, name: &str) -> Result<User> {
    if let Ok(id) = name.parse() {
        return store.user(id).await.with_context(|| format!("there is no user with the id {id}"));
    }
    let mut users = store.users_by_name(name).await?;
    match (users.pop(), users.is_empty()) {
        (Some(user), true) => Ok(user),
        (Some(last), false) => {
            let ids: Vec<String> = users.iter().chain([&last]).map(|user| user.id.to_string()).collect();
            bail!("several users are called {name}: give an id instead ({})", ids.join(", "))
        }
        (None, _) => bail!("there is no user called {name}"),
    }
}
