//! A plain page for people: runs, one run as it happens. It talks to the API with a token the person gives.

use axum::{
    http::header,
    response::{Html, IntoResponse},
};

/// The page; its script looks at the address.
pub async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("web.html")))
}
