//! Host-side git against real repositories: probing, mirroring, packs, pushes, the user's working tree.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use codegen_server::forge::git::{self, Error, Kept, Mirror, Pushed};

/// Git as a person runs it, with nobody's settings.
pub fn git_raw(dir: &Path, args: &[&str]) -> Output {
    Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap()
}

pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = git_raw(dir, args);
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn commit_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", &format!("Change {name}")]);
    git(dir, &["rev-parse", "HEAD"])
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A bare origin with one commit, and a clone of it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        git(place.path(), &["init", "-q", "--bare", "origin.git"]);
        git(place.path(), &["clone", "-q", "origin.git", "work"]);
        git(&place.work(), &["checkout", "-q", "-B", "main"]);
        commit_file(&place.work(), "a.txt", "one\n");
        git(&place.work(), &["push", "-q", "origin", "main"]);
        place
    }
    fn path(&self) -> &Path {
        self.dir.path()
    }
    fn work(&self) -> PathBuf {
        self.path().join("work")
    }
    fn origin(&self) -> String {
        self.path().join("origin.git").display().to_string()
    }
    fn mirror(&self) -> Mirror {
        Mirror::of(&self.path().join("data"), 1)
    }
    fn head(&self) -> String {
        git(&self.work(), &["rev-parse", "HEAD"])
    }
    /// What a sandbox does: commits on top of the mirror's objects, packed against `base`.
    fn pack(&self, base: Option<&str>, dir: &Path, commit: &str) -> Vec<u8> {
        let revs = format!("{commit}\n{}", base.map(|b| format!("^{b}\n")).unwrap_or_default());
        let input = self.path().join("revs");
        std::fs::write(&input, revs).unwrap();
        let out = Command::new("git")
            .current_dir(dir)
            .args(["pack-objects", "--revs", "--thin", "--stdout", "-q"])
            .stdin(std::fs::File::open(input).unwrap())
            .output()
            .unwrap();
        assert!(out.status.success());
        out.stdout
    }
}

#[tokio::test]
async fn a_probe_tells_the_default_branch_and_what_is_empty_or_detached() {
    let place = Place::new();
    let probe = git::probe(&place.origin()).await.unwrap();
    assert_eq!(probe.default_branch.as_deref(), Some("main"));
    assert_eq!(probe.head.as_deref(), Some(place.head().as_str()));
    assert!(!probe.empty);

    git(place.path(), &["init", "-q", "--bare", "empty.git"]);
    let probe = git::probe(&place.path().join("empty.git").display().to_string()).await.unwrap();
    assert!(probe.empty && probe.default_branch.is_none());

    git(&place.work(), &["checkout", "-q", "--detach"]);
    let probe = git::probe(&place.work().display().to_string()).await.unwrap();
    assert_eq!((probe.default_branch, probe.head), (None, Some(place.head())));

    git(Path::new(&place.origin()), &["symbolic-ref", "HEAD", "refs/heads/gone"]);
    let probe = git::probe(&place.origin()).await.unwrap();
    assert_eq!((probe.default_branch, probe.head, probe.empty), (None, None, false));
    assert_eq!(probe.branches, ["main"]);
}

