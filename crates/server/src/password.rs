//! Passwords: argon2id with 19 MiB of memory, 2 passes and 1 lane, a salt of 16 bytes, kept with these parameters.

use anyhow::{Result, anyhow};
use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::SaltString,
};
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Semaphore, task::spawn_blocking};

const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Fewest characters.
const SHORTEST: usize = 12;
/// Most characters.
const LONGEST: usize = 256;

/// Hashes passwords, no more at once than there are processors: each takes one of them, and memory.
pub struct Hasher(Semaphore);

impl Default for Hasher {
    fn default() -> Self {
        Self(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)))
    }
}

impl Hasher {
    /// What is kept of a password.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub async fn hash(&self, password: SecretString) -> Result<String> {
        let _permit = self.0.acquire().await?;
        spawn_blocking(move || hash(&password)).await?
    }

    /// Whether this is the password of the hash. Without a hash it is not, which takes as long to say.
    ///
    /// # Errors
    /// When the hash is unreadable or there is no memory for it.
    pub async fn verify(&self, password: SecretString, hash: Option<String>) -> Result<bool> {
        let _permit = self.0.acquire().await?;
        spawn_blocking(move || match hash {
            Some(hash) => {
                let hash = PasswordHash::new(&hash).map_err(|error| anyhow!("reading a password's hash: {error}"))?;
                match argon2()?.verify_password(password.expose_secret().as_bytes(), &hash) {
                    Ok(()) => Ok(true),
                    Err(argon2::password_hash::Error::Password) => Ok(false),
                    Err(error) => Err(anyhow!("comparing a password: {error}")),
                }
            }
            None => {
                self::hash(&password)?;
                Ok(false)
            }
        })
        .await?
    }
}

/// What is kept of a password.
///
/// # Errors
/// When there is no memory for it.
pub fn hash(password: &SecretString) -> Result<String> {
    let salt: [u8; 16] = rand::rng().random();
    let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow!("making a salt: {error}"))?;
    let hash = argon2()?.hash_password(password.expose_secret().as_bytes(), &salt);
    Ok(hash.map_err(|error| anyhow!("hashing a password: {error}"))?.to_string())
}

/// Why this cannot be a password, in a sentence.
pub fn refuse(password: &str) -> Option<String> {
    let length = password.chars().count();
    if (SHORTEST..=LONGEST).contains(&length) && !password.contains('\0') {
        return None;
    }
    Some(format!("A password has {SHORTEST} to {LONGEST} characters."))
}

fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| anyhow!("argon2: {error}"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_names_its_parameters_and_knows_its_password_only() {
        let hasher = Hasher::default();
        let hash = hasher.hash("correct horse battery".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hasher.hash("correct horse battery".into()).await.unwrap());
        assert!(hasher.verify("correct horse battery".into(), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify("correct horse batterY".into(), Some(hash)).await.unwrap());
        assert!(!hasher.verify("correct horse battery".into(), None).await.unwrap());
    }

    #[test]
    fn a_password_has_twelve_characters_at_least() {
        assert!(refuse("elevenchars").is_some() && refuse("ümlautsümlau").is_none());
        assert!(refuse(&"x".repeat(256)).is_none() && refuse(&"x".repeat(257)).is_some());
    }
}
