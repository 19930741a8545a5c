//! Organizations, members, invitations, tokens and service accounts, through HTTP.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use codegen_store::{NewSession, Role};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{TOKEN, TestApp, answer, failure, failures, sha256};

const ORG: &str = "/v1/organizations/1";

impl TestApp {
    /// The answer's status and body; of an empty one null.
    pub async fn ask(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.asks(method, path, Some(token));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        if response.status() == 204 {
            return (204, Value::Null);
        }
        answer(response).await
    }

    async fn id_of(&self, token: &str) -> i64 {
        self.ask("GET", "/v1/users/me", token, json!(null)).await.1["id"].as_i64().unwrap()
    }
}

#[tokio::test]
async fn a_person_makes_an_organization_renames_it_and_is_its_admin() {
    let app = TestApp::new().await;
    let ben = app.member(1, "ben", Role::Member).await;
    let (status, org) = app.ask("POST", "/v1/organizations", &ben, json!({"name": " Ben's "})).await;
    assert_eq!((status, &org["name"]), (200, &json!("Ben's")));
    let path = format!("/v1/organizations/{}", org["id"]);
    let (status, org) = app.ask("PATCH", &path, &ben, json!({"name": "Ben & Co", "enable_pr_creation": false})).await;
    assert_eq!(
        (status, &org["name"], &org["settings"]["enable_pr_creation"]),
        (200, &json!("Ben & Co"), &json!(false))
    );
    assert_eq!(org["settings"]["enable_rules_detection"], true, "what is absent stays");
    assert_eq!(app.ask("GET", &path, &ben, json!(null)).await.1, org);
    assert_eq!(app.get(&path).await.0, 403, "the first organization's admin is nobody there");
    let (status, body) = app.ask("POST", "/v1/organizations", &ben, json!({"name": " "})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.name", "string_too_short")]));
}

#[tokio::test]
async fn the_last_admin_can_be_neither_demoted_nor_removed() {
    let app = TestApp::new().await;
    let robot = app.post(&format!("{ORG}/service-accounts"), &json!({"name": "ci", "role": "ADMIN"})).await.1;
    assert_eq!(robot["role"], "ADMIN");
    for (method, body) in [("PATCH", json!({"role": "MEMBER"})), ("DELETE", json!(null))] {
        let (status, refusal) = app.ask(method, &format!("{ORG}/users/1"), TOKEN, body).await;
        assert_eq!(status, 409, "a service account is no admin that could log in: {refusal}");
        assert!(refusal["message"].as_str().unwrap().contains("last admin"), "{refusal}");
    }
    let second = app.member(1, "ben", Role::Admin).await;
    let second_id = app.id_of(&second).await;
    // Each takes the other's role at the same moment: one of them stays.
    let path = |id| format!("{ORG}/users/{id}");
    let (one, two) = (path(second_id), path(1));
    let (first, other) = tokio::join!(
        app.ask("PATCH", &one, TOKEN, json!({"role": "MEMBER"})),
        app.ask("PATCH", &two, &second, json!({"role": "MEMBER"}))
    );
    let members = app.app.store.org_members(1, 0, 10).await.unwrap().0;
    assert_eq!(members.iter().filter(|member| member.role == Role::Admin).count(), 1, "{first:?} {other:?}");
    assert!([first.0, other.0].contains(&200), "{first:?} {other:?}");
}

#[tokio::test]
async fn a_member_who_is_removed_is_a_stranger_at_once() {
    let app = TestApp::new().await;
    let ben = app.member(1, "ben", Role::Manager).await;
    let id = app.id_of(&ben).await;
    assert_eq!(app.ask("GET", ORG, &ben, json!(null)).await.0, 200);
    let (status, changed) = app.ask("PATCH", &format!("{ORG}/users/{id}"), TOKEN, json!({"role": "MEMBER"})).await;
    assert_eq!((status, &changed["role"]), (200, &json!("MEMBER")));
    assert_eq!(app.ask("PATCH", ORG, &ben, json!({})).await.0, 403, "no manager any more");
    assert_eq!(app.ask("DELETE", &format!("{ORG}/users/{id}"), TOKEN, json!(null)).await.0, 204);
    assert_eq!(app.ask("GET", ORG, &ben, json!(null)).await.0, 403);
    assert_eq!(app.ask("GET", "/v1/users/me", &ben, json!(null)).await.0, 200, "who they are stays");
    assert_eq!(app.ask("DELETE", &format!("{ORG}/users/{id}"), TOKEN, json!(null)).await.0, 404);
}

#[tokio::test]
async fn an_invitation_makes_a_member_once_until_it_expires_or_is_withdrawn() {
    let app = TestApp::new().await;
    let (status, made) = app.post(&format!("{ORG}/invitations"), &json!({"role": "MANAGER", "email": "b@x.io"})).await;
    assert_eq!((status, &made["role"]), (200, &json!("MANAGER")));
    let secret = made["invitation"].as_str().unwrap();
    assert_eq!(made["url"], format!("{}/join#{secret}", app.base));
    let listed = app.get(&format!("{ORG}/invitations")).await.1;
    assert_eq!((&listed["total"], &listed["items"][0]["email"]), (&json!(1), &json!("b@x.io")));
    assert!(!listed.to_string().contains(secret), "nobody can show the link again");

    let join = |secret: &str| json!({"invitation": secret, "name": "Ben"});
    let opened = app.asks(Method::POST, "/v1/invitations/join", None).json(&join(secret)).send().await.unwrap();
    let (status, welcome) = answer(opened).await;
    assert_eq!((status, &welcome["user"]["role"]), (200, &json!("MANAGER")), "{welcome}");
    let ben = welcome["token"].as_str().unwrap();
    assert_eq!(app.ask("GET", &format!("{ORG}/invitations"), ben, json!(null)).await.1["total"], 0);
    let again = app.asks(Method::POST, "/v1/invitations/join", None).json(&join(secret)).send().await.unwrap();
    assert_eq!(answer(again).await.0, 404, "good once");

    let invite = |by: String, role: &'static str| {
        let app = &app;
        async move { app.ask("POST", &format!("{ORG}/invitations"), &by, json!({"role": role})).await }
    };
    assert_eq!(invite(ben.to_owned(), "ADMIN").await.0, 403, "no one grants a role above their own");
    let eve = {
        let other = app.app.store.create_org("others", 0).await.unwrap();
        app.member(other.id, "eve", Role::Admin).await
    };
    let accept = |made: &Value| json!({"invitation": made["invitation"]});
    // Whoever lost the role that it needs gives it to nobody.
    let (_, of_ben) = invite(ben.to_owned(), "MANAGER").await;
    let ben_path = format!("{ORG}/users/{}", welcome["user"]["id"]);
    assert_eq!(app.ask("PATCH", &ben_path, TOKEN, json!({"role": "MEMBER"})).await.0, 200);
    assert_eq!(app.ask("POST", "/v1/invitations/accept", &eve, accept(&of_ben)).await.0, 404);
    // Withdrawn.
    let (_, withdrawn) = invite(TOKEN.to_owned(), "MEMBER").await;
    let path = format!("{ORG}/invitations/{}", withdrawn["id"]);
    assert_eq!(app.ask("DELETE", &path, TOKEN, json!(null)).await.0, 204);
    assert_eq!(app.ask("POST", "/v1/invitations/accept", &eve, accept(&withdrawn)).await.0, 404);
    // Expired.
    let old = codegen_store::NewInvitation {
        hash: sha256("cgi_old"),
        role: Role::Member,
        email: None,
        invited_by: 1,
        expires_at: 5,
    };
    app.app.store.invite(1, old, 1).await.unwrap();
    assert_eq!(app.ask("POST", "/v1/invitations/accept", &eve, json!({"invitation": "cgi_old"})).await.0, 404);
    // By one who has a token.
    let (_, good) = invite(TOKEN.to_owned(), "MEMBER").await;
    let (status, joined) = app.ask("POST", "/v1/invitations/accept", &eve, accept(&good)).await;
    assert_eq!((status, &joined["organization_id"], &joined["role"]), (200, &json!(1), &json!("MEMBER")));
    let (_, more) = invite(TOKEN.to_owned(), "ADMIN").await;
    assert_eq!(app.ask("POST", "/v1/invitations/accept", &eve, accept(&more)).await.0, 409, "a member already");
}

