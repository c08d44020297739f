//! Connections that ended, kept for those who ask: each client has its own position.
//!
//! Owned by the collector's thread; no input or output, and time comes from outside.
//! Nothing is kept while there is no client, and nothing longer than until every
//! client has had it. Memory is bounded: by records, clients, and what a client hides.
//!
//! When the ring is more than half full, short-lived connections to one service roll
//! up into one record with their exact count. When it is full, the oldest close goes,
//! and only where there is none the oldest failure; each client counts what it lost.
//!
//! A client that has not asked for [`EXPIRY`] is forgotten. It is given each end once
//! at most: what an answer that got lost on its way held is not told again.

mod client;
mod ended;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use foldhash::fast::RandomState;
use serde::Serialize;
use tokio::time::Instant;

use self::client::Client;
pub use self::client::{ClientId, ClientIdError};
pub use self::ended::{Ended, Record, RolledUp, SHORT_LIVED, Service};
use self::ring::{Lost, Ring};
use crate::connections::filter::ConnectionFilter;
use crate::flow::key::FlowKey;

/// A client that has not asked for so long is forgotten, as with the tracer of the
/// Datadog Agent (`ClientStateExpiry` in `pkg/network/config/config.go`).
pub const EXPIRY: Duration = Duration::from_secs(120);

/// How much is kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ended connections, rolled up ones as one. A record takes about 320 bytes.
    pub records: usize,
    /// Clients.
    pub clients: usize,
    /// Connections that one client hides.
    pub hidden: usize,
    /// Connections that were told of before they left the table.
    pub announced: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: 16_384,
            clients: 64,
            hidden: 1_024,
            announced: 65_536,
        }
    }
}

/// Why a client is not given what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// No room for one more.
    #[error(
        "{0} clients ask already, and there is room for no more: remove one (DELETE /clients/ID), \
         or wait until one has not asked for {expiry} s",
        expiry = EXPIRY.as_secs()
    )]
    TooManyClients(usize),
    /// Nobody of this name.
    #[error(
        "there is no client {0}: it never asked, was removed, or has not asked for {expiry} s",
        expiry = EXPIRY.as_secs()
    )]
    UnknownClient(ClientId),
    /// No room for one more hidden connection.
    #[error(
        "the client {client} hides {hidden} connections already, and there is room for no more \
         until one of them ends"
    )]
    TooManyHidden {
        /// Who.
        client: ClientId,
        /// How many.
        hidden: usize,
    },
}

/// What ended since a client last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// What its filter lets through, oldest first.
    pub ended: Vec<Record>,
    /// Ends that the journal had no room for until it asked.
    pub dropped: u64,
    /// Ends of which too little is kept for its filter to tell: a network where the
    /// address, or a port where the port is not known.
    pub undecided: u64,
    /// How long ago it asked; `None` the first time, which begins its position.
    pub since: Option<Duration>,
}

/// What the journal counts; all but the first two only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalCounts {
    /// Clients there are.
    pub clients: usize,
    /// Records there are.
    pub records: usize,
    /// Ends taken in.
    pub recorded: u64,
    /// Those of them that went into a record with others.
    pub rolled_up: u64,
    /// Ends that a client did not get for want of room, for each client.
    pub dropped: u64,
    /// Clients that there was no room for.
    pub clients_refused: u64,
    /// Clients that stopped asking.
    pub clients_expired: u64,
}

