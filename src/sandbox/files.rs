//! Files that no configured key needs, put out of reach by landlock (`landlock(7)`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};

use super::needs::{Needs, Use};
use super::{Came, real};

/// The rights that are taken away but where rules give them: those of Linux 6.10. Sockets
/// of others may be connected to, whatever they are called.
const VERSION: ABI = ABI::V5;

/// What every configuration needs to read: names of hosts and users, processes, settings of
/// the kernel, limits of memory.
const READ: [&str; 3] = ["/etc", "/proc", "/sys/fs/cgroup"];

/// What programs that are executed read from and write to.
const NULL: &str = "/dev/null";

fn rights(r#use: Use) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match r#use {
        Use::Read => read,
        Use::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
        Use::Spool => {
            let write = AccessFs::WriteFile | AccessFs::Truncate;
            read | write | AccessFs::MakeReg | AccessFs::RemoveFile
        }
    }
}

/// Takes away whatever the configuration does not need.
pub(super) fn restrict(needs: &Needs) -> Came {
    if needs.looks_into_processes() {
        return Came::Open("collector.netns leads into /proc".to_owned());
    }
    match domain(needs) {
        Ok(status) => came(&status),
        Err(error) => Came::Open(error.to_string()),
    }
}

fn came(status: &RestrictionStatus) -> Came {
    match (&status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Came::Restricted,
        (RulesetStatus::PartiallyEnforced, _) => Came::InPart,
        (_, LandlockStatus::NotEnabled) => Came::Open("landlock is off in this kernel".to_owned()),
        // An error of a filter around us looks the same.
        _ => Came::Open("the kernel has no landlock, or it is not permitted".to_owned()),
    }
}

fn domain(needs: &Needs) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::Signal)?
        .create()?;
    let system = READ.iter().map(PathBuf::from).chain(resolver());
    let system = system.map(|place| (place, rights(Use::Read)));
    let programs = programs().into_iter();
    let programs = programs.map(|place| (place, rights(Use::Read) | AccessFs::Execute));
    let null = (
        PathBuf::from(NULL),
        AccessFs::ReadFile | AccessFs::WriteFile,
    );
    let configured = needs.files.iter();
    let configured = configured.map(|need| (need.place.clone(), rights(need.r#use)));
    for (place, rights) in system.chain(programs).chain([null]).chain(configured) {
        // What is not there needs no rule. What comes later has none, and takes a restart.
        if let Ok(place) = PathFd::new(place) {
            rules = rules.add_rule(PathBeneath::new(place, rights))?;
        }
    }
    rules.restrict_self()
}

/// Where the resolver's configuration lies, which mostly is a link.
fn resolver() -> Option<PathBuf> {
    Some(real(Path::new("/etc/resolv.conf")).parent()?.to_owned())
}

/// Where this program, its loader and its libraries lie: those of its next version too, which
/// takes this one's place.
fn programs() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| line.split_at(at).1));
    let directories = mapped.filter_map(|path| Path::new(path).parent());
    directories.map(Path::to_owned).collect()
}
