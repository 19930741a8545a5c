//! Secrets at rest: XChaCha20-Poly1305 under a key that the database does not hold. Each ciphertext carries the id of its
//! key and is bound to its place, so that it cannot be moved to another row or organization.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use codegen_store::{Place, Sealed};
use hmac::{Hmac, Mac as _};
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tracing::{error, info};

use crate::App;

/// The file of keys in a data directory.
pub const FILE: &str = "secret.key";
const FORMAT: &str = "v1";
const NONCE: usize = 24;

/// The keys of secrets. The first encrypts, all decrypt.
pub struct Keys(Vec<Key>);

struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
    /// For proofs, apart from the cipher.
    proofs: [u8; 32],
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its key is not here.
    #[error(
        "a secret was encrypted with the key {0}, which is not here: put that key's line back into {FILE} of the data \
         directory (or CODEGEN_SECRET_KEY), or enter the secret anew"
    )]
    NoKey(String),
    /// It is not what was written, or not where it was written.
    #[error("an encrypted secret is damaged or was moved: enter it anew")]
    Damaged,
}

impl Keys {
    /// The keys of the settings, else those of the data directory's file, which is made where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn open(data_dir: &Path, set: Option<&SecretString>) -> Result<Self> {
        if let Some(set) = set {
            return Self::parse(set.expose_secret()).context("reading the setting secret_key");
        }
        let path = data_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!("{}\n", new_key());
                write(data_dir, &text)?;
                text
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Self::parse(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Reads keys, one a line or separated by commas.
    ///
    /// # Errors
    /// A sentence that does not repeat them.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (n, line) in text.split([',', '\n']).map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            let bytes = STANDARD.decode(line).ok().filter(|bytes| bytes.len() == 32);
            let Some(bytes) = bytes else {
                bail!("key {} is not 32 bytes in base64 (make one with `openssl rand -base64 32`)", n + 1)
            };
            let id = Sha256::digest(&bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let cipher = XChaCha20Poly1305::new_from_slice(&bytes).context("taking a key")?;
            let proofs = mac(&bytes, b"codegen: proofs between processes").finalize().into_bytes().into();
            keys.push(Key { id, cipher, proofs });
        }
        if keys.is_empty() {
            bail!("there is no key in it");
        }
        Ok(Self(keys))
    }

    /// Encrypts a secret for its place.
    ///
    /// # Errors
    /// When it is longer than a cipher takes.
    pub fn seal(&self, place: Place, secret: &SecretString) -> Result<Sealed> {
        let Some(key) = self.0.first() else { bail!("there is no key to encrypt with") };
        let mut nonce = [0; NONCE];
        rand::rng().fill(&mut nonce);
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: &associated(&place) };
        let Ok(encrypted) = key.cipher.encrypt(&XNonce::from(nonce), payload) else { bail!("encrypting a secret") };
        let ciphertext = format!("{FORMAT}:{}:{}", key.id, STANDARD.encode([&nonce[..], &encrypted].concat()));
        Ok(Sealed { place, ciphertext })
    }

    /// Decrypts what [`Keys::seal`] made for this place.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn unseal(&self, place: &Place, ciphertext: &str) -> Result<SecretString, Unreadable> {
        let (id, body) = parts(ciphertext).ok_or(Unreadable::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id).ok_or_else(|| Unreadable::NoKey(id.to_owned()))?;
        let bytes = STANDARD.decode(body).map_err(|_| Unreadable::Damaged)?;
        let (nonce, encrypted) = bytes.split_first_chunk::<NONCE>().ok_or(Unreadable::Damaged)?;
        let payload = Payload { msg: encrypted, aad: &associated(place) };
        let plain = key.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unreadable::Damaged)?;
        Ok(String::from_utf8(plain).map_err(|_| Unreadable::Damaged)?.into())
    }

    /// Proves to another process that this one has the key.
    pub fn proof(&self, text: &[u8]) -> String {
        let code = self.0.first().map(|key| mac(&key.proofs, text).finalize().into_bytes().to_vec());
        STANDARD.encode(code.unwrap_or_default())
    }

    /// Whether a process that has one of the keys made this with [`Keys::proof`].
    pub fn proves(&self, text: &[u8], proof: &str) -> bool {
        let Ok(code) = STANDARD.decode(proof) else { return false };
        self.0.iter().any(|key| mac(&key.proofs, text).verify_slice(&code).is_ok())
    }

    /// Whether a ciphertext is under the key that encrypts now.
    fn is_current(&self, ciphertext: &str) -> bool {
        parts(ciphertext).is_some_and(|(id, _)| self.0.first().is_some_and(|key| key.id == id))
    }
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).expect("any length will do");
    mac.update(text);
    mac
}

/// Puts a new key before the others of a data directory's file; it encrypts from the next start on. Returns its id.
///
/// # Errors
/// When the file cannot be read or written.
pub fn rotate(data_dir: &Path) -> Result<String> {
    let path = data_dir.join(FILE);
    let old = fs::read_to_string(&path).with_context(|| {
        format!("reading {} (a server that keeps its key there makes it at its start)", path.display())
    })?;
    let text = format!("{}\n{old}", new_key());
    let keys = Keys::parse(&text).with_context(|| format!("reading {}", path.display()))?;
    write(data_dir, &text)?;
    Ok(keys.0.first().map(|key| key.id.clone()).unwrap_or_default())
}

