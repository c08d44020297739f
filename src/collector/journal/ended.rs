//! What the journal keeps of a connection that ended, alone or rolled up with its like.

use std::net::IpAddr;
use std::time::Duration;

use crate::connections::filter::{Condition, ConnectionFilter, ServicePorts, Subject};
use crate::flow::key::FlowKey;
use crate::flow::{Direction, End, Protocol, Traffic, Tuple};
use crate::hosts::HostName;

/// A connection is short-lived up to this age. Where the kernel does not tell ages
/// (`nf_conntrack_timestamp` is off by default) every one may have been.
pub const SHORT_LIVED: Duration = Duration::from_secs(10);

/// A connection that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// Its key while it was in the table.
    pub key: FlowKey,
    /// Original and reply; `None` where only a resync found that it is gone.
    pub tuples: Option<(Tuple, Tuple)>,
    /// What the remote host is called.
    pub host: HostName,
    /// The remote host's address, where it is known.
    pub address: Option<IpAddr>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Conntrack zone.
    pub zone: u16,
    /// Who dialled.
    pub direction: Direction,
    /// The service's port, where it is known and no ephemeral one.
    pub port: Option<u16>,
    /// How it ended.
    pub end: End,
    /// How long it was there, where that is known.
    pub duration: Option<Duration>,
    /// Of the original and of the reply way, where the kernel counts.
    pub traffic: Option<[Traffic; 2]>,
}

impl Ended {
    fn is_short_lived(&self) -> bool {
        self.duration.is_none_or(|duration| duration <= SHORT_LIVED)
    }

    /// What it may be rolled up by.
    pub(super) fn service(&self) -> Option<Service> {
        let dialled = || {
            let (original, _) = self.tuples.as_ref()?;
            self.protocol.has_ports().then_some(original.dst_port)
        };
        self.is_short_lived().then(|| Service {
            host: self.host.clone(),
            protocol: self.protocol,
            zone: self.zone,
            direction: self.direction,
            port: self.port.or_else(dialled),
            end: self.end,
        })
    }
}

/// What short-lived connections have in common that are rolled up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// What the remote host is called.
    pub host: HostName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Conntrack zone.
    pub zone: u16,
    /// Who dialled.
    pub direction: Direction,
    /// The service's port, where it is known: the dialled one if no other.
    pub port: Option<u16>,
    /// How they ended.
    pub end: End,
}

/// Several short-lived connections to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledUp {
    /// What they have in common.
    pub service: Service,
    /// The remote host's address, if they all have the same.
    pub address: Option<IpAddr>,
    /// How many they are.
    pub count: u64,
    /// When the first of them ended, in milliseconds since the epoch.
    pub first_at: u64,
    /// When the last of them did.
    pub last_at: u64,
    /// How many have a duration.
    pub timed: u64,
    /// The sum of these.
    pub duration: Duration,
    /// The sum of what the kernel counted, if it did for any.
    pub traffic: Option<[Traffic; 2]>,
}

impl RolledUp {
    fn new(service: Service, first: &Ended) -> Self {
        Self {
            service,
            address: first.address,
            count: 1,
            first_at: first.at,
            last_at: first.at,
            timed: u64::from(first.duration.is_some()),
            duration: first.duration.unwrap_or_default(),
            traffic: first.traffic,
        }
    }

    fn add(&mut self, ended: &Ended) {
        if self.address != ended.address {
            self.address = None;
        }
        self.count += 1;
        self.first_at = self.first_at.min(ended.at);
        self.last_at = self.last_at.max(ended.at);
        if let Some(duration) = ended.duration {
            self.timed += 1;
            self.duration = self.duration.saturating_add(duration);
        }
        if let Some(more) = ended.traffic {
            let sums = self.traffic.get_or_insert_default();
            for (sum, more) in sums.iter_mut().zip(more) {
                sum.packets = sum.packets.saturating_add(more.packets);
                sum.bytes = sum.bytes.saturating_add(more.bytes);
            }
        }
    }
}

/// What a client is told of: one end, or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// One connection.
    One(Box<Ended>),
    /// Several.
    Many(Box<RolledUp>),
}

impl Record {
    /// How many connections ended.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Many(rolled) => rolled.count,
        }
    }

    /// Takes another end in, of the same service.
    pub(super) fn roll_up(&mut self, service: Service, ended: &Ended) {
        if let Self::One(first) = self {
            *self = Self::Many(Box::new(RolledUp::new(service, first)));
        }
        if let Self::Many(rolled) = self {
            rolled.add(ended);
        }
    }

    /// Whether the filter lets it through; `None` where what is kept does not tell.
    pub(super) fn passes(&self, filter: &ConnectionFilter) -> Option<bool> {
        match self {
            Self::One(ended) => {
                let tuples = ended.tuples.as_ref();
                let tuples = tuples.map(|(original, reply)| (original, reply));
                filter.admits(&Subject {
                    host: &ended.host,
                    address: ended.address,
                    protocol: ended.protocol,
                    direction: ended.direction,
                    ports: ServicePorts::new(ended.protocol, tuples, ended.port),
                    condition: Condition::Ended(ended.end),
                })
            }
            Self::Many(rolled) => filter.admits(&Subject {
                host: &rolled.service.host,
                address: rolled.address,
                protocol: rolled.service.protocol,
                direction: rolled.service.direction,
                ports: ServicePorts::new(rolled.service.protocol, None, rolled.service.port),
                condition: Condition::Ended(rolled.service.end),
            }),
        }
    }
}
