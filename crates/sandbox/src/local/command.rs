//! One command in a sandbox: its start in a forked child, its rights, its pipes and its spool.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};

use super::{
    seccomp::Filters,
    sys::{self, Forked},
    wire::WORKSPACE,
};
use crate::{EndedBy, Exec, Exit, User};

/// What every command of a sandbox shares.
pub struct Setting {
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// The filters.
    pub filters: Filters,
    /// Whether ids beside 1000 exist.
    pub many_ids: bool,
    /// Per-process limits, where no cgroup holds the whole.
    pub memory_rlimit: Option<u64>,
    /// As above.
    pub processes_rlimit: Option<u64>,
    /// `/dev/null`, opened before any command ran.
    pub null: File,
    /// Where spools are.
    pub out: OwnedFd,
}

/// A started command.
pub struct Command {
    /// Its process, which leads its group.
    pub pid: i32,
    started: Instant,
    /// When to kill it.
    pub deadline: Option<Instant>,
    /// Standard output and error, until closed.
    pub pipes: [Option<OwnedFd>; 2],
    /// What it has not read yet.
    pub stdin: Option<(OwnedFd, Vec<u8>, usize)>,
    spool: File,
    room: u64,
    dropped: u64,
    /// Why it was killed by us.
    pub ended_by: Option<EndedBy>,
    /// Set at the end.
    pub exit: Option<Exit>,
    /// Kills by the memory limit before it started.
    pub oom_before: u64,
}

const DEFAULT_CAP: u64 = 64 << 20;
/// CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID.
const SETUP_CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7;

impl Command {
    /// Starts it; an error is a sentence for the caller.
    pub fn start(exec: Exec, id: u64, setting: &Setting) -> Result<Self, String> {
        if exec.argv.first().is_none_or(String::is_empty) {
            return Err("no program was given".into());
        }
        if exec.user == User::Setup && !setting.many_ids {
            return Err("this host maps only one user id into sandboxes, so commands cannot run as the sandbox's root (apt-get cannot work): \
                 install uidmap and add a range for this user to /etc/subuid and /etc/subgid"
                .into());
        }
        Self::spawn(exec, id, setting).map_err(|error| error.to_string())
    }

    fn spawn(mut exec: Exec, id: u64, setting: &Setting) -> io::Result<Self> {
        let spool = open_spool(&setting.out, id, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND)?;
        let stdin = std::mem::take(&mut exec.stdin);
        let input = if stdin.is_empty() { None } else { Some(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?) };
        let (out_read, out_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (mut trouble_read, trouble_write) = io::pipe()?;
        let started = Instant::now();
        let pid = match sys::fork()? {
            Forked::Child => {
                let stdin = input.as_ref().map_or(setting.null.as_fd(), |(read, _)| read.as_fd());
                let mut trouble = trouble_write;
                let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    become_command(&exec, setting, [stdin, out_write.as_fd(), err_write.as_fd()], &trouble)
                }));
                match run {
                    Ok(Ok(code)) => sys::exit_now(code),
                    Ok(Err(error)) => {
                        trouble.write_all(error.to_string().as_bytes()).ok(); // nobody else to tell
                        sys::exit_now(127)
                    }
                    Err(_) => sys::exit_now(101),
                }
            }
            Forked::Parent(pid) => pid,
        };
        drop((out_write, err_write, trouble_write));
        let mut trouble = String::new();
        trouble_read.read_to_string(&mut trouble)?; // ends at the exec
        if !trouble.is_empty() {
            return Err(io::Error::other(trouble));
        }
        for pipe in [&out_read, &err_read].into_iter().chain(input.as_ref().map(|(_, write)| write)) {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self {
            pid,
            started,
            deadline: exec.timeout.and_then(|timeout| started.checked_add(timeout)),
            pipes: [Some(out_read), Some(err_read)],
            stdin: input.map(|(_, write)| (write, stdin, 0)),
            spool,
            room: exec.output_cap.unwrap_or(DEFAULT_CAP),
            dropped: 0,
            ended_by: None,
            exit: None,
            oom_before: 0,
        })
    }

    /// Reads what a pipe holds now, at most `rounds` buffers; after the command's end it is only drained.
    pub fn read(&mut self, stream: usize, buffer: &mut [u8], rounds: usize) {
        for _ in 0..rounds {
            let Some(pipe) = self.pipes.get(stream).and_then(Option::as_ref) else { return };
            match rustix::io::read(pipe, &mut *buffer) {
                Ok(0) => self.close(stream),
                Ok(length) if self.exit.is_none() => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.keep(stream, bytes);
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.close(stream),
            }
        }
    }

    fn close(&mut self, stream: usize) {
        if let Some(pipe) = self.pipes.get_mut(stream) {
            *pipe = None;
        }
    }

    fn keep(&mut self, stream: usize, bytes: &[u8]) {
        let kept = bytes.get(..self.room.min(bytes.len() as u64) as usize).unwrap_or_default();
        self.room -= kept.len() as u64;
        self.dropped += (bytes.len() - kept.len()) as u64;
        if kept.is_empty() {
            return;
        }
        let mut frame = Vec::with_capacity(kept.len() + 5);
        frame.push(stream as u8 + 1);
        frame.extend((kept.len() as u32).to_le_bytes());
        frame.extend(kept);
        if self.spool.write_all(&frame).is_err() {
            // A full disk: what is lost is counted, and nothing after it is kept, so that frames stay whole.
            self.dropped += kept.len() as u64;
            self.room = 0;
        }
    }

    /// Writes what the command takes now.
    pub fn feed(&mut self) {
        while let Some((pipe, bytes, written)) = &mut self.stdin {
            match rustix::io::write(&*pipe, bytes.get(*written..).unwrap_or_default()) {
                Ok(length) if *written + length < bytes.len() => *written += length,
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                // All written, or the command closed its input.
                Ok(_) | Err(_) => self.stdin = None,
            }
        }
    }

    /// Kills the whole group.
    pub fn kill(&mut self, why: EndedBy) {
        if self.exit.is_none() {
            self.ended_by.get_or_insert(why);
            self.deadline = None;
            sys::kill(-self.pid, libc::SIGKILL).ok(); // already gone is as good
        }
    }

    /// Its main process ended: keeps what is in the pipes, and no longer waits for others that hold them.
    pub fn end(&mut self, status: i32, oom_now: u64, buffer: &mut [u8]) {
        for stream in 0..2 {
            self.read(stream, buffer, 64);
        }
        let code = sys::exit_code(status);
        if code != 0 && oom_now > self.oom_before {
            self.ended_by.get_or_insert(EndedBy::Memory);
        }
        self.stdin = None;
        self.deadline = None;
        self.exit =
            Some(Exit { code, ended_by: self.ended_by, dropped_bytes: self.dropped, duration: self.started.elapsed() });
    }

    /// Time to the deadline.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }
}