impl App {
    /// Encrypts and keeps a secret.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_secret(&self, place: Place, secret: &SecretString) -> Result<()> {
        Ok(self.store.put_secret(self.keys.seal(place, secret)?, self.now()).await?)
    }

    /// The secret at a place, where there is one.
    ///
    /// # Errors
    /// [`Unreadable`], and the store's.
    pub async fn secret(&self, place: &Place) -> Result<Option<SecretString>> {
        let sealed = self.store.secret(place).await.context("reading a secret")?;
        Ok(sealed.map(|ciphertext| self.keys.unseal(place, &ciphertext)).transpose()?)
    }

    /// Encrypts anew what is under an older key, and says what cannot be read.
    pub(crate) async fn reseal_secrets(&self) -> Result<()> {
        let (mut anew, mut lost) = (0, 0);
        for sealed in self.store.secrets().await.context("reading the secrets")? {
            if self.keys.is_current(&sealed.ciphertext) {
                continue;
            }
            match self.keys.unseal(&sealed.place, &sealed.ciphertext) {
                Ok(secret) => {
                    let new = self.keys.seal(sealed.place.clone(), &secret)?.ciphertext;
                    anew += u32::from(self.store.replace_secret(sealed, new, self.now()).await?);
                }
                Err(error) => {
                    lost += 1;
                    error!(
                        org.id = sealed.place.org_id,
                        place.table = sealed.place.table,
                        row.id = sealed.place.row_id,
                        "{error}"
                    );
                }
            }
        }
        if anew > 0 {
            info!("{anew} secrets are encrypted with the new key now; older keys can be taken out of {FILE}");
        }
        if lost > 0 {
            error!("{lost} secrets cannot be read until their key is back or they are entered anew");
        }
        Ok(())
    }
}

/// What a ciphertext is bound to. No part of it holds a NUL.
fn associated(place: &Place) -> Vec<u8> {
    format!("{}\0{}\0{}\0{}", place.org_id, place.table, place.row_id, place.column).into_bytes()
}

fn parts(ciphertext: &str) -> Option<(&str, &str)> {
    ciphertext.strip_prefix(FORMAT)?.strip_prefix(':')?.split_once(':')
}

fn new_key() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill(&mut bytes);
    STANDARD.encode(bytes)
}

/// Writes the file of keys, readable by its owner alone, whole or not at all.
fn write(data_dir: &Path, text: &str) -> Result<()> {
    let (path, part) = (data_dir.join(FILE), data_dir.join("secret.key.new"));
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(data_dir)?.sync_all()
        })
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place() -> Place {
        Place::new(1, "repos", 7, "origin")
    }

    #[test]
    fn a_proof_is_taken_from_who_has_one_of_the_keys_and_for_nothing_else() {
        let (old, new) = (new_key(), new_key());
        let (before, after) = (Keys::parse(&old).unwrap(), Keys::parse(&format!("{new},{old}")).unwrap());
        let proof = before.proof(b"this");
        assert!(after.proves(b"this", &proof) && before.proves(b"this", &proof));
        assert!(!after.proves(b"that", &proof) && !after.proves(b"this", "") && !after.proves(b"this", "?"));
        assert!(!Keys::parse(&new).unwrap().proves(b"this", &proof));
    }

    #[test]
    fn a_secret_is_read_only_at_its_own_place() {
        let keys = Keys::parse(&new_key()).unwrap();
        let sealed = keys.seal(place(), &"hunter2".into()).unwrap();
        assert!(!sealed.ciphertext.contains("hunter2"));
        assert_eq!(keys.unseal(&place(), &sealed.ciphertext).unwrap().expose_secret(), "hunter2");
        for elsewhere in [
            Place { org_id: 2, ..place() },
            Place { table: "hooks".to_owned(), ..place() },
            Place { row_id: 8, ..place() },
            Place { column: "url".to_owned(), ..place() },
        ] {
            assert!(matches!(keys.unseal(&elsewhere, &sealed.ciphertext), Err(Unreadable::Damaged)), "{elsewhere:?}");
        }
        let other = keys.seal(place(), &"hunter2".into()).unwrap();
        assert_ne!(sealed.ciphertext, other.ciphertext, "no two are alike");
    }

    #[test]
    fn what_was_changed_is_refused() {
        let keys = Keys::parse(&new_key()).unwrap();
        let sealed = keys.seal(place(), &"hunter2".into()).unwrap().ciphertext;
        let (head, body) = sealed.rsplit_once(':').unwrap();
        let mut bytes = STANDARD.decode(body).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        for damaged in
            [format!("{head}:{}", STANDARD.encode(bytes)), format!("{head}:AAAA"), format!("{head}:?"), "x".to_owned()]
        {
            assert!(matches!(keys.unseal(&place(), &damaged), Err(Unreadable::Damaged)), "{damaged}");
        }
    }

    #[test]
    fn an_older_key_still_reads_and_a_missing_one_is_named() {
        let (old, new) = (new_key(), new_key());
        let sealed = Keys::parse(&old).unwrap().seal(place(), &"hunter2".into()).unwrap().ciphertext;
        let both = Keys::parse(&format!("{new},{old}")).unwrap();
        assert_eq!(both.unseal(&place(), &sealed).unwrap().expose_secret(), "hunter2");
        assert!(!both.is_current(&sealed) && both.is_current(&both.seal(place(), &"x".into()).unwrap().ciphertext));
        let missing = Keys::parse(&new).unwrap().unseal(&place(), &sealed).unwrap_err();
        assert!(sealed.contains(&both.0[1].id) && missing.to_string().contains(&both.0[1].id), "{missing}");
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        for bad in ["", "hunter2", "aHVudGVyMg==", "\n,\n"] {
            let error = Keys::parse(bad).err().unwrap().to_string();
            assert!(!error.contains("hunter2") && !error.contains("aHVu"), "{error}");
        }
    }
}
