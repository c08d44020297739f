//! Which remote hosts are reported apart, so that the number of series is bounded
//! and the set does not flap.
//!
//! While no more than `max` are seen, every one is apart at once. Beyond that, a
//! host gets a place once it was seen in three ticks (one with a name at once),
//! and keeps it for ten minutes at least, seen or not. Places go to hosts with
//! names first, then to those within their ten minutes, then to those with most
//! connections. Only a host with a name, or too few places for every host seen
//! where there would be enough, ends the ten minutes early.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::{Hosts, Remote};
use crate::flow::{ConnectionState, Direction, Protocol};
use crate::tally::{Activity, Series, SeriesState, Tally};

/// How long a place is kept at least.
const HOLD: Duration = Duration::from_secs(10 * 60);

/// In how many ticks a host is seen before it competes for a place.
const QUALIFYING_TICKS: u8 = 3;

/// How long it is remembered in how many ticks an absent host was seen.
const MEMORY: Duration = HOLD;

/// Absent hosts remembered at most; above it, those seen now alone are.
const MAX_REMEMBERED: usize = 16_384;

/// Connections of one series, as they are reported. Ordered by what it is tagged with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The remote host's name.
    pub host: Arc<str>,
    /// Who dialled.
    pub direction: Direction,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The service's port, if ports are told apart.
    pub port: Option<u16>,
    /// The state.
    pub state: &'static str,
    /// Connections now; not zero.
    pub connections: u64,
    /// Which of the four the state is.
    pub general: ConnectionState,
}

/// What happened to the connections of one host since the last tick.
#[derive(Clone, Debug, PartialEq)]
pub struct HostActivity {
    /// The remote host's name.
    pub host: Arc<str>,
    /// Who dialled.
    pub direction: Direction,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What happened.
    pub activity: Activity,
}

/// A tally with its hosts beyond `max` folded into one.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Sorted, a series once.
    pub rows: Vec<Row>,
    /// Sorted by host, direction and protocol, each once.
    pub activities: Vec<HostActivity>,
    /// Remote hosts seen in this tick, folded ones included; a group counts as one.
    pub hosts: u64,
    /// How many of them were folded into `other` and `public`.
    pub folded: u64,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    name: Arc<str>,
}

impl Place {
    fn is_held(&self, now: Instant) -> bool {
        now.duration_since(self.since) < HOLD
    }
}

#[derive(Debug)]
struct Sightings {
    ticks: u8,
    last: Instant,
}

/// Who competes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Seen, where there is a place for every host seen.
    Sure,
    /// Has a name and a place.
    NamedHeld,
    /// Has a name.
    Named,
    /// Within its ten minutes.
    Held,
    /// Seen often enough.
    Qualified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    class: Class,
    connections: Reverse<u64>,
    newcomer: bool,
    remote: Remote,
}

/// Gives the places away, tick by tick.
#[derive(Debug)]
pub struct Selector {
    max: usize,
    places: HashMap<Remote, Place, RandomState>,
    sightings: HashMap<Remote, Sightings, RandomState>,
    /// Connections of each host of this tick.
    totals: HashMap<Remote, u64, RandomState>,
    candidates: Vec<Candidate>,
    public: Arc<str>,
    other: Arc<str>,
}

