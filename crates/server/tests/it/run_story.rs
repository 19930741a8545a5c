//! Whole runs, from a queued row to a pushed branch, with a scripted model in a real sandbox.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use codegen_sandbox::Engine;
use codegen_server::{
    App, Config,
    forge::git::{Kept, Mirror},
    worker,
};
use codegen_store::{NewRepo, NewRun, Phase, Reason, Repo, Run};
use serde_json::{Value, json};

use crate::{
    database,
    engine::{engine, unisolated},
    git_host::{commit_file, git, git_raw},
};

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub app: Arc<App>,
}

pub fn call(name: &str, input: Value) -> Value {
    json!({ "text": "", "calls": [{ "name": name, "input": input }] })
}

pub fn shell(command: &str) -> Value {
    call("shell", json!({ "command": command }))
}

/// The same reply, given only where what came before holds this.
pub fn expecting(text: &str, mut reply: Value) -> Value {
    reply["expect"] = text.into();
    reply
}

pub fn finish(summary: &str) -> Value {
    call("finish", json!({ "summary": summary, "success": true }))
}

/// Sees the test fail, mends the code, sees it pass.
pub fn mending() -> Vec<Value> {
    vec![
        shell("python3 test_total.py"),
        shell("sed -i 's/return 0/return sum(xs)/' total.py"),
        shell("python3 test_total.py && echo passes"),
        finish("The sum is right now."),
    ]
}

pub async fn open(dir: &Path) -> Arc<App> {
    open_with(dir, engine(&dir.join("data")), |_| {}).await
}

pub async fn open_with(dir: &Path, engine: Arc<dyn Engine>, configure: impl FnOnce(&mut Config)) -> Arc<App> {
    let mut config = Config::defaults(&dir.join("data"));
    config.max_concurrent_runs = 2;
    config.database_url = database::url(dir).map(Into::into);
    configure(&mut config);
    App::open(config, engine).await.unwrap().0
}

impl Scene {
    /// An origin whose test fails.
    pub async fn new() -> Self {
        Self::made(engine, |_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        Self::made(engine, configure).await
    }

    pub async fn made(engine: impl FnOnce(&Path) -> Arc<dyn Engine>, configure: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "--bare", "origin.git"]);
        git(dir.path(), &["clone", "-q", "origin.git", "work"]);
        let work = dir.path().join("work");
        git(&work, &["checkout", "-q", "-B", "main"]);
        std::fs::write(work.join("total.py"), "def total(xs):\n    return 0\n").unwrap();
        commit_file(&work, "test_total.py", "from total import total\nassert total([1, 2]) == 3, 'wrong sum'\n");
        git(&work, &["push", "-q", "origin", "main"]);
        let app = open_with(dir.path(), engine(&dir.path().join("data")), configure).await;
        Self { dir, app }
    }

    pub fn origin(&self) -> PathBuf {
        self.dir.path().join("origin.git")
    }

    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub async fn repo(&self, origin: &Path) -> Repo {
        let (org, _) = self.app.store.first_org_and_admin().await.unwrap();
        let new = NewRepo::of_origin(&origin.display().to_string(), Some("main"));
        self.app.store.create_repo(org.id, new, self.app.now()).await.unwrap()
    }

    fn script(&self, replies: &[Value]) -> String {
        let path = self.dir.path().join(format!("script-{:x}.json", rand::random::<u64>()));
        std::fs::write(&path, json!({ "replies": replies }).to_string()).unwrap();
        format!("scripted:{}", path.display())
    }

    pub async fn queue(&self, repo: Option<&Repo>, replies: &[Value]) -> Run {
        let (org, user) = self.app.store.first_org_and_admin().await.unwrap();
        let new = NewRun {
            user_id: user.id,
            repo_id: repo.map(|r| r.id),
            prompt: "Mend the test".to_owned(),
            model: Some(self.script(replies)),
            source_type: "API".to_owned(),
            push: true,
            open_pr: true,
            ..NewRun::default()
        };
        self.app.store.create_run(org.id, new, self.app.now()).await.unwrap()
    }

    pub async fn work_on(&self, run: &Run) -> Run {
        worker::execute_one(self.app.clone(), run.id).await.unwrap();
        self.app.store.run_by_id(run.id).await.unwrap()
    }

    /// Bodies of the log's entries of one kind.
    pub async fn entries(&self, run: &Run, kind: &str) -> Vec<Value> {
        let rows = self.app.store.log(run.id, 0, 1000).await.unwrap();
        rows.iter().filter(|r| r.kind == kind).map(|r| serde_json::from_str(&r.body).unwrap()).collect()
    }

    pub async fn diff(&self, run: &Run) -> String {
        String::from_utf8(self.app.store.blob(run.org_id, run.id, "diff").await.unwrap().unwrap()).unwrap()
    }

    /// Returns when the run's kept workspace has a file.
    pub async fn until_kept(&self, run: &Run, file: &str) {
        let mirror = Mirror::of(&self.app.config.data_dir, run.repo_id.unwrap());
        let kept = async {
            loop {
                if let Some(commit) = mirror.kept(Kept::Workspace(run.id)).await.unwrap()
                    && mirror.read_file(&commit, file, 1).await.unwrap().is_some()
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), kept).await.expect("the turn is kept");
    }

    pub async fn lose_sandboxes(&self) {
        for id in self.app.engine.inventory().await.unwrap() {
            self.app.engine.destroy(&id).await.unwrap();
        }
    }

    pub async fn until(&self, run: &Run, what: impl AsyncFn(&Run) -> bool) {
        let mut changes = self.app.store.subscribe();
        while !what(&self.app.store.run_by_id(run.id).await.unwrap()).await {
            tokio::time::timeout(std::time::Duration::from_secs(60), changes.recv())
                .await
                .expect("the run goes on")
                .ok();
        }
    }
}

