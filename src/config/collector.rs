//! `[collector]`: which of the kernel's tables is read, and how.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ByteSize, Interval, MarkFilter};
use crate::flow::Protocol;
use crate::netns::Netns;

/// Which of the kernel's views is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceChoice {
    /// Connection tracking where it may be read and tracks, else sockets.
    Auto,
    /// Connection tracking or nothing.
    Conntrack,
    /// The sockets of this host.
    Sockets,
    /// No connections are counted.
    Off,
}

/// How connection tracking is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectorMode {
    /// One dump per tick.
    Dump,
    /// A dump per tick, rates from events.
    Hybrid,
    /// Gauges and rates from events.
    Events,
    /// Whichever suits the table's size.
    Auto,
}

/// An address family that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// `[collector]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collector {
    /// Defaults to auto.
    pub source: SourceChoice,
    /// Defaults to auto.
    pub mode: CollectorMode,
    /// Defaults to TCP alone.
    pub protocols: Vec<Protocol>,
    /// Defaults to both.
    pub families: Vec<Family>,
    /// Conntrack zones; empty means all.
    pub zones: Vec<u16>,
    /// Conntrack marks; empty means all.
    pub marks: MarkFilter,
    /// More network namespaces to count, each by a collector of its own.
    pub netns: Vec<Netns>,
    /// Receive buffer of the event socket.
    pub receive_buffer: ByteSize,
    /// How often events are corrected by a dump.
    pub resync_interval: Interval,
    /// Most flows kept; 0 means as many as the kernel allows.
    pub max_flows: u64,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            source: SourceChoice::Auto,
            mode: CollectorMode::Auto,
            protocols: vec![Protocol::Tcp],
            families: vec![Family::Ipv4, Family::Ipv6],
            zones: Vec::new(),
            marks: MarkFilter::default(),
            netns: Vec::new(),
            receive_buffer: ByteSize::mib(8),
            resync_interval: Interval::from_secs(60),
            max_flows: 0,
        }
    }
}
