//! PID 1 of a sandbox: a single-threaded loop that starts commands, spools their output, answers followers, relays to the gateway and reaps.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, IoSlice, Write},
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType},
};

use super::{
    cgroup,
    command::{Command, Setting, open_spool},
    link::{Follower, Incoming, Link},
    relay::Relay,
    seccomp::Filters,
    sys,
    wire::{Answer, Ask, Create, GATEWAY_PORT, Ids, Request},
};
use crate::{EndedBy, Exec, Fence};

/// Everything the loop holds.
pub struct Supervisor {
    listener: UnixListener,
    gateway: Option<(TcpListener, OwnedFd, OsString)>,
    signals: OwnedFd,
    oom: Option<File>,
    fence: Fence,
    setting: Setting,
    commands: BTreeMap<u64, Command>,
    /// Numbers of the commands that have a key.
    keys: BTreeMap<String, u64>,
    next: u64,
    links: Vec<Link>,
    relays: Vec<Relay>,
    idle: Duration,
    alone_since: Instant,
    buffer: Vec<u8>,
}

/// Descriptors opened while the host's root was still there.
pub struct Handles {
    /// The bound socket.
    pub listener: UnixListener,
    /// The gateway's folder and the socket's name in it.
    pub gateway: Option<(OwnedFd, OsString)>,
    /// Counts kills by the memory limit.
    pub oom: Option<File>,
    /// The spools' folder.
    pub out: OwnedFd,
}

/// Connections to the gateway at once; others wait. Each takes two descriptors, which starting a command needs too.
const MAX_RELAYS: usize = 200;

enum Source {
    Listener,
    Gateway,
    Signals,
    Link(usize),
    Output(u64, usize),
    Input(u64),
    Relay(usize),
}

impl Supervisor {
    /// Opens what it needs, in the new root.
    pub fn new(create: &Create, handles: Handles, filters: &Filters) -> io::Result<Self> {
        sys::reset_signals();
        sys::ignore_signal(libc::SIGPIPE);
        handles.listener.set_nonblocking(true)?;
        let gateway = match handles.gateway {
            Some((folder, name)) => {
                let inside = TcpListener::bind(("127.0.0.1", GATEWAY_PORT))?;
                inside.set_nonblocking(true)?;
                Some((inside, folder, name))
            }
            None => None,
        };
        let limits = &create.spec.limits;
        let setting = Setting {
            env: create.env.clone(),
            filters: filters.clone(),
            many_ids: create.ids != Ids::Single,
            memory_rlimit: create.cgroups.oom_file.is_none().then(|| limits.memory_mib.saturating_mul(1 << 20)),
            processes_rlimit: create.cgroups.folders.is_empty().then_some(limits.processes),
            null: OpenOptions::new().read(true).write(true).open("/dev/null")?,
            out: handles.out,
        };
        let mut supervisor = Self {
            listener: handles.listener,
            gateway,
            signals: sys::child_signals()?,
            oom: handles.oom,
            fence: Fence::default(),
            setting,
            commands: BTreeMap::new(),
            keys: BTreeMap::new(),
            next: 1,
            links: Vec::new(),
            relays: Vec::new(),
            idle: create.idle,
            alone_since: Instant::now(),
            buffer: vec![0; 64 << 10],
        };
        supervisor.raise(create.spec.fence)?;
        Ok(supervisor)
    }