pub fn result(run: &Run) -> &str {
    run.result.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_failing_test_is_mended_and_ends_as_a_pushed_branch_with_a_pull_request() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}\n{:?}", result(&run), run.error_cause);
    assert_eq!(result(&run), "The sum is right now.");
    let branch = run.branch.clone().unwrap();
    assert_eq!(branch, format!("codegen/{}-mend-the-test", run.id));
    assert_eq!(git(&scene.origin(), &["show", &format!("{branch}:total.py")]), "def total(xs):\n    return sum(xs)");
    let commit =
        git(&scene.origin(), &["log", "-1", "--format=%an|%s|%(trailers:key=Requested-by,valueonly)", &branch]);
    assert_eq!(commit, "codegen|Mend the test|Admin");
    let calls = scene.entries(&run, "call_finished").await;
    assert_eq!(calls[0]["exit_code"], 1, "the test really failed before: {}", calls[0]);
    assert!(calls[2]["output"].as_str().unwrap().contains("passes"), "{}", calls[2]);
    let pulls = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!(pulls.len(), 1);
    assert_eq!(pulls[0].url, format!("http://127.0.0.1:8080/pulls/{}", pulls[0].id));
    assert_eq!((pulls[0].base_branch.as_str(), pulls[0].state.as_str()), ("main", "open"));
    assert!(run.diff_stat.as_deref().unwrap().contains("total.py"), "{:?}", run.diff_stat);
    assert!(scene.diff(&run).await.contains("+    return sum(xs)"));
    assert_eq!((run.steps, run.phase), (4, Phase::Done));
    let effects = scene.app.store.effects(run.id).await.unwrap();
    assert!(effects.iter().all(|e| e.settled_at.is_some()), "{effects:?}");
    assert!(scene.app.engine.inventory().await.unwrap().is_empty(), "the sandbox is gone");
    let stages = scene.entries(&run, "stage").await;
    let in_state = |state: &str| -> Vec<Value> {
        stages.iter().filter(|s| s["state"] == state).map(|s| s["name"].clone()).collect()
    };
    assert_eq!(in_state("started"), ["fetch", "sandbox", "checkout"]);
    let done = in_state("done");
    assert!(done.len() == 3 && done[2] == "checkout", "the first two go side by side: {done:?}");
    let ended = |s: &&Value| s["state"] == "done";
    assert!(stages.iter().filter(ended).all(|s| s["started_at"].as_str() <= s["ended_at"].as_str()), "{stages:?}");
}

#[tokio::test]
async fn a_follow_up_goes_on_from_the_runs_own_branch_and_updates_the_same_pull_request() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let mut replies = mending();
    replies.extend([shell("grep -q 'sum(xs)' total.py && echo more > more.txt"), finish("Added more.")]);
    let run = scene.queue(Some(&repo), &replies).await;
    let first = scene.work_on(&run).await;
    scene.app.store.add_message(run.org_id, run.id, "Add more", &[], scene.app.now()).await.unwrap();
    let run = scene.work_on(&first).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    assert_eq!(run.branch, first.branch);
    let branch = run.branch.clone().unwrap();
    assert_eq!(git(&scene.origin(), &["show", &format!("{branch}:more.txt")]), "more");
    assert_eq!(git(&scene.origin(), &["rev-list", "--count", &format!("main..{branch}")]), "2");
    let diff = scene.diff(&run).await;
    assert!(diff.contains("more.txt") && diff.contains("sum(xs)"), "the patch is the whole change: {diff}");
    let pulls = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!(pulls.len(), 1);
    assert_eq!(pulls[0].head_commit, git(&scene.origin(), &["rev-parse", &branch]));
}

