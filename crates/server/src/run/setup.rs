//! A repository's setup commands: one bash for all lines, which stops at the first failure and leaves its environment to the agent.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use codegen_sandbox::{EndedBy, Error, Event, Exec, Sandbox, User};

const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Output that a failure shows.
const SHOWN: usize = 4_000;

/// The commands come on standard input. The environment is written before and after, the failing line on a third stream.
const SCRIPT: &str = r#"
umask 022
dir="$1"; shift
rm -rf "$dir"; mkdir -p "$dir"; chmod 755 "$dir"
cat > "$dir/commands"
env -0 > "$dir/before"
exec 9> "$dir/failed"
trap '__code=$?; printf "%s %s" "${LINENO}" "$__code" >&9; exit $__code' ERR
set -E
. "$dir/commands" < /dev/null
trap - ERR
exec 9>&-
env -0 > "$dir/after"
"#;

/// Gives what setup made as the sandbox's root to the agent. Runs only where that root is the sandbox's own.
const HAND_OVER: &str = r#"chown -R 1000:1000 "$1"; [ ! -d "$HOME" ] || [ "$HOME" = / ] || chown -R 1000:1000 "$HOME""#;

/// Variables that belong to the shell or to setup's own rights.
const LEFT_OUT: &[&str] = &["_", "PWD", "OLDPWD", "SHLVL", "HOME", "USER", "LOGNAME", "BASH_ENV"];

/// How it went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Variables that the commands set or changed.
    pub env: BTreeMap<String, String>,
    /// A sentence with line, exit code and output, when a command failed.
    pub failed: Option<String>,
}

/// Runs the commands, showing their output as it comes; a failing one is no error but told in [`Setup::failed`].
///
/// # Errors
/// When the sandbox fails.
pub async fn run(sandbox: &dyn Sandbox, commands: &str, mut show: impl FnMut(&[u8])) -> Result<Setup> {
    let dir = format!("{}/.codegen-setup", sandbox.scratch());
    let exec = |user| Exec {
        key: None,
        argv: ["bash", "-c", SCRIPT, "setup", &dir].map(str::to_owned).to_vec(),
        env: as_owner(),
        cwd: None,
        stdin: commands.as_bytes().to_vec(),
        user,
        timeout: Some(TIMEOUT),
        output_cap: None,
    };
    // Where only one id can be mapped, setup has the agent's rights; `apt-get` then says no by itself.
    let (user, mut running) = match sandbox.start(exec(User::Setup)).await {
        Err(Error::HostRefuses(_) | Error::Start(_)) => (User::Agent, sandbox.start(exec(User::Agent)).await?),
        started => (User::Setup, started?),
    };
    let mut tail = Vec::new();
    let exit = loop {
        match running.events.recv().await {
            Some(Event::Output { bytes, .. }) => {
                show(&bytes);
                tail.extend(bytes);
                // A character has at most four bytes.
                tail.drain(..tail.len().saturating_sub(SHOWN * 4));
            }
            Some(Event::Exited(exit)) => break exit,
            None => return Err(Error::Gone(sandbox.id().to_owned())).context("running the setup commands"),
        }
    };
    let simple = |argv: &[&str]| Exec {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        user,
        timeout: Some(TIMEOUT),
        ..Exec::default()
    };
    let read = |name: &str| simple(&["cat", &format!("{dir}/{name}")]);
    if user == User::Setup {
        let hand_over = simple(&["sh", "-c", HAND_OVER, "sh", sandbox.workspace()]);
        sandbox.start(hand_over).await?.complete().await.context("giving the workspace to the agent")?;
    }
    if exit.code != 0 {
        let failed = sandbox.start(read("failed")).await?.complete().await?.stdout;
        let failed = String::from_utf8_lossy(&failed).into_owned();
        let line = failed.split(' ').next().and_then(|l| l.parse::<usize>().ok());
        let command = line.and_then(|l| commands.lines().nth(l.checked_sub(1)?));
        let place = match (line, command) {
            (Some(line), Some(command)) => format!("line {line} (`{}`)", command.trim()),
            _ => "the commands".to_owned(),
        };
        let how = match exit.ended_by {
            Some(EndedBy::Timeout) => format!("took longer than {} minutes", TIMEOUT.as_secs() / 60),
            Some(EndedBy::Memory) => "used more memory than the sandbox may".to_owned(),
            Some(EndedBy::Kill) | None => format!("ended with exit code {}", exit.code),
        };
        let output = String::from_utf8_lossy(&tail).trim().to_owned();
        let skipped = output.chars().count().saturating_sub(SHOWN);
        let tail: String = output.chars().skip(skipped).collect();
        return Ok(Setup {
            env: BTreeMap::new(),
            failed: Some(format!("Setup stopped: {place} {how}.\n{tail}").trim_end().to_owned()),
        });
    }
    let before = sandbox.start(read("before")).await?.complete().await?.stdout;
    let after = sandbox.start(read("after")).await?.complete().await?.stdout;
    Ok(Setup { env: changed(&before, &after), failed: None })
}

/// Git lets nobody but the owner work on a checkout, and setup's user is another.
fn as_owner() -> BTreeMap<String, String> {
    [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

fn changed(before: &[u8], after: &[u8]) -> BTreeMap<String, String> {
    let parse = |bytes: &[u8]| -> BTreeMap<String, String> {
        bytes
            .split(|b| *b == 0)
            .filter_map(|v| String::from_utf8_lossy(v).split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect()
    };
    let before = parse(before);
    let mut after = parse(after);
    after.retain(|k, v| {
        before.get(k) != Some(v)
            && !LEFT_OUT.contains(&k.as_str())
            && !k.starts_with("BASH_FUNC_")
            && !k.starts_with("GIT_CONFIG_")
    });
    after
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn only_what_setup_changed_is_handed_on() {
        let env = changed(b"A=1\0B=2\0PWD=/x\0", b"A=1\0B=3\0C=multi\nline\0PWD=/y\0GIT_CONFIG_COUNT=1\0");
        assert_eq!(env.into_iter().collect::<Vec<_>>(), [("B".into(), "3".into()), ("C".into(), "multi\nline".into())]);
    }
}
