//! The kernel's connection tracking table, read over ctnetlink and never changed.
//!
//! A dump walks the hash table of the whole machine, whatever namespace or filter it
//! is for, and does so inside the system call: it belongs on a thread of its own.
//! Entries are decoded where they were received; nothing is kept of them.
//! [`Events`] tell what becomes of entries between two dumps, over a socket of their own.
//!
//! Needs `CAP_NET_ADMIN` in the user namespace that owns the network namespace, for
//! each request. The namespace is that of the thread which opened it.

mod decode;
mod events;
mod filter;
mod gate;
mod stats;
pub mod sysctl;

pub use self::decode::{Event, Happening, Undecodable, decode, decode_event};
pub use self::events::{Drained, Events, Subscription};
use self::filter::Filter;
use self::stats::{Accumulator, counters_request, decode_size, size_request};
pub use self::stats::{KernelCounters, TableSize};
use crate::config::Collector;
use crate::flow::{Entry, Status};
use crate::netlink::{Netlink, NetlinkError, Part, Request, Subsystem};
use crate::telemetry::CollectError;

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// `CAP_NET_ADMIN` is missing.
    #[error(
        "the kernel shows its connection tracking table to no process without CAP_NET_ADMIN: \
         give it to the program (setcap cap_net_admin+ep) or to its unit \
         (AmbientCapabilities=CAP_NET_ADMIN), or set collector.source to \"sockets\""
    )]
    Permission,
    /// There is no ctnetlink, or one older than Linux 4.18.
    #[error(
        "the kernel has no netlink interface to connection tracking: load its module \
         (modprobe nf_conntrack_netlink), or set collector.source to \"sockets\""
    )]
    Unsupported,
    /// Anything else that goes wrong with netlink.
    #[error("cannot read the connection tracking table: {0}")]
    Netlink(NetlinkError),
    /// Anything else that goes wrong with events.
    #[error("cannot follow the connection tracking table: {0}")]
    Events(NetlinkError),
    /// The answer to a question about the table itself does not follow the format.
    #[error("cannot read the size of the connection tracking table: {0}")]
    Malformed(#[from] Undecodable),
}

impl ConntrackError {
    /// What it counts as.
    #[must_use]
    pub fn reason(&self) -> CollectError {
        match self {
            Self::Permission => CollectError::Permission,
            Self::Unsupported => CollectError::Unsupported,
            Self::Netlink(error) | Self::Events(error) => error.reason(),
            Self::Malformed(_) => CollectError::Malformed,
        }
    }
}

impl From<NetlinkError> for ConntrackError {
    fn from(error: NetlinkError) -> Self {
        match (error.reason(), error.refusal()) {
            (CollectError::Permission, _) => Self::Permission,
            // nfnetlink's answer where no subsystem is registered for the message.
            (CollectError::Unsupported, _) | (_, Some(libc::EINVAL)) => Self::Unsupported,
            _ => Self::Netlink(error),
        }
    }
}

/// What a dump brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Dump {
    /// Entries that the configuration counts.
    pub entries: u64,
    /// Entries that it does not, those of protocols that are not told apart, and those
    /// that have left the table meanwhile. What the kernel was told to leave out is not
    /// among them.
    pub skipped: u64,
    /// Entries that do not follow the format.
    pub undecoded: u64,
    /// Whether the table changed in a way that may have lost or doubled entries.
    pub interrupted: bool,
}

/// A piece of a dump.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// An entry that the configuration counts.
    Entry(&'a Entry),
    /// All that came with one datagram has been shown. The kernel walks on when the next
    /// is read, which may take long: events that wait are best read now.
    Datagram,
}

/// The table of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
    filter: Filter,
    /// `None` once the kernel has refused it, or where it would choose nothing.
    narrow: Option<Request>,
    plain: Request,
    size: Request,
    counters: Request,
    totals: Accumulator,
}

impl Conntrack {
    /// Opens the table of the thread's network namespace, and makes sure that it may
    /// be read.
    ///
    /// # Errors
    /// Fails without the capability, without ctnetlink in the kernel, or when the
    /// system is out of descriptors.
    pub fn open(collector: &Collector) -> Result<Self, ConntrackError> {
        let filter = Filter::new(collector);
        let mut conntrack = Self {
            netlink: Netlink::open(Subsystem::Netfilter)?,
            narrow: filter.narrow_request(),
            plain: filter.plain_request(),
            filter,
            size: size_request(),
            counters: counters_request(),
            totals: Accumulator::default(),
        };
        conntrack.table()?;
        Ok(conntrack)
    }