#[tokio::test]
async fn a_rejected_push_is_a_sentence_and_the_work_is_kept_as_a_patch() {
    let scene = Scene::new().await;
    let hook = scene.origin().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho 'only people push here' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    assert!(
        result(&run).contains("only people push here") && result(&run).contains("kept as a patch"),
        "{}",
        result(&run)
    );
    assert!(scene.diff(&run).await.contains("+    return sum(xs)"));
    assert!(scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_repository_gets_its_first_branch() {
    let scene = Scene::new().await;
    git(scene.dir.path(), &["init", "-q", "--bare", "empty.git"]);
    let repo = scene.repo(&scene.dir.path().join("empty.git")).await;
    let run = scene.queue(Some(&repo), &[shell("echo hello > README"), finish("Began.")]).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    assert!(result(&run).contains("The repository was empty"), "{}", result(&run));
    let branch = run.branch.unwrap();
    assert_eq!(git(&scene.dir.path().join("empty.git"), &["show", &format!("{branch}:README")]), "hello");
}

#[tokio::test]
async fn a_detached_head_and_a_missing_default_branch_are_handled() {
    let scene = Scene::new().await;
    git(&scene.work(), &["checkout", "-q", "--detach"]);
    git(&scene.work(), &["branch", "-q", "-D", "main"]);
    let repo = scene.repo(&scene.work()).await;
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{} {:?}", result(&run), run.error_cause);

    let (org, _) = scene.app.store.first_org_and_admin().await.unwrap();
    let other = scene.dir.path().join("other.git");
    git(scene.dir.path(), &["clone", "-q", "--bare", "origin.git", "other.git"]);
    git(&other, &["branch", "-q", "one", "main"]);
    git(&other, &["branch", "-q", "two", "main"]);
    git(&other, &["symbolic-ref", "HEAD", "refs/heads/gone"]);
    git(&other, &["branch", "-q", "-D", "main"]);
    let new = NewRepo::of_origin(&other.display().to_string(), None);
    let repo = scene.app.store.create_repo(org.id, new, scene.app.now()).await.unwrap();
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Error));
    assert!(
        result(&run).contains("default branch is missing") && result(&run).contains("one, two"),
        "{}",
        result(&run)
    );
}

#[tokio::test]
async fn an_origin_that_is_gone_is_a_sentence() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.dir.path().join("gone.git")).await;
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Error));
    assert!(result(&run).contains("there is no git repository there"), "{}", result(&run));
}

#[tokio::test]
async fn a_run_without_a_repository_works_in_an_empty_folder() {
    let scene = Scene::new().await;
    let run = scene.queue(None, &[shell("ls -A | wc -l"), finish("Nothing here.")]).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{} {:?}", result(&run), run.error_cause);
    assert_eq!(
        scene.entries(&run, "call_finished").await[0]["output"].as_str().unwrap().trim().split('\n').next(),
        Some("0")
    );
}

#[tokio::test]
async fn whatever_the_agent_did_to_git_its_work_is_kept() {
    for damage in [
        "rm -rf .git",
        "git checkout -q --detach && git branch -q -D codegen/1-mend-the-test",
        "git init -q nested && touch .git/index.lock",
        "echo '#!/bin/sh\nexit 1' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit; git config commit.gpgsign true",
    ] {
        let scene = Scene::new().await;
        let repo = scene.repo(&scene.origin()).await;
        let run = scene
            .queue(
                Some(&repo),
                &[shell(&format!("echo kept > kept.txt; mkdir -p .git/hooks; {damage}")), finish("Done.")],
            )
            .await;
        let run = scene.work_on(&run).await;
        assert_eq!(run.reason, Some(Reason::Complete), "{damage}: {}", result(&run));
        let branch = run.branch.clone().unwrap_or_else(|| panic!("{damage}: {}", result(&run)));
        assert_eq!(git(&scene.origin(), &["show", &format!("{branch}:kept.txt")]), "kept", "{damage}");
    }
}