#[tokio::test]
async fn a_folder_that_is_no_repository_is_a_plain_sentence() {
    let place = Place::new();
    let missing = place.path().join("missing").display().to_string();
    let error = git::probe(&missing).await.unwrap_err();
    assert!(matches!(error, Error::Unusable(_)), "{error}");
    assert!(error.to_string().contains("there is no git repository there"), "{error}");
    assert!(matches!(git::probe("ext::sh -c 'touch /tmp/x'").await.unwrap_err(), Error::BadOrigin(_)));
    let error = git::probe("http://127.0.0.1:9/r.git").await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_mirror_follows_its_origin_and_forgets_branches_that_are_gone() {
    let place = Place::new();
    let mirror = place.mirror();
    git(&place.work(), &["push", "-q", "origin", "main:old"]);
    mirror.fetch(&place.origin(), None).await.unwrap();
    assert_eq!(mirror.resolve("refs/heads/main").await.unwrap(), Some(place.head()));
    assert!(mirror.resolve("refs/heads/old").await.unwrap().is_some());
    git(&place.work(), &["push", "-q", "origin", ":old"]);
    git(&place.work(), &["tag", "v1"]);
    git(&place.work(), &["push", "-q", "origin", "v1"]);
    let second = commit_file(&place.work(), "a.txt", "two\n");
    git(&place.work(), &["push", "-q", "origin", "main"]);
    mirror.keep(Kept::Run(7), &mirror.resolve("main").await.unwrap().unwrap()).await.unwrap();
    mirror.fetch(&place.origin(), None).await.unwrap();
    assert_eq!(mirror.resolve("refs/heads/main").await.unwrap(), Some(second));
    assert_eq!(mirror.resolve("refs/heads/old").await.unwrap(), None);
    assert!(mirror.resolve("refs/tags/v1").await.unwrap().is_some());
    assert!(mirror.kept(Kept::Run(7)).await.unwrap().is_some(), "runs' commits stay");
    assert_eq!(mirror.resolve("--all").await.unwrap(), None);
}

#[tokio::test]
async fn a_mirror_that_was_half_made_is_completed() {
    let place = Place::new();
    let mirror = place.mirror();
    std::fs::create_dir_all(mirror.dir().join("objects")).unwrap();
    mirror.fetch(&place.origin(), None).await.unwrap();
    assert!(mirror.has(&place.head()).await.unwrap());
}

#[tokio::test]
async fn many_fetches_at_once_take_turns() {
    let place = Place::new();
    let (mirror, origin) = (place.mirror(), place.origin());
    let all = (0..4).map(|_| mirror.fetch(&origin, None));
    for fetched in [all.collect::<Vec<_>>()].into_iter().flatten() {
        fetched.await.unwrap();
    }
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (mirror, origin) = (mirror.clone(), origin.clone());
            tokio::spawn(async move { mirror.fetch(&origin, None).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_pack_brings_a_commit_that_can_be_compared_and_pushed() {
    let place = Place::new();
    let (mirror, base) = (place.mirror(), place.head());
    mirror.fetch(&place.origin(), None).await.unwrap();
    let commit = commit_file(&place.work(), "a.txt", "one\ntwo\n");
    let pack = place.pack(Some(&base), &place.work(), &commit);
    mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(pack)).await.unwrap();
    assert_eq!(mirror.kept(Kept::Run(3)).await.unwrap(), Some(commit.clone()));
    let diff = String::from_utf8(mirror.diff(Some(&base), &commit).await.unwrap()).unwrap();
    assert!(diff.starts_with("diff --git a/a.txt b/a.txt") && diff.contains("+two"), "{diff}");
    assert!(mirror.diff_stat(Some(&base), &commit).await.unwrap().contains("1 file changed, 1 insertion(+)"));

    let origin = place.origin();
    assert_eq!(mirror.push(&commit, "codegen/3-x", &origin, None).await.unwrap(), Pushed::Now);
    assert_eq!(mirror.push(&commit, "codegen/3-x", &origin, None).await.unwrap(), Pushed::Before);
    assert_eq!(mirror.remote_commit("codegen/3-x", &origin).await.unwrap(), Some(commit));
}

#[tokio::test]
async fn a_push_overwrites_only_what_the_run_itself_pushed() {
    let place = Place::new();
    let (mirror, base, origin) = (place.mirror(), place.head(), place.origin());
    git(&place.work(), &["push", "-q", "origin", "HEAD:refs/heads/codegen/3-x"]);
    let commit = commit_file(&place.work(), "b.txt", "b\n");
    git(&place.work(), &["push", "-q", "origin", "main"]);
    mirror.fetch(&origin, None).await.unwrap();
    let error = mirror.push(&commit, "codegen/3-x", &origin, None).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)) && error.to_string().contains("someone else"), "{error}");
    assert_eq!(mirror.push(&commit, "codegen/3-x", &origin, Some(&base)).await.unwrap(), Pushed::Now);
}

