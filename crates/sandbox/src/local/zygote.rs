//! The zygote: a single-threaded process forked before the async runtime, from which supervisors are cloned without an exec.

use std::{
    fs::{self, Permissions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
};

use super::{
    cgroup, root,
    seccomp::Filters,
    start_time,
    supervisor::{self, Handles, Supervisor},
    sys::{self, Forked},
    wire::{Create, Done, Ids, Order, Process},
};

/// Longest order.
const MAX_ORDER: usize = 1 << 20;
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// The way to the zygote. It ends when this is dropped (or its process dies); the sandboxes it made live on.
#[derive(Debug)]
pub struct Zygote {
    socket: Mutex<OwnedFd>,
    pid: i32,
    pub(super) caller: Caller,
}

/// What sandboxes take over from the environment of the person who started this process.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// `PATH`: the toolchains on it are seen inside.
    pub path: String,
    /// `HOME`, where some toolchains live.
    pub home: Option<String>,
    /// `RUSTUP_HOME`, without which a `cargo` outside a home does not find its toolchain.
    pub rustup_home: Option<String>,
}

impl Caller {
    /// From a way to look a variable up.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            path: variable("PATH").unwrap_or_default(),
            home: variable("HOME"),
            rustup_home: variable("RUSTUP_HOME"),
        }
    }
}

impl Zygote {
    /// Forks the zygote. Must be the first thing in `main`, while there is one thread and no secret in memory.
    ///
    /// # Errors
    /// When there already are threads, or the fork is refused.
    pub fn fork(caller: Caller) -> io::Result<Self> {
        if fs::read_dir("/proc/self/task")?.count() > 1 {
            return Err(io::Error::other("the zygote must be forked before any thread is started"));
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // A create order with many mounts is long.
        for end in [&ours, &theirs] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, MAX_ORDER).ok(); // a small buffer only refuses huge orders
        }
        match sys::fork()? {
            Forked::Parent(pid) => Ok(Self { socket: Mutex::new(ours), pid, caller }),
            Forked::Child => {
                drop(ours);
                let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(&theirs)));
                sys::exit_now(i32::from(end.is_err()));
            }
        }
    }
}

impl Zygote {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends an order and waits for its end.
    pub(super) fn ask(&self, order: &Order) -> io::Result<Done> {
        let order = serde_json::to_vec(order)?;
        // One order at a time; a panic of another caller leaves the socket usable, for orders are single messages.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // It cannot be made again: it must be forked before there are threads.
        let gone = || io::Error::other("the process that makes sandboxes (the zygote) was killed; restart codegen");
        match rustix::net::send(&*socket, &order, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(gone()),
            Err(error) => return Err(error.into()),
        }
        let mut buffer = vec![0; 64 << 10];
        let length = match rustix::net::recv(&*socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return Err(gone()),
            Ok((length, _)) => length,
            Err(error) => return Err(error.into()),
        };
        Ok(serde_json::from_slice(buffer.get(..length).unwrap_or_default())?)
    }
}

