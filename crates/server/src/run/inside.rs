//! What is done inside a sandbox on a run's behalf, over exec alone: checking out, committing, packing, a patch of last resort.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use codegen_sandbox::{Completed, EndedBy, Event, Exec, Sandbox, User};
use tokio::io::{AsyncRead, AsyncWriteExt};

use crate::forge::git::{AGENT_EMAIL, AGENT_NAME};

/// The mount of the mirror's objects, read-only.
pub const MIRROR_OBJECTS: &str = "/opt/codegen/mirror/objects";

const LONG: Duration = Duration::from_secs(30 * 60);

/// Makes a `.git` as `git init` would (which takes three times as long) that points to the mirror's objects; its refs come on
/// standard input.
const INIT: &str = r#"
set -e
mkdir -p .git/objects/info .git/objects/pack .git/refs/heads .git/refs/tags .git/info
echo "ref: refs/heads/$BRANCH" > .git/HEAD
echo "$OBJECTS" > .git/objects/info/alternates
cat > .git/packed-refs
printf '%s' "$CONFIG" > .git/config
"#;

/// Checks the base out on the run's branch, or over it the workspace of an earlier sandbox, uncommitted as it was.
const CHECK_OUT: &str = r#"
if [ -n "$WORK" ]; then
    git read-tree -u --reset "$WORK"
    if [ -n "$BASE" ]; then git reset -q --mixed; else rm -f .git/index; fi
elif [ -n "$BASE" ]; then
    git reset -q --hard
fi
"#;

/// Makes a commit of the workspace that is on no branch, with an index of its own. Prints the commit and what it shows, or
/// nothing when it would show the same as `$LAST`.
const KEEP: &str = r#"
set -e
export GIT_INDEX_FILE=.git/codegen-index
[ -f "$GIT_INDEX_FILE" ] || cp .git/index "$GIT_INDEX_FILE" 2>/dev/null || true
rm -f "$GIT_INDEX_FILE.lock"
git add -A --ignore-errors >&2 || true
# What is tracked although it is ignored is not found by that.
GIT_INDEX_FILE=.git/index git ls-files -z -ci --exclude-standard | git update-index -z --add --remove --stdin >&2 || true
tree="$(git write-tree)"
parent="$(git rev-parse -q --verify HEAD || true)"
last="${LAST:-$(git rev-parse -q --verify 'HEAD^{tree}' || true):$BASE}"
[ "$tree:$parent" != "$last" ] || exit 0
commit="$(git -c commit.gpgsign=false commit-tree ${parent:+-p "$parent"} -m 'Workspace after a turn' "$tree")"
echo "$commit $tree:$parent"
"#;

/// Commits what there is, whatever state the agent left git in. Prints the commit, or nothing when there is none, and on
/// the lines after it what was left out: paths that could not be added, warnings on folders, and `@` with new repositories
/// inside the tree, of which only the commit's name is kept.
const COMMIT: &str = r#"
top="$(git rev-parse --show-toplevel 2>/dev/null || true)"
if [ "$top" != "$PWD" ] || { [ -n "$BASE" ] && ! git rev-parse -q --verify HEAD >/dev/null; }; then
    rm -rf .git
    ( eval "$INIT" ) < /dev/null
    if [ -n "$BASE" ]; then
        git update-ref "refs/heads/$BRANCH" "$BASE"
        git reset -q --mixed
    fi
fi
set -e
rm -f .git/index.lock .git/HEAD.lock
# A repository without a commit inside the tree cannot be added and must not keep the rest out.
git add -A --ignore-errors >&2 || true
if git rev-parse -q --verify HEAD >/dev/null; then
    git diff --cached --quiet HEAD || changed=1
else
    [ -z "$(git ls-files | head -c 1)" ] || changed=1
fi
if [ -n "$changed" ]; then
    git -c core.hooksPath=/dev/null -c commit.gpgsign=false commit -q --no-verify --cleanup=verbatim -F - >&2