#[tokio::test]
async fn setup_commands_run_in_one_shell_and_leave_their_environment() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let commands = "cd /workspace\nexport GREETING='hello there'\nif true; then\n  echo made > made.txt\nfi\n";
    scene.app.store.set_setup_commands(repo.org_id, repo.id, commands).await.unwrap();
    let run =
        scene.queue(Some(&repo), &[shell("echo \"$GREETING\" $(cat made.txt); touch made.txt"), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    let output = scene.entries(&run, "call_finished").await[0]["output"].as_str().unwrap().to_owned();
    assert!(output.contains("hello there made"), "{output}");

    scene
        .app
        .store
        .set_setup_commands(repo.org_id, repo.id, "echo one\n\necho to-stderr >&2; (exit 7)\necho never")
        .await
        .unwrap();
    let run = scene.queue(Some(&repo), &[finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    let notices = scene.entries(&run, "notice").await;
    let said =
        notices.iter().filter_map(|n| n["text"].as_str()).find(|t| t.contains("Setup stopped")).unwrap().to_owned();
    assert!(
        said.contains("line 3")
            && said.contains("exit code 7")
            && said.contains("to-stderr")
            && !said.contains("never"),
        "{said}"
    );
}

#[tokio::test]
async fn without_a_sandbox_setup_and_the_agent_work_in_the_data_directory_with_the_users_own_rights() {
    let scene = Scene::made(unisolated, |_| {}).await;
    let repo = scene.repo(&scene.origin()).await;
    let commands = "echo made > made.txt\nexport GREETING=hello FOLDER=\"$PWD\" SCRATCH=\"$TMPDIR\"\n";
    scene.app.store.set_setup_commands(repo.org_id, repo.id, commands).await.unwrap();
    let look = "pwd; echo $HOME; mktemp; stat -c %u:%g . made.txt $HOME; echo $GREETING $FOLDER $SCRATCH";
    let edit = call("edit", json!({"path": "total.py", "old": "return 0", "new": "return sum(xs)"}));
    let run = scene.queue(Some(&repo), &[shell(look), edit, shell("python3 test_total.py"), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    let calls = scene.entries(&run, "call_finished").await;
    let output = calls[0]["output"].as_str().unwrap();
    let data = scene.dir.path().canonicalize().unwrap().join("data/unisolated/run-");
    let (data, own) = (
        data.display().to_string(),
        format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
    );
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[..3].iter().all(|line| line.starts_with(&data)), "{output}");
    assert_eq!(lines[3..6], [own.as_str(); 3], "{output}");
    assert!(lines[6].starts_with(&format!("hello {data}")) && lines[6].contains(&format!(" {data}")), "{output}");
    assert_eq!(calls[2]["exit_code"], 0, "{calls:?}");
    let notices = scene.entries(&run, "notice").await;
    assert!(notices[0]["text"].as_str().unwrap().contains("WITHOUT ISOLATION"), "{notices:?}");
    let branch = run.branch.clone().unwrap();
    assert_eq!(git(&scene.origin(), &["show", &format!("{branch}:made.txt")]), "made");
}

#[tokio::test]
async fn rules_of_the_repository_are_told() {
    let scene = Scene::new().await;
    std::os::unix::fs::symlink("/etc/passwd", scene.work().join("CLAUDE.md")).unwrap();
    std::fs::create_dir_all(scene.work().join(".cursor/rules")).unwrap();
    std::fs::write(scene.work().join(".cursor/rules/a\nb.md"), "Odd.\n").unwrap();
    commit_file(&scene.work(), "AGENTS.md", "Always run the tests.\n");
    git(&scene.work(), &["push", "-q", "origin", "main"]);
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    let notices = scene.entries(&run, "notice").await;
    let rules = "Rules from AGENTS.md, .cursor/rules/a\\nb.md are in the prompt.";
    assert!(notices.iter().any(|n| n["text"] == rules), "links are not followed: {notices:?}");
    assert_eq!((run.branch, run.reason), (None, Some(Reason::Complete)), "nothing changed, nothing is pushed");
}

#[tokio::test]
async fn an_organization_that_switched_rules_and_pull_requests_off_gets_neither() {
    let scene = Scene::new().await;
    commit_file(&scene.work(), "AGENTS.md", "Always run the tests.\n");
    git(&scene.work(), &["push", "-q", "origin", "main"]);
    let repo = scene.repo(&scene.origin()).await;
    let off =
        codegen_store::OrgChange { enable_pr_creation: Some(false), enable_rules_detection: Some(false), name: None };
    scene.app.store.update_org(repo.org_id, off, 0).await.unwrap();
    let run = scene.queue(Some(&repo), &[shell("echo new > new.txt"), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    let notices = scene.entries(&run, "notice").await;
    assert!(!notices.iter().any(|n| n["text"].as_str().unwrap().contains("AGENTS.md")), "{notices:?}");
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    assert!(scene.diff(&run).await.contains("+new"), "the work is kept as a patch");
    assert_eq!(git(&scene.origin(), &["branch", "--list", "codegen/*"]).trim(), "", "nothing is pushed");
}

#[tokio::test]
async fn a_stopped_run_keeps_its_work() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell("echo half > half.txt"), shell("sleep 600"), finish("Never.")]).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 2).await;
    scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    work.await.unwrap().unwrap();
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!(run.reason, Some(Reason::Cancelled), "{}", result(&run));
    assert!(scene.diff(&run).await.contains("+half"));
    assert!(
        !git_raw(&scene.origin(), &["rev-parse", "--verify", "-q", &run.branch.unwrap()]).status.success(),
        "a stopped run is not pushed"
    );
}

#[tokio::test]
async fn a_run_goes_on_from_its_last_step_after_its_process_died() {
    let mut scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let replies = [
        shell("echo once >> count.txt"),
        shell("echo twice >> count.txt; sleep 1; echo thrice >> count.txt; echo whole"),
        expecting("whole", shell("cat count.txt")),
        finish("Done."),
    ];
    let run = scene.queue(Some(&repo), &replies).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 2).await;
    work.abort();
    work.await.unwrap_err();
    scene.app.store.close().await;
    scene.app = open(scene.dir.path()).await;

    let serving = tokio::spawn(worker::run(scene.app.clone()));
    scene.until(&run, async |run| run.phase == Phase::Done).await;
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
    let done = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!(done.reason, Some(Reason::Complete), "{} {:?}", result(&done), done.error_cause);
    assert_eq!(
        git(&scene.origin(), &["show", &format!("{}:count.txt", done.branch.as_ref().unwrap())]),
        "once\ntwice\nthrice",
        "the command under way went on, and nothing was done twice"
    );
    assert_eq!(done.attempt, 2);
    let took = scene.entries(&done, "call_finished").await[1]["duration_ms"].as_u64().unwrap();
    assert!(took >= 1000, "as long as the command ran, not as long as it was followed since: {took} ms");
    let notices = scene.entries(&done, "notice").await;
    assert_eq!(notices.len(), 1, "one line says so: {notices:?}");
}

#[tokio::test]
async fn a_worker_that_goes_down_lets_its_run_go_and_the_next_one_continues_it() {
    let mut scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let replies = [
        shell("echo once >> count.txt"),
        shell("echo twice >> count.txt; sleep 6; echo whole"),
        expecting("whole", finish("Done.")),
    ];
    let run = scene.queue(Some(&repo), &replies).await;
    let serving = tokio::spawn(worker::run(scene.app.clone()));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 2).await;
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
    let waiting = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!((waiting.phase, waiting.crashes), (Phase::Queued, 0));
    scene.app.store.close().await;
    scene.app = open(scene.dir.path()).await;
    let done = scene.work_on(&run).await;
    assert_eq!(done.reason, Some(Reason::Complete), "{} {:?}", result(&done), done.error_cause);
    assert_eq!(git(&scene.origin(), &["show", &format!("{}:count.txt", done.branch.unwrap())]), "once\ntwice");
}