fn serve(socket: &OwnedFd) {
    sys::new_session();
    sys::prctl(libc::PR_SET_DUMPABLE, 0).ok(); // cannot fail with 0
    sys::wipe_environment();
    if sys::hide_arguments(b"codegen-sandbox").is_err() {
        return; // without it a password among them could be read inside
    }
    sys::ignore_signal(libc::SIGCHLD); // supervisors outlive their zygote; the kernel reaps them
    sys::ignore_signal(libc::SIGPIPE);
    sys::ignore_signal(libc::SIGINT);
    // Under a closed one, as a unit of systemd may have, a sandbox's users could not enter what is made for them.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    std::env::set_current_dir("/").ok(); // holding the caller's folder would only keep it from being unmounted
    sys::close_others(&[socket.as_raw_fd()]);
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        for number in 0..3 {
            sys::place(null.as_fd(), number).ok(); // the caller's pipes must not be kept open
        }
    }
    let Ok(filters) = Filters::new() else { return };
    let mut buffer = vec![0; MAX_ORDER];
    loop {
        let length = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((length, _)) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        let done = match serde_json::from_slice::<Order>(buffer.get(..length).unwrap_or_default()) {
            Ok(Order::Create(create)) => create_sandbox(&create, &filters),
            Ok(Order::Skeleton { folder, ids, binds }) => with_ids(&folder, ids, || root::skeleton(&binds, ids)),
            Ok(Order::Remove { folder, ids }) => with_ids(&folder, ids, || root::remove_contents(Path::new("."))),
            Err(error) => failed("reading the order", &error.into()),
        };
        std::env::set_current_dir("/").ok(); // as above
        let Ok(bytes) = serde_json::to_vec(&done) else { return };
        if rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

fn record(path: &Path, pid: i32) -> io::Result<()> {
    let start_time = start_time(pid).ok_or_else(|| io::Error::other("its process is gone"))?;
    // Whole or not at all: what cannot be read names nobody.
    let part = path.with_extension("new");
    fs::write(&part, serde_json::to_vec(&Process { pid, start_time })?)?;
    fs::rename(part, path)
}

fn failed(stage: &str, error: &io::Error) -> Done {
    Done::Failed { stage: stage.into(), error: error.to_string(), errno: error.raw_os_error().unwrap_or(0) }
}

/// Lets a mapped uid write in the folder: root hands it over, an ordinary user opens it (its parent is closed to others).
fn open_folder(folder: &Path, ids: Ids) -> io::Result<()> {
    match ids {
        Ids::Range { uid, gid, .. } if rustix::process::geteuid().is_root() => {
            std::os::unix::fs::chown(folder, Some(uid), Some(gid))
        }
        Ids::Range { .. } => fs::set_permissions(folder, Permissions::from_mode(0o777)),
        Ids::Single => Ok(()),
    }
}

/// Runs `work` in the folder with the sandboxes' ids and waits for it.
fn with_ids(folder: &Path, ids: Ids, work: impl FnOnce() -> io::Result<()>) -> Done {
    if let Err(error) = open_folder(folder, ids).and_then(|()| std::env::set_current_dir(folder)) {
        return failed("opening the folder", &error);
    }
    launch(
        libc::CLONE_NEWUSER,
        ids,
        |_| Ok(()),
        |_| Ok(()),
        |report, stage, ()| {
            *stage = "working in the folder";
            work()?;
            report();
            sys::exit_now(0)
        },
    )
}

fn create_sandbox(create: &Create, filters: &Filters) -> Done {
    let mut stage = "opening the folder";
    let prepare = |stage: &mut &'static str| {
        open_folder(&create.folder, create.ids)?;
        std::env::set_current_dir(&create.folder)?;
        let listener = UnixListener::bind("sock")?;
        *stage = "opening the gateway's folder";
        let gateway = match create.spec.gateway.as_deref().map(|path| (path.parent(), path.file_name())) {
            Some((Some(parent), Some(name))) => {
                let folder =
                    rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                Some((folder, name.to_owned()))
            }
            Some(_) => return Err(io::Error::other("the gateway's path has no folder")),
            None => None,
        };
        *stage = "opening the memory counter";
        let oom = create.cgroups.oom_file.as_ref().map(fs::File::open).transpose()?;
        *stage = "copying the host folders' mounts";
        let trees = rustix::process::geteuid().is_root().then(|| root::Trees::copy(create)).transpose()?;
        Ok((listener, gateway, oom, trees))
    };
    let (listener, gateway, oom, trees) = match prepare(&mut stage) {
        Ok(prepared) => prepared,
        Err(error) => return failed(stage, &error),
    };
    launch(
        NAMESPACES,
        create.ids,
        |pid| {
            // A crash from here on leaves a process that `destroy` finds; before, the process never starts.
            record(&create.record, pid)?;
            cgroup::join(&create.cgroups, pid)
        },
        |stage| {
            *stage = "copying the host folders' mounts";
            trees.map_or_else(|| root::Trees::copy(create), Ok)
        },
        |report, stage, trees| {
            *stage = "taking a cgroup namespace";
            sys::unshare(libc::CLONE_NEWCGROUP)?;
            *stage = "making the folder for output";
            rustix::fs::mkdir("out", Mode::RWXU)?;
            let out = rustix::fs::open("out", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            root::enter(create, &trees, stage)?;
            *stage = "starting the supervisor";
            sys::loopback_up()?;
            let supervisor = Supervisor::new(create, Handles { listener, gateway, oom, out }, filters)?;
            report();
            supervisor::run(supervisor)
        },
    )
}

/// Clones a process into new namespaces, writes its id maps, lets it go, and waits for its report.
///
/// `first` runs in the namespaces while the process still has the caller's own id, which alone reaches the caller's
/// closed folders; `work` runs with the mapped ids.
fn launch<T>(
    flags: i32,
    ids: Ids,
    prepare: impl FnOnce(i32) -> io::Result<()>,
    first: impl FnOnce(&mut &'static str) -> io::Result<T>,
    work: impl FnOnce(&mut dyn FnMut(), &mut &'static str, T) -> io::Result<()>,
) -> Done {
    let pipes = || Ok::<_, io::Error>((io::pipe()?, io::pipe()?));
    let ((mut go_read, mut go_write), (mut report_read, mut report_write)) = match pipes() {
        Ok(pipes) => pipes,
        Err(error) => return failed("opening pipes", &error),
    };
    // An ordinary user may write the maps only of a process that is dumpable; the child is until it has them.
    let root = rustix::process::geteuid().is_root();
    sys::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(!root)).ok(); // cannot fail with 0 or 1
    let cloned = sys::clone_namespaces(flags);
    if !matches!(cloned, Ok(Forked::Child)) {
        sys::prctl(libc::PR_SET_DUMPABLE, 0).ok(); // as above
    }
    match cloned {
        Err(error) => failed("creating namespaces", &error),
        Ok(Forked::Child) => {
            drop((go_write, report_read));
            let mut stage = "waiting for the id maps";
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                go_read.read_exact(&mut [0])?;
                drop(go_read);
                sys::new_session();
                let found = first(&mut stage)?;
                stage = "taking the mapped ids";
                let id = ids.supervisor();
                sys::set_ids(id, id, ids != Ids::Single)?;
                // Asked for again because a change of ids resets it to the host's default.
                sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
                let mut report_write = report_write.try_clone().ok();
                work(
                    &mut || {
                        if let Some(mut pipe) = report_write.take() {
                            serde_json::to_writer(&mut pipe, &Done::Ok).ok(); // the zygote died: the sandbox ends when idle
                        }
                    },
                    &mut stage,
                    found,
                )
            }));
            if let Ok(Err(error)) = run {
                serde_json::to_writer(&mut report_write, &failed(stage, &error)).ok(); // nobody else to tell
            }
            sys::exit_now(1)
        }
        Ok(Forked::Parent(pid)) => {
            drop((go_read, report_write));
            let started = (|| {
                write_maps(pid, ids).map_err(|error| ("writing the id maps", error))?;
                prepare(pid).map_err(|error| ("recording the process and joining cgroups", error))?;
                go_write.write_all(&[1]).map_err(|error| ("starting", error))
            })();
            if let Err((stage, error)) = started {
                sys::kill(pid, libc::SIGKILL).ok(); // it waits for the byte that never comes
                return failed(stage, &error);
            }
            drop(go_write);
            let mut report = Vec::new();
            // One JSON value; the pipe may stay open in the child a moment longer.
            let mut byte = [0_u8; 4096];
            loop {
                match report_read.read(&mut byte) {
                    Ok(0) | Err(_) => {
                        break failed("starting the supervisor", &io::Error::from_raw_os_error(libc::ESRCH));
                    }
                    Ok(length) => report.extend_from_slice(byte.get(..length).unwrap_or_default()),
                }
                match serde_json::from_slice(&report) {
                    Ok(Done::Ok) => break Done::Ok,
                    Ok(done) => break done,
                    Err(_) => {}
                }
            }
        }
    }
}

