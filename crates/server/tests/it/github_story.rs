//! Whole runs whose origin is at a GitHub: the pushed branch, the pull request, crashes, refusals, and the token that nobody sees.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use codegen_server::{App, Config, worker};
use codegen_store::{NewRepo, NewRun, Phase, Reason, Repo, Run};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    alone::in_a_process_of_its_own,
    database,
    engine::engine,
    git_host::{commit_file, git},
    github::{Fault, GitHubLike, TOKEN},
    run_story::{finish, mending, result, shell},
};

struct Scene {
    dir: tempfile::TempDir,
    hub: GitHubLike,
    app: Arc<App>,
    repo: Repo,
}

async fn open(dir: &Path, hub: &GitHubLike) -> Arc<App> {
    let mut config = Config::defaults(&dir.join("data"));
    config.database_url = database::url(dir).map(Into::into);
    config.github_hosts = vec![(hub.remote.host(), hub.api_url.clone())];
    config.github_host_tokens = vec![(hub.remote.host(), TOKEN.into())];
    let engine = engine(&dir.join("data"));
    // A process that another test is just starting holds our lock between its fork and its exec.
    let unlocked = async {
        while codegen_store::is_locked(&config.data_dir) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), unlocked).await.unwrap();
    App::open(config, engine).await.unwrap().0
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = GitHubLike::start(dir.path()).await;
        let app = open(dir.path(), &hub).await;
        let (org, _) = app.store.first_org_and_admin().await.unwrap();
        let new = NewRepo::of_origin(&hub.remote.url(Some(TOKEN)), Some("main"));
        let repo = app.store.create_repo(org.id, new, app.now()).await.unwrap();
        Self { dir, hub, app, repo }
    }

    async fn queue(&self, replies: &[Value]) -> Run {
        let (org, user) = self.app.store.first_org_and_admin().await.unwrap();
        let script = self.dir.path().join("script.json");
        std::fs::write(&script, json!({ "replies": replies }).to_string()).unwrap();
        let new = NewRun {
            user_id: user.id,
            repo_id: Some(self.repo.id),
            prompt: "Mend the test".to_owned(),
            model: Some(format!("scripted:{}", script.display())),
            source_type: "API".to_owned(),
            push: true,
            open_pr: true,
            ..NewRun::default()
        };
        self.app.store.create_run(org.id, new, self.app.now()).await.unwrap()
    }

    async fn work_on(&self, run: &Run) -> Run {
        worker::execute_one(self.app.clone(), run.id).await.unwrap();
        self.app.store.run_by_id(run.id).await.unwrap()
    }

    /// A run that ends with a pull request.
    async fn mended(&self) -> Run {
        let run = self.queue(&mending()).await;
        self.work_on(&run).await
    }

    async fn go_on(&self, run: &Run) -> Run {
        self.app.store.add_message(run.org_id, run.id, "Add more", &[], self.app.now()).await.unwrap();
        self.work_on(run).await
    }

    /// What a process that dies in the middle leaves, and the next one that starts.
    async fn die_and_start_again(&mut self, working: tokio::task::JoinHandle<anyhow::Result<()>>, run: &Run) -> Run {
        working.abort();
        working.await.unwrap_err();
        self.app.store.close().await;
        self.app = open(self.dir.path(), &self.hub).await;
        let serving = tokio::spawn(worker::run(self.app.clone()));
        let mut changes = self.app.store.subscribe();
        while self.app.store.run_by_id(run.id).await.unwrap().phase != Phase::Done {
            tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.expect("the run goes on").ok();
        }
        self.app.shutdown.cancel();
        serving.await.unwrap().unwrap();
        self.app.store.run_by_id(run.id).await.unwrap()
    }
}

#[tokio::test]
async fn a_run_ends_as_a_branch_and_a_pull_request_at_github() {
    let scene = Scene::new().await;
    let run = scene.mended().await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."), "{:?}", run.error_cause);
    let (branch, commit) = scene.hub.branches().pop().unwrap();
    assert_eq!(Some(&branch), run.branch.as_ref());
    let pulls = scene.hub.pulls().await;
    assert_eq!(pulls.len(), 1);
    let pull = &pulls[0];
    assert_eq!(pull["title"], "Mend the test");
    assert_eq!((&pull["head"]["ref"], &pull["head"]["sha"]), (&json!(branch), &json!(commit)), "one repository");
    assert_eq!((&pull["base"]["ref"], &pull["state"]), (&json!("main"), &json!("open")));
    let body = pull["body"].as_str().unwrap();
    for part in ["The sum is right now.", "Requested by Admin", &format!("<!-- codegen-run: {} -->", run.id)] {
        assert!(body.contains(part), "{body}");
    }
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].number, rows[0].forge.as_str(), rows[0].state.as_str()), (1, "github", "open"));
    assert_eq!(json!(rows[0].url), pull["html_url"]);
    assert!(scene.hub.asked().iter().all(|a| a.authorization == format!("Bearer {TOKEN}")));
}