/// Three turns: what is committed, what is not, and a command under way in which the sandbox is lost.
fn losing() -> [Value; 5] {
    [
        shell(
            "echo one > one.txt; git add one.txt; git commit -qm 'Own commit'; echo node_modules >> .git/info/exclude",
        ),
        // What the test waits for comes last: the copy of the turn before may see the beginning of this one.
        shell("mkdir node_modules; touch node_modules/x; echo staged >> total.py; echo two > two.txt"),
        shell("sleep 600"),
        expecting("its sandbox was lost", shell("ls; git status --porcelain; git log -1 --format=%s")),
        finish("Done."),
    ]
}

fn check_found_again(done: &Run, scene: &Scene, calls: &[Value], notices: &[Value]) {
    assert_eq!(done.reason, Some(Reason::Complete), "{} {:?}", result(done), done.error_cause);
    let found = calls[3]["output"].as_str().unwrap();
    assert_eq!(
        found, "one.txt\ntest_total.py\ntotal.py\ntwo.txt\n M total.py\n?? two.txt\nOwn commit\n",
        "as it was, but for ignored files"
    );
    let lost = notices.iter().filter(|n| n["text"].as_str().unwrap().contains("replaced by a new one"));
    assert_eq!(lost.count(), 1, "{notices:?}");
    assert!(git(&scene.origin(), &["log", "--format=%s", done.branch.as_ref().unwrap()]).contains("Own commit"));
}

