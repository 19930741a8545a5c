//! Limits through HTTP, by a clock that the test moves.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::{Clock, worker};
use codegen_store::{NewRun, OrgLimits, Reason, Role};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, answer, failure, failures},
    fake_model::{Answer, FakeModel},
    login::cookie,
    run_story::{Scene, result},
};

const START: i64 = 1_795_532_400_000; // 2026-11-24 15:00 UTC
const ON: (&str, &str) = ("CODEGEN_RATE_LIMITS", "on");

async fn send(app: &TestApp, method: Method, path: &str, token: &str, body: Option<&Value>) -> Response {
    let request = app.asks(method, path, Some(token));
    match body {
        Some(body) => request.json(body).send().await.unwrap(),
        None => request.send().await.unwrap(),
    }
}

/// The value of a header, as a number.
fn number(response: &Response, header: &str) -> i64 {
    let value = response.headers().get(header).unwrap_or_else(|| panic!("no {header}"));
    value.to_str().unwrap().parse().unwrap()
}

/// (limit, remaining, reset)
fn standing(response: &Response) -> (i64, i64, i64) {
    let of = |word: &str| number(response, &format!("x-ratelimit-{word}"));
    (of("limit"), of("remaining"), of("reset"))
}

#[tokio::test]
async fn each_limit_holds_to_its_last_request_and_ends_to_the_millisecond() {
    let clock = Clock::standing_at(START);
    let app = TestApp::at(clock.clone(), &[ON]).await;
    let create = json!({"prompt": "Say hello"});
    let log = "/v1/alpha/organizations/1/agent/run/1/logs";
    let kinds: [(Method, &str, Option<&Value>, i64, i64); 4] = [
        (Method::GET, "/v1/organizations/1/agent/runs", None, 60, 30),
        (Method::POST, "/v1/organizations/1/agent/run", Some(&create), 10, 60),
        (Method::GET, log, None, 60, 60),
        (Method::POST, "/v1/organizations/1/agent/run/stop", Some(&json!({"agent_run_id": 1})), 60, 30),
    ];
    for (method, path, body, requests, seconds) in kinds {
        let began = clock.now();
        let reset = (began + seconds * 1000) / 1000;
        for n in 1..=requests {
            let response = send(&app, method.clone(), path, TOKEN, body).await;
            assert_eq!(response.status(), 200, "{path}: request {n}");
            assert_eq!(standing(&response), (requests, requests - n, reset), "{path}: request {n}");
        }
        clock.advance(seconds * 1000 - 1);
        let response = send(&app, method.clone(), path, TOKEN, body).await;
        assert_eq!((response.status().as_u16(), number(&response, "retry-after")), (429, 1), "{path}");
        assert_eq!(standing(&response), (requests, 0, reset));
        let (_, body_of_429) = answer(response).await;
        assert_eq!(body_of_429["status_code"], 429);
        assert!(body_of_429["message"].is_string() && body_of_429["detail"] == body_of_429["message"]);
        clock.advance(1);
        let response = send(&app, method, path, TOKEN, body).await;
        assert_eq!((response.status().as_u16(), standing(&response).1), (200, requests - 1), "{path}: a new window");
    }
}

#[tokio::test]
async fn reads_share_one_limit_and_a_token_has_its_own() {
    let app = TestApp::at(Clock::standing_at(START), &[ON]).await;
    let other = app.member(1, "other", Role::Member).await;
    let paths = ["/v1/users/me", "/v1/organizations", "/v1/organizations/1/repos", "/v1/organizations/1/agent/runs"];
    for n in 0..60 {
        assert_eq!(send(&app, Method::GET, paths[n % 4], TOKEN, None).await.status(), 200);
    }
    for path in paths {
        let response = send(&app, Method::GET, path, TOKEN, None).await;
        assert_eq!((response.status().as_u16(), number(&response, "retry-after")), (429, 30));
    }
    assert_eq!(send(&app, Method::GET, paths[0], &other, None).await.status(), 200);
    let answered = send(&app, Method::GET, "/v1/organizations/1/agent/run/9", &other, None).await;
    assert_eq!((answered.status().as_u16(), standing(&answered).1), (404, 58), "a refusal says it, too");
}

#[tokio::test]
async fn a_restarted_server_goes_on_with_the_window_that_it_left() {
    let app = TestApp::with(&[ON]).await;
    for _ in 0..10 {
        send(&app, Method::POST, "/v1/organizations/1/agent/run", TOKEN, Some(&json!({"prompt": "Hello"}))).await;
    }
    let app = app.restart_with(&[ON]).await;
    let body = json!({"prompt": "Hello"});
    let response = send(&app, Method::POST, "/v1/organizations/1/agent/run", TOKEN, Some(&body)).await;
    assert_eq!(response.status(), 429);
}