#[tokio::test]
async fn a_token_is_shown_once_and_grants_no_more_than_the_one_that_made_it() {
    let app = TestApp::new().await;
    let ask = json!({"name": "ci", "scopes": ["runs:read", "account:write"], "expires_in_days": 2});
    let (status, made) = app.post("/v1/tokens", &ask).await;
    assert_eq!((status, &made["scopes"]), (200, &json!(["runs:read", "account:write"])), "{made}");
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with(made["hint"].as_str().unwrap()) && token.len() == 42, "{made}");
    let listed = app.get("/v1/tokens").await.1;
    assert_eq!(listed["total"], 2);
    assert!(!listed.to_string().contains(token), "nobody can show it again");

    let (status, body) = app.ask("POST", "/v1/tokens", token, json!({"name": "x", "scopes": ["runs:write"]})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.scopes", "value_error")]));
    let (_, heir) = app.ask("POST", "/v1/tokens", token, json!({"name": "heir"})).await;
    assert_eq!(heir["scopes"], made["scopes"], "what is not asked for is inherited, not everything");
    assert_eq!(heir["expires_at"], made["expires_at"], "nor does it live longer");
    for (body, place) in [
        (json!({"name": "x", "scopes": ["everything"]}), "body.scopes.0"),
        (json!({"name": "x", "expires_in_days": 0}), "body.expires_in_days"),
    ] {
        let (status, body) = app.post("/v1/tokens", &body).await;
        assert_eq!((status, failures(&body)), (422, vec![failure(place, "value_error")]));
    }
}

