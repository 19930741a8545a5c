//! The web app, built by `web/` and embedded here. A build without Node has none, and says so on a plain page.

use std::{borrow::Cow, fmt::Write as _, sync::LazyLock};

use axum::{
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

/// A debug build reads the files as they are at the time, a release build has them inside.
#[derive(RustEmbed)]
#[folder = "../../web/build"]
struct Files;

const INDEX: &str = "index.html";
const PLAIN: &str = include_str!("web_missing.html");
const FOREVER: &str = "public, max-age=31536000, immutable";
/// Asked again each time, and answered from the cache where it is the same.
const CHECKED: &str = "no-cache";

/// The one style attribute in the app: SvelteKit hides the line with which it tells screen readers of a new page.
const ANNOUNCER: &str = "'sha256-S8qMpvofolR8Mpjy4kQvEm7m1q8clzU4dfDH0AmvZjo='";

/// The same for every load: hashes of the scripts in the page, so that no other inline script runs.
static POLICY: LazyLock<String> = LazyLock::new(|| policy(&index()));

fn policy(page: &str) -> String {
    let mut scripts = "'self'".to_owned();
    for script in page.split("<script>").skip(1).filter_map(|rest| rest.split("</script>").next()) {
        let hash = BASE64_STANDARD.encode(Sha256::digest(script.as_bytes()));
        write!(scripts, " 'sha256-{hash}'").ok(); // A String takes everything.
    }
    format!(
        "default-src 'none'; script-src {scripts}; style-src 'self'; style-src-attr 'unsafe-hashes' {ANNOUNCER}; img-src 'self' data:; connect-src 'self'; \
         manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
}

/// The app's one page, for each of its routes.
pub async fn page(headers: HeaderMap) -> Response {
    let (mut response, policy) = match found(INDEX, CHECKED, &headers) {
        // The page may have been built anew under a running debug build.
        Some(response) if cfg!(debug_assertions) => (response, Cow::Owned(policy(&index()))),
        Some(response) => (response, Cow::Borrowed(POLICY.as_str())),
        None => {
            let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
            (Html(PLAIN).into_response(), Cow::Borrowed(policy))
        }
    };
    set(&mut response, header::CONTENT_SECURITY_POLICY, &policy);
    set(&mut response, header::REFERRER_POLICY, "same-origin");
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn index() -> String {
    let page = Files::get(INDEX).map(|file| file.data).unwrap_or_default();
    String::from_utf8_lossy(&page).into_owned()
}

/// Sets a header to what is known to be one: constants, hashes, base64.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

/// A file of the app; those under `immutable` carry a hash of their content in their name.
pub async fn file(uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let caching = if path.starts_with("_app/immutable/") { FOREVER } else { CHECKED };
    found(path, caching, &headers)
        .unwrap_or_else(|| (StatusCode::NOT_FOUND, [(header::CACHE_CONTROL, "no-store")], "Not found.").into_response())
}

/// The file in the smallest form that the client takes.
fn found(path: &str, caching: &str, headers: &HeaderMap) -> Option<Response> {
    let plain = Files::get(path)?;
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let packed = [("br", "br"), ("gzip", "gz")].into_iter().find_map(|(coding, suffix)| {
        let takes = accepted.split(',').any(|one| one.split(';').next().is_some_and(|name| name.trim() == coding));
        let file = if takes { Files::get(&format!("{path}.{suffix}")) } else { None };
        Some((coding, file?))
    });
    let hash: String = plain.metadata.sha256_hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}{}\"", packed.as_ref().map_or("", |(coding, _)| coding));
    let mut response = if headers.get(header::IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == tag.as_bytes()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if let Some((coding, file)) = packed {
        let mut response = file.data.into_owned().into_response();
        set(&mut response, header::CONTENT_ENCODING, coding);
        response
    } else {
        plain.data.into_owned().into_response()
    };
    set(&mut response, header::CONTENT_TYPE, media_type(path));
    set(&mut response, header::CACHE_CONTROL, caching);
    set(&mut response, header::VARY, "accept-encoding");
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::ETAG, &tag);
    Some(response)
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, suffix)| suffix) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some(_) | None => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_hash_of_each_inline_script_and_allows_no_other() {
        let policy = policy("<p><script>let a;</script><script src=\"x.js\"></script><script>\nb()\n</script>");
        assert_eq!(policy.matches("'sha256-").count(), 3, "{policy}"); // Two scripts and the announcer.
        assert!(policy.contains("'sha256-81WALLbUROF1pWdYjuQYKuIcGgY/+TqVJr8UsV6Tkvo='"), "{policy}");
        assert!(!policy.contains("unsafe-inline"));
    }
}