    /// Shows every entry that the configuration counts. An empty table is not walked.
    ///
    /// # Errors
    /// Fails when the dump does not come to its end; entries may have been shown before.
    pub fn dump(&mut self, each: &mut impl FnMut(Step<'_>)) -> Result<Dump, ConntrackError> {
        if self.table()?.entries == 0 {
            return Ok(Dump::default());
        }
        if let Some(request) = &mut self.narrow {
            match walk(&mut self.netlink, request, &self.filter, each) {
                Err(error) if matches!(error.refusal(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                    self.narrow = None;
                }
                done => return Ok(done?),
            }
        }
        Ok(walk(
            &mut self.netlink,
            &mut self.plain,
            &self.filter,
            each,
        )?)
    }

    /// How full the table is; costs nothing to speak of.
    ///
    /// # Errors
    /// Fails when the kernel refuses or does not answer.
    pub fn table(&mut self) -> Result<TableSize, ConntrackError> {
        let read = self
            .netlink
            .ask(&mut self.size, |message| decode_size(message.payload))?;
        Ok(read?)
    }

    /// What the kernel has counted of its own work. It never goes back, although the
    /// kernel's own 32 bits do: ask at least once in 2^32 packets of a processor.
    ///
    /// # Errors
    /// Fails when the kernel refuses or does not answer.
    pub fn counters(&mut self) -> Result<KernelCounters, ConntrackError> {
        let Self {
            netlink,
            counters,
            totals,
            ..
        } = self;
        let mut read = Ok(());
        let _whole = netlink.dump(counters, &mut |message| {
            if read.is_ok() {
                read = totals.add(message.payload);
            }
        })?;
        read?;
        Ok(totals.total())
    }
}

fn walk(
    netlink: &mut Netlink,
    request: &mut Request,
    filter: &Filter,
    each: &mut impl FnMut(Step<'_>),
) -> Result<Dump, NetlinkError> {
    let mut dump = Dump::default();
    let dumped = netlink.dump_in_parts(request, &mut |part| match part {
        Part::Message(message) => show(message.payload, filter, &mut dump, each),
        Part::End => each(Step::Datagram),
    })?;
    dump.interrupted = dumped.interrupted;
    Ok(dump)
}

fn show(payload: &[u8], filter: &Filter, dump: &mut Dump, each: &mut impl FnMut(Step<'_>)) {
    match decode(payload) {
        // An entry that dies is shown only if its DESTROY event could not be
        // delivered: the event is what ends it.
        Ok(Some(entry)) if filter.admits(&entry.flow) && !entry.flow.status.has(Status::DYING) => {
            dump.entries += 1;
            each(Step::Entry(&entry));
        }
        Ok(_) => dump.skipped += 1,
        Err(_) => dump.undecoded += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;
    use crate::netlink::attribute;

    /// An entry of UDP between two IPv4 addresses.
    fn payload(status: u32) -> Vec<u8> {
        let ip = [attribute(1, &[10, 0, 0, 1]), attribute(2, &[10, 0, 0, 2])].concat();
        let proto = attribute(1, &[Protocol::Udp.number()]);
        let tuple = [attribute(1, &ip), attribute(2, &proto)].concat();
        let attributes = [
            attribute(1, &tuple),
            attribute(2, &tuple),
            attribute(3, &status.to_be_bytes()),
        ];
        [vec![0; 4], attributes.concat()].concat()
    }

    #[test]
    fn an_entry_that_is_dying_is_skipped() {
        let filter = Filter::new(&Collector {
            protocols: vec![Protocol::Udp],
            ..Collector::default()
        });
        let mut dump = Dump::default();
        let mut shown = Vec::new();
        for status in [Status::SEEN_REPLY, Status::SEEN_REPLY | Status::DYING] {
            show(&payload(status), &filter, &mut dump, &mut |step| {
                if let Step::Entry(entry) = step {
                    shown.push(entry.flow.status);
                }
            });
        }
        show(&[0; 3], &filter, &mut dump, &mut |_| {});
        assert_eq!(shown, [Status(Status::SEEN_REPLY)]);
        assert_eq!((dump.entries, dump.skipped, dump.undecoded), (1, 1, 1));
    }
}
