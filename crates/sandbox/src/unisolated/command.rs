//! One command: a child process in a session of its own, its output spooled to a file that any number of watchers follow.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::Receiver,
    process::Child,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{EndedBy, Error, Event, Exec, Exit, Running, local};

const DEFAULT_CAP: u64 = 64 << 20;
const BUFFER: usize = 64 << 10;

/// A command that was started, running or not.
#[derive(Debug)]
pub struct Command {
    /// Its process, which leads its session and group.
    pub pid: i32,
    spool: PathBuf,
    kill: mpsc::Sender<()>,
    progress: watch::Receiver<Progress>,
}

/// How far a command is.
#[derive(Debug, Clone, Default)]
struct Progress {
    spooled: u64,
    exit: Option<Exit>,
}

/// What a command starts with.
#[derive(Debug)]
pub struct Start<'a> {
    /// Where its output goes; made new.
    pub spool: PathBuf,
    /// Its variables, all merged.
    pub env: &'a BTreeMap<String, String>,
    /// Its folder.
    pub cwd: &'a str,
    /// Cancelled when the sandbox is destroyed: the end of a command is then no news.
    pub gone: CancellationToken,
}

impl Command {
    /// Starts it.
    pub fn start(exec: Exec, start: Start<'_>) -> Result<Arc<Self>, Error> {
        let refused = |sentence: String| Error::Start(sentence);
        let Start { spool, env, cwd, gone } = start;
        let (name, arguments) = exec.argv.split_first().ok_or_else(|| refused("no program was given".into()))?;
        if !Path::new(cwd).is_dir() {
            return Err(refused(format!("cannot enter {cwd}: it is no folder")));
        }
        let program = find(name, env.get("PATH").map_or("/usr/bin:/bin", String::as_str))
            .ok_or_else(|| refused(format!("{name}: not found on the sandbox's PATH")))?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(env)
            .current_dir(cwd)
            .stdin(if exec.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        local::set_apart(&mut command);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&spool)
            .map_err(|error| Error::Io("opening a command's output".into(), error))?;
        let started = Instant::now();
        let mut child =
            tokio::process::Command::from(command).spawn().map_err(|error| refused(format!("{name}: {error}")))?;
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = exec.stdin;
            tokio::spawn(async move {
                pipe.write_all(&bytes).await.ok(); // A command may end, or close its input, before it has read all of it.
            });
        }
        let pipes = (|| {
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let out = out.ok_or(io::ErrorKind::BrokenPipe)?.into_owned_fd()?;
            let err = err.ok_or(io::ErrorKind::BrokenPipe)?.into_owned_fd()?;
            Ok([Some(Receiver::from_owned_fd(out)?), Some(Receiver::from_owned_fd(err)?)])
        })();
        let pipes = pipes.map_err(|error: io::Error| Error::Io("taking a command's output".into(), error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let (kill, kills) = mpsc::channel(1);
        let (sender, progress) = watch::channel(Progress::default());
        let task = Task {
            pid,
            pipes,
            spool: file,
            room: exec.output_cap.unwrap_or(DEFAULT_CAP),
            dropped: 0,
            started,
            timeout: exec.timeout,
            progress: sender,
            gone,
        };
        tokio::spawn(task.run(child, kills));
        Ok(Arc::new(Self { pid, spool, kill, progress }))
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.progress.borrow().exit.is_none()
    }

    /// Follows it from its first byte, until the owner who asks is replaced.
    pub fn follow(&self, replaced: CancellationToken) -> Result<Running, Error> {
        let mut file =
            File::open(&self.spool).map_err(|error| Error::Io("opening a command's output".into(), error))?;
        let (events, receiver) = mpsc::channel(64);
        let mut progress = self.progress.clone();
        let following = async move {
            let mut read = 0;
            loop {
                let now = progress.borrow_and_update().clone();
                while read < now.spooled {
                    // Whole frames are spooled before they are told of.
                    let Ok((fd, bytes)) = frame(&mut file) else { return };
                    read += bytes.len() as u64 + 5;
                    if events.send(Event::Output { fd, bytes }).await.is_err() {
                        return;
                    }
                }
                if let Some(exit) = now.exit {
                    events.send(Event::Exited(exit)).await.ok(); // A watcher that left.
                    return;
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let (kill, mut kills) = mpsc::channel(1);
        let command = self.kill.clone();
        let killing = async move {
            while kills.recv().await.is_some() {
                command.send(()).await.ok(); // It has ended.
            }
            std::future::pending::<()>().await; // Nobody can kill it any more; it is watched on.
        };
        tokio::spawn(async move {
            tokio::select! {
                () = following => {}
                () = killing => {}
                () = replaced.cancelled() => {}
            }
        });
        Ok(Running { events: receiver, kill })
    }
}

/// The program as an absolute path, or as it was written where that names a place.
fn find(name: &str, path: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let folders = path.split(':').filter(|folder| !folder.is_empty() && !name.is_empty());
    folders
        .map(|folder| Path::new(folder).join(name))
        .find(|place| fs::metadata(place).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// One frame of a spool: the stream's number, a length, the bytes.
fn frame(file: &mut File) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    file.read_exact(&mut head)?;
    let [fd, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    if length > BUFFER {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok((fd, bytes))
}

/// Kills a session leader's group, as long as it is not reaped.
pub fn kill_group(pid: i32) {
    if let Some(group) = Pid::from_raw(pid) {
        rustix::process::kill_process_group(group, Signal::KILL).ok(); // Already gone is as good.
    }
}

/// What watches over a command.
struct Task {
    pid: i32,
    pipes: [Option<Receiver>; 2],
    spool: File,
    room: u64,
    dropped: u64,
    started: Instant,
    timeout: Option<Duration>,
    progress: watch::Sender<Progress>,
    gone: CancellationToken,
}

impl Task {
    async fn run(mut self, mut child: Child, mut kills: mpsc::Receiver<()>) {
        let deadline = async |timeout: Option<Duration>| match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        };
        let mut ended_by = None;
        let status = {
            let expired = deadline(self.timeout);
            tokio::pin!(expired);
            let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
            loop {
                let [out, err] = &mut self.pipes;
                let [out_buffer, err_buffer] = &mut buffers;
                tokio::select! {
                    biased;
                    Some(()) = kills.recv() => {
                        ended_by.get_or_insert(EndedBy::Kill);
                        kill_group(self.pid);
                    }
                    () = &mut expired, if ended_by.is_none() => {
                        ended_by = Some(EndedBy::Timeout);
                        kill_group(self.pid);
                    }
                    status = child.wait() => break status,
                    length = read(out, out_buffer) => self.keep(1, out_buffer.get(..length).unwrap_or_default()),
                    length = read(err, err_buffer) => self.keep(2, err_buffer.get(..length).unwrap_or_default()),
                }
            }
        };
        drop(kills);
        // What is in the pipes now is the command's; others that still hold them are not waited for.
        let mut buffer = vec![0; BUFFER];
        for stream in 0..2 {
            for _ in 0..64 {
                let Some(pipe) = self.pipes.get(stream).and_then(Option::as_ref) else { break };
                match rustix::io::read(pipe, &mut *buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => self.keep(stream as u8 + 1, buffer.get(..length).unwrap_or_default()),
                }
            }
        }
        if self.gone.is_cancelled() {
            return;
        }
        let raw = status.map_or(libc::SIGKILL, ExitStatusExt::into_raw);
        let exit = Exit {
            code: local::exit_code(raw),
            ended_by,
            dropped_bytes: self.dropped,
            duration: self.started.elapsed(),
        };
        self.progress.send_modify(|progress| progress.exit = Some(exit));
        // A background process that writes on shall not be killed by a broken pipe.
        let [mut out, mut err] = self.pipes;
        let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
        let [out_buffer, err_buffer] = &mut buffers;
        while out.is_some() || err.is_some() {
            tokio::select! {
                () = self.gone.cancelled() => return,
                _ = read(&mut out, out_buffer) => {}
                _ = read(&mut err, err_buffer) => {}
            }
        }
    }

    fn keep(&mut self, fd: u8, bytes: &[u8]) {
        let kept = bytes.get(..self.room.min(bytes.len() as u64) as usize).unwrap_or_default();
        self.room -= kept.len() as u64;
        self.dropped += (bytes.len() - kept.len()) as u64;
        if kept.is_empty() {
            return;
        }
        let mut frame = Vec::with_capacity(kept.len() + 5);
        frame.push(fd);
        frame.extend((kept.len() as u32).to_le_bytes());
        frame.extend(kept);
        if self.spool.write_all(&frame).is_err() {
            // A full disk: what is lost is counted, and nothing after it is kept, so that frames stay whole.
            self.dropped += kept.len() as u64;
            self.room = 0;
            return;
        }
        self.progress.send_modify(|progress| progress.spooled += frame.len() as u64);
    }
}

/// Reads a pipe; at its end it becomes none, which is never ready.
async fn read(pipe: &mut Option<Receiver>, buffer: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(length @ 1..) => length,
        Ok(0) | Err(_) => {
            *pipe = None;
            0
        }
    }
}
