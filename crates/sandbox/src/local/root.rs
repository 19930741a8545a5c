//! Builds a sandbox's root file system, from inside its new namespaces.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use super::{
    sys,
    wire::{Bind, Create, Ids},
};

const READ_ONLY: u64 = 0x1;
const NO_SETID: u64 = 0x2;
/// A quarter of what hosts give a user.
const INOTIFY_INSTANCES: &str = "32";

/// Mount trees copied while the process still has the ids that reach them: the host's root before the user namespace
/// exists, an ordinary user before it takes the mapped ids.
pub struct Trees {
    /// The sandbox's folder.
    pub folder: OwnedFd,
    /// The shared lower layer.
    pub skeleton: OwnedFd,
    /// In the order of `Create::binds`.
    pub binds: Vec<OwnedFd>,
}

impl Trees {
    /// Copies them; the working folder is the sandbox's.
    pub fn copy(create: &Create) -> io::Result<Self> {
        let named = |path: &Path| {
            sys::clone_tree(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        Ok(Self {
            folder: named(Path::new("."))?,
            skeleton: named(&create.skeleton)?,
            binds: create.binds.iter().map(|bind| named(&bind.source)).collect::<io::Result<_>>()?,
        })
    }
}

const PLACE: &str = "/tmp"; // exists everywhere; covered in this mount namespace only

/// Mounts everything and enters it. `stage` says where a failure was.
pub fn enter(create: &Create, trees: &Trees, stage: &mut &'static str) -> io::Result<()> {
    *stage = "separating mounts";
    sys::mount("", Path::new("/"), libc::MS_REC | libc::MS_PRIVATE, "")?;
    *stage = "mounting a private tmpfs";
    sys::mount("tmpfs", Path::new(PLACE), libc::MS_NOSUID | libc::MS_NODEV, "mode=755,size=64k")?;
    for name in ["b", "s", "r"] {
        make_folder(&Path::new(PLACE).join(name), 0o755)?;
    }
    sys::move_mount(&trees.folder, &Path::new(PLACE).join("b"))?;
    sys::move_mount(&trees.skeleton, &Path::new(PLACE).join("s"))?;
    for name in ["upper", "work"] {
        make_folder(&Path::new(PLACE).join("b").join(name), 0o755)?;
    }

    *stage = "mounting the overlay (the data directory must be on ext4, xfs, btrfs or tmpfs, not itself on an overlay)";
    let root = Path::new(PLACE).join("r");
    sys::mount(
        "overlay",
        &root,
        libc::MS_NODEV,
        "userxattr,lowerdir=/tmp/s,upperdir=/tmp/b/upper,workdir=/tmp/b/work",
    )?;

    *stage = "binding host folders";
    for (bind, tree) in create.binds.iter().zip(&trees.binds) {
        let target = inside(&root, &bind.target);
        let result = (|| {
            if fs::symlink_metadata(&target).is_err() {
                make_place(&target, fs::metadata(&bind.source).map_or_else(|_| is_folder(tree), |meta| meta.is_dir()))?;
            }
            let attributes = if bind.read_only { READ_ONLY | NO_SETID } else { NO_SETID };
            sys::set_attributes(tree, attributes)?;
            sys::move_mount(tree, &target)
        })();
        result.map_err(|error: io::Error| named(error, &bind.target))?;
    }

    *stage = "mounting /dev";
    devices(&root, create.ids, create.spec.limits.memory_mib)?;
    *stage = "mounting /proc";
    let proc = root.join("proc");
    sys::mount("proc", &proc, libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, "")?;
    let limits = own_limits(&proc, create.spec.limits.memory_mib);
    mask(&proc, &root.join("dev/null"))?;
    *stage = "limiting its namespaces";
    limits.into_iter().try_for_each(|(mut limit, value)| limit.write_all(value.as_bytes()))?;

    *stage = "changing the root";
    std::env::set_current_dir(&root)?;
    sys::pivot_here()?;
    sys::set_host_name("codegen")
}

fn named(error: io::Error, path: &Path) -> io::Error {
    // Keeps the system's number for the engine's advice.
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn is_folder(tree: &OwnedFd) -> bool {
    rustix::fs::fstat(tree).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// A mount point: a folder or an empty file, with its parents.
fn make_place(path: &Path, folder: bool) -> io::Result<()> {
    if folder {
        return DirBuilder::new().recursive(true).mode(0o755).create(path);
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map(drop)
}

fn devices(root: &Path, ids: Ids, memory_mib: u64) -> io::Result<()> {
    let dev = root.join("dev");
    sys::mount("tmpfs", &dev, libc::MS_NOSUID | libc::MS_NOEXEC, "mode=755,size=64k")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let tree = sys::clone_tree(&Path::new("/dev").join(name)).map_err(|error| named(error, Path::new(name)))?;
        let target = dev.join(name);
        make_place(&target, false)?;
        sys::move_mount(&tree, &target)?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(link))?;
    }
    for name in ["pts", "shm"] {
        make_folder(&dev.join(name), 0o755)?;
    }
    let options = match ids {
        Ids::Range { .. } => "newinstance,ptmxmode=0666,max=256,mode=0620,gid=5",
        Ids::Single => "newinstance,ptmxmode=0666,max=256,mode=0620",
    };
    sys::mount("devpts", &dev.join("pts"), libc::MS_NOSUID | libc::MS_NOEXEC, options)?;
    // Not more than half, so that what is in there leaves the commands room to remove it again.
    let shared = format!("mode=1777,size={}m,nr_inodes=65536", (memory_mib / 2).max(1));
    sys::mount("tmpfs", &dev.join("shm"), libc::MS_NOSUID | libc::MS_NODEV, &shared)
}

/// Switches of the sandbox's own namespaces. New namespaces are refused by the system call filter, and here once more to
/// whoever gets around it. Inotify instances are counted against the host's user too, whose few one sandbox must not take.
/// System V memory outlives its process, so that nothing but this keeps it from filling the memory limit for good.
///
/// Opened before /proc/sys becomes read-only, used after the last detached mount, which is a namespace too.
fn own_limits(proc: &Path, memory_mib: u64) -> Vec<(fs::File, String)> {
    let namespaces = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
    let mut all = namespaces.map(|kind| (format!("user/max_{kind}_namespaces"), "0".to_owned())).to_vec();
    all.push(("user/max_inotify_instances".to_owned(), INOTIFY_INSTANCES.to_owned()));
    let pages = memory_mib.saturating_mul(1 << 20) / 4 / rustix::param::page_size() as u64;
    all.push(("kernel/shmall".to_owned(), pages.to_string()));
    // A kernel without a kind has no switch for it, and with one mapped id that of System V memory is not ours.
    all.into_iter()
        .filter_map(|(name, value)| {
            Some((OpenOptions::new().write(true).open(proc.join("sys").join(name)).ok()?, value))
        })
        .collect()
}

/// Hides what says something about the host or acts on it.
fn mask(proc: &Path, null: &Path) -> io::Result<()> {
    for name in [
        "kcore",
        "keys",
        "key-users",
        "sysrq-trigger",
        "timer_list",
        "sched_debug",
        "kmsg",
        "kallsyms",
        "kpagecount",
        "kpageflags",
        "interrupts",
        "latency_stats",
        "timer_stats",
    ] {
        let target = proc.join(name);
        if target.exists() {
            sys::move_mount(&sys::clone_tree(null)?, &target)?;
        }
    }
    for name in ["sys", "irq", "bus", "fs", "acpi", "scsi", "pressure"] {
        let target = proc.join(name);
        if target.exists() {
            let tree = sys::clone_tree(&target)?;
            sys::set_attributes(&tree, READ_ONLY)?;
            sys::move_mount(&tree, &target)?;
        }
    }
    Ok(())
}

/// Fills the shared lower layer: the working folder, seen with the sandbox's ids.
pub fn skeleton(binds: &[Bind], ids: Ids) -> io::Result<()> {
    let here = Path::new(".");
    for name in ["bin", "sbin", "lib", "lib64", "lib32", "libx32"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, name)?;
        }
    }
    for name in [
        "usr",
        "etc",
        "dev",
        "proc",
        "sys",
        "run",
        "home",
        "opt",
        "mnt",
        "srv",
        "var/log",
        "var/lib",
        "var/cache",
        "root",
    ] {
        make_place(Path::new(name), true)?;
    }
    for (name, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("workspace", 0o755), ("home/agent", 0o755)] {
        make_place(Path::new(name), true)?;
        fs::set_permissions(name, Permissions::from_mode(mode))?;
        if mode == 0o755 && ids != Ids::Single {
            std::os::unix::fs::chown(name, Some(1000), Some(1000))?;
        }
    }
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/bash\n_apt:x:100:65534::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n",
        ),
        (
            "group",
            "root:x:0:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nshadow:x:42:\nutmp:x:43:\nstaff:x:50:\nnogroup:x:65534:\nagent:x:1000:\n",
        ),
        ("hosts", "127.0.0.1 localhost codegen\n::1 localhost\n"),
        ("hostname", "codegen\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"),
        ("resolv.conf", ""),
        ("machine-id", "uninitialized\n"),
        ("gitconfig", "[safe]\n\tdirectory = *\n"),
    ] {
        fs::write(Path::new("etc").join(name), text)?;
    }
    for bind in binds {
        let target = inside(here, &bind.target);
        if fs::symlink_metadata(&target).is_err() {
            // The engine puts a slash at the end of a folder's source.
            make_place(&target, bind.source.as_os_str().as_encoded_bytes().ends_with(b"/"))?;
        }
    }
    Ok(())
}

/// Removes everything in a folder; folders without permissions (the overlay's own) are opened up first.
///
/// Folders inside folders are moved up before they are emptied, for a hostile tree can be deeper than a path is long or
/// a stack is high.
pub fn remove_contents(folder: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        if folders.is_empty() {
            return Ok(());
        }
        for place in folders {
            open_up(&place);
            for entry in fs::read_dir(&place)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    fs::remove_file(entry.path())?;
                    continue;
                }
                open_up(&entry.path()); // whoever moves a folder changes what is in it
                loop {
                    moved += 1;
                    match fs::rename(entry.path(), folder.join(format!(".{moved}"))) {
                        Ok(()) => break,
                        Err(error)
                            if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR)) => {
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            fs::remove_dir(&place)?;
        }
    }
}

fn open_up(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o700)).ok(); // whoever may not, may not remove either, and says so then
}
