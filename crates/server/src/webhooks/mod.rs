//! Outbound webhooks, as <https://www.standardwebhooks.com> has them: what is sent and how it is signed.

mod send;

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use codegen_store::{Delivery, Endpoint, Place};
use hmac::{Hmac, Mac as _};
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{App, api::time};

pub use send::{DELAYS, run};

/// Begins each signing secret.
const PREFIX: &str = "whsec_";

/// A new signing secret.
pub fn new_secret() -> SecretString {
    let mut bytes = [0; 32];
    rand::rng().fill(&mut bytes);
    format!("{PREFIX}{}", STANDARD.encode(bytes)).into()
}

/// Where an endpoint's secret is kept.
pub fn secret_place(org_id: i64, endpoint_id: i64) -> Place {
    Place::new(org_id, "webhook_endpoints", endpoint_id, "secret")
}

/// Where the one before the last rotation is kept.
pub fn previous_place(org_id: i64, endpoint_id: i64) -> Place {
    Place::new(org_id, "webhook_endpoints", endpoint_id, "previous_secret")
}

/// The secrets that are valid now, the newest first.
async fn secrets(app: &App, endpoint: &Endpoint, now: i64) -> Result<Vec<SecretString>> {
    let mut secrets: Vec<SecretString> =
        app.secret(&secret_place(endpoint.org_id, endpoint.id)).await?.into_iter().collect();
    if endpoint.previous_until.is_some_and(|until| now < until) {
        secrets.extend(app.secret(&previous_place(endpoint.org_id, endpoint.id)).await?);
    }
    Ok(secrets)
}

/// The body that a delivery is sent with, the same at each try.
pub fn body(app: &App, delivery: &Delivery) -> String {
    let mut data: Value = serde_json::from_str(&delivery.data).unwrap_or_default();
    if let (Some(run_id), Some(fields)) = (delivery.run_id, data.as_object_mut()) {
        fields.insert("web_url".to_owned(), format!("{}/runs/{run_id}", app.config.public_url).into());
    }
    json!({ "type": delivery.event, "timestamp": time(delivery.created_at), "data": data }).to_string()
}

/// The value of `webhook-signature`: one signature for each secret.
fn signature(secrets: &[SecretString], id: &str, timestamp_s: i64, body: &str) -> Result<String> {
    let mut signatures = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let key = STANDARD.decode(secret.expose_secret().trim_start_matches(PREFIX))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        signatures.push(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    }
    Ok(signatures.join(" "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into();
        let signed = signature(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_signatures() {
        let signed = signature(&[new_secret(), new_secret()], "evt_1", 1, "{}").unwrap();
        let [a, b] = signed.split(' ').collect::<Vec<_>>()[..] else { panic!("{signed}") };
        assert!(a.starts_with("v1,") && b.starts_with("v1,") && a != b);
    }
}