fi
head="$(git rev-parse -q --verify HEAD || true)"
echo "$head"
git ls-files --others --modified --exclude-standard 2>&1 | head -n 50
[ -z "$head" ] || git diff --raw --no-renames "${BASE:-4b825dc642cb6eb9a060e54bf8d69288fbee4904}" HEAD |
    sed -n 's/^:000000 160000 [0-9a-f.]* [0-9a-f.]* A\t/@/p' | head -n 50
"#;

const PATCH: &str = r#"
git add -A --ignore-errors || true
git diff --cached --binary --full-index "${BASE:-4b825dc642cb6eb9a060e54bf8d69288fbee4904}"
"#;

/// What was committed.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    /// The head; none in an empty repository without work.
    pub commit: Option<String>,
    /// A sentence on what is in the workspace and not in the commit.
    pub left_out: Option<String>,
}

/// Commits on their way out of a sandbox.
pub struct Pack<R> {
    /// The pack.
    pub bytes: R,
    /// Set once it is known to be larger than what is taken.
    pub is_cut: Arc<AtomicBool>,
}

/// A command inside was ended because it took too long.
#[derive(Debug, thiserror::Error)]
#[error("it took longer than its limit")]
pub struct TookTooLong;

/// What to check out.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The run's branch.
    pub branch: String,
    /// The commit to start from; none in an empty repository.
    pub base: Option<String>,
    /// The workspace to put over it, where a sandbox was lost.
    pub work: Option<String>,
    /// The origin without credentials.
    pub origin: String,
    /// (commit, ref) pairs of the mirror.
    pub refs: Vec<(String, String)>,
}

impl Checkout {
    fn exec(&self, sandbox: &dyn Sandbox, script: &str, stdin: Vec<u8>) -> Exec {
        let (objects, config) = (sandbox.mounted(MIRROR_OBJECTS), self.config());
        let pairs = [
            ("BRANCH", self.branch.as_str()),
            ("BASE", self.base.as_deref().unwrap_or_default()),
            ("WORK", self.work.as_deref().unwrap_or_default()),
            ("OBJECTS", &objects),
            ("CONFIG", &config),
            ("INIT", INIT),
        ];
        let mut env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        for who in ["AUTHOR", "COMMITTER"] {
            env.insert(format!("GIT_{who}_NAME"), AGENT_NAME.to_owned());
            env.insert(format!("GIT_{who}_EMAIL"), AGENT_EMAIL.to_owned());
        }
        env.insert("GIT_CONFIG_GLOBAL".to_owned(), "/dev/null".to_owned());
        Exec {
            key: None,
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env,
            cwd: None,
            stdin,
            user: User::Agent,
            timeout: Some(LONG),
            output_cap: None,
        }
    }