/// The connections that ended, and who wants to know.
#[derive(Debug)]
pub struct Journal {
    limits: Limits,
    ring: Ring,
    clients: HashMap<ClientId, Client, RandomState>,
    /// What was told before it left the table, and the position that this was given.
    announced: HashMap<FlowKey, u64, RandomState>,
    counts: JournalCounts,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Journal {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ring: Ring::new(limits.records),
            clients: HashMap::default(),
            announced: HashMap::default(),
            counts: JournalCounts::default(),
        }
    }

    /// Whether anybody wants to know: if not, an [`Ended`] need not be made.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Takes in a connection that has left the table. To be called once for each,
    /// announced or not.
    pub fn record(&mut self, ended: Ended) {
        if self.is_followed() {
            let told = self.announced.remove(&ended.key);
            self.take_in(ended, told);
        }
    }

    /// Tells of a connection that is over but still in the table, as when it waits in
    /// `TIME_WAIT`: what `record` brings of it later is for those alone who came
    /// after this. False where it was announced before, nobody wants to know, or there
    /// is no room to remember it; then it is told when it leaves the table.
    pub fn announce(&mut self, ended: Ended) -> bool {
        if !self.is_followed()
            || self.announced.len() >= self.limits.announced
            || self.announced.contains_key(&ended.key)
        {
            return false;
        }
        // A position of its own: who comes after it has not been told.
        let position = self.ring.skip();
        self.announced.insert(ended.key, position);
        self.take_in(ended, None);
        true
    }

    fn take_in(&mut self, ended: Ended, told: Option<u64>) {
        let key = ended.key;
        let position = self.ring.next();
        let mut wanted = 0;
        for client in self.clients.values_mut() {
            let is_hidden = !client.hidden.is_empty() && client.hidden.remove(&key);
            if is_hidden || told.is_some_and(|told| client.joined <= told) {
                client.skips.insert(position);
            } else {
                wanted += 1;
            }
        }
        let lost = if wanted == self.clients.len() {
            let (is_rolled_up, lost) = self.ring.push(ended);
            self.counts.rolled_up += u64::from(is_rolled_up);
            lost
        } else if wanted > 0 {
            self.ring.push_alone(ended)
        } else {
            for client in self.clients.values_mut() {
                client.skips.remove(&position);
            }
            return;
        };
        self.counts.recorded += 1;
        if let Some(lost) = lost {
            self.charge(&lost);
        }
    }

    fn charge(&mut self, lost: &Lost) {
        for client in self.clients.values_mut() {
            if client.next <= lost.position && !client.skips.remove(&lost.position) {
                client.dropped += lost.count;
                self.counts.dropped += lost.count;
            }
        }
    }

    /// Which connections a client does not want to see. One that is not known is taken
    /// in: its position begins here, so that it misses nothing between a look at the
    /// table and the question what ended since.
    ///
    /// # Errors
    /// When there is no room for a new client.
    pub fn view(
        &mut self,
        client: &ClientId,
        now: Instant,
    ) -> Result<HashSet<FlowKey>, JournalError> {
        Ok(self.enter(client, now)?.hidden.clone())
    }

    /// What ended since the client last asked, or came. What the filter does not let
    /// through is passed over: the position moves behind it all the same.
    ///
    /// # Errors
    /// When there is no room for a new client.
    pub fn ask(
        &mut self,
        client: &ClientId,
        filter: &ConnectionFilter,
        now: Instant,
    ) -> Result<Delta, JournalError> {
        self.enter(client, now)?;
        let Some(client) = self.clients.get_mut(client) else {
            return Ok(Delta::default());
        };
        let mut delta = Delta {
            dropped: std::mem::take(&mut client.dropped),
            since: client.asked.replace(now).map(|before| now - before),
            ..Delta::default()
        };
        for (position, record) in self.ring.since(client.next) {
            if client.skips.contains(&position) {
                continue;
            }
            match record.passes(filter) {
                Some(true) => delta.ended.push(record.clone()),
                Some(false) => {}
                None => delta.undecided += record.count(),
            }
        }
        client.next = self.ring.next();
        client.skips.clear();
        self.ring.seal();
        self.settle();
        Ok(delta)
    }

    /// Forgets a client.
    ///
    /// # Errors
    /// When nobody has this name.
    pub fn remove_client(&mut self, client: &ClientId) -> Result<(), JournalError> {
        match self.clients.remove(client) {
            Some(_) => {
                self.settle();
                Ok(())
            }
            None => Err(JournalError::UnknownClient(client.clone())),
        }
    }

    /// Leaves a connection out of what a client sees, open or ended, until it has
    /// ended. One that has, and that the client has not been told of, it never sees.
    ///
    /// # Errors
    /// When nobody has this name, or it hides as much as it may.
    pub fn hide(
        &mut self,
        client: &ClientId,
        key: FlowKey,
        now: Instant,
    ) -> Result<(), JournalError> {
        self.expire(now);
        let Some(state) = self.clients.get_mut(client) else {
            return Err(JournalError::UnknownClient(client.clone()));
        };
        state.seen = now;
        let untold: Vec<u64> = self
            .ring
            .since(state.next)
            .filter(|(_, record)| matches!(record, Record::One(ended) if ended.key == key))
            .map(|(position, _)| position)
            .filter(|position| !state.skips.contains(position))
            .collect();
        if !untold.is_empty() {
            state.skips.extend(untold);
            // Nothing that the client wants to see may be added to what it does not.
            self.ring.seal();
        } else if state.hidden.len() < self.limits.hidden || state.hidden.contains(&key) {
            state.hidden.insert(key);
        } else {
            return Err(JournalError::TooManyHidden {
                client: client.clone(),
                hidden: state.hidden.len(),
            });
        }
        Ok(())
    }

    /// Forgets clients that have not asked for [`EXPIRY`]. To be called now and then:
    /// nothing else does while nobody asks.
    pub fn expire(&mut self, now: Instant) {
        let before = self.clients.len();
        self.clients
            .retain(|_, client| now.saturating_duration_since(client.seen) < EXPIRY);
        let expired = before - self.clients.len();
        if expired > 0 {
            self.counts.clients_expired += expired as u64;
            self.settle();
        }
    }

    /// What it counts.
    #[must_use]
    pub fn counts(&self) -> JournalCounts {
        JournalCounts {
            clients: self.clients.len(),
            records: self.ring.len(),
            ..self.counts
        }
    }

    fn enter(&mut self, id: &ClientId, now: Instant) -> Result<&mut Client, JournalError> {
        self.expire(now);
        if !self.clients.contains_key(id) {
            if self.clients.len() >= self.limits.clients {
                self.counts.clients_refused += 1;
                return Err(JournalError::TooManyClients(self.clients.len()));
            }
            // What is there is not for the newcomer, nor what would be added to it.
            self.ring.seal();
        }
        let position = self.ring.next();
        let client = (self.clients.entry(id.clone())).or_insert_with(|| Client::new(position, now));
        client.seen = now;
        Ok(client)
    }

    /// Forgets what every client has had.
    fn settle(&mut self) {
        if let Some(position) = self.clients.values().map(|client| client.next).min() {
            self.ring.forget(position);
        } else {
            self.ring.seal();
            self.ring.forget(u64::MAX);
            self.announced = HashMap::default();
        }
    }
}
