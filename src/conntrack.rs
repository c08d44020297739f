//! The kernel's connection tracking table, read over ctnetlink and never changed.
//!
//! A dump walks the hash table of the whole machine, whatever namespace or filter it
//! is for, and does so inside the system call: it belongs on a thread of its own.
//! Entries are decoded where they were received; nothing is kept of them.
//!
//! Needs `CAP_NET_ADMIN` in the user namespace that owns the network namespace, for
//! each request. The namespace is that of the thread which opened it.

mod decode;
mod filter;
mod stats;

pub use self::decode::{Undecodable, decode};
use self::filter::Filter;
use self::stats::{Accumulator, counters_request, decode_size, size_request};
pub use self::stats::{KernelCounters, TableSize};
use crate::config::Collector;
use crate::flow::Flow;
use crate::netlink::{Netlink, NetlinkError, Request, Subsystem};
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
            Self::Netlink(error) => error.reason(),
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
    /// Entries that it does not, and those of protocols that are not told apart. What
    /// the kernel was told to leave out is not among them.
    pub skipped: u64,
    /// Entries that do not follow the format.
    pub undecoded: u64,
    /// Whether the table changed in a way that may have lost or doubled entries.
    pub interrupted: bool,
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
    pub fn dump(&mut self, each: &mut impl FnMut(&Flow)) -> Result<Dump, ConntrackError> {
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
    each: &mut impl FnMut(&Flow),
) -> Result<Dump, NetlinkError> {
    let mut dump = Dump::default();
    let dumped = netlink.dump(request, &mut |message| match decode(message.payload) {
        Ok(Some(flow)) if filter.admits(&flow) => {
            dump.entries += 1;
            each(&flow);
        }
        Ok(_) => dump.skipped += 1,
        Err(_) => dump.undecoded += 1,
    })?;
    dump.interrupted = dumped.interrupted;
    Ok(dump)
}
