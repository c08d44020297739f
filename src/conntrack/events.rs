//! What becomes of entries while nobody looks: the kernel's events, over a socket of
//! their own.
//!
//! They are hints. The kernel sends none for an entry that was made before anybody
//! listened (`nf_conntrack_events` = 2, the default since Linux 5.19), and drops those
//! that find no room: a dump is the truth.
//!
//! Groups: `enum nfnetlink_groups` in `include/uapi/linux/netfilter/nfnetlink.h`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, socket_recv_buffer_size,
};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::ConntrackError;
use super::decode::{Event, decode_event};
use super::filter::Filter;
use super::gate;
use crate::config::Collector;
use crate::handover;
use crate::netlink::{Messages, Netlink, NetlinkError, Subsystem};

const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// The buffer grows to so many times what is configured.
const MOST_GROWTH: usize = 8;

/// `NETLINK_NETFILTER`, as `/proc/net/netlink` has it.
const PROTOCOL: &str = "12";

/// Which events are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Subscription {
    /// An entry is made, changes, is destroyed: a TCP connection has seven or eight.
    Full,
    /// An entry is made, is destroyed: two.
    Ends,
}

/// What was read from the socket in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Events shown.
    pub events: u64,
    /// Events of entries that the configuration does not count. Those of protocols that
    /// it leaves out are mostly dropped in the kernel already, and not among them.
    pub skipped: u64,
    /// Messages that do not follow the format.
    pub undecoded: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How often events were lost for want of room (`ENOBUFS`, once for each time that
    /// the buffer filled). What was sent after was read all the same.
    pub overruns: u64,
    /// Whether nothing was left.
    pub is_dry: bool,
}

/// The events of one network namespace: that of the thread which opened it.
///
/// To be polled for input. An overrun wakes the poll as an error; draining takes it.
#[derive(Debug)]
pub struct Events {
    netlink: Netlink,
    filter: Filter,
    subscription: Subscription,
    most_buffer_bytes: usize,
}

impl Events {
    /// Opens the socket, sized by `receive_buffer`, and joins the groups.
    ///
    /// # Errors
    /// Fails without `CAP_NET_ADMIN`, without ctnetlink in the kernel, or when the system
    /// is out of descriptors.
    pub fn open(collector: &Collector, subscription: Subscription) -> Result<Self, ConntrackError> {
        let netlink = Netlink::open(Subsystem::Netfilter).map_err(of_events)?;
        let filter = Filter::new(collector);
        if let Some(protocols) = filter.some_protocols()
            && let Err(error) = gate::attach(&netlink, protocols)
        {
            warn!(%error, "events of protocols that are not counted take room in the buffer");
        }
        let asked = collector.receive_buffer.as_usize();
        let mut events = Self {
            netlink,
            filter,
            subscription: Subscription::Ends,
            most_buffer_bytes: asked.saturating_mul(MOST_GROWTH),
        };
        events.ask_for_buffer(asked);
        debug!(
            asked,
            bytes = events.buffer_bytes(),
            "the event socket's buffer"
        );
        for group in [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY] {
            events.netlink.join(group).map_err(of_events)?;
        }
        events.subscribe(subscription)?;
        Ok(events)
    }

    /// Goes on with the socket that another process left, and the events that wait in it;
    /// `None` where that took other protocols than are counted now.
    #[must_use]
    pub fn adopt(collector: &Collector, left: handover::Events) -> Option<Self> {
        (left.protocols == protocols(collector)).then(|| Self {
            netlink: Netlink::adopt(left.socket),
            filter: Filter::new(collector),
            subscription: left.subscription,
            most_buffer_bytes: (collector.receive_buffer.as_usize()).saturating_mul(MOST_GROWTH),
        })
    }