fn write_maps(pid: i32, ids: Ids) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    match ids {
        Ids::Range { uid, gid, count } if rustix::process::geteuid().is_root() => {
            fs::write(file("uid_map"), format!("0 {uid} {count}\n"))?;
            fs::write(file("gid_map"), format!("0 {gid} {count}\n"))
        }
        Ids::Range { uid, gid, count } => {
            for (program, first) in [("newuidmap", uid), ("newgidmap", gid)] {
                // SIGCHLD is ignored here, so `status` finds no child to wait for; the map itself tells.
                let path = format!("/usr/bin/{program}");
                let child = Command::new(path)
                    .args([pid.to_string(), "0".into(), first.to_string(), count.to_string()])
                    .spawn();
                child?.wait().ok();
            }
            if fs::read_to_string(file("gid_map"))?.trim().is_empty()
                || fs::read_to_string(file("uid_map"))?.trim().is_empty()
            {
                return Err(io::Error::other("newuidmap or newgidmap refused (see /etc/subuid and /etc/subgid)"));
            }
            Ok(())
        }
        Ids::Single => {
            fs::write(file("setgroups"), "deny")?;
            fs::write(file("uid_map"), format!("1000 {} 1\n", rustix::process::geteuid().as_raw()))?;
            fs::write(file("gid_map"), format!("1000 {} 1\n", rustix::process::getegid().as_raw()))
        }
    }
}
