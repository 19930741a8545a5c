//! The system calls of the local engine behind safe signatures. Knows nothing of sandboxes.
#![allow(unsafe_code)] // Raw system calls: namespaces, the mount API, credentials, fork. Each wrapper passes only live buffers.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use libc::{c_int, c_long, c_ulong};

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_int(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A path or text for the kernel; an inner NUL is an error.
pub fn c_string(path: impl AsRef<Path>) -> io::Result<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes()).map_err(io::Error::other)
}

/// What [`fork`] and [`clone_namespaces`] return.
pub enum Forked {
    /// In the new process.
    Child,
    /// In the caller, with the new process's id.
    Parent(i32),
}

/// Forks with extra clone flags. Only for single-threaded callers: the child runs on with the whole heap.
pub fn clone_namespaces(flags: c_int) -> io::Result<Forked> {
    // SAFETY: no stack and no pointers are passed, so this is fork with namespaces.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            c_long::from(flags | libc::SIGCHLD),
            0 as c_long,
            0 as c_long,
            0 as c_long,
            0 as c_long,
        )
    })?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

/// Plain fork, under the same condition.
pub fn fork() -> io::Result<Forked> {
    clone_namespaces(0)
}

/// Ends the process at once, without destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// unshare(2).
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

/// A detached copy of the mount tree at `path` (relative to the working folder).
pub fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    const CLONE: u32 = 1;
    let flags = CLONE | libc::O_CLOEXEC as u32 | libc::AT_RECURSIVE as u32;
    // SAFETY: `path` lives through the call; the result is a new descriptor owned by us.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Attaches a detached tree at `target`.
pub fn move_mount(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = c_string(target)?;
    const F_EMPTY_PATH: u32 = 4;
    // SAFETY: both strings live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Adds mount attributes (`MOUNT_ATTR_…`) to a whole tree.
pub fn set_attributes(tree: &OwnedFd, attributes: u64) -> io::Result<()> {
    let attr: [u64; 4] = [attributes, 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: `attr` has the layout and size of struct mount_attr.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            std::mem::size_of_val(&attr),
        )
    })
    .map(drop)
}

/// mount(2) of a new file system, or a change of propagation when `kind` is empty.
pub fn mount(kind: &str, target: &Path, flags: c_ulong, options: &str) -> io::Result<()> {
    let (kind, target, options) = (c_string(kind)?, c_string(target)?, c_string(options)?);
    // SAFETY: all strings live through the call.
    check_int(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) })
        .map(drop)
}

/// Makes the working folder the root and detaches the old one.
pub fn pivot_here() -> io::Result<()> {
    // SAFETY: constant strings.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check_int(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
    }
    std::env::set_current_dir("/")
}

/// sethostname(2).
pub fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: ifreq is plain data, zero is valid, and the descriptor is closed by its owner.
    unsafe {
        let socket =
            OwnedFd::from_raw_fd(check_int(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check_int(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)).map(drop)
    }
}

/// Takes ids for good; the raw calls, because only this thread exists.
pub fn set_ids(uid: u32, gid: u32, drop_groups: bool) -> io::Result<()> {
    // SAFETY: no pointers but a null with length 0.
    unsafe {
        if drop_groups {
            check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map(drop)
    }
}

/// prctl(2) with one argument.
pub fn prctl(option: c_int, argument: c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check_int(unsafe { libc::prctl(option, argument, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) }).map(drop)
}

/// Sets the permitted and effective (and, so that an exec keeps them for uid 0, inheritable) capabilities to `mask`.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let (low, high) = (mask as u32, (mask >> 32) as u32);
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: version 3 of the interface takes two triples of u32.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// Drops every capability outside `mask` from the bounding set.
pub fn bound_capabilities(mask: u64) -> io::Result<()> {
    for capability in 0..64 {
        if mask & (1 << capability) == 0
            && let Err(error) = prctl(libc::PR_CAPBSET_DROP, capability)
        {
            // EINVAL marks the first capability this kernel does not know.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Joins a new, empty session keyring.
pub fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring. A kernel without keyrings has none to leak.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
}

/// Lowers a limit, hard and soft; where the hard one is already lower, it stays.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    // SAFETY: both calls get a valid struct.
    unsafe {
        let mut now: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(resource, &mut now) == 0 {
            let value = value.min(now.rlim_max);
            libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value });
        }
    }
}