/// Replies of a run that mends the test, and of each time that it is sent on, one shell command.
fn mending_and(commands: &[&str]) -> Vec<Value> {
    mending().into_iter().chain(commands.iter().flat_map(|c| [shell(c), finish("Added more.")])).collect()
}

#[tokio::test]
async fn a_run_that_goes_on_updates_its_pull_request() {
    let scene = Scene::new().await;
    let run = scene.queue(&mending_and(&["echo more > more.txt"])).await;
    scene.work_on(&run).await;
    let run = scene.go_on(&run).await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "Added more."));
    let pulls = scene.hub.pulls().await;
    let (branch, commit) = scene.hub.branches().pop().unwrap();
    assert_eq!((pulls.len(), &pulls[0]["head"]["ref"]), (1, &json!(branch)));
    let head = scene.hub.person(Method::GET, &format!("/git/ref/heads/{branch}"), None).await;
    assert_eq!(head["object"]["sha"], commit, "emulate does not bring a pull request's own `sha` up to date");
    assert!(pulls[0]["body"].as_str().unwrap().contains("Added more."), "{}", pulls[0]["body"]);
    assert_eq!((scene.hub.times_asked(&Method::POST), scene.hub.times_asked(&Method::PATCH)), (1, 1));
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].head_commit.as_str()), (1, commit.as_str()));
}

#[tokio::test]
async fn a_crash_after_the_push_arrived_pushes_nothing_again() {
    let mut scene = Scene::new().await;
    let arrived = scene.hub.hold_push();
    let run = scene.queue(&mending()).await;
    let working = tokio::spawn(execute(scene.app.clone(), run.id));
    tokio::time::timeout(Duration::from_secs(60), arrived.notified()).await.unwrap();
    let effects = scene.app.store.effects(run.id).await.unwrap();
    assert_eq!(effects.iter().map(|e| (e.kind.as_str(), e.settled_at)).collect::<Vec<_>>(), [("push", None)]);

    let run = scene.die_and_start_again(working, &run).await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."), "{:?}", run.error_cause);
    assert_eq!((scene.hub.branches().len(), scene.hub.remote.pushes()), (1, 1));
    let pulls = scene.hub.pulls().await;
    assert_eq!((pulls.len(), &pulls[0]["head"]["sha"]), (1, &json!(scene.hub.branches()[0].1)));
    let effects = scene.app.store.effects(run.id).await.unwrap();
    assert!(effects.len() == 2 && effects.iter().all(|e| e.settled_at.is_some()), "{effects:?}");
}

#[tokio::test]
async fn a_crash_after_the_pull_request_was_opened_opens_no_second_one() {
    let mut scene = Scene::new().await;
    let opened = Arc::new(Notify::new());
    scene.hub.fault(Method::POST, Fault::Hold(opened.clone()));
    let run = scene.queue(&mending()).await;
    let working = tokio::spawn(execute(scene.app.clone(), run.id));
    tokio::time::timeout(Duration::from_secs(60), opened.notified()).await.unwrap();
    assert_eq!(scene.hub.pulls().await.len(), 1);
    let effects = scene.app.store.effects(run.id).await.unwrap();
    assert!(effects.iter().any(|e| e.kind == "pull_request" && e.settled_at.is_none()), "{effects:?}");

    let run = scene.die_and_start_again(working, &run).await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."), "{:?}", run.error_cause);
    assert_eq!((scene.hub.pulls().await.len(), scene.hub.branches().len(), scene.hub.remote.pushes()), (1, 1, 1));
    assert_eq!(scene.hub.times_asked(&Method::POST), 1);
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].number), (1, 1));
    let effects = scene.app.store.effects(run.id).await.unwrap();
    assert!(effects.len() == 2 && effects.iter().all(|e| e.settled_at.is_some()), "{effects:?}");
}