/// What the origin does before it takes a push.
fn hook(origin: &str, script: &str) {
    let hook = Path::new(origin).join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_push_that_finds_an_earlier_one_taken_while_it_was_under_way_has_pushed() {
    let place = Place::new();
    let (mirror, origin) = (place.mirror(), place.origin());
    mirror.fetch(&origin, None).await.unwrap();
    let head = place.head();
    hook(&origin, &format!("env -u GIT_QUARANTINE_PATH git update-ref refs/heads/codegen/3-x {head}"));
    assert_eq!(mirror.push(&head, "codegen/3-x", &origin, None).await.unwrap(), Pushed::Now);
    assert_eq!(mirror.remote_commit("codegen/3-x", &origin).await.unwrap(), Some(head));
}

#[tokio::test]
async fn a_push_whose_git_is_killed_is_tried_again() {
    let place = Place::new();
    let (mirror, origin) = (place.mirror(), place.origin());
    mirror.fetch(&origin, None).await.unwrap();
    let tried = Path::new(&origin).join("tried");
    // Git leads the process group.
    let kill = "set -- $(cat /proc/$$/stat)\nkill -9 $5";
    hook(&origin, &format!("[ -e {0} ] && exit 0\ntouch {0}\n{kill}\nexit 1", tried.display()));
    assert_eq!(mirror.push(&place.head(), "codegen/3-x", &origin, None).await.unwrap(), Pushed::Now);
    assert!(tried.exists());
}

#[tokio::test]
async fn a_push_that_a_hook_refuses_says_what_the_origin_said() {
    let place = Place::new();
    let (mirror, origin) = (place.mirror(), place.origin());
    mirror.fetch(&origin, None).await.unwrap();
    hook(&origin, "echo 'no robots here' >&2\nexit 1");
    let error = mirror.push(&place.head(), "codegen/3-x", &origin, None).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)) && error.to_string().contains("no robots here"), "{error}");
}

#[tokio::test]
async fn a_broken_or_incomplete_pack_is_refused() {
    let place = Place::new();
    let (mirror, base) = (place.mirror(), place.head());
    mirror.fetch(&place.origin(), None).await.unwrap();
    let middle = commit_file(&place.work(), "a.txt", "two\n");
    let commit = commit_file(&place.work(), "a.txt", "three\n");
    let mut pack = place.pack(Some(&base), &place.work(), &commit);
    let last = place.pack(Some(&middle), &place.work(), &commit);
    assert!(
        mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(last)).await.is_err(),
        "its parent is missing"
    );
    pack.truncate(pack.len() - 10);
    assert!(mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(pack)).await.is_err());
    assert!(mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(b"hello".to_vec())).await.is_err());
    assert_eq!(mirror.kept(Kept::Run(3)).await.unwrap(), None);
}

/// A commit with one entry of any name and mode, as no well-behaved git makes it.
fn hostile_commit(dir: &Path, mode: &str, name: &[u8], content: &str) -> String {
    let file = dir.join("content");
    std::fs::write(&file, content).unwrap();
    let blob = git(dir, &["hash-object", "-w", "content"]);
    let mut tree = [mode.as_bytes(), b" ", name, b"\0"].concat();
    tree.extend((0..blob.len()).step_by(2).map(|i| u8::from_str_radix(&blob[i..i + 2], 16).unwrap()));
    std::fs::write(&file, tree).unwrap();
    let tree = git(dir, &["hash-object", "-t", "tree", "-w", "--literally", "content"]);
    std::fs::remove_file(file).unwrap();
    git(dir, &["commit-tree", &tree, "-m", "hostile"])
}

#[tokio::test]
async fn hostile_paths_do_not_get_into_a_mirror() {
    let place = Place::new();
    let mirror = place.mirror();
    mirror.fetch(&place.origin(), None).await.unwrap();
    for (mode, name) in [
        ("100644", &b".git"[..]),
        ("100644", b".GIT"),
        ("100644", b".."),
        ("100644", b"a/b"),
        ("120000", b".gitmodules"),
        ("100644", b"git~1"),
    ] {
        let commit = hostile_commit(&place.work(), mode, name, "../../etc/passwd");
        let pack = place.pack(None, &place.work(), &commit);
        let imported = mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(pack)).await;
        assert!(imported.is_err(), "{}", String::from_utf8_lossy(name));
        git(&place.work(), &["branch", "-f", "hostile", &commit]);
        let work = place.work().display().to_string();
        assert!(place.mirror().fetch(&work, None).await.is_err(), "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(mirror.kept(Kept::Run(3)).await.unwrap(), None);
}

#[tokio::test]
async fn odd_names_and_links_out_of_the_tree_are_kept_as_they_are() {
    let place = Place::new();
    let (mirror, base) = (place.mirror(), place.head());
    mirror.fetch(&place.origin(), None).await.unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.work().join("link")).unwrap();
    let commit = commit_file(&place.work(), "-n\nü \"x\"", "odd\n");
    let pack = place.pack(Some(&base), &place.work(), &commit);
    mirror.import_pack(Kept::Run(3), &commit, std::io::Cursor::new(pack)).await.unwrap();
    let link = mirror.list(&commit, &["link"]).await.unwrap();
    assert_eq!(link, [("120000".to_owned(), "link".to_owned())]);
    let diff = mirror.diff(Some(&base), &commit).await.unwrap();
    let other = place.path().join("other");
    git(place.path(), &["clone", "-q", "origin.git", "other"]);
    std::fs::write(place.path().join("patch"), diff).unwrap();
    git(&other, &["apply", "--index", "../patch"]);
    assert_eq!(
        git(&other, &["write-tree"]),
        git(&place.work(), &["rev-parse", "HEAD^{tree}"]),
        "the patch is the whole change"
    );
}