#[tokio::test]
async fn a_token_that_has_expired_counts_for_nothing_nor_do_its_log_ins() {
    let app = TestApp::new().await;
    let now = app.app.now();
    for (name, expires_at) in [("cgn_old", now - 1), ("cgn_young", now + 60_000)] {
        let new = codegen_store::NewToken {
            user_id: 1,
            hash: sha256(name),
            expires_at: Some(expires_at),
            ..codegen_store::NewToken::default()
        };
        let token = app.app.store.create_token(new, 0).await.unwrap();
        let session = NewSession {
            hash: sha256(&format!("{name} cookie")),
            user_id: token.user_id,
            token_id: Some(token.id),
            expires_at: now + 90_000,
            ..NewSession::default()
        };
        app.app.store.add_session(session, now).await.unwrap();
    }
    assert_eq!(app.ask("GET", "/v1/users/me", "cgn_old", json!(null)).await.0, 401);
    assert_eq!(app.ask("GET", "/v1/users/me", "cgn_young", json!(null)).await.0, 200);
    let cookie = format!("codegen-{}", app.base.rsplit(':').next().unwrap());
    for (name, status) in [("cgn_old", 401), ("cgn_young", 200)] {
        let asked = app.asks(Method::GET, "/v1/users/me", None).header("cookie", format!("{cookie}={name} cookie"));
        assert_eq!(asked.send().await.unwrap().status(), status, "the log-in of {name}");
    }
}