/// setsid(2); a session leader stays what it is.
pub fn new_session() {
    // SAFETY: no preconditions.
    unsafe { libc::setsid() };
}

/// Makes `fd` known as `number`, kept across exec.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 of live descriptors; when they are the same, only the flag changes.
    unsafe {
        if fd.as_raw_fd() == number {
            check_int(libc::fcntl(number, libc::F_SETFD, 0)).map(drop)
        } else {
            check_int(libc::dup2(fd.as_raw_fd(), number)).map(drop)
        }
    }
}

/// Closes every descriptor from `first` on. Only before an exec or for good: owners elsewhere are not told.
pub fn close_from(first: u32) {
    // SAFETY: the caller uses no descriptor from `first` on afterwards.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Closes every descriptor above 2 that is not in `keep`.
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            // SAFETY: the caller lists all it still uses.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd + 1;
    }
    close_from(first);
}

/// Default action for all signals and an empty mask.
pub fn reset_signals() {
    // SAFETY: signal and sigprocmask with valid arguments; refusals (KILL, STOP) do not matter.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Ignores one signal.
pub fn ignore_signal(signal: c_int) {
    // SAFETY: SIG_IGN is a valid handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// A descriptor that becomes readable when a child ends.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use; the descriptor is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check_int(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        Ok(OwnedFd::from_raw_fd(check_int(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?))
    }
}

/// One ended child, if any: its id and raw status.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Exit code as a shell tells it.
pub fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Sends a signal to a process, or with a negative id to a group.
pub fn kill(pid: i32, signal: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// execve(2); returns only its error.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with null and point to live strings.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Lets a command of the host start apart from this process: in a session of its own, so that it reaches no terminal,
/// without the right to gain rights, as the first one to be killed when memory runs out, without core dumps.
pub fn set_apart(command: &mut std::process::Command) {
    let apart = || {
        // SAFETY: these calls are allowed between fork and exec, and take constants only.
        unsafe {
            libc::setsid();
            libc::umask(0o022);
            // 0 would still feed the host's crash handler, where there is one; 1 does not.
            libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 1, rlim_max: 1 });
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, c"500".as_ptr().cast(), 3);
                libc::close(file);
            }
        }
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
    };
    // SAFETY: the closure neither allocates nor takes locks.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, apart) };
}

/// Puts `title` over the arguments this process was started with: they can hold a repository's password, and stay
/// readable in /proc to whoever sees the process, a sandbox's commands among them.
pub fn hide_arguments(title: &[u8]) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(45);
    let mut address = || fields.next().and_then(|field| field.parse::<usize>().ok()).filter(|address| *address != 0);
    let (Some(start), Some(end)) = (address(), address()) else { return Err(io::Error::other("no arguments found")) };
    let length = end.saturating_sub(start);
    let title = title.get(..length.saturating_sub(1).min(title.len())).unwrap_or_default();
    // SAFETY: single-threaded (the zygote), which reads its arguments no more; the kernel names the block, and it is writable.
    unsafe {
        let block = std::ptr::with_exposed_provenance_mut::<u8>(start);
        std::ptr::write_bytes(block, 0, length);
        std::ptr::copy_nonoverlapping(title.as_ptr(), block, title.len());
    }
    Ok(())
}

/// Zeroes the environment block this process was started with (it can hold the server's keys and stays readable in /proc) and empties `environ`.
pub fn wipe_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: single-threaded (the zygote); the strings of the initial block are writable and NUL-terminated.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let length = libc::strlen(*entry);
            std::ptr::write_bytes(*entry, 0, length);
            entry = entry.add(1);
        }
        libc::clearenv();
    }
}
