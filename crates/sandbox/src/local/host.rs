//! What this host offers: id ranges, folders to show, variables, and what is missing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::zygote::Caller;
use super::{
    cgroup,
    wire::{Bind, GATEWAY_PORT, Ids},
};
use crate::{Isolation, Spec, variables};

/// Host files of /etc that programs need and that say nothing private.
const ETC: &[&str] = &[
    "ssl",
    "pki",
    "ca-certificates",
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "timezone",
    "mime.types",
    "protocols",
    "services",
    "terminfo",
    "fonts",
    "magic",
    "debian_version",
    "os-release",
    "lsb-release",
    "perl",
    "maven",
    "bash_completion.d",
];
const FIRST_ID: u32 = 100_000;
const COUNT: u32 = 65_536;

/// Folders and variables of every sandbox of an engine.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Read-only binds; a folder's source ends with a slash.
    pub binds: Vec<Bind>,
    /// Variables that come from the host's toolchains, PATH among them.
    pub env: BTreeMap<String, String>,
}

/// Which ids sandboxes get.
pub fn ids() -> Ids {
    let root = rustix::process::geteuid().is_root();
    let uid = rustix::process::geteuid().as_raw();
    let name = fs::read_to_string("/etc/passwd").unwrap_or_default().lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        (parts.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    let range = |file: &str| {
        fs::read_to_string(file).unwrap_or_default().lines().find_map(|line| {
            let mut parts = line.split(':');
            let owner = parts.next()?;
            let (first, count): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            ((Some(owner) == name.as_deref() || owner == uid.to_string()) && first > 0 && count >= COUNT)
                .then_some(first)
        })
    };
    let (users, groups) = (range("/etc/subuid"), range("/etc/subgid"));
    if root {
        let (uid, gid) = (users.unwrap_or(FIRST_ID), groups.unwrap_or(FIRST_ID));
        let mapped = is_mapped("/proc/self/uid_map", uid) && is_mapped("/proc/self/gid_map", gid);
        return if mapped { Ids::Range { uid, gid, count: COUNT } } else { Ids::Single };
    }
    match (users, groups) {
        (Some(uid), Some(gid))
            if Path::new("/usr/bin/newuidmap").exists()
                && Path::new("/usr/bin/newgidmap").exists()
                && is_mapped("/proc/self/uid_map", uid)
                && is_mapped("/proc/self/gid_map", gid) =>
        {
            Ids::Range { uid, gid, count: COUNT }
        }
        _ => Ids::Single,
    }
}

/// Whether this user namespace has the ids of a range: one that was made with few has no more to give.
fn is_mapped(map: &str, first: u32) -> bool {
    fs::read_to_string(map).unwrap_or_default().lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [inside, _, count] = numbers.as_slice() else { return false };
        *inside <= u64::from(first) && u64::from(first) + u64::from(COUNT) <= inside + count
    })
}

/// Whether others may look into a folder.
fn open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o005 == 0o005)
}

/// Finds what to show: `/usr`, a few files of `/etc`, and the toolchains on the host's PATH.
pub fn layout(caller: &Caller) -> Layout {
    let mut binds: Vec<Bind> = Vec::new();
    let mut env = BTreeMap::new();
    let mut show = |path: &Path| {
        let Ok(meta) = fs::metadata(path) else { return };
        if binds.iter().any(|bind| path.starts_with(&bind.target)) {
            return;
        }
        let mut source = path.as_os_str().to_owned();
        if meta.is_dir() {
            source.push("/");
        }
        binds.push(Bind { source: source.into(), target: path.to_owned(), read_only: true });
    };
    show(Path::new("/usr"));
    for name in ["bin", "sbin", "lib", "lib64", "lib32"] {
        let path = Path::new("/").join(name);
        if path.is_dir() && !path.is_symlink() {
            show(&path);
        }
    }
    for name in ETC {
        show(&Path::new("/etc").join(name));
    }
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("java") || name.starts_with("python3")) {
            show(&entry.path());
        }
    }

    let home = caller.home.as_deref().map(Path::new).filter(|home| home.is_absolute() && *home != Path::new("/"));
    let mut path = vec!["/home/agent/.local/bin".to_owned(), "/home/agent/.cargo/bin".to_owned()];
    let standard = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    for folder in caller.path.split(':').filter(|folder| folder.starts_with('/')) {
        if standard.contains(&folder) || path.iter().any(|known| known == folder) {
            continue;
        }
        let place = Path::new(folder);
        if !open_to_others(place) || place.components().any(|part| part == std::path::Component::ParentDir) {
            continue;
        }
        if !place.starts_with("/usr") {
            let tool = |name: &str| place.ancestors().find(|above| above.ends_with(name)).map(Path::to_owned);
            if let Some(cargo) = tool(".cargo") {
                // Never ~/.cargo itself, which holds credentials.
                show(&cargo.join("bin"));
                let rustup = cargo.with_file_name(".rustup");
                if open_to_others(&rustup) {
                    show(&rustup);
                    env.insert("RUSTUP_HOME".to_owned(), rustup.display().to_string());
                }
            } else if let Some(pyenv) = tool(".pyenv").filter(|path| open_to_others(path)) {
                show(&pyenv);
                env.insert("PYENV_ROOT".to_owned(), pyenv.display().to_string());
            } else if let Some(nvm) = tool(".nvm").filter(|path| open_to_others(path)) {
                show(&nvm);
                env.insert("NVM_DIR".to_owned(), nvm.display().to_string());
            } else {
                let parent = place.parent().filter(|parent| {
                    place.ends_with("bin")
                        && parent.components().count() > 2
                        && !home.is_some_and(|home| parent.starts_with(home))
                        && !parent.starts_with("/root")
                        && !parent.starts_with("/home")
                        && open_to_others(parent)
                });
                let shown = parent.unwrap_or(place);
                // A folder of the temporary or variable kind is nobody's toolchain.
                if ["/tmp", "/var", "/proc", "/sys", "/dev", "/run", "/etc"].iter().any(|not| shown.starts_with(not)) {
                    continue;
                }
                show(shown);
            }
        }
        path.push(folder.to_owned());
    }
    if let Some(rustup) =
        caller.rustup_home.as_deref().map(Path::new).filter(|path| path.is_absolute() && open_to_others(path))
    {
        show(rustup);
        env.insert("RUSTUP_HOME".to_owned(), rustup.display().to_string());
        path.splice(0..0, rustup_default(rustup));
    }
    path.extend(standard.map(String::from));
    env.insert("PATH".to_owned(), path.join(":"));
    Layout { binds, env }
}

