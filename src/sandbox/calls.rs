//! System calls that the daemon never makes, refused by a filter (`seccomp(2)`).
//!
//! They fail with `EPERM`; nothing is killed. What is not listed stays allowed, so that a newer
//! C library finds what it asks for. The kernel remembers which calls always pass (Linux
//! 5.11), so that reads and writes pay nothing for it.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::Came;
use super::needs::Needs;

/// Whatever is said of the arguments.
const NEVER: [c_long; 69] = [
    // The machine: clocks, names, modules, boots, swap, accounting, quotas.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_nfsservctl,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Mounts, roots, files by handle, devices.
    libc::SYS_chroot,
    libc::SYS_fanotify_init,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_lookup_dcookie,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Users and capabilities: these are given up by now.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // Parts of the kernel that we have no use for, and that had their faults.
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_remap_file_pages,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
];

/// Those that this architecture alone has.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: [c_long; 7] = [
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: [c_long; 0] = [];

/// Families of sockets that are used; any other may not be asked for.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Namespaces that `clone(2)` would make.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Writing into a terminal as if its user typed: what comes of it, the shell that started us
/// would execute.
const TERMINAL: [u64; 2] = [TIOCSTI, TIOCLINUX];
/// `asm-generic/ioctls.h`.
const TIOCSTI: u64 = 0x5412;
/// `asm-generic/ioctls.h`.
const TIOCLINUX: u64 = 0x541C;

/// Refuses them from now on.
pub(super) fn filter(needs: &Needs) -> Came {
    let programs = match programs(needs) {
        Ok(programs) => programs,
        Err(error) => return Came::Open(error.to_string()),
    };
    for program in &programs {
        if let Err(error) = apply_filter(program) {
            return Came::Open(error.to_string());
        }
    }
    Came::Restricted
}

/// The filters, the one that may be missing first.
fn programs(needs: &Needs) -> Result<[BpfProgram; 2], BackendError> {
    // A filter can't look at what this one is given, and the C library falls back to clone.
    let hidden = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([
        compile(hidden, libc::ENOSYS)?,
        compile(refused(needs)?, libc::EPERM)?,
    ])
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn compile(rules: Rules, error: libc::c_int) -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine)?.try_into()
}

fn refused(needs: &Needs) -> Result<Rules, BackendError> {
    let mut rules: Rules = NEVER
        .into_iter()
        .chain(NEVER_HERE)
        .map(|call| (call, Vec::new()))
        .collect();
    if !needs.enters {
        rules.insert(libc::SYS_setns, Vec::new());
    }
    let others = FAMILIES.map(|family| is(0, Ne, value(family)));
    let others = others.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(others)?]);
    let namespaces = NAMESPACES.map(value);
    let namespaces = namespaces.map(|flag| rule(0, MaskedEq(flag), flag));
    let namespaces = namespaces.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, namespaces);
    let terminal = TERMINAL.map(|request| rule(1, Eq, request));
    let terminal = terminal.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, terminal);
    Ok(rules)
}

fn value(flag: libc::c_int) -> u64 {
    u64::from(flag.unsigned_abs())
}

fn is(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Dword, how, value)
}

fn rule(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![is(argument, how, value)?])
}
