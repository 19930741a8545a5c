//! The system call filter of commands: everything but what reaches beyond a sandbox.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// Refused whatever the arguments.
const REFUSED: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_fanotify_init,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
];
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_kexec_file_load,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_nfsservctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// An old way to ask for packet sockets in any family.
const OLD_PACKET: i32 = 10;

/// The compiled filters, made once and installed in every command.
#[derive(Clone)]
pub struct Filters(Vec<BpfProgram>);

fn only(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Dword, op, value)
}

impl Filters {
    /// Compiles them.
    pub fn new() -> io::Result<Self> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
        Self::conditional(&mut rules).map_err(io::Error::other)?;
        let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), arch)
            .and_then(BpfProgram::try_from)
            .map_err(io::Error::other)?;
        Ok(Self(vec![not_there(), filter]))
    }

    fn conditional(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) -> Result<(), seccompiler::BackendError> {
        let namespaces = [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWCGROUP,
        ];
        let mut clone = Vec::new();
        for flag in namespaces {
            clone.push(SeccompRule::new(vec![only(0, SeccompCmpOp::MaskedEq(flag as u64), flag as u64)?])?);
        }
        rules.insert(libc::SYS_clone, clone);
        // Sockets: unix and the internet, and netlink only for routes (getifaddrs).
        let other = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]
            .iter()
            .map(|family| only(0, SeccompCmpOp::Ne, *family as u64))
            .collect::<Result<Vec<_>, _>>()?;
        let netlink = vec![
            only(0, SeccompCmpOp::Eq, libc::AF_NETLINK as u64)?,
            only(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE as u64)?,
        ];
        // A pair is made by the family too, and a family that is asked for is a module that is loaded.
        rules.insert(
            libc::SYS_socketpair,
            vec![SeccompRule::new(vec![only(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?])?],
        );
        let mut socket = vec![SeccompRule::new(other)?, SeccompRule::new(netlink)?];
        // So are internet protocols beside the usual ones (SCTP, DCCP, L2TP), whether named or implied by the type.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = only(0, SeccompCmpOp::Eq, family as u64)?;
            let usual = [
                0,
                libc::IPPROTO_ICMP,
                libc::IPPROTO_TCP,
                libc::IPPROTO_UDP,
                libc::IPPROTO_ICMPV6,
                libc::IPPROTO_MPTCP,
            ];
            let mut protocol = vec![family.clone()];
            for usual in usual {
                protocol.push(only(2, SeccompCmpOp::Ne, usual as u64)?);
            }
            socket.push(SeccompRule::new(protocol)?);
            for kind in [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, OLD_PACKET] {
                let kind = only(1, SeccompCmpOp::MaskedEq(0xf), kind as u64)?;
                socket.push(SeccompRule::new(vec![family.clone(), kind])?);
            }
        }
        rules.insert(libc::SYS_socket, socket);
        // Input pushed into a terminal is typed by whoever reads it next.
        let mut ioctl = Vec::new();
        for request in [libc::TIOCSTI, 0x541c /* TIOCLINUX */] {
            ioctl.push(SeccompRule::new(vec![only(1, SeccompCmpOp::Eq, request)?])?);
        }
        rules.insert(libc::SYS_ioctl, ioctl);
        // Personality: the plain one, without address randomisation (debuggers), and asking.
        let odd = [0_u64, 0x0004_0000, 0xffff_ffff]
            .iter()
            .map(|p| only(0, SeccompCmpOp::Ne, *p))
            .collect::<Result<Vec<_>, _>>()?;
        rules.insert(libc::SYS_personality, vec![SeccompRule::new(odd)?]);
        Ok(())
    }

    /// Installs them in this process, for good.
    pub fn install(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(io::Error::other))
    }
}

/// clone3 hides its flags from filters, and x32 numbers mean the same calls under other names: both do not exist here.
fn not_there() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD, 0, 0, 0),
        step(JUMP_EQUAL, 2, 0, libc::SYS_clone3 as u32),
        step(JUMP_AT_LEAST, 1, 0, 0x4000_0000),
        step(RETURN, 0, 0, 0x7fff_0000),
        step(RETURN, 0, 0, 0x0005_0000 | libc::ENOSYS as u32),
    ]
}
