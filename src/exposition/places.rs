//! Which values of `host` are told apart, so that their number is bounded and the set
//! does not flap.
//!
//! A value is an address, with the service's port where this host dialled: of those, and
//! not of addresses, `hosts.max` are apart. Groups and aliases come first, then those that
//! have a place for less than ten minutes, then those with most connections. The others
//! count together. One that vanished stays, as 0, for two minutes, while nobody else wants
//! its place.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::connections::Connection;
use crate::flow::{ConnectionState, Direction};
use crate::hosts::{HostName, Remote};
use crate::report::ZERO_FOR;

/// How long a place is kept at least.
const HOLD: Duration = Duration::from_secs(10 * 60);

/// Values that one look counts apart before it is known which have places, beside those
/// that have one: so that a table with a million clients takes a few megabytes.
const MOST_COUNTED: usize = 1 << 14;

/// Connections by [`ConnectionState`], in its order.
pub(super) type States = [u64; ConnectionState::ALL.len()];

/// What a value of `host` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Host {
    remote: Remote,
    /// Of the service, where it is at the remote host.
    port: Option<u16>,
}

impl Host {
    const OTHER: Self = Self {
        remote: Remote::Other,
        port: None,
    };

    fn of(connection: &Connection) -> Self {
        let placement = &connection.placement;
        match placement.direction {
            Direction::Inbound => Self {
                remote: placement.remote.folded(),
                port: None,
            },
            Direction::Outbound | Direction::Forwarded | Direction::Local => Self {
                remote: placement.remote.folded(),
                port: placement.port,
            },
        }
    }

    fn is_named(self) -> bool {
        matches!(self.remote, Remote::Named(_))
    }
}

/// What one look found.
#[derive(Debug)]
pub(super) struct Counted {
    /// Those that have a place, which are always counted apart.
    known: HashSet<Host, RandomState>,
    room: usize,
    by_host: HashMap<Host, (HostName, States), RandomState>,
    /// Those beyond what is counted apart.
    other: States,
}

impl Counted {
    pub(super) fn add(&mut self, connection: &Connection) {
        let host = Host::of(connection);
        let state = connection.flow.state.general() as usize;
        let has_room = self.by_host.len() < self.room || self.known.contains(&host);
        let states = match self.by_host.get_mut(&host) {
            Some((_, states)) => states,
            None if has_room => {
                let fresh = (connection.host.clone(), States::default());
                &mut self.by_host.entry(host).or_insert(fresh).1
            }
            None => &mut self.other,
        };
        states[state] += 1;
    }
}

#[derive(Debug)]
struct Place {
    since: Instant,
    name: String,
    states: States,
    /// When it was first missed.
    gone: Option<Instant>,
}

/// Who competes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Named,
    /// Within its ten minutes.
    Held,
    Seen,
    Gone,
}

type Candidate = (Class, Reverse<u64>, bool, Host);

/// The values that are told.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    places: HashMap<Host, Place, RandomState>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            places: HashMap::default(),
        }
    }

    /// A look that finds nothing yet.
    pub(super) fn look(&self) -> Counted {
        Counted {
            known: self.places.keys().copied().collect(),
            room: self.most.max(MOST_COUNTED),
            by_host: HashMap::default(),
            other: States::default(),
        }
    }

    /// Gives the places away by what was found at this time, and folds what has none.
    pub(super) fn seat(&mut self, counted: Counted, now: Instant) {
        let Counted {
            by_host, mut other, ..
        } = counted;
        for (host, place) in &mut self.places {
            if by_host.contains_key(host) {
                place.gone = None;
            } else {
                place.gone.get_or_insert(now);
                place.states = States::default();
            }
        }
        self.places.retain(|_, place| {
            let is_over = |gone| now.duration_since(gone) >= ZERO_FOR;
            !place.gone.is_some_and(is_over)
        });
        let chosen = self.rank(&by_host, now);
        self.places
            .retain(|host, _| !host.remote.is_host() || chosen.contains(host));
        for (host, (name, states)) in by_host {
            if host.remote.is_host() && !chosen.contains(&host) {
                add(&mut other, states);
                continue;
            }
            let fresh = || Place {
                since: now,
                name: written(&name, host.port),
                states,
                gone: None,
            };
            let place = self.places.entry(host).or_insert_with(fresh);
            place.states = states;
            if now.duration_since(place.since) >= HOLD {
                place.since = now;
            }
        }
        if other != States::default() || self.places.contains_key(&Host::OTHER) {
            let fresh = || Place {
                since: now,
                name: Remote::OTHER.to_owned(),
                states: other,
                gone: None,
            };
            let place = self.places.entry(Host::OTHER).or_insert_with(fresh);
            place.states = other;
            if other != States::default() {
                place.gone = None;
            }
        }
    }

    /// The best `most` of those that compete.
    fn rank(
        &self,
        by_host: &HashMap<Host, (HostName, States), RandomState>,
        now: Instant,
    ) -> HashSet<Host, RandomState> {
        let seen = by_host.iter().map(|(&host, (_, states))| {
            let place = self.places.get(&host);
            let is_held = place.is_some_and(|place| now.duration_since(place.since) < HOLD);
            let class = match is_held {
                _ if host.is_named() => Class::Named,
                true => Class::Held,
                false => Class::Seen,
            };
            (class, Reverse(states.iter().sum()), place.is_none(), host)
        });
        let gone = (self.places.iter())
            .filter(|(_, place)| place.gone.is_some())
            .map(|(&host, _)| (Class::Gone, Reverse(0), false, host));
        let mut candidates: Vec<Candidate> = seen
            .chain(gone)
            .filter(|(.., host)| host.remote.is_host())
            .collect();
        if candidates.len() > self.most {
            if let Some(last) = self.most.checked_sub(1) {
                candidates.select_nth_unstable(last);
            }
            candidates.truncate(self.most);
        }
        candidates.into_iter().map(|(.., host)| host).collect()
    }

    /// What is told, in no order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, States)> {
        let places = self.places.values();
        places.map(|place| (&*place.name, place.states))
    }
}

fn add(to: &mut States, more: States) {
    for (sum, number) in to.iter_mut().zip(more) {
        *sum += number;
    }
}

/// As the label has it: an IPv6 address in brackets where a port follows.
fn written(name: &HostName, port: Option<u16>) -> String {
    let mut text = name.to_string();
    if let Some(port) = port {
        if let HostName::Address(address) = name
            && address.is_ipv6()
        {
            text = format!("[{text}]");
        }
        // Writing to a String does not fail.
        write!(text, ":{port}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests;