#[tokio::test]
async fn a_pull_request_that_a_person_closed_stays_closed_and_a_merged_one_is_followed_by_another() {
    let scene = Scene::new().await;
    let run = scene.queue(&mending_and(&["echo more > more.txt"])).await;
    scene.work_on(&run).await;
    scene.hub.person(Method::PATCH, "/pulls/1", Some(json!({ "state": "closed" }))).await;
    let run = scene.go_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete));
    assert!(result(&run).contains("/pull/1 was closed, and stays so"), "{}", result(&run));
    let pulls = scene.hub.pulls().await;
    assert_eq!((pulls.len(), &pulls[0]["state"]), (1, &json!("closed")));
    let branch = run.branch.clone().unwrap();
    assert_eq!(git(&scene.hub.origin(), &["show", &format!("{branch}:more.txt")]), "more", "the work is pushed");
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].state.as_str()), (1, "closed"));

    let run = scene.queue(&mending_and(&["echo more > more.txt"])).await;
    scene.work_on(&run).await;
    scene.hub.person(Method::PUT, "/pulls/2/merge", Some(json!({}))).await;
    let run = scene.go_on(&run).await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "Added more."));
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].number, rows[0].state.as_str()), (1, 3, "open"));
}

#[tokio::test]
async fn every_refusal_is_a_sentence_and_the_branch_is_kept() {
    let scene = Scene::new().await;
    let invalid = json!({ "message": "Validation Failed", "errors": [{ "field": "base", "message": "base is gone" }] });
    let said = |text: &str| json!({ "message": text });
    let setting = "`github_host_tokens`";
    for (method, status, body, words) in [
        (Method::GET, StatusCode::UNAUTHORIZED, said("Bad credentials"), ["is not valid", setting, "Bad credentials"]),
        (
            Method::POST,
            StatusCode::FORBIDDEN,
            said("Resource not accessible"),
            ["has no right", setting, "not accessible"],
        ),
        (Method::GET, StatusCode::NOT_FOUND, said("Not Found"), ["has no right", setting, "404"]),
        (Method::POST, StatusCode::UNPROCESSABLE_ENTITY, invalid, ["refuses it", "Validation Failed", "base is gone"]),
        (Method::POST, StatusCode::TEMPORARY_REDIRECT, said("Moved"), ["has moved", "new address", "307"]),
        (Method::POST, StatusCode::OK, json!({ "unreadable": true }), ["cannot be read", "number", "opening"]),
    ] {
        scene.hub.answer(1, &method, status, &[], &body);
        let run = scene.mended().await;
        assert_eq!(run.reason, Some(Reason::Complete), "{status}: {:?}", run.error_cause);
        let branch = run.branch.clone().unwrap();
        let begin = format!("The sum is right now.\n\nThe branch {branch} is pushed, but its pull request is not open");
        assert!(result(&run).starts_with(&begin), "{}", result(&run));
        assert!(words.iter().all(|word| result(&run).contains(word)), "{words:?}: {}", result(&run));
        assert!(scene.hub.branches().iter().any(|(name, _)| *name == branch), "{branch} is there");
        assert!(scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap().is_empty());
    }
    assert!(scene.hub.pulls().await.is_empty());
}

#[tokio::test]
async fn errors_of_github_are_tried_again_within_bounds_and_a_lost_answer_opens_no_second_pull_request() {
    let scene = Scene::new().await;
    scene.hub.answer(1, &Method::GET, StatusCode::BAD_GATEWAY, &[], &json!("<html>"));
    scene.hub.fault(Method::POST, Fault::LoseAnswer);
    let run = scene.mended().await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."));
    assert_eq!((scene.hub.pulls().await.len(), scene.hub.times_asked(&Method::POST)), (1, 1));

    scene.hub.answer(99, &Method::POST, StatusCode::SERVICE_UNAVAILABLE, &[], &json!({ "message": "No server" }));
    let run = scene.mended().await;
    assert_eq!(run.reason, Some(Reason::Complete));
    assert!(
        result(&run).contains("opening the pull request in acme/demo: GitHub has an error of its own (503")
            && result(&run).contains("No server"),
        "{}",
        result(&run)
    );
    assert_eq!(scene.hub.times_asked(&Method::POST), 1 + 4);
}