/// The folder of a rustup's default toolchain where rustup itself would have to write and cannot; the toolchain needs no rustup.
pub fn rustup_default(rustup: &Path) -> Option<String> {
    if rustup.join("update-hashes").is_dir() {
        return None;
    }
    let settings = fs::read_to_string(rustup.join("settings.toml")).unwrap_or_default();
    let default = settings.lines().find_map(|line| line.strip_prefix("default_toolchain = "))?;
    Some(rustup.join("toolchains").join(default.trim().trim_matches('"')).join("bin").display().to_string())
}

/// Variables of every command of a sandbox.
pub fn variables(layout: &Layout, spec: &Spec) -> BTreeMap<String, String> {
    let mut env = variables::common(spec, "/home/agent", spec.gateway.as_ref().map(|_| GATEWAY_PORT));
    env.extend(layout.env.clone());
    env.extend(spec.env.clone());
    env
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What this host gives, what is missing, and what to do about it.
pub fn probe(groups: &cgroup::Host, ids: Ids) -> Isolation {
    let mut isolation = Isolation { engine: "local".into(), ..Isolation::default() };
    match ids {
        Ids::Range { count, .. } => isolation.have.push(format!("user namespace, {count} ids")),
        Ids::Single => {
            isolation.have.push("user namespace, 1 id".into());
            isolation.missing.push(
                "a range of user ids, so setup commands cannot run as the sandbox's root: install uidmap (apt-get install uidmap) and add this user to /etc/subuid and /etc/subgid"
                    .into(),
            );
        }
    }
    isolation.have.push(
        "own mount, pid, network, ipc, uts and cgroup namespaces; root from an allow-list; seccomp; no capabilities"
            .into(),
    );
    match groups.describe() {
        Ok(have) => isolation.have.push(have),
        Err(missing) => isolation.missing.push(missing),
    }
    isolation.missing.extend(refusals());
    isolation
}

/// Settings of this host that keep user namespaces from working, each with its remedy.
pub fn refusals() -> Vec<String> {
    let mut list = Vec::new();
    if !Path::new("/proc/self/ns/user").exists() {
        list.push("user namespaces: this kernel has none (CONFIG_USER_NS)".to_owned());
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        list.push("user namespaces are switched off: sysctl -w user.max_user_namespaces=15000".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
            list.push("user namespaces are for root only: sysctl -w kernel.unprivileged_userns_clone=1".to_owned());
        }
        if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
            list.push(
                "AppArmor restricts user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile for codegen"
                    .to_owned(),
            );
        }
    }
    list
}

/// The binds a spec asks for, checked.
pub fn spec_binds(spec: &Spec) -> Result<Vec<Bind>, String> {
    spec.mounts
        .iter()
        .map(|mount| {
            let plain = mount.target.is_absolute()
                && mount.target.components().all(|part| !matches!(part, std::path::Component::ParentDir))
                && mount.target != Path::new("/");
            if !plain {
                return Err(format!("the mount target {} is not a plain absolute path", mount.target.display()));
            }
            let source: PathBuf =
                fs::canonicalize(&mount.source).map_err(|error| format!("{}: {error}", mount.source.display()))?;
            Ok(Bind { source, target: mount.target.clone(), read_only: mount.read_only })
        })
        .collect()
}