impl Selector {
    /// With so many places.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            places: HashMap::default(),
            sightings: HashMap::default(),
            totals: HashMap::default(),
            candidates: Vec::new(),
            public: Remote::PUBLIC.into(),
            other: Remote::OTHER.into(),
        }
    }

    /// Lets a host compete in the next tick as if seen often enough: for what is
    /// worth a place at once, as failures are.
    pub fn qualify(&mut self, remote: Remote, now: Instant) {
        if remote.is_host() && !self.places.contains_key(&remote) {
            let ticks = QUALIFYING_TICKS;
            self.sightings
                .insert(remote, Sightings { ticks, last: now });
        }
    }

    /// One tick: gives the places away by what the tally holds, and folds what
    /// has none. The sum of all rows is the sum of the tally. A host with failures
    /// competes at once.
    pub fn select(&mut self, tally: &Tally, hosts: &Hosts, now: Instant) -> Selection {
        let before = self.totals.len();
        self.totals.clear();
        self.totals.shrink_to(2 * before);
        let mut public: HashSet<Remote, RandomState> = HashSet::default();
        for (_, series, flows) in tally.rows_in_use() {
            if series.remote.is_host() {
                *self.totals.entry(series.remote).or_default() += flows;
            } else if let Remote::Public(_) = series.remote {
                public.insert(series.remote);
            }
        }
        for (series, activity) in tally.activities() {
            if activity.has_failures() {
                self.qualify(series.remote, now);
            }
        }
        self.look(now);
        self.rank(now);
        self.seat(hosts, now);
        self.fold(tally, public.len())
    }

    /// Notes who was seen. Those with a place need no note.
    fn look(&mut self, now: Instant) {
        if self.totals.len() <= self.max {
            // Every one gets a place.
            self.sightings.retain(|remote, sightings| {
                !self.totals.contains_key(remote) && now.duration_since(sightings.last) < MEMORY
            });
            return;
        }
        for remote in self.totals.keys() {
            if !self.places.contains_key(remote) {
                let sightings = self.sightings.entry(*remote).or_insert(Sightings {
                    ticks: 0,
                    last: now,
                });
                sightings.ticks = sightings.ticks.saturating_add(1);
                sightings.last = now;
            }
        }
        let crowded = self.sightings.len() > self.totals.len() + MAX_REMEMBERED;
        self.sightings.retain(|_, sightings| {
            sightings.last == now || (!crowded && now.duration_since(sightings.last) < MEMORY)
        });
    }

    /// Lists those who compete, and keeps the best `max`.
    fn rank(&mut self, now: Instant) {
        let room_for_all = self.totals.len() <= self.max;
        self.candidates.clear();
        for (&remote, &connections) in &self.totals {
            let place = self.places.get(&remote);
            let held = place.is_some_and(|place| place.is_held(now));
            let named = matches!(remote, Remote::Named(_));
            let qualified = place.is_some()
                || self
                    .sightings
                    .get(&remote)
                    .is_some_and(|sightings| sightings.ticks >= QUALIFYING_TICKS);
            let class = match (named, held) {
                _ if room_for_all => Class::Sure,
                (true, true) => Class::NamedHeld,
                (true, false) => Class::Named,
                (false, true) => Class::Held,
                (false, false) if qualified => Class::Qualified,
                (false, false) => continue,
            };
            self.candidates.push(Candidate {
                class,
                connections: Reverse(connections),
                newcomer: place.is_none(),
                remote,
            });
        }
        for (&remote, place) in &self.places {
            if place.is_held(now) && !self.totals.contains_key(&remote) {
                let named = matches!(remote, Remote::Named(_));
                self.candidates.push(Candidate {
                    class: if named { Class::NamedHeld } else { Class::Held },
                    connections: Reverse(0),
                    newcomer: false,
                    remote,
                });
            }
        }
        if self.candidates.len() > self.max {
            if self.max > 0 {
                self.candidates.select_nth_unstable(self.max - 1);
            }
            self.candidates.truncate(self.max);
        }
    }

    fn seat(&mut self, hosts: &Hosts, now: Instant) {
        let mut before = std::mem::take(&mut self.places);
        for candidate in &self.candidates {
            let remote = candidate.remote;
            let place = match before.remove(&remote) {
                Some(place) if place.is_held(now) => place,
                Some(place) => Place {
                    since: now,
                    ..place
                },
                None => {
                    self.sightings.remove(&remote);
                    Place {
                        since: now,
                        name: hosts.name(remote).into(),
                    }
                }
            };
            self.places.insert(remote, place);
        }
    }

    fn fold(&self, tally: &Tally, public: usize) -> Selection {
        let apart = self
            .totals
            .keys()
            .filter(|remote| self.places.contains_key(remote))
            .count();
        Selection {
            rows: self.rows(tally),
            activities: self.activities(tally),
            hosts: (self.totals.len() + public) as u64,
            folded: (self.totals.len() - apart + public) as u64,
        }
    }

    fn rows(&self, tally: &Tally) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut rest: HashMap<Series, BTreeMap<SeriesState, u64>, RandomState> = HashMap::default();
        for (id, &series, _) in tally.rows_in_use() {
            if let Some(place) = self.places.get(&series.remote) {
                let counts = tally.states(id);
                rows.extend(counts.map(|(state, count)| row(&place.name, series, state, count)));
            } else {
                let sums = rest.entry(self.folded(series)).or_default();
                for (state, count) in tally.states(id) {
                    *sums.entry(state).or_default() += count;
                }
            }
        }
        for (series, sums) in rest {
            let name = self.folded_name(series);
            rows.extend(
                sums.into_iter()
                    .map(|(state, sum)| row(name, series, state, sum)),
            );
        }
        rows.sort_unstable();
        rows
    }

    fn activities(&self, tally: &Tally) -> Vec<HostActivity> {
        let mut sums: HashMap<Series, Activity, RandomState> = HashMap::default();
        for (&series, activity) in tally.activities() {
            let series = Series {
                port: None,
                ..self.folded(series)
            };
            sums.entry(series).or_default().add(activity);
        }
        let named = |(series, activity): (Series, Activity)| HostActivity {
            host: match self.places.get(&series.remote) {
                Some(place) => Arc::clone(&place.name),
                None => Arc::clone(self.folded_name(series)),
            },
            direction: series.direction,
            protocol: series.protocol,
            activity,
        };
        let mut activities: Vec<_> = sums.into_iter().map(named).collect();
        activities.sort_unstable_by(|a, b| {
            (&a.host, a.direction, a.protocol).cmp(&(&b.host, b.direction, b.protocol))
        });
        activities
    }

    /// The series that one without a place counts in.
    fn folded(&self, series: Series) -> Series {
        let remote = match series.remote {
            remote @ Remote::Public(_) => remote.folded(),
            remote if self.places.contains_key(&remote) => remote,
            _ => Remote::Other,
        };
        Series { remote, ..series }
    }

    fn folded_name(&self, series: Series) -> &Arc<str> {
        match series.remote {
            Remote::Public(_) => &self.public,
            _ => &self.other,
        }
    }
}

fn row(host: &Arc<str>, series: Series, state: SeriesState, connections: u64) -> Row {
    Row {
        host: Arc::clone(host),
        direction: series.direction,
        protocol: series.protocol,
        port: series.port,
        state: state.as_str(),
        connections,
        general: state.general(),
    }
}

#[cfg(test)]
mod tests;