#[tokio::test]
async fn what_github_asks_to_wait_is_waited_and_not_for_ever() {
    let scene = Scene::new().await;
    let secondary = json!({ "message": "You have exceeded a secondary rate limit." });
    let after = |s: &str| [("retry-after", s.to_owned())];
    scene.hub.answer(1, &Method::POST, StatusCode::FORBIDDEN, &after("1"), &secondary);
    let run = scene.mended().await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."));
    let posts: Vec<_> = scene.hub.asked().into_iter().filter(|a| a.method == Method::POST).map(|a| a.at).collect();
    assert_eq!(posts.len(), 2);
    assert!(posts[1] - posts[0] >= Duration::from_secs(1), "{:?}", posts[1] - posts[0]);

    let asked = |scene: &Scene| scene.hub.asked().len();
    for (headers, requests) in [
        (after("0").to_vec(), 4),
        (vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", "99999999999".to_owned())], 1),
    ] {
        let before = asked(&scene);
        scene.hub.answer(requests, &Method::GET, StatusCode::TOO_MANY_REQUESTS, &headers, &secondary);
        let run = scene.mended().await;
        assert_eq!(run.reason, Some(Reason::Complete));
        assert!(result(&run).contains("GitHub's rate limit is reached"), "{}", result(&run));
        assert_eq!(asked(&scene) - before, requests);
    }
    assert_eq!((scene.hub.branches().len(), scene.hub.pulls().await.len()), (3, 1), "branches are kept");
}

#[tokio::test]
async fn a_push_that_breaks_off_is_tried_again_within_bounds_and_then_kept_as_a_patch() {
    let scene = Scene::new().await;
    scene.hub.remote.break_pushes(1);
    let run = scene.mended().await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."));
    assert_eq!((scene.hub.remote.pushes(), scene.hub.branches().len(), scene.hub.pulls().await.len()), (2, 1, 1));

    scene.hub.remote.break_pushes(99);
    let run = scene.mended().await;
    assert_eq!(run.reason, Some(Reason::Complete));
    assert!(
        result(&run).contains("the connection to the origin broke off") && result(&run).contains("kept as a patch"),
        "{}",
        result(&run)
    );
    assert_eq!((scene.hub.remote.pushes(), scene.hub.branches().len(), scene.hub.pulls().await.len()), (2 + 4, 1, 1));
    let diff = scene.app.store.blob(run.org_id, run.id, "diff").await.unwrap().unwrap();
    assert!(String::from_utf8(diff).unwrap().contains("+    return sum(xs)"));
}

#[tokio::test]
async fn a_hook_that_refuses_is_quoted_and_cut() {
    let scene = Scene::new().await;
    let words = "only people push here; ".repeat(100);
    scene.hub.hook("pre-receive", &format!("echo '{words}' >&2; exit 1"));
    let run = scene.mended().await;
    assert_eq!(run.reason, Some(Reason::Complete));
    assert!(
        result(&run).contains("did not take the branch")
            && result(&run).contains("only people push here")
            && result(&run).contains("kept as a patch")
            && result(&run).len() < 1_000,
        "{}",
        result(&run)
    );
    assert_eq!((scene.hub.branches().len(), scene.hub.pulls().await.len(), scene.hub.remote.pushes()), (0, 0, 1));
}

#[tokio::test]
async fn a_runs_own_commits_may_be_rewritten_and_nobody_elses() {
    let scene = Scene::new().await;
    let run = scene
        .queue(&mending_and(&[
            "git commit -q --amend -m Reworded && git rev-list --count HEAD",
            "echo more > more.txt",
        ]))
        .await;
    let run = scene.work_on(&run).await;
    let branch = run.branch.clone().unwrap();
    scene.go_on(&run).await;
    assert_eq!(git(&scene.hub.origin(), &["log", "--format=%s", &format!("main..{branch}")]), "Reworded");

    let work = scene.dir.path().join("work");
    git(&work, &["fetch", "-q"]);
    git(&work, &["checkout", "-q", &branch]);
    let theirs = commit_file(&work, "theirs.txt", "a person's\n");
    git(&work, &["push", "-q", "origin", &branch]);
    let run = scene.go_on(&run).await;
    assert!(
        result(&run).contains("someone else has changed the branch there since") && result(&run).contains("patch"),
        "{}",
        result(&run)
    );
    assert_eq!(scene.hub.branches(), [(branch, theirs)]);
}

/// What is written there.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let found = entries.map(|e| if e.file_type().unwrap().is_dir() { files(&e.path()) } else { vec![e.path()] });
    found.flatten().collect()
}

#[test]
fn the_token_is_in_no_log_trace_argument_git_setting_or_error() {
    // What other tests log at the same time decides what is logged at all.
    in_a_process_of_its_own("github_story::the_token_alone");
}

