//! The one place that starts `git` on the host: cleared environment, no prompts, a time limit, the whole process group killed on drop.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::Error;

/// Variables of ours that git, its credential helpers, ssh and curl may need; nothing else is passed on.
const PASSED_ON: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// More output than this is an error: what is read here is kept in memory.
const MAX_STDOUT: u64 = 256 << 20;
const MAX_STDERR: u64 = 64 << 10;

/// How git's lines of progress begin.
const COUNTS: &[&str] = &[
    "Enumerating objects",
    "Counting objects",
    "Compressing objects",
    "Receiving objects",
    "Resolving deltas",
    "Unpacking objects",
    "Checking connectivity",
    "Total ",
];

/// Told a line of progress.
pub type Progress = std::sync::Arc<dyn Fn(&str) + Send + Sync>;

/// What a git command reads.
enum Input {
    Nothing,
    Stream(Pin<Box<dyn AsyncRead + Send>>),
}

/// One git command being put together.
pub(super) struct Git {
    doing: String,
    dir: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Input,
    progress: Option<Progress>,
    timeout: Duration,
}

/// A command that ended, well or not.
pub(super) struct Ended {
    pub ok: bool,
    /// A signal ended it.
    pub killed: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Git {
    /// `doing` names the operation in errors: "fetching https://...".
    pub fn new(doing: impl Into<String>) -> Self {
        Self {
            doing: doing.into(),
            dir: None,
            args: vec![],
            env: vec![],
            input: Input::Nothing,
            progress: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Runs in this folder; a bare repository is found there.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.into(), value.as_ref().to_owned()));
        self
    }

    pub fn stream(mut self, reader: impl AsyncRead + Send + 'static) -> Self {
        self.input = Input::Stream(Box::pin(reader));
        self
    }

    /// Tells lines of progress instead of keeping them; the command must be one that writes some.
    pub fn progress(mut self, progress: Option<Progress>) -> Self {
        self.progress = progress;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Gives the password of the origin's address, which is never an argument, for everybody can read those.
    pub fn credentials_of(self, origin: &str) -> Self {
        let Ok(url) = url::Url::parse(origin) else { return self };
        // A lone user may be a token.
        if !url.scheme().starts_with("http") || (url.username().is_empty() && url.password().is_none()) {
            return self;
        }
        let decode = |s: &str| {
            url::form_urlencoded::parse(format!("x={}", s.replace('+', "%2B")).as_bytes())
                .map(|(_, v)| v.into_owned())
                .collect::<String>()
        };
        let basic =
            STANDARD.encode(format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default())));
        let scope = url.origin().ascii_serialization();
        self.env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", format!("http.{scope}/.extraHeader"))
            .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {basic}"))
    }

    /// Runs it; an error when git says no.
    pub async fn run(self) -> Result<Vec<u8>, Error> {
        let doing = self.doing.clone();
        let ended = self.end().await?;
        if ended.ok { Ok(ended.stdout) } else { Err(Error::of_stderr(doing, ended.stderr)) }
    }

    /// Runs it and gives its output as one trimmed line of text.
    pub async fn line(self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.run().await?).trim().to_owned())
    }

    /// Runs it, whatever git says.
    pub async fn end(self) -> Result<Ended, Error> {
        let Self { doing, dir, args, env, input, progress, timeout } = self;
        let io = |e| Error::Io(doing.clone(), e);
        let mut command = Command::new("git");
        command
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.fsmonitor=false",
                "-c",
                "gc.auto=0",
                "-c",
                "maintenance.auto=false",
            ])
            .args(&args)
            .env_clear()
            .envs(
                crate::config::host_env()
                    .into_iter()
                    .filter(|(k, _)| PASSED_ON.contains(&k.as_str()) || k.starts_with("XDG_")),
            )
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("SSH_ASKPASS_REQUIRE", "force") // ssh otherwise asks on our terminal and waits there
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_ALLOW_PROTOCOL", "http:https:ssh:file:git")
            .envs(env)
            .stdin(if matches!(input, Input::Nothing) { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn().map_err(io)?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            let Some(mut stdin) = stdin else { return Ok(()) };
            // A broken pipe means that git ended early; its exit status says why.
            match input {
                Input::Nothing => {}
                Input::Stream(mut reader) => loop {
                    let mut buffer = vec![0; 64 << 10];
                    let n = reader.read(&mut buffer).await?;
                    if n == 0 || stdin.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                },
            }
            Ok::<_, std::io::Error>(())
        };
        let work = async {
            let (fed, stdout, stderr, status) =
                tokio::join!(feed, read(stdout, MAX_STDOUT), read_told(stderr, progress), child.wait());
            fed?;
            Ok((status?, stdout?, stderr?))
        };
        let Ok(result) = tokio::time::timeout(timeout, work).await else {
            return Err(Error::Timeout(doing, timeout));
        };
        let (status, stdout, stderr) = result.map_err(|e| Error::Io(doing.clone(), e))?;
        group.0 = None;
        if stdout.len() as u64 == MAX_STDOUT {
            return Err(Error::Io(doing, std::io::Error::other("git's output is larger than 256 MiB")));
        }
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Ended { ok: status.success(), killed: status.signal().is_some(), stdout, stderr })
    }
}

/// Reads up to `cap` bytes and drains the rest, so that the writer never blocks.
async fn read(reader: Option<impl AsyncRead + Unpin>, cap: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut reader) = reader {
        (&mut reader).take(cap).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

/// Reads standard error; what only says how far git is, or which refs it changed, is told or left out.
async fn read_told(reader: Option<impl AsyncRead + Unpin>, progress: Option<Progress>) -> std::io::Result<Vec<u8>> {
    let Some(progress) = progress else { return read(reader, MAX_STDERR).await };
    let Some(mut reader) = reader else { return Ok(Vec::new()) };
    let (mut kept, mut waiting, mut buffer) = (Vec::new(), Vec::new(), vec![0; 8 << 10]);
    loop {
        let n = reader.read(&mut buffer).await?;
        waiting.extend_from_slice(&buffer[..n]);
        while let Some(end) = waiting
            .iter()
            .position(|b| matches!(b, b'\n' | b'\r'))
            .or((n == 0 && !waiting.is_empty()).then(|| waiting.len() - 1))
        {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            let counts = text.strip_prefix("remote: ").unwrap_or(text);
            if COUNTS.iter().any(|begin| counts.starts_with(begin)) {
                progress(text);
            } else if !text.is_empty()
                && !text.starts_with([' ', '\t'])
                && !text.starts_with("From ")
                && kept.len() < MAX_STDERR as usize
            {
                kept.extend_from_slice(text.as_bytes());
                kept.push(b'\n');
            }
        }
        if n == 0 {
            return Ok(kept);
        }
    }
}

/// Kills git's helpers (transport, index-pack) together with it when the command is given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            kill_process_group(pid, Signal::KILL).ok(); // It may have ended just now.
        }
    }
}
