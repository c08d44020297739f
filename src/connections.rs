//! The connections themselves, read when somebody asks and never kept: a dump of its
//! own each time, placed and handed on one by one, so that a million take the memory
//! of one.
//!
//! A dump holds its caller inside the system call: it belongs on a thread where that
//! hurts nobody. Whoever takes the connections may be slow: the kernel waits, without
//! holding anything, between one part of a dump and the next.

pub mod filter;
pub mod line;

use std::collections::HashSet;
use std::time::Duration;

use tracing::{debug, warn};

use self::filter::{Condition, ConnectionFilter, ServicePorts, Subject};
use crate::collector::CollectorError;
use crate::config::{self, Config, SourceChoice};
use crate::conntrack::{Conntrack, Step};
use crate::flow::key::{FlowKey, KeyHasher};
use crate::flow::{Details, Entry, Flow, Traffic, nanoseconds_since_epoch};
use crate::hosts::local::{LocalAddresses, LocalWatch};
use crate::hosts::{HostName, Hosts, Placement};
use crate::report::Source;
use crate::sockets::Sockets;

/// One connection, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What it is known by.
    pub key: FlowKey,
    /// What the kernel tells.
    pub flow: Flow,
    /// Where it counts; with the service's port in any case.
    pub placement: Placement,
    /// What the remote host is called.
    pub host: HostName,
    /// Of the original and of the reply way, where the kernel counts.
    pub traffic: Option<[Traffic; 2]>,
    /// How long it has been there, where the kernel tells.
    pub age: Option<Duration>,
}

/// What a look at the connections came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where they were read.
    pub source: Source,
    /// How many the filter let through.
    pub connections: u64,
    /// Whether the table changed in a way that may have lost or doubled some.
    pub interrupted: bool,
}

/// Whether to go on.
pub type Goes = std::ops::ControlFlow<()>;

/// Reads connections once.
#[derive(Debug)]
pub struct Reader {
    table: Table,
    /// Why it is not the table that tells more.
    fallback: Option<String>,
    place: Place,
}

#[derive(Debug)]
enum Table {
    Conntrack(Conntrack),
    Sockets(Sockets),
}

/// What turns flows into connections.
#[derive(Debug)]
struct Place {
    hosts: Hosts,
    local: LocalAddresses,
    keys: KeyHasher,
}

impl Reader {
    /// Opens what the configuration names; with `auto` and `off`, connection tracking
    /// where it may be read and tracks something, else sockets.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn open(config: &Config, keys: KeyHasher) -> Result<Self, CollectorError> {
        let hosts = Hosts::new(&config::Hosts {
            ports: true,
            ..config.hosts.clone()
        });
        let mut local = LocalAddresses::new(&config.hosts.local);
        if let Err(error) = LocalWatch::open().and_then(|mut watch| watch.refresh(&mut local)) {
            warn!(%error, "this host's addresses are unknown: only hosts.local counts as local");
        }
        let (table, fallback) = open(&config.collector)?;
        Ok(Self {
            table,
            fallback,
            place: Place { hosts, local, keys },
        })
    }

    /// Why `auto` reads sockets, in a sentence for a terminal.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Shows every connection that the configuration counts, the filter lets through
    /// and nobody hides, until `each` has had enough.
    ///
    /// # Errors
    /// Fails when the dump does not come to its end; connections were shown before.
    pub fn read(
        &mut self,
        filter: &ConnectionFilter,
        hidden: &HashSet<FlowKey>,
        each: &mut impl FnMut(&Connection) -> Goes,
    ) -> Result<Shown, CollectorError> {
        let place = &self.place;
        let mut connections = 0;
        let mut goes = Goes::Continue(());
        let now = nanoseconds_since_epoch();
        let mut show = |entry: &Entry| {
            // A dump cannot be left half-way: the rest of it is passed over.
            if goes.is_break() {
                return;
            }
            if let Some(connection) = place.connection(entry, now, filter)
                && !hidden.contains(&connection.key)
            {
                connections += 1;
                goes = each(&connection);
            }
        };
        let (source, interrupted) = match &mut self.table {
            Table::Conntrack(table) => {
                let dump = table.dump(&mut |step| {
                    if let Step::Entry(entry) = step {
                        show(entry);
                    }
                });
                (Source::Conntrack, dump?.interrupted)
            }
            Table::Sockets(table) => {
                let details = Details::default();
                let dump = table.dump(&mut |&flow| show(&Entry { flow, details }));
                (Source::Sockets, dump?.interrupted)
            }
        };
        debug!(source = source.as_str(), connections, "connections shown");
        Ok(Shown {
            source,
            connections,
            interrupted,
        })
    }
}