#[tokio::test]
async fn a_run_that_lost_its_sandbox_goes_on_in_a_new_one_from_the_last_turn() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &losing()).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 3).await;
    scene.until_kept(&run, "two.txt").await;
    scene.lose_sandboxes().await;
    work.await.unwrap().unwrap();
    let done = scene.app.store.run_by_id(run.id).await.unwrap();
    check_found_again(&done, &scene, &scene.entries(&run, "call_finished").await, &scene.entries(&run, "notice").await);
}

#[tokio::test]
async fn a_run_that_lost_process_and_sandbox_goes_on_in_a_new_one_from_the_last_turn() {
    let mut scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &losing()).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 3).await;
    scene.until_kept(&run, "two.txt").await;
    work.abort();
    work.await.unwrap_err();
    scene.lose_sandboxes().await;
    scene.app.store.close().await;
    scene.app = open(scene.dir.path()).await;
    let serving = tokio::spawn(worker::run(scene.app.clone()));
    scene.until(&run, async |run| run.phase == Phase::Done).await;
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
    let done = scene.app.store.run_by_id(run.id).await.unwrap();
    check_found_again(&done, &scene, &scene.entries(&run, "call_finished").await, &scene.entries(&run, "notice").await);
}

#[tokio::test]
async fn an_ignored_file_that_was_added_by_force_is_in_the_new_sandbox_too() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let replies = [
        shell("echo '*.gen' > .gitignore"),
        shell("echo made > a.gen; git add -f a.gen; git commit -qam 'Own commit'; echo two > two.txt"),
        shell("sleep 600"),
        expecting("its sandbox was lost", shell("cat a.gen; git status --porcelain")),
        finish("Done."),
    ];
    let run = scene.queue(Some(&repo), &replies).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 2).await;
    scene.until_kept(&run, ".gitignore").await;
    scene.until(&run, async |_| scene.entries(&run, "call_started").await.len() == 3).await;
    scene.until_kept(&run, "two.txt").await;
    scene.lose_sandboxes().await;
    work.await.unwrap().unwrap();
    let calls = scene.entries(&run, "call_finished").await;
    let found = calls[3]["output"].as_str().unwrap();
    assert_eq!(found, "made\n?? .gitignore\n?? two.txt\n");
}

#[tokio::test]
async fn an_agent_that_ends_without_a_word_leaves_a_result_all_the_same() {
    let scene = Scene::new().await;
    let run = scene.queue(None, &[json!({ "text": " ", "calls": [] })]).await;
    let run = scene.work_on(&run).await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The agent ended without a word."));
}

#[tokio::test]
async fn without_a_usable_model_a_run_says_what_to_set() {
    let scene = Scene::new().await;
    let (org, user) = scene.app.store.first_org_and_admin().await.unwrap();
    let new = NewRun { user_id: user.id, prompt: "x".to_owned(), source_type: "API".to_owned(), ..NewRun::default() };
    let run = scene.app.store.create_run(org.id, new, scene.app.now()).await.unwrap();
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Error));
    assert!(result(&run).contains("ANTHROPIC_API_KEY"), "{}", result(&run));
}

#[tokio::test]
async fn what_the_commit_leaves_out_is_told() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let command = "echo kept > kept.txt; echo x > secret; chmod 0 secret; mkdir locked; echo x > locked/f; chmod 0 locked
        git init -q empty; git init -q own; git -C own -c user.name=a -c user.email=b commit -q --allow-empty -m own; echo x > own/f";
    let run = scene.queue(Some(&repo), &[shell(command), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    let branch = run.branch.clone().unwrap();
    let files = git(&scene.origin(), &["ls-tree", "--name-only", &branch]);
    assert_eq!(files.lines().collect::<Vec<_>>(), ["kept.txt", "own", "test_total.py", "total.py"]);
    assert_eq!(
        result(&run),
        "Done.\n\nNot in the commit: empty/ (a git repository of its own, without a commit), locked/ (cannot be read), \
         own (a git repository of its own: only its commit's name is kept), secret (cannot be read)."
    );
}
