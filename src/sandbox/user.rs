//! From root to another user, with the capabilities that are needed.
//!
//! The system calls change one thread, the calling one, which is all that there is by then.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::SandboxError;
use super::needs::{Needs, Use};
use crate::accounts::Account;
use crate::config::Config;

/// Whom the configuration asks for, where that is not who we are and may become.
pub(super) fn wanted(config: &Config) -> Result<Option<Account>, SandboxError> {
    if config.user.user.is_empty() {
        return Ok(None);
    }
    let account = Account::of(&config.user)?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if (account.uid, account.gid) == (uid, gid) {
        return Ok(None);
    }
    // Before anything is made that would have to be taken away again.
    let change = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let has = capabilities(None).is_ok_and(|sets| sets.effective.contains(change));
    if has {
        Ok(Some(account))
    } else {
        Err(failed(&account, "begin")(Errno::PERM))
    }
}

fn failed(account: &Account, action: &'static str) -> impl Fn(Errno) -> SandboxError {
    let (uid, gid) = (account.uid, account.gid);
    move |error| SandboxError::Become {
        uid,
        gid,
        action,
        source: io::Error::from(error),
    }
}

/// Makes directories for the user's sockets and spools that are missing in one that is there:
/// without systemd, nobody else makes them after a boot.
pub(super) fn make_directories(needs: &Needs, account: &Account) -> Result<(), SandboxError> {
    for need in &needs.files {
        let bits = match need.r#use {
            Use::Read => continue,
            Use::Sockets => 0o755,
            Use::Spool => 0o750,
        };
        let path = &need.place;
        if path.exists() || !path.parent().is_some_and(Path::is_dir) {
            continue;
        }
        let made = DirBuilder::new().mode(bits).create(path);
        let made = made.and_then(|()| chown(path, Some(account.uid), Some(account.gid)));
        made.map_err(|source| SandboxError::Directory {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Makes the process that user, and leaves it these capabilities, which a program that it
/// executes has too.
pub(super) fn become_account(account: &Account, kept: CapabilitySet) -> Result<(), SandboxError> {
    if let Ok(threads @ 2..) = fs::read_dir("/proc/self/task").map(Iterator::count) {
        return Err(SandboxError::Threads(threads));
    }
    let doing = |action| failed(account, action);
    set_keep_capabilities(true).map_err(doing("keep capabilities"))?;
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // An older kernel does not know it; a container may not let us, and has its own.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(doing("bound capabilities")(error)),
        }
    }
    let groups: Vec<Gid> = account
        .groups
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    set_thread_groups(&groups).map_err(doing("setgroups"))?;
    let gid = Gid::from_raw(account.gid);
    set_thread_res_gid(gid, gid, gid).map_err(doing("setresgid"))?;
    let uid = Uid::from_raw(account.uid);
    set_thread_res_uid(uid, uid, uid).map_err(doing("setresuid"))?;
    keep(kept).map_err(doing("capset"))?;
    set_no_new_privs(true).map_err(doing("set no_new_privs"))
}

/// Leaves the process these capabilities, as far as it has them: without one, whatever needs
/// it says so.
fn keep(wanted: CapabilitySet) -> Result<(), Errno> {
    let kept = capabilities(None)?.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        },
    )?;
    clear_ambient_capability_set()?;
    for capability in kept.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// As capabilities are called: `CAP_NET_ADMIN`, several with commas; `none`.
pub(super) fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = set
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    }
}