fn open(collector: &config::Collector) -> Result<(Table, Option<String>), CollectorError> {
    let conntrack = |collector| -> Result<_, CollectorError> {
        let mut conntrack = Conntrack::open(collector)?;
        let entries = conntrack.table()?.entries;
        Ok((Table::Conntrack(conntrack), entries))
    };
    let reason = match collector.source {
        SourceChoice::Conntrack => return Ok((conntrack(collector)?.0, None)),
        SourceChoice::Sockets => None,
        SourceChoice::Auto | SourceChoice::Off => Some(match conntrack(collector) {
            Ok((table, 1..)) => return Ok((table, None)),
            Ok(_) => "connection tracking tracks nothing".to_owned(),
            Err(error) => error.to_string(),
        }),
    };
    let sockets = Sockets::open(collector)?;
    let fallback = reason.map(|reason| format!("showing this host's sockets: {reason}"));
    Ok((Table::Sockets(sockets), fallback))
}

impl Place {
    /// `now` in nanoseconds since the epoch, as the kernel's own times.
    fn connection(
        &self,
        Entry { flow, details }: &Entry,
        now: u64,
        filter: &ConnectionFilter,
    ) -> Option<Connection> {
        let placement = self.hosts.place(flow, &self.local)?;
        let host = self.hosts.host_name(placement.remote);
        let tuples = (&flow.original, &flow.reply);
        let admitted = filter.admits(&Subject {
            host: &host,
            address: Some(placement.address),
            protocol: flow.protocol,
            direction: placement.direction,
            ports: ServicePorts::new(flow.protocol, Some(tuples), placement.port),
            condition: Condition::Now(flow.state),
        });
        (admitted == Some(true)).then(|| Connection {
            key: self.keys.key(&flow.original, flow.protocol, flow.zone),
            flow: *flow,
            placement,
            host,
            traffic: details.traffic,
            age: details
                .started
                .map(|started| Duration::from_nanos(now.saturating_sub(started))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Beginning, Protocol, State, Status, TcpState, Tuple};

    fn flow(src: [u8; 4], dst: [u8; 4], dst_port: u16) -> Entry {
        let original = Tuple {
            src: src.into(),
            dst: dst.into(),
            src_port: 40_000,
            dst_port,
        };
        let flow = Flow {
            original,
            reply: Tuple {
                src: original.dst,
                dst: original.src,
                src_port: original.dst_port,
                dst_port: original.src_port,
            },
            protocol: Protocol::Tcp,
            state: State::Tcp(TcpState::Established),
            status: Status::default(),
            zone: 0,
            mark: 0,
            beginning: Beginning::Seen,
        };
        let details = Details::default();
        Entry { flow, details }
    }

    #[test]
    fn a_connection_has_the_host_that_the_report_has_and_its_address_beside() {
        let mut local = LocalAddresses::default();
        local.insert("10.0.0.1/32".parse().unwrap());
        let place = Place {
            hosts: Hosts::new(&config::Hosts {
                ports: true,
                ..config::Hosts::default()
            }),
            local,
            keys: KeyHasher::default(),
        };
        let every = ConnectionFilter::default();
        let guest = flow([8, 8, 8, 8], [10, 0, 0, 1], 443);
        let connection = place.connection(&guest, 0, &every).unwrap();
        assert_eq!(connection.host.to_string(), "public");
        assert_eq!(connection.placement.address.to_string(), "8.8.8.8");
        assert_eq!(connection.placement.port, Some(443));
        let mut filter = ConnectionFilter::default();
        filter.add("host", "192.0.2.0/24").unwrap();
        assert_eq!(place.connection(&guest, 0, &filter), None);
        let called = flow([10, 0, 0, 1], [192, 0, 2, 7], 80);
        assert!(place.connection(&called, 0, &filter).is_some());
    }
}
