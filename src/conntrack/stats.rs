//! The table's size, and what the kernel counts of its own work on it.

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::ConntrackMessage;

use super::decode::{HEADER_BYTES, Undecodable, be32};
use super::filter::typed;
use crate::netlink::{Attributes, Request};

const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// Attribute (`enum ctattr_stats_cpu`) and name of each counter.
const COUNTERS: [(u16, &str); KernelCounters::LEN] = [
    (2, "found"),
    (4, "invalid"),
    (8, "insert"),
    (9, "insert_failed"),
    (10, "drop"),
    (11, "early_drop"),
    (12, "error"),
    (13, "search_restart"),
    (14, "clash_resolve"),
    (15, "chaintoolong"),
];

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Entries of this network namespace.
    pub entries: u32,
    /// `nf_conntrack_max`: the most that a namespace may have.
    pub limit: u32,
}

/// Totals since the namespace was made, over all processors.
///
/// `insert` counts only entries made by way of netlink: it is no rate of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters([u64; Self::LEN]);

impl KernelCounters {
    const LEN: usize = 10;

    /// Each counter's name and value, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let names = COUNTERS.map(|(_, name)| name);
        names.into_iter().zip(self.0)
    }

    /// One counter's value; 0 for a name that is none.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.iter()
            .find_map(|(of, value)| (of == name).then_some(value))
            .unwrap_or_default()
    }
}

/// Adds up what the kernel counts in 32 bits per processor, so that the sum does not
/// go back when one of them wraps.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    total: KernelCounters,
    last: Vec<[u32; KernelCounters::LEN]>,
}

impl Accumulator {
    /// Takes in one processor's message.
    pub(super) fn add(&mut self, payload: &[u8]) -> Result<(), Undecodable> {
        let (processor, read) = decode_processor(payload)?;
        let processor = usize::from(processor);
        if self.last.len() <= processor {
            self.last.resize(processor + 1, [0; KernelCounters::LEN]);
        }
        if let Some(last) = self.last.get_mut(processor) {
            for ((total, last), now) in self.total.0.iter_mut().zip(last).zip(read) {
                *total += u64::from(now.wrapping_sub(*last));
                *last = now;
            }
        }
        Ok(())
    }

    pub(super) fn total(&self) -> KernelCounters {
        self.total
    }
}

pub(super) fn size_request() -> Request {
    request(IPCTNL_MSG_CT_GET_STATS, 0)
}

pub(super) fn counters_request() -> Request {
    request(IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_DUMP)
}

fn request(message_type: u8, flags: u16) -> Request {
    let message = ConntrackMessage::Other {
        message_type,
        attributes: Vec::new(),
    };
    typed(NetfilterProtoFamily::Unspec, flags, message)
}

pub(super) fn decode_size(payload: &[u8]) -> Result<TableSize, Undecodable> {
    let mut size = TableSize::default();
    for attribute in Attributes::new(payload.get(HEADER_BYTES..).unwrap_or_default()) {
        match attribute? {
            (CTA_STATS_GLOBAL_ENTRIES, value) => size.entries = be32(value)?,
            (CTA_STATS_GLOBAL_MAX_ENTRIES, value) => size.limit = be32(value)?,
            _ => {}
        }
    }
    Ok(size)
}

/// The processor's number, which the kernel puts into `nfgenmsg.res_id`, and its counters.
fn decode_processor(payload: &[u8]) -> Result<(u16, [u32; KernelCounters::LEN]), Undecodable> {
    let Some((&[_, _, high, low], attributes)) = payload.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Undecodable::Incomplete);
    };
    let mut read = [0; KernelCounters::LEN];
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        let place = COUNTERS.iter().position(|&(of, _)| of == kind);
        if let Some(counter) = place.and_then(|place| read.get_mut(place)) {
            *counter = be32(value)?;
        }
    }
    Ok((u16::from_be_bytes([high, low]), read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    fn message(processor: u16, found: u32, drop: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend_from_slice(&processor.to_be_bytes());
        bytes.extend(attribute(2, &found.to_be_bytes()));
        bytes.extend(attribute(10, &drop.to_be_bytes()));
        bytes
    }

    #[test]
    fn processors_add_up_and_one_that_wraps_does_not_set_the_sum_back() {
        let mut sums = Accumulator::default();
        sums.add(&message(0, u32::MAX, 1)).unwrap();
        sums.add(&message(3, 5, 0)).unwrap();
        assert_eq!(sums.total().get("found"), u64::from(u32::MAX) + 5);
        sums.add(&message(0, 1, 4)).unwrap();
        sums.add(&message(3, 6, 0)).unwrap();
        assert_eq!(sums.total().get("found"), u64::from(u32::MAX) + 8);
        assert_eq!(sums.total().get("drop"), 4);
        assert_eq!(sums.total().get("no such counter"), 0);
    }

    #[test]
    fn a_counter_of_the_wrong_size_is_an_error() {
        let mut bytes = vec![0; 4];
        bytes.extend(attribute(2, &[0; 2]));
        assert_eq!(Accumulator::default().add(&bytes), Err(Undecodable::Value));
    }
}