#[tokio::test]
async fn what_a_page_reads_counts_as_its_views_and_not_as_a_programs_reads() {
    let app = TestApp::at(Clock::standing_at(START), &[ON]).await;
    let log_in = app.asks(Method::POST, "/v1/session", None).json(&json!({"token": TOKEN}));
    let cookie = cookie(&log_in.send().await.unwrap());
    for path in ["/v1/organizations/1/repos", "/v1/organizations/1/rules", "/v1/organizations/1/agent/runs/views"] {
        let response = app.page_asks(Method::GET, path, &cookie, None).await;
        assert_eq!((response.status().as_u16(), standing(&response).0), (200, 600), "{path}");
    }
    assert_eq!(standing(&send(&app, Method::GET, "/v1/organizations/1/repos", TOKEN, None).await).1, 59);
}

#[tokio::test]
async fn admins_set_what_their_organization_may_use_and_others_do_not_see_it() {
    let clock = Clock::standing_at(START);
    let app = TestApp::at(clock, &[ON]).await;
    let own = "/v1/organizations/1/limits";
    let (status, body) = app.get(own).await;
    assert_eq!((status, &body["rate_limits"]["create"]), (200, &json!({"requests": 10, "seconds": 60})));
    assert_eq!((&body["runs_per_month"], &body["used"]["month"]), (&Value::Null, &json!("2026-11")));

    let manager = app.member(1, "manager", Role::Manager).await;
    let outsider = app.member(app.app.store.create_org("Other", 0).await.unwrap().id, "outsider", Role::Admin).await;
    let new = json!({"runs_per_month": 100, "cost_per_month": 25.5, "concurrent_runs": 4, "concurrent_runs_per_user": 2,
        "rate_limits": {"read": {"requests": 3, "seconds": 10}, "view": null}});
    for token in [&manager, &outsider] {
        assert_eq!(send(&app, Method::PUT, own, token, Some(&new)).await.status(), 403);
        assert_eq!(send(&app, Method::GET, own, token, None).await.status(), 403);
    }
    let (status, set) = answer(send(&app, Method::PUT, own, TOKEN, Some(&new)).await).await;
    assert_eq!((status, &set["runs_per_month"], &set["cost_per_month"]), (200, &json!(100), &json!(25.5)));
    assert_eq!((&set["concurrent_runs"], &set["concurrent_runs_per_user"]), (&json!(4), &json!(2)));
    assert_eq!(set["rate_limits"]["read"], json!({"requests": 3, "seconds": 10}));
    assert_eq!(set["rate_limits"]["view"], json!({"requests": 600, "seconds": 30}));

    // It holds from the next request on, in this organization.
    let runs = "/v1/organizations/1/agent/runs";
    for _ in 0..3 {
        assert_eq!(standing(&send(&app, Method::GET, runs, TOKEN, None).await).0, 3);
    }
    assert_eq!(send(&app, Method::GET, runs, TOKEN, None).await.status(), 429);
    assert_eq!(standing(&send(&app, Method::GET, "/v1/users/me", TOKEN, None).await).0, 60);
    // To a foreigner it looks as any other organization, there or not.
    let theirs = send(&app, Method::GET, runs, &outsider, None).await;
    let nobodys = send(&app, Method::GET, "/v1/organizations/99/agent/runs", &outsider, None).await;
    assert_eq!((theirs.status(), standing(&theirs).0), (nobodys.status(), standing(&nobodys).0));

    let bad = json!({"runs_per_month": -1, "cost_per_month": "much", "concurrent_runs": -1, "concurrent_runs_per_user": 1.5,
        "rate_limits": {"read": {"requests": 0, "seconds": 1}, "reads": {"requests": 1, "seconds": 1}}});
    let (status, body) = answer(send(&app, Method::PUT, own, TOKEN, Some(&bad)).await).await;
    assert_eq!(status, 422);
    assert_eq!(
        failures(&body),
        [
            failure("body.runs_per_month", "greater_than_equal"),
            failure("body.cost_per_month", "float_type"),
            failure("body.concurrent_runs", "greater_than_equal"),
            failure("body.concurrent_runs_per_user", "int_from_float"),
            failure("body.rate_limits.read", "value_error"),
            failure("body.rate_limits.reads", "value_error"),
        ]
    );
}

