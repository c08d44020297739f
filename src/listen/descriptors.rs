//! How many file descriptors connections may take.
//!
//! The last ones are left to all else that the daemon opens: an output that connects
//! again, the admin socket's clients, a look at `/proc`.

use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::address::Address;
use crate::config;

/// Descriptors that connections leave alone, unless a quarter of what is allowed is less.
const RESERVE: u64 = 32;

/// Descriptors that are open beside connections, roughly, and those that are left alone.
const BESIDE: u64 = 64 + RESERVE;

/// Whether a connection may take the next one, beside this one: it is the lowest that is
/// free (`open(2)`), so that connections never have one of the last.
pub(super) fn are_left(beside: impl AsFd) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return true;
    };
    let last = limit - RESERVE.min(limit / 4);
    rustix::io::fcntl_dupfd_cloexec(beside, 0)
        .is_ok_and(|next| u64::try_from(next.as_raw_fd()).is_ok_and(|next| next < last))
}

/// Whether somebody waits to be accepted.
pub(super) fn is_waited_for(listener: impl AsFd) -> bool {
    let mut asked = [PollFd::new(&listener, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Lets the process have as many descriptors as the system allows without asking; returns
/// what the listeners' connections take and what is allowed, if that is not enough.
#[must_use]
pub fn allow(listeners: &[config::Listener]) -> Option<(u64, u64)> {
    let connections = listeners.iter().map(|listener| match listener.address {
        Address::UnixStream(_) | Address::Tcp(_) => listener.max_connections as u64,
        _ => 0,
    });
    let wanted = connections.fold(BESIDE, u64::saturating_add);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current?;
    let most = maximum.unwrap_or_else(|| wanted.max(current));
    let raised = Rlimit {
        current: Some(most),
        maximum,
    };
    let is_raised = setrlimit(Resource::Nofile, raised).is_ok();
    let allowed = if is_raised { most } else { current };
    (allowed < wanted).then_some((wanted, allowed))
}