    /// What the checkout's git is told, as one text: a `git config` for each line would take longer than the rest.
    fn config(&self) -> String {
        let mut text =
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
                .to_owned();
        text.push_str(&format!("[user]\n\tname = {AGENT_NAME}\n\temail = {AGENT_EMAIL}\n[gc]\n\tauto = 0\n"));
        if !self.origin.is_empty() {
            let url = self.origin.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!(
                "[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
            ));
        }
        text
    }

    /// The origin's refs as the sandbox has them, branches as remote branches, and the run's own branch.
    fn packed_refs(&self) -> Vec<u8> {
        let own = self.base.iter().map(|base| format!("{base} refs/heads/{}\n", self.branch));
        let lines = self.refs.iter().map(|(commit, name)| match name.strip_prefix("refs/heads/") {
            Some(branch) => format!("{commit} refs/remotes/origin/{branch}\n"),
            None => format!("{commit} {name}\n"),
        });
        lines.chain(own).collect::<String>().into_bytes()
    }

    /// Makes the checkout in an empty workspace.
    ///
    /// # Errors
    /// When a command fails inside; the text has what it said.
    pub async fn check_out(&self, sandbox: &dyn Sandbox) -> Result<()> {
        let script = format!("{INIT}{CHECK_OUT}");
        succeed(sandbox, self.exec(sandbox, &script, self.packed_refs()))
            .await
            .context("checking out the repository")?;
        Ok(())
    }

    /// Commits everything in the workspace that git can read.
    ///
    /// # Errors
    /// When a command fails inside; the text has what it said.
    pub async fn commit_all(&self, sandbox: &dyn Sandbox, message: &str) -> Result<Committed> {
        let done = succeed(sandbox, self.exec(sandbox, COMMIT, message.as_bytes().to_vec()))
            .await
            .context("committing the work")?;
        let said = String::from_utf8_lossy(&done.stdout);
        let (commit, left_out) = said.split_once('\n').unwrap_or((&said, ""));
        let commit = if commit.is_empty() { None } else { Some(checked(commit)?) };
        Ok(Committed { commit, left_out: left_out_sentence(left_out) })
    }

    /// Makes a commit of the workspace beside all branches: the commit and a text that says what it shows. None when that is
    /// the same as `last`, or as the base where there is no last.
    ///
    /// # Errors
    /// When a command fails inside; the text has what it said.
    pub async fn keep(
        &self,
        sandbox: &dyn Sandbox,
        last: Option<&str>,
        limit: Duration,
    ) -> Result<Option<(String, String)>> {
        let mut exec = self.exec(sandbox, KEEP, vec![]);
        exec.timeout = Some(limit);
        exec.env.insert("LAST".to_owned(), last.unwrap_or_default().to_owned());
        let done = succeed(sandbox, exec).await.context("keeping the workspace")?;
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let Some((commit, shows)) = said.split_once(' ') else { return Ok(None) };
        Ok(Some((checked(commit)?, shows.to_owned())))
    }

    /// Starts packing what `commit` has beyond the base and what else is `known` outside; reading to the end shows whether it is
    /// whole, for a pack ends with a checksum. One of more than `most` bytes is cut off.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub async fn pack(
        &self,
        sandbox: Arc<dyn Sandbox>,
        commit: &str,
        known: Option<&str>,
        most: u64,
    ) -> Result<Pack<impl AsyncRead + Send + use<>>> {
        let not: String = self.base.as_deref().into_iter().chain(known).map(|known| format!("^{known}\n")).collect();
        let mut exec = self.exec(
            &*sandbox,
            "exec git pack-objects --revs --thin --stdout -q",
            format!("{commit}\n{not}").into_bytes(),
        );
        exec.output_cap = Some(most);
        let mut running = sandbox.start(exec).await.context("packing the run's commits")?;
        let (mut writer, bytes) = tokio::io::duplex(256 << 10);
        let is_cut = Arc::<AtomicBool>::default();
        let told = is_cut.clone();
        tokio::spawn(async move {
            while let Some(event) = running.events.recv().await {
                match event {
                    Event::Output { fd: 1, bytes } => {
                        if writer.write_all(&bytes).await.is_err() {
                            // The reader has given up.
                            running.kill.send(()).await.ok();
                            return;
                        }
                    }
                    Event::Output { bytes, .. } => {
                        tracing::debug!(said = %String::from_utf8_lossy(&bytes), "packing the run's commits")
                    }
                    Event::Exited(exit) => {
                        told.store(exit.dropped_bytes > 0, Ordering::Relaxed);
                        return;
                    }
                }
            }
        });
        Ok(Pack { bytes, is_cut })
    }

    /// The work as a patch made inside, for when its commits cannot leave otherwise.
    ///
    /// # Errors
    /// When a command fails inside.
    pub async fn patch(&self, sandbox: &dyn Sandbox) -> Result<Vec<u8>> {
        Ok(succeed(sandbox, self.exec(sandbox, PATCH, vec![])).await.context("making a patch of the work")?.stdout)
    }
}

