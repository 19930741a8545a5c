//! Control groups, v1 and v2: limits on memory and processes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{sys, wire::Cgroups};
use crate::Limits;

/// The group of codegen's own processes, beside those of its sandboxes.
const LEAF: &str = "codegen-main";

/// Where sandboxes' groups can be made on this host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// v1: folder under which to create, for memory and pids; or the one v2 folder.
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    unified: bool,
}

impl Host {
    /// Finds writable hierarchies.
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path_of = |controller: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let mount_of = |kind: &str, option: &str| {
            mounts.lines().find_map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                let (target, fs_kind, options) = (parts.get(1)?, parts.get(2)?, parts.get(3)?);
                (*fs_kind == kind && (option.is_empty() || options.split(',').any(|name| name == option)))
                    .then(|| PathBuf::from(*target))
            })
        };
        let v1 = |controller: &str| {
            let folder = mount_of("cgroup", controller)?.join(path_of(controller)?);
            writable(&folder).then_some(folder)
        };
        let (memory, pids) = (v1("memory"), v1("pids"));
        if memory.is_some() || pids.is_some() {
            return Self { memory, pids, unified: false };
        }
        let Some(mount) = mount_of("cgroup2", "") else { return Self::default() };
        let root = rustix::process::geteuid().is_root();
        // Root makes one folder at the top; an ordinary user needs a delegated one (`systemd-run --user --scope -p Delegate=yes`).
        let own_folder = mount.join(path_of("").unwrap_or_default());
        // systemd starts a unit with `DelegateSubgroup=` in the leaf already: a group whose children have limits takes no
        // process itself.
        let in_leaf = own_folder.ends_with(LEAF);
        let delegated =
            if in_leaf { own_folder.parent().map_or(own_folder.clone(), Path::to_owned) } else { own_folder };
        let home = if root { mount.join("codegen") } else { delegated };
        let prepared = (|| {
            if root {
                fs::write(mount.join("cgroup.subtree_control"), "+memory +pids").ok(); // usually on already
                fs::create_dir_all(&home)?;
            } else if !in_leaf {
                let leaf = home.join(LEAF);
                fs::create_dir_all(&leaf)?;
                fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
            }
            fs::write(home.join("cgroup.subtree_control"), "+memory +pids")
        })();
        match prepared {
            Ok(()) => Self { memory: Some(home.clone()), pids: Some(home), unified: true },
            Err(_) => Self::default(),
        }
    }

    /// In words: what is limited, and what is missing.
    pub fn describe(&self) -> Result<String, String> {
        let version = if self.unified { "v2" } else { "v1" };
        match (&self.memory, &self.pids) {
            (Some(_), Some(_)) => Ok(format!("cgroup {version}: memory, pids")),
            (Some(_), None) => Ok(format!("cgroup {version}: memory")),
            (None, Some(_)) => Ok(format!("cgroup {version}: pids")),
            (None, None) => Err("limits for the sandbox as a whole: no writable cgroup; memory and processes are limited per process only. \
                 Start under a delegated scope: systemd-run --user --scope -p Delegate=yes codegen serve"
                .into()),
        }
    }

    /// Groups, by the start and the end of their names.
    pub fn named(&self, start: &str, end: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for parent in [&self.memory, &self.pids].into_iter().flatten() {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(start) && name.ends_with(end) && !found.contains(&entry.path()) {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Makes the groups of one sandbox.
    pub fn create(&self, name: &str, limits: &Limits) -> io::Result<Cgroups> {
        let mut made = Cgroups::default();
        let bytes = limits.memory_mib.saturating_mul(1 << 20).to_string();
        let result = (|| {
            if let Some(parent) = &self.memory {
                let folder = parent.join(name);
                create_folder(&folder, &mut made)?;
                if self.unified {
                    fs::write(folder.join("memory.max"), &bytes)?;
                    fs::write(folder.join("memory.swap.max"), "0").ok(); // not there without swap accounting
                    made.oom_file = Some(folder.join("memory.events"));
                } else {
                    fs::write(folder.join("memory.limit_in_bytes"), &bytes)?;
                    fs::write(folder.join("memory.memsw.limit_in_bytes"), &bytes).ok(); // as above
                    made.oom_file = Some(folder.join("memory.oom_control"));
                }
            }
            if let Some(parent) = &self.pids {
                let folder = parent.join(name);
                if !self.unified {
                    create_folder(&folder, &mut made)?;
                }
                fs::write(folder.join("pids.max"), limits.processes.to_string())?;
            }
            Ok(())
        })();
        match result {
            Ok(()) => Ok(made),
            Err(error) => {
                made.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
                Err(error)
            }
        }
    }
}

fn create_folder(folder: &Path, made: &mut Cgroups) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    made.folders.push(folder.to_owned());
    Ok(())
}

fn writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Moves a process in.
pub fn join(cgroups: &Cgroups, pid: i32) -> io::Result<()> {
    cgroups.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
}

/// How often the memory limit killed.
pub fn oom_kills(file: &fs::File) -> u64 {
    let mut text = [0; 1024];
    let length = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// The process of a sandbox's groups that is the first of a namespace of its own: its supervisor.
pub fn first(cgroups: &Cgroups) -> Option<i32> {
    let processes = cgroups.folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let processes: Vec<i32> =
        processes.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    processes.into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.is_some_and(|pids| pids.split_whitespace().count() > 1 && pids.split_whitespace().last() == Some("1"))
    })
}

/// Kills every process of a group.
pub fn kill(folder: &Path) {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // A process of another pid namespace shows as 0, which would mean our own group.
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        sys::kill(pid, libc::SIGKILL).ok(); // it may have ended just now
    }
}

/// Removes the groups of a dead sandbox. The kernel may need a moment to let go of the last process.
pub async fn remove(cgroups: &Cgroups) -> io::Result<()> {
    for folder in &cgroups.folders {
        for attempt in 0.. {
            match fs::remove_dir(folder) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt < 200 => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