#[tokio::test]
async fn revoking_a_token_ends_its_requests_log_ins_and_open_streams_at_once() {
    let app = TestApp::new().await;
    let run = app.post(&format!("{ORG}/agent/run"), &json!({"prompt": "a"})).await.1["id"].clone();
    let made = app.post("/v1/tokens", &json!({"name": "leaked"})).await.1;
    let token = made["token"].as_str().unwrap();
    let log_in = app.asks(Method::POST, "/v1/session", None).json(&json!({"token": token})).send().await.unwrap();
    let cookie = log_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let mut streams = Vec::new();
    for path in [format!("{ORG}/agent/runs/changes"), format!("{ORG}/agent/run/{run}/events")] {
        for request in
            [app.asks(Method::GET, &path, Some(token)), app.asks(Method::GET, &path, None).header("cookie", &cookie)]
        {
            let stream = request.send().await.unwrap();
            assert_eq!(stream.status(), 200);
            streams.push(stream.bytes_stream());
        }
    }
    let other = app.asks(Method::GET, &format!("{ORG}/agent/runs/changes"), Some(TOKEN)).send().await.unwrap();
    let mut other = other.bytes_stream();

    let path = format!("/v1/tokens/{}", made["id"]);
    assert_eq!(app.ask("DELETE", &path, TOKEN, json!(null)).await.0, 204);
    assert_eq!(app.ask("GET", "/v1/users/me", token, json!(null)).await.0, 401);
    let by_cookie = app.asks(Method::GET, "/v1/users/me", None).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(by_cookie.status(), 401);
    for mut stream in streams {
        let ended = async { while stream.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the stream goes on");
    }
    app.post(&format!("{ORG}/agent/run"), &json!({"prompt": "b"})).await;
    assert!(other.next().await.unwrap().is_ok(), "streams of others go on");
    assert_eq!(app.ask("DELETE", &path, TOKEN, json!(null)).await.0, 404);
    assert_eq!(app.get("/v1/tokens").await.1["total"], 1);
}

#[tokio::test]
async fn when_a_token_was_used_is_written_down_once_a_minute() {
    let app = TestApp::new().await;
    assert_eq!(app.app.store.tokens(1, 0, 1).await.unwrap().0[0].last_used_at, None);
    // The note comes beside the request; the next writes come after it in the store's one queue.
    for _ in 0..20 {
        app.get("/v1/users/me").await;
    }
    app.post(&format!("{ORG}/agent/run"), &json!({"prompt": "a"})).await;
    let used = app.get("/v1/tokens").await.1["items"][0]["last_used_at"].clone();
    assert!(used.is_string(), "{used}");
    app.get("/v1/users/me").await;
    app.post(&format!("{ORG}/agent/run"), &json!({"prompt": "b"})).await;
    assert_eq!(app.get("/v1/tokens").await.1["items"][0]["last_used_at"], used, "not within the same minute");
}

#[tokio::test]
async fn a_service_account_is_no_person_and_goes_with_its_tokens() {
    let app = TestApp::new().await;
    let accounts = format!("{ORG}/service-accounts");
    let robot = app.post(&accounts, &json!({"name": "ci"})).await.1;
    assert_eq!((&robot["role"], &robot["name"]), (&json!("MEMBER"), &json!("ci")));
    let tokens = format!("{accounts}/{}/tokens", robot["id"]);
    let token = app.post(&tokens, &json!({"name": "actions"})).await.1["token"].as_str().unwrap().to_owned();
    let (status, run) = app.ask("POST", &format!("{ORG}/agent/run"), &token, json!({"prompt": "a"})).await;
    assert_eq!(status, 200, "{run}");
    assert_eq!(app.get(&format!("{ORG}/users")).await.1["total"], 1, "it is not among the people");
    assert_eq!(app.get(&accounts).await.1["items"], json!([robot]));
    for (method, path, body) in [
        ("POST", "/v1/organizations", json!({"name": "mine"})),
        ("POST", "/v1/tokens", json!({"name": "another"})),
        ("POST", "/v1/invitations/accept", json!({"invitation": "x"})),
    ] {
        assert_eq!(app.ask(method, path, &token, body).await.0, 403, "{path}");
    }
    assert_eq!(app.get(&tokens).await.1["total"], 1);
    assert_eq!(app.get(&format!("{accounts}/1/tokens")).await.0, 404, "a person is no service account");
    assert_eq!(app.ask("DELETE", &format!("{accounts}/1"), TOKEN, json!(null)).await.0, 404);
    assert_eq!(app.ask("DELETE", &format!("{accounts}/{}", robot["id"]), TOKEN, json!(null)).await.0, 204);
    assert_eq!(app.ask("GET", "/v1/users/me", &token, json!(null)).await.0, 401);
    assert_eq!(app.get(&accounts).await.1["total"], 0);
    assert_eq!(app.get(&format!("{ORG}/agent/run/{}", run["id"])).await.0, 200, "what it did stays");
}