/// What [`COMMIT`] left out, in words.
fn left_out_sentence(lines: &str) -> Option<String> {
    const SHOWN: usize = 10;
    let reason = |line: &str| {
        if let Some(path) = line.strip_prefix('@') {
            return format!("{path} (a git repository of its own: only its commit's name is kept)");
        }
        match line.strip_prefix("warning: could not open directory '").and_then(|rest| rest.rsplit_once("': ")) {
            Some((folder, _)) => format!("{folder} (cannot be read)"),
            None if line.ends_with('/') => format!("{line} (a git repository of its own, without a commit)"),
            None => format!("{line} (cannot be read)"),
        }
    };
    let mut left_out: Vec<String> = lines.lines().map(reason).collect();
    left_out.sort();
    left_out.dedup();
    let more = left_out.len().saturating_sub(SHOWN);
    left_out.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} or more others") } else { String::new() };
    (!left_out.is_empty()).then(|| format!("Not in the commit: {}{more}.", left_out.join(", ")))
}

/// Points Cargo at the host's registry, for which it knows no variable.
///
/// # Errors
/// When the file cannot be written.
pub async fn write_cargo_config(sandbox: &dyn Sandbox, config: String) -> Result<()> {
    let script = r#"mkdir -p "${CARGO_HOME:-$HOME/.cargo}" && cat > "${CARGO_HOME:-$HOME/.cargo}/config.toml""#;
    let exec =
        Exec { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), stdin: config.into_bytes(), ..Exec::default() };
    succeed(sandbox, exec).await.context("writing Cargo's settings")?;
    Ok(())
}

/// A commit's name as a sandbox gives it.
fn checked(commit: &str) -> Result<String> {
    if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("the sandbox's git answers `{}` for a commit", commit.chars().take(80).collect::<String>());
    }
    Ok(commit.to_owned())
}

/// Runs a command and requires exit code 0.
async fn succeed(sandbox: &dyn Sandbox, exec: Exec) -> Result<Completed> {
    let done = sandbox.start(exec).await?.complete().await?;
    if done.exit.ended_by == Some(EndedBy::Timeout) {
        return Err(TookTooLong.into());
    }
    if done.exit.code != 0 {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("exit code {}: {}", done.exit.code, said.trim().chars().take(1000).collect::<String>());
    }
    Ok(done)
}

/// `codegen/<run id>-<a few words of the prompt>`, a name that every git and forge takes.
pub fn branch_name(run_id: i64, prompt: &str) -> String {
    let mut slug = String::new();
    for word in prompt.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        if slug.len() + word.len() > 40 {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word.to_ascii_lowercase());
    }
    format!("codegen/{run_id}-{}", if slug.is_empty() { "work" } else { &slug })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Checkout, branch_name};

    #[test]
    fn an_origin_with_odd_characters_comes_back_from_git_as_it_is() {
        let origin = "/srv/a \"b\\c;#d\te";
        let checkout = Checkout { branch: "b".into(), base: None, work: None, origin: origin.into(), refs: Vec::new() };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), checkout.config()).unwrap();
        let asks = ["config", "--file", &file.path().display().to_string(), "remote.origin.url"].map(str::to_owned);
        let said = std::process::Command::new("git").args(asks).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{origin}\n"));
    }

    #[test]
    fn branches_are_named_after_the_prompt() {
        assert_eq!(
            branch_name(7, "Fix the failing test!\nIt is in total.py"),
            "codegen/7-fix-the-failing-test-it-is-in-total-py"
        );
        assert_eq!(branch_name(7, "修复测试 --"), "codegen/7-work");
        assert_eq!(branch_name(7, &"x".repeat(400)), "codegen/7-work");
        assert_eq!(branch_name(7, "../.. @{-1} a.lock"), "codegen/7-1-a-lock");
    }
}