#[tokio::test]
#[ignore = "the other half of the test above, which runs it in a process of its own"]
async fn the_token_alone() {
    let logs = Written::default();
    let writer = logs.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let scene = Scene::new().await;
    scene.hub.hook("pre-receive", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' > argv; true");
    scene.hub.answer(2, &Method::POST, StatusCode::UNAUTHORIZED, &[], &json!({ "message": "Bad credentials" }));
    let look = "env; git config -l --show-origin; git remote -v; cat .git/config; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; \
                find / -xdev -name '*gitconfig*' -o -xdev -name '*credential*' 2>/dev/null | xargs -r cat 2>/dev/null; echo x > x.txt";
    let mut replies = vec![shell(look), finish("Looked.")];
    replies.extend([shell("echo y > y.txt"), finish("Looked again.")]);
    let run = scene.queue(&replies).await;
    let run = scene.work_on(&run).await;
    assert!(result(&run).contains("Bad credentials"), "{}", result(&run));
    scene.hub.remote.break_pushes(99);
    let again = scene.go_on(&run).await;
    assert!(result(&again).contains("broke off"), "{}", result(&again));

    let argv = std::fs::read_to_string(scene.hub.origin().join("argv")).unwrap();
    assert!(argv.contains("push --porcelain"), "the push is among the arguments: {argv}");
    let logs = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    assert!(logs.contains("TRACE") && logs.contains("run 1 ended"), "logs were taken");
    let log = scene.app.store.log(run.id, 0, 1000).await.unwrap();
    assert!(log.iter().any(|entry| entry.body.contains("user.name")), "git's settings were shown");
    let mirror = files(&scene.dir.path().join("data/mirrors"));
    assert!(mirror.iter().any(|path| path.ends_with("1.git/config")), "{mirror:?}");
    let basic = STANDARD.encode(format!("x-access-token:{TOKEN}"));
    for secret in [TOKEN, &basic] {
        assert!(!argv.contains(secret), "in an argument");
        let line = logs.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "in a log");
        let entry = log.iter().find(|entry| entry.body.contains(secret));
        assert!(entry.is_none(), "in the trace: {entry:?}");
        let rows = format!("{run:?} {again:?} {:?}", scene.app.store.effects(run.id).await.unwrap());
        assert!(!rows.contains(secret), "in the run: {rows}");
        for path in &mirror {
            let bytes = std::fs::read(path).unwrap();
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "in {}", path.display());
        }
    }
}

async fn execute(app: Arc<App>, run_id: i64) -> anyhow::Result<()> {
    worker::execute_one(app, run_id).await.map(drop)
}

#[tokio::test]
async fn a_pull_request_is_closed_opened_and_made_a_draft_at_github_through_the_api() {
    let scene = Scene::new().await;
    let run = scene.mended().await;
    let id = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap()[0].id;
    let (_, admin) = scene.app.store.first_org_and_admin().await.unwrap();
    let token = "cgn_for_this_test";
    scene.app.store.add_token(admin.id, "test", &crate::api::sha256(token), 0).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/organizations/{}/prs/{id}", listener.local_addr().unwrap(), run.org_id);
    let serving = tokio::spawn(codegen_server::serve(scene.app.clone(), listener));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let edit = async |state: &str| -> Value {
        let asks = http.patch(&url).bearer_auth(token).json(&json!({ "state": state }));
        asks.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    };
    for (asked, state) in [("closed", "closed"), ("open", "open")] {
        let edited = edit(asked).await;
        assert_eq!((&edited["success"], &edited["state"], &edited["number"]), (&json!(true), &json!(state), &json!(1)));
        assert_eq!(scene.hub.pulls().await[0]["state"], json!(state));
    }
    // `emulate` has no GraphQL, which is where drafts are made.
    let answer = |body| scene.hub.answer(1, &Method::POST, StatusCode::OK, &[], &body);
    answer(json!({ "data": { "convertPullRequestToDraft": { "pullRequest": { "isDraft": true } } } }));
    assert_eq!(edit("draft").await["state"], json!("draft"));
    answer(json!({ "data": null, "errors": [{ "message": "Drafts are not for this plan" }] }));
    let refused = edit("draft").await;
    assert_eq!((&refused["success"], &refused["state"]), (&json!(false), &json!("draft")));
    assert!(refused["error"].as_str().unwrap().contains("Drafts are not for this plan"), "{refused}");
    scene.hub.answer(1, &Method::PATCH, StatusCode::NOT_FOUND, &[], &json!({ "message": "Not Found" }));
    let refused = edit("closed").await;
    assert!(refused["error"].as_str().unwrap().contains("no right"), "{refused}");
    assert_eq!(
        scene.app.store.pull_request(run.org_id, id).await.unwrap().state,
        "draft",
        "what failed changed nothing"
    );
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
}