#[tokio::test]
async fn submodules_and_lfs_pointers_are_told() {
    let place = Place::new();
    let mirror = place.mirror();
    // Told whether or not .gitmodules names it.
    let module = place.work().join("vendor/lib");
    std::fs::create_dir_all(&module).unwrap();
    git(&module, &["init", "-q"]);
    commit_file(&module, "lib.txt", "lib\n");
    let commit = commit_file(&place.work(), "data/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    git(&place.work(), &["push", "-q", "origin", "main"]);
    mirror.fetch(&place.origin(), None).await.unwrap();
    let lacking = mirror.lacking(&commit).await.unwrap();
    assert_eq!(lacking.len(), 2, "{lacking:?}");
    assert!(lacking[0].contains("vendor/lib") && lacking[1].contains("LFS"), "{lacking:?}");
    assert!(mirror.lacking(&git(&place.work(), &["rev-parse", "HEAD~"])).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_snapshot_holds_uncommitted_changes_and_touches_nothing() {
    let place = Place::new();
    let work = place.work();
    assert_eq!(git::snapshot_worktree(&work).await.unwrap(), place.head(), "a clean tree is its HEAD");
    std::fs::write(work.join(".gitignore"), "ignored\n").unwrap();
    std::fs::write(work.join("ignored"), "x").unwrap();
    std::fs::write(work.join("new.txt"), "new\n").unwrap();
    std::fs::write(work.join("a.txt"), "staged\n").unwrap();
    git(&work, &["add", "a.txt"]);
    std::fs::write(work.join("a.txt"), "later\n").unwrap();
    let own = git::snapshot_worktree(&work.join(".git")).await.unwrap();
    assert_eq!(own, place.head(), "a .git has no working tree");
    let before =
        (git(&work, &["status", "--porcelain"]), git(&work, &["for-each-ref"]), git(&work, &["show", ":a.txt"]));
    let commit = git::snapshot_worktree(&work).await.unwrap();
    assert_eq!(
        before,
        (git(&work, &["status", "--porcelain"]), git(&work, &["for-each-ref"]), git(&work, &["show", ":a.txt"]))
    );
    assert_eq!(git(&work, &["show", &format!("{commit}:a.txt")]), "later");
    assert_eq!(git(&work, &["show", &format!("{commit}:new.txt")]), "new");
    assert!(!git_raw(&work, &["show", &format!("{commit}:ignored")]).status.success());

    let mirror = place.mirror();
    mirror.fetch(&work.display().to_string(), Some(&commit)).await.unwrap();
    mirror.keep(Kept::Run(4), &commit).await.unwrap();
    git::copy_branch(&mirror, 4, &work, "codegen/4-x").await.unwrap();
    assert_eq!(git(&work, &["rev-parse", "codegen/4-x"]), commit);
    assert_eq!(git::push_origin(&work.display().to_string()).await.unwrap(), place.origin());
    assert_eq!(git::push_origin(&place.origin()).await.unwrap(), place.origin());
}

#[tokio::test]
async fn the_hosts_hooks_do_not_run_on_a_fetch_or_snapshot() {
    let place = Place::new();
    let marker = place.path().join("ran");
    for hook in ["reference-transaction", "post-checkout", "pre-push", "post-index-change"] {
        let path = place.work().join(".git/hooks").join(hook);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(place.work().join("a.txt"), "changed\n").unwrap();
    let commit = git::snapshot_worktree(&place.work()).await.unwrap();
    place.mirror().fetch(&place.work().display().to_string(), Some(&commit)).await.unwrap();
    assert!(!marker.exists());
}
