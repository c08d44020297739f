//! What the daemon gives up at its start, for as long as the process lives.
//!
//! In this order, while the process has one thread, so that every later one is bound too:
//!
//! 1. Started by root with `user`: sockets are bound, and then the process is that user, with
//!    the capabilities that configured keys need and no others.
//! 2. `no_new_privs` (`prctl(2)`): no program that is executed has more rights than this one.
//! 3. Landlock (`landlock(7)`): files that no configured key needs are out of reach.
//! 4. A filter of system calls (`seccomp(2)`): what a daemon of this kind never calls fails.
//!
//! What the kernel lacks, or a container forbids, is left out and told. Nothing of it can be
//! taken back, and a program that takes this one's place ([`crate::handover`]) is inside from
//! its beginning. It is told what it may do by a variable of the environment, so that it does not add
//! the same again at each handover, of which the kernel stands 16. A configuration that
//! needs more than is left takes a restart: [`Standing::forbids`] says why.

mod calls;
mod files;
mod needs;
mod user;

use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, no_new_privs, set_no_new_privs};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tracing::{info, warn};

use self::needs::Need;
use self::needs::Needs;
use crate::accounts::{Account, AccountError};
use crate::config::{self, Config, Environment, Owner};
use crate::handover::{Inherited, Legacy};
use crate::listen::{ListenError, Listener};

/// Tells a program that this one executes what it may do: a [`Standing`] as JSON.
pub(crate) const VARIABLE: &str = "CONNTALLY_SANDBOX";

/// Why the daemon does not start as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// `user` names nobody.
    #[error("user: {0}")]
    Account(#[from] AccountError),
    /// The process can't be that user.
    #[error(
        "user: cannot become user {uid} of group {gid} ({action}: {source}): start conntally as \
         root, with CAP_SETUID and CAP_SETGID, or as that user, or leave user out"
    )]
    Become {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread would go on as it was.
    #[error("user: the process has {0} threads already, of which one alone would change")]
    Threads(usize),
    /// A directory for sockets or a spool can't be made.
    #[error("user: cannot make the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket can't be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nothing to bind sockets with.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
}

impl SandboxError {
    /// Whether a capability or permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Become { source, .. } | Self::Directory { source, .. } | Self::Start(source) => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Listen(error) => matches!(error, ListenError::Permission { .. }),
            Self::Account(_) | Self::Threads(_) => false,
        }
    }
}

/// What is left to the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Standing {
    /// As configured at the start.
    user: Owner,
    /// As configured at the start.
    sandbox: config::Sandbox,
    /// Which files configured keys may need; `None` where all are in reach.
    files: Option<Vec<Need>>,
    /// Whether network namespaces may be entered; `None` where nothing is filtered.
    enters: Option<bool>,
    /// The bits of the capabilities that were kept; `None` where none were given up.
    capabilities: Option<u64>,
}

impl Standing {
    /// That of the program before this one, or of the one that executed it.
    #[must_use]
    pub fn inherited(environment: &Environment) -> Option<Self> {
        let told = environment.get(VARIABLE)?;
        // Without this, whoever set the variable was not in a sandbox.
        if !no_new_privs().unwrap_or(false) {
            return None;
        }
        match serde_json::from_str(told) {
            Ok(standing) => Some(standing),
            Err(error) => {
                warn!(%error, "{VARIABLE} is of no use: the sandbox is entered once more");
                None
            }
        }
    }

    /// What to tell a program that is executed: the variable and its value.
    pub(crate) fn variable(&self) -> Option<(&'static str, String)> {
        let is_inside = *self != Self::of(&self.user, self.sandbox);
        let told = is_inside.then(|| serde_json::to_string(self).ok())??;
        Some((VARIABLE, told))
    }

    fn of(user: &Owner, sandbox: config::Sandbox) -> Self {
        Self {
            user: user.clone(),
            sandbox,
            ..Self::default()
        }
    }

