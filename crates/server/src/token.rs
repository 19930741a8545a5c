//! API tokens: `cgn_`, 32 random characters, 6 of checksum. Links of invitations have `cgi_`. Only hashes are kept.

use rand::Rng as _;
use sha2::{Digest, Sha256};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token.
pub fn new() -> String {
    with_prefix("cgn_")
}

/// The secret of a new invitation.
pub fn of_invitation() -> String {
    with_prefix("cgi_")
}

fn with_prefix(prefix: &str) -> String {
    let body = random(32);
    let sum = checksum(&body);
    format!("{prefix}{body}{sum}")
}

/// The beginning of a token, by which a person knows it again and nobody guesses it.
pub fn hint(token: &str) -> String {
    token.chars().take(8).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_prefix_and_the_checksum_that_the_documentation_says() {
        for (prefix, token) in [("cgn_", new()), ("cgi_", of_invitation())] {
            let rest = token.strip_prefix(prefix).unwrap_or_default();
            assert!(rest.len() == 38 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
            let (body, sum) = rest.split_at(32);
            assert_eq!(checksum(body), sum);
            assert_ne!(checksum(&body[1..]), sum);
        }
        // What docs/tokens.md computes in Python.
        assert_eq!(checksum("0123456789ABCDEFGHIJKLMNOPQRSTUV"), "30hj86");
    }
}