    /// Leaves the socket, and the events that wait in it, to another process.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn leave(self, collector: &Collector) -> io::Result<handover::Events> {
        Ok(handover::Events {
            socket: self.netlink.descriptor()?,
            subscription: self.subscription,
            protocols: protocols(collector),
        })
    }

    /// Receives more, or less, from now on. Updates that wait already are still shown.
    ///
    /// # Errors
    /// Fails when the kernel refuses; the subscription is then as it was.
    pub fn subscribe(&mut self, subscription: Subscription) -> Result<(), ConntrackError> {
        match (self.subscription, subscription) {
            (Subscription::Ends, Subscription::Full) => self.netlink.join(NFNLGRP_CONNTRACK_UPDATE),
            (Subscription::Full, Subscription::Ends) => {
                self.netlink.leave(NFNLGRP_CONNTRACK_UPDATE)
            }
            _ => Ok(()),
        }
        .map_err(of_events)?;
        self.subscription = subscription;
        Ok(())
    }

    /// What is received.
    #[must_use]
    pub fn subscription(&self) -> Subscription {
        self.subscription
    }

    /// Shows the events that wait, without waiting for more, until none is left or about
    /// `limit` bytes have been read.
    ///
    /// The choice by mark is by what the event tells: one without a mark is taken for an
    /// entry with mark 0, although an update may leave out a mark that did not change.
    ///
    /// # Errors
    /// Fails when the system does; events may have been shown before.
    pub fn drain(
        &mut self,
        limit: usize,
        each: &mut impl FnMut(&Event),
    ) -> Result<Drained, ConntrackError> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let mut drained = Drained::default();
        while drained.bytes < limit {
            let datagram = match self.netlink.notice() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => {
                    drained.is_dry = true;
                    break;
                }
                Err(NetlinkError::Overrun) => {
                    drained.overruns += 1;
                    continue;
                }
                Err(NetlinkError::Truncated { bytes, .. }) => {
                    drained.undecoded += 1;
                    drained.bytes += bytes as u64;
                    continue;
                }
                Err(error) => return Err(of_events(error)),
            };
            drained.bytes += datagram.len() as u64;
            for message in Messages::new(datagram) {
                match message.map_err(Into::into).and_then(decode_event) {
                    Ok(Some(event)) if self.filter.admits(&event.entry.flow) => {
                        drained.events += 1;
                        each(&event);
                    }
                    Ok(_) => drained.skipped += 1,
                    Err(_) => drained.undecoded += 1,
                }
            }
        }
        Ok(drained)
    }

    /// Doubles the buffer; its new size in bytes. `None` when it has eight times what is
    /// configured, or the kernel gives no more (`net.core.rmem_max`, where
    /// `CAP_NET_ADMIN` is not held in the initial user namespace).
    pub fn grow(&mut self) -> Option<usize> {
        let before = self.buffer_bytes();
        let asked = before.saturating_mul(2).min(self.most_buffer_bytes);
        if asked <= before {
            return None;
        }
        self.ask_for_buffer(asked);
        let now = self.buffer_bytes();
        (now > before).then_some(now)
    }

    /// The buffer's size in bytes, in the measure of `receive_buffer`. The kernel allows
    /// twice as much and counts its own overhead: an event takes about 1.3 kB of that.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        socket_recv_buffer_size(&self.netlink).map_or(0, |doubled| doubled / 2)
    }

    fn ask_for_buffer(&mut self, bytes: usize) {
        let bytes = bytes.min(i32::MAX as usize / 2);
        let set = set_socket_recv_buffer_size_force(&self.netlink, bytes)
            // Cut by the kernel to what is allowed.
            .or_else(|_| set_socket_recv_buffer_size(&self.netlink, bytes));
        if let Err(error) = set {
            debug!(%error, bytes, "cannot set the event socket's buffer");
        }
    }

    /// How many events the kernel has dropped for want of room since the socket was
    /// opened (modulo 2^32). `None` where `/proc` does not tell, or from a thread in
    /// another network namespace.
    #[must_use]
    pub fn kernel_drops(&self) -> Option<u64> {
        let inode = rustix::fs::fstat(&self.netlink).ok()?.st_ino;
        let table = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
        drops_of(&table, inode)
    }
}

/// What the kernel lets through to the socket.
fn protocols(collector: &Collector) -> String {
    format!("{:?}", collector.protocols)
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`
/// (`netlink_native_seq_show` in `net/netlink/af_netlink.c`).
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_ours = words.nth(1) == Some(PROTOCOL);
        let drops = words.nth(6)?;
        (is_ours && words.next()?.parse() == Ok(inode)).then(|| drops.parse().ok())?
    })
}

fn of_events(error: NetlinkError) -> ConntrackError {
    match error.into() {
        ConntrackError::Netlink(error) => ConntrackError::Events(error),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_row_of_the_socket() {
        let table = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
000000009a0dac96 0   0          00000000 0        0        0     2        0        4       
00000000f3f8e1f9 12  4711       00000007 1280     0        0     2        19834    494     
000000007fc22657 6   0          00000000 0        0        0     2        7        496     
";
        assert_eq!(drops_of(table, 494), Some(19834));
        assert_eq!(drops_of(table, 496), None);
        assert_eq!(drops_of(table, 1), None);
        assert_eq!(drops_of("", 1), None);
    }
}
