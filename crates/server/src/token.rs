//! API tokens: `cgn_`, 32 random characters, 6 of checksum. Only hashes are kept.

use rand::Rng as _;
use sha2::{Digest, Sha256};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token.
pub fn new() -> String {
    let body = random(32);
    let sum = checksum(&body);
    format!("cgn_{body}{sum}")
}

/// Random letters and digits.
pub fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(BASE62[rng.random_range(0..BASE62.len())])).collect()
}

/// What is kept of a token.
pub fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells a mistyped or cut token from a real one, for secret scanners.
fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    digest.iter().take(6).map(|byte| char::from(BASE62[usize::from(*byte) % BASE62.len()])).collect()
}