#[tokio::test]
async fn a_used_up_allowance_is_402_in_the_contracts_body_until_the_month_is_over() {
    let clock = Clock::standing_at(START);
    let app = TestApp::at(clock.clone(), &[]).await;
    let (status, _) =
        answer(send(&app, Method::PUT, "/v1/organizations/1/limits", TOKEN, Some(&json!({"runs_per_month": 2}))).await)
            .await;
    assert_eq!(status, 200);
    let create = async || app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Say hello"})).await;
    assert_eq!((create().await.0, create().await.0), (200, 200));
    let (status, body) = create().await;
    assert_eq!((status, &body["status_code"], &body["detail"]), (402, &json!(402), &body["message"]));
    assert_eq!(
        body["message"],
        "The organization has made all of its 2 runs of this month; its admins can allow more."
    );
    assert_eq!(app.get("/v1/organizations/1/limits").await.1["used"]["runs"], 2);
    let request = app.asks(Method::POST, "/v1/organizations/1/agent/run", Some(TOKEN)).header("idempotency-key", "k");
    assert_eq!(answer(request.json(&json!({"prompt": "Say hello"})).send().await.unwrap()).await.0, 402);
    let (_, runs) = app.get("/v1/organizations/1/agent/runs").await;
    assert_eq!(runs["total"], 2, "what was refused is not there");
    clock.advance(7 * 86_400_000);
    assert_eq!(create().await.0, 200, "a new month");
}

#[tokio::test]
async fn a_run_that_meets_the_end_of_the_months_money_ends_as_out_of_tokens() {
    let again = || Answer::Call("shell", json!({"command": "true"}));
    let fake = FakeModel::start(vec![again(), again(), again()]).await;
    let scene = Scene::with(|config| fake.configure(config)).await;
    let store = &scene.app.store;
    let (org, user) = store.first_org_and_admin().await.unwrap();
    // An answer of the fake model costs 10 tokens read and 5 written.
    let limits = OrgLimits { cost_per_month: Some(0.0002), rate_limits: "{}".to_owned(), ..OrgLimits::default() };
    store.set_org_limits(org.id, limits, 1).await.unwrap();
    let new = NewRun {
        user_id: user.id,
        prompt: "Go".to_owned(),
        model: Some("anthropic/claude-sonnet-4-5".to_owned()),
        source_type: "API".to_owned(),
        ..NewRun::default()
    };
    let run = store.create_run(org.id, new, scene.app.now()).await.unwrap();
    worker::execute_one(scene.app.clone(), run.id).await.unwrap();
    let run = store.run_by_id(run.id).await.unwrap();
    assert_eq!((run.reason, run.status()), (Some(Reason::OutOfTokens), "OUT_OF_TOKENS"));
    assert_eq!(result(&run), "The organization has used all its money of this month.");
    assert_eq!(fake.asked.lock().unwrap().len(), 2, "no answer is asked for that cannot be paid");
    let used = store.org_usage(org.id, scene.app.now()).await.unwrap();
    assert!((used.cost - run.cost).abs() < 1e-12 && run.cost >= 0.0002, "{used:?} {}", run.cost);
}

#[tokio::test]
async fn an_address_that_asks_too_much_is_refused_before_its_token_is_looked_at() {
    let clock = Clock::standing_at(START);
    let env = [ON, ("CODEGEN_ADDRESS_LIMIT", "5"), ("CODEGEN_TRUSTED_PROXIES", "127.0.0.0/8")];
    let app = TestApp::at(clock.clone(), &env).await;
    let ask = async |client: &str, token: &str| {
        let request = app.asks(Method::GET, "/v1/users/me", Some(token)).header("x-forwarded-for", client);
        request.send().await.unwrap()
    };
    for _ in 0..5 {
        assert_eq!(ask("203.0.113.7", "cgn_guess").await.status(), 401);
    }
    clock.advance(29_999);
    let response = ask("203.0.113.7", TOKEN).await;
    assert_eq!((response.status().as_u16(), number(&response, "retry-after")), (429, 1));
    assert_eq!(standing(&response), (5, 0, (START + 30_000) / 1000));
    assert_eq!(answer(response).await.1["status_code"], 429);
    assert_eq!(ask("203.0.113.8", TOKEN).await.status(), 200, "another address is not held up");
    assert_eq!(
        ask("203.0.113.7, 203.0.113.9", TOKEN).await.status(),
        200,
        "what a client says of itself is not believed"
    );
    clock.advance(1);
    assert_eq!(ask("203.0.113.7", TOKEN).await.status(), 200);
}

#[tokio::test]
async fn limits_can_be_turned_off() {
    let app = TestApp::with(&[]).await;
    for _ in 0..70 {
        let response = send(&app, Method::GET, "/v1/users/me", TOKEN, None).await;
        assert_eq!((response.status().as_u16(), response.headers().get("x-ratelimit-limit")), (200, None));
    }
}