/// Opens a command's spool.
pub fn open_spool(out: &OwnedFd, id: u64, flags: OFlags) -> io::Result<File> {
    Ok(rustix::fs::openat(out, id.to_string(), flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?.into())
}

/// In the child: gives up every right, then turns into the program. Returns only for the built-in tool, with its exit code.
fn become_command(
    exec: &Exec,
    setting: &Setting,
    streams: [std::os::fd::BorrowedFd<'_>; 3],
    trouble: &io::PipeWriter,
) -> io::Result<i32> {
    sys::reset_signals();
    sys::new_session();
    for (number, stream) in streams.into_iter().enumerate() {
        sys::place(stream, number as i32)?;
    }
    sys::close_others(&[trouble.as_raw_fd()]);
    // The kernel's first victim shall be a command, not the supervisor. The file is writable only while dumpable.
    sys::prctl(libc::PR_SET_DUMPABLE, 1)?;
    std::fs::write("/proc/self/oom_score_adj", "500").ok(); // a preference, not a protection
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    sys::new_session_keyring();
    // 0 would still feed the host's crash handler, where there is one; 1 does not.
    sys::limit(libc::RLIMIT_CORE, 1);
    if let Some(bytes) = setting.memory_rlimit {
        sys::limit(libc::RLIMIT_DATA, bytes);
    }
    if let Some(count) = setting.processes_rlimit {
        sys::limit(libc::RLIMIT_NPROC, count);
    }
    let (id, capabilities) = match exec.user {
        User::Agent => (1000, 0),
        User::Setup => (0, SETUP_CAPABILITIES),
    };
    sys::bound_capabilities(capabilities)?;
    sys::set_ids(id, id, setting.many_ids)?;
    sys::set_capabilities(capabilities)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let cwd = exec.cwd.as_deref().unwrap_or(WORKSPACE);
    std::env::set_current_dir(cwd).map_err(|error| io::Error::other(format!("cannot enter {cwd}: {error}")))?;
    setting.filters.install()?;

    let mut env: BTreeMap<&str, &str> = setting.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    if exec.user == User::Setup {
        env.insert("HOME", "/root");
        env.insert("USER", "root");
        env.insert("LOGNAME", "root");
    }
    env.insert("PWD", cwd);
    env.extend(exec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let path = env.get("PATH").copied().unwrap_or("/usr/bin:/bin").to_owned();
    let env = env.iter().map(|(k, v)| sys::c_string(format!("{k}={v}"))).collect::<io::Result<Vec<CString>>>()?;
    let argv = exec.argv.iter().map(sys::c_string).collect::<io::Result<Vec<CString>>>()?;

    let program = exec.argv.first().map_or("", String::as_str);
    if program == crate::tool::PROGRAM {
        sys::close_from(3); // tells the supervisor that the start went well
        return Ok(crate::tool::run(exec.argv.get(1).map_or("", String::as_str)));
    }
    if program.contains('/') {
        let error = sys::exec(&sys::c_string(program)?, &argv, &env);
        return Err(io::Error::other(format!("{program}: {error}")));
    }
    let mut worst = io::Error::other("not found on the sandbox's PATH");
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let error = sys::exec(&sys::c_string(Path::new(folder).join(program))?, &argv, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            _ => worst = error,
        }
    }
    Err(io::Error::other(format!("{program}: {worst}")))
}