    /// What of this configuration, read from `files`, cannot be done any more: a line for each
    /// key, that says why.
    #[must_use]
    pub fn forbids(&self, config: &Config, files: &[PathBuf]) -> Vec<String> {
        let mut found = Vec::new();
        if config.user != self.user {
            found.push("user: it is changed at a start alone".to_owned());
        }
        if config.sandbox != self.sandbox {
            found.push("sandbox: it is changed at a start alone".to_owned());
        }
        let needs = Needs::of(config, files);
        for need in &needs.files {
            let allowed = self.files.as_ref();
            if allowed.is_some_and(|allowed| !allowed.iter().any(|one| one.covers(need))) {
                let (key, place) = (&need.key, need.place.display());
                found.push(format!("{key}: {place} is outside of the sandbox"));
            }
        }
        let kept = self.capabilities.map(CapabilitySet::from_bits_retain);
        for (capability, key) in &needs.capabilities {
            if kept.is_some_and(|kept| !kept.contains(*capability)) {
                let names = user::names(*capability);
                found.push(format!("{key}: it needs {names}, which was given up"));
            }
        }
        if needs.enters && self.enters == Some(false) {
            found.push("collector.netns: setns(2) was given up".to_owned());
        }
        if needs.looks_into_processes() && self.files.is_some() {
            found.push("collector.netns: /proc/PID of others is outside of the sandbox".to_owned());
        }
        found
    }
}

/// Gives up what this configuration, read from `files`, does not need, and says so in one line
/// of the log. The process must have one thread. What it could bind only before is added to
/// what is inherited.
///
/// # Errors
/// When `user` is not known, or the process can't be that user; when a socket can't be bound.
pub fn enter(
    config: &Config,
    files: &[PathBuf],
    environment: &Environment,
    mut inherited: Inherited,
) -> Result<(Standing, Inherited), SandboxError> {
    if let Some(standing) = Standing::inherited(environment) {
        info!("the sandbox is that of the program before");
        return Ok((standing, inherited));
    }
    let needs = Needs::of(config, files);
    let mut standing = Standing::of(&config.user, config.sandbox);
    let account = user::wanted(config)?;
    if let Some(account) = &account {
        user::make_directories(&needs, account)?;
        inherited = bind_ahead(config, account, inherited)?;
        let kept = needs.capability_set();
        user::become_account(account, kept)?;
        standing.capabilities = Some(kept.bits());
    }
    let user = account.as_ref().map(|account| account.uid);
    let capabilities = standing.capabilities.map(CapabilitySet::from_bits_retain);
    let capabilities = capabilities.map(user::names);
    if config.sandbox == config::Sandbox::Off {
        info!(user, capabilities, "sandbox off");
        return Ok((standing, inherited));
    }
    // Both others do it too, and say what comes of it.
    let _told = set_no_new_privs(true);
    let files = files::restrict(&needs);
    let calls = calls::filter(&needs);
    info!(user, capabilities, %files, system_calls = %calls, "sandbox");
    if files.is_restricted() {
        standing.files = Some(needs.files);
    }
    if calls.is_restricted() {
        standing.enters = Some(needs.enters);
    }
    Ok((standing, inherited))
}

/// How far a part of the sandbox came: what it says in the log.
#[derive(Debug)]
enum Came {
    /// All of it is in force.
    Restricted,
    /// What this kernel has of it is.
    InPart,
    /// None of it, for this reason.
    Open(String),
}

impl Came {
    const fn is_restricted(&self) -> bool {
        matches!(self, Self::Restricted | Self::InPart)
    }
}

impl std::fmt::Display for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Restricted => f.write_str("restricted"),
            Self::InPart => f.write_str("restricted as far as this kernel can"),
            Self::Open(why) => write!(f, "open: {why}"),
        }
    }
}

/// Binds every listener that is not inherited, as files of the user's. The threads that look
/// names up for that end with the runtime.
fn bind_ahead(
    config: &Config,
    account: &Account,
    mut inherited: Inherited,
) -> Result<Inherited, SandboxError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(SandboxError::Start)?;
    let mut listeners = Vec::new();
    let bound = runtime.block_on(async {
        for listener in &config.listeners {
            let left = inherited.take_listener(&listener.address);
            listeners.push(match left {
                Some(left) => left,
                None => Listener::bind_ahead(&owned(listener, account)).await?,
            });
        }
        Ok::<(), ListenError>(())
    });
    let mut legacy = inherited.into_legacy();
    legacy.listeners.extend(listeners);
    match bound {
        Ok(()) => Ok(Inherited::of(legacy)),
        Err(error) => {
            Legacy::close(legacy);
            Err(error.into())
        }
    }
}

/// The listener, whose file belongs to the user where it says nothing else.
fn owned(listener: &config::Listener, account: &Account) -> config::Listener {
    let mut listener = listener.clone();
    let Owner { user, group } = &mut listener.owner;
    for (name, id) in [(user, account.uid), (group, account.gid)] {
        if name.is_empty() {
            *name = id.to_string();
        }
    }
    listener
}

/// The path without links, as the kernel knows it; as it is where there is nothing.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