    /// Learns of a newer owner, durably, and drops older ones.
    fn raise(&mut self, fence: Fence) -> io::Result<()> {
        if fence > self.fence {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&self.setting.out, "fence", flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&serde_json::to_vec(&fence)?)?;
            self.fence = fence;
            for link in self.links.iter_mut().filter(|link| link.fence.is_some_and(|theirs| theirs < fence)) {
                link.cut();
            }
        }
        Ok(())
    }

    fn oom_kills(&self) -> u64 {
        self.oom.as_ref().map_or(0, cgroup::oom_kills)
    }

    /// Waits for something to happen.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let mut deadline = None::<Duration>;
        let now = Instant::now();
        if self.links.is_empty() {
            deadline = Some(self.idle.saturating_sub(now.saturating_duration_since(self.alone_since)));
        }
        if let Some((inside, ..)) = self.gateway.as_ref().filter(|_| self.relays.len() < MAX_RELAYS) {
            sources.push(Source::Gateway);
            fds.push(PollFd::new(inside, PollFlags::IN));
        }
        for (index, link) in self.links.iter().enumerate() {
            sources.push(Source::Link(index));
            fds.push(PollFd::new(
                &link.stream,
                if link.wants_to_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN },
            ));
        }
        for (id, command) in &self.commands {
            if let Some(remaining) = command.remaining(now) {
                deadline = Some(deadline.map_or(remaining, |d| d.min(remaining)));
            }
            for (stream, pipe) in command.pipes.iter().enumerate() {
                if let Some(pipe) = pipe {
                    sources.push(Source::Output(*id, stream));
                    fds.push(PollFd::new(pipe, PollFlags::IN));
                }
            }
            if let Some((pipe, ..)) = &command.stdin {
                sources.push(Source::Input(*id));
                fds.push(PollFd::new(pipe, PollFlags::OUT));
            }
        }
        for (index, relay) in self.relays.iter().enumerate() {
            for (end, flags) in relay.wants() {
                sources.push(Source::Relay(index));
                fds.push(PollFd::from_borrowed_fd(end, flags));
            }
        }
        let timeout = deadline.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        Ok(sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn step(&mut self) -> io::Result<()> {
        let mut over = Vec::new();
        let mut relays_over = Vec::new();
        for (source, _) in self.wait()? {
            match source {
                Source::Listener => {
                    while let Ok((stream, _)) = self.listener.accept() {
                        self.links.push(Link::new(stream)?);
                    }
                }
                Source::Gateway => self.accept_for_gateway(),
                Source::Signals => self.reap(),
                Source::Link(index) => {
                    let Some(link) = self.links.get_mut(index) else { continue };
                    let follows = link.follower.as_ref().map(|follower| follower.command);
                    match link.receive(&mut self.buffer) {
                        Incoming::Nothing => {}
                        Incoming::Closed => over.push(index),
                        Incoming::Kill => {
                            if let Some(command) = follows.and_then(|id| self.commands.get_mut(&id)) {
                                command.kill(EndedBy::Kill);
                            }
                        }
                        Incoming::Request(request, stdin) => self.serve(index, *request, stdin),
                    }
                }
                Source::Output(id, stream) => {
                    if let Some(command) = self.commands.get_mut(&id) {
                        command.read(stream, &mut self.buffer, 4);
                    }
                }
                Source::Input(id) => {
                    if let Some(command) = self.commands.get_mut(&id) {
                        command.feed();
                    }
                }
                Source::Relay(index) => {
                    if let Some(relay) = self.relays.get_mut(index)
                        && !relay.pump(&mut self.buffer)
                        && relays_over.last() != Some(&index)
                    {
                        relays_over.push(index);
                    }
                }
            }
        }
        let now = Instant::now();
        for command in self.commands.values_mut() {
            if command.deadline.is_some_and(|deadline| deadline <= now) {
                command.kill(EndedBy::Timeout);
            }
        }
        for (index, link) in self.links.iter_mut().enumerate() {
            let command = link.follower.as_ref().and_then(|follower| self.commands.get(&follower.command));
            if !link.pump(command.and_then(|command| command.exit.as_ref()), &mut self.buffer) {
                over.push(index);
            }
        }
        let owned = !self.links.is_empty();
        over.sort_unstable();
        over.dedup();
        over.into_iter().rev().for_each(|index| drop(self.links.swap_remove(index)));
        relays_over.into_iter().rev().for_each(|index| drop(self.relays.swap_remove(index)));
        if owned && self.links.is_empty() {
            self.alone_since = now;
        }
        Ok(())
    }

    fn reap(&mut self) {
        let mut info = [0; 1024];
        while rustix::io::read(&self.signals, &mut info).is_ok_and(|length| length > 0) {}
        while let Some((pid, status)) = sys::reap() {
            let oom = self.oom_kills();
            if let Some(command) =
                self.commands.values_mut().find(|command| command.pid == pid && command.exit.is_none())
            {
                command.end(status, oom, &mut self.buffer);
            }
        }
    }

    fn serve(&mut self, index: usize, request: Request, stdin: Vec<u8>) {
        let answer = if request.fence < self.fence {
            Answer::Fenced
        } else {
            // Raising drops links, this one excepted; find it again by its descriptor.
            let Some(fd) = self.links.get(index).map(|link| link.stream.as_raw_fd()) else { return };
            if let Err(error) = self.raise(request.fence) {
                return self.reply(fd, &Answer::Refused(format!("recording the new owner: {error}")), true);
            }
            match request.ask {
                Ask::Hold => return self.reply(fd, &Answer::Ok, false),
                Ask::Start(exec) => match self.start(exec, stdin) {
                    Ok(id) => return self.reply_following(fd, id),
                    Err(sentence) => return self.reply(fd, &Answer::Refused(sentence), true),
                },
                Ask::Follow(key) => match self.keys.get(&key) {
                    Some(id) => return self.reply_following(fd, *id),
                    None => return self.reply(fd, &Answer::Unknown, true),
                },
                Ask::Connect(port) => return self.connect(fd, port),
            }
        };
        if let Some(link) = self.links.get_mut(index) {
            link.answer(&answer);
            link.finish();
        }
    }

    fn link(&mut self, fd: i32) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.stream.as_raw_fd() == fd)
    }

    fn reply(&mut self, fd: i32, answer: &Answer, last: bool) {
        if let Some(link) = self.link(fd) {
            link.answer(answer);
            if last {
                link.finish();
            }
        }
    }

    fn reply_following(&mut self, fd: i32, id: u64) {
        let spool = open_spool(&self.setting.out, id, OFlags::RDONLY);
        if let Some(link) = self.link(fd) {
            match spool {
                Ok(spool) => {
                    link.answer(&Answer::Ok);
                    link.follower = Some(Follower { command: id, spool, offset: 0 });
                }
                Err(_) => {
                    link.answer(&Answer::Refused("its output cannot be opened".into()));
                    link.finish();
                }
            }
        }
    }

    fn start(&mut self, mut exec: Exec, stdin: Vec<u8>) -> Result<u64, String> {
        if let Some(id) = exec.key.as_ref().and_then(|key| self.keys.get(key)) {
            return Ok(*id);
        }
        exec.stdin = stdin;
        let key = exec.key.take();
        let id = self.next;
        self.next += 1;
        let oom_before = self.oom_kills();
        let mut command = Command::start(exec, id, &self.setting)?;
        command.oom_before = oom_before;
        self.commands.insert(id, command);
        self.keys.extend(key.map(|key| (key, id)));
        Ok(id)
    }

    /// Sends a socket connected to a port in here; the client talks over it directly.
    fn connect(&mut self, fd: i32, port: u16) {
        let connected = (|| {
            let socket = rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?;
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            match rustix::net::connect(&socket, &address) {
                Ok(()) => Ok(socket),
                // On loopback a refusal is there at once; a full queue stays in progress, and the client waits for it.
                Err(rustix::io::Errno::INPROGRESS) => rustix::net::sockopt::socket_error(&socket)?.map(|()| socket),
                Err(error) => Err(error),
            }
        })();
        let Some(link) = self.link(fd) else { return };
        link.finish();
        match connected {
            Ok(socket) => {
                let json = serde_json::to_vec(&Answer::Ok).unwrap_or_default(); // a plain type
                let length = (json.len() as u32).to_le_bytes();
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [socket.as_fd()];
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let parts = [IoSlice::new(&length), IoSlice::new(&json)];
                rustix::net::sendmsg(&link.stream, &parts, &mut control, SendFlags::NOSIGNAL).ok(); // a client that left
            }
            Err(error) => link.answer(&Answer::Refused(format!("nothing listens on port {port}: {error}"))),
        }
    }

    fn accept_for_gateway(&mut self) {
        let Some((inside, folder, name)) = &self.gateway else { return };
        while self.relays.len() < MAX_RELAYS {
            let Ok((client, _)) = inside.accept() else { return };
            // The server may have made its socket anew, so the name is looked up each time. No gateway: the client sees a closed connection.
            let path = std::path::Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
            let Ok(gateway) = connect_to_gateway(&path) else { continue };
            if client.set_nonblocking(true).is_ok() {
                client.set_nodelay(true).ok(); // only a delay
                self.relays.push(Relay::new(client.into(), gateway));
            }
        }
    }

    fn descriptors(&self) -> Vec<i32> {
        let mut keep = vec![
            self.listener.as_raw_fd(),
            self.signals.as_raw_fd(),
            self.setting.null.as_raw_fd(),
            self.setting.out.as_raw_fd(),
        ];
        keep.extend(self.oom.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend(self.gateway.iter().flat_map(|(inside, folder, _)| [inside.as_raw_fd(), folder.as_raw_fd()]));
        keep
    }
}

/// Without waiting: a gateway whose queue is full refuses the connection instead of stopping this loop.
fn connect_to_gateway(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Runs until the sandbox was without an owner for too long, or is killed.
pub fn run(mut supervisor: Supervisor) -> ! {
    sys::close_others(&supervisor.descriptors());
    loop {
        if supervisor.step().is_err() {
            sys::exit_now(1);
        }
        if supervisor.links.is_empty() && supervisor.alone_since.elapsed() >= supervisor.idle {
            sys::exit_now(0);
        }
    }
}
