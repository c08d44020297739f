//! Which entries count: asked of the kernel where it can choose, and always applied
//! again here.
//!
//! | chosen by | kernel | since |
//! |---|---|---|
//! | family | `nfgenmsg.nfgen_family`, if one is configured | always |
//! | mark | `CTA_MARK`, `CTA_MARK_MASK` | always |
//! | zone | `CTA_ZONE`, if one is configured | Linux 6.8; ignored before |
//! | protocol | `CTA_FILTER`, if one family and one protocol are | Linux 5.8; ignored before |
//!
//! The kernel still walks its whole table: a filter saves the copy of what it leaves out.

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_DUMP, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ProtoTuple, Tuple as TypedTuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::decode::CTA_ZONE;
use crate::config::{Collector, Family, MarkFilter};
use crate::flow::{Flow, Protocol};
use crate::netlink::{Request, attribute};

const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM` of `net/netfilter/nf_internals.h`.
const FILTER_BY_PROTOCOL: u32 = 1 << 3;

/// The choice that the configuration makes.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    families: Vec<Family>,
    protocols: Vec<Protocol>,
    zones: Vec<u16>,
    marks: MarkFilter,
}

impl Filter {
    pub(super) fn new(collector: &Collector) -> Self {
        let unique = |families: &[Family]| {
            let mut kept = Vec::new();
            for &family in families {
                if !kept.contains(&family) {
                    kept.push(family);
                }
            }
            kept
        };
        let mut protocols = collector.protocols.clone();
        protocols.sort_unstable();
        protocols.dedup();
        let mut zones = collector.zones.clone();
        zones.sort_unstable();
        zones.dedup();
        Self {
            families: unique(&collector.families),
            protocols,
            zones,
            marks: collector.marks,
        }
    }

    /// Whether the entry counts.
    pub(super) fn admits(&self, flow: &Flow) -> bool {
        self.protocols.contains(&flow.protocol)
            && self.families.contains(&Family::of(flow.original.src))
            && (self.zones.is_empty() || self.zones.contains(&flow.zone))
            && self.marks.admits(flow.mark)
    }

    /// The protocols that count, unless they are all that are told apart.
    pub(super) fn some_protocols(&self) -> Option<&[Protocol]> {
        (self.protocols.len() < Protocol::ALL.len()).then_some(&*self.protocols)
    }

    /// A request for the whole table, but for the families that do not count.
    pub(super) fn plain_request(&self) -> Request {
        self.request(Vec::new())
    }

    /// A request for as little as the kernel can be told to send; `None` where that
    /// is no less than what the plain one asks for.
    pub(super) fn narrow_request(&self) -> Option<Request> {
        let mut attributes = Vec::new();
        let protocol = match (&*self.families, &*self.protocols) {
            (&[_], &[protocol]) => Some(protocol),
            _ => None,
        };
        if let Some(protocol) = protocol {
            attributes.push(ConntrackAttribute::CtaTupleOrig(vec![TypedTuple::Proto(
                vec![ProtoTuple::Protocol(protocol.number().into())],
            )]));
        }
        if let MarkFilter(Some(mark)) = self.marks {
            attributes.push(ConntrackAttribute::CtaMark(mark.value));
            attributes.push(other(CTA_MARK_MASK, mark.mask.to_be_bytes().to_vec()));
        }
        if let &[zone] = &*self.zones {
            attributes.push(other(CTA_ZONE, zone.to_be_bytes().to_vec()));
        }
        if attributes.is_empty() {
            return None;
        }
        let request = self.request(attributes);
        Some(match protocol {
            // The typed API loses the nested bit of an attribute it does not know,
            // and the kernel insists on it.
            Some(_) => request.attribute(
                CTA_FILTER | NLA_F_NESTED,
                &attribute(CTA_FILTER_ORIG_FLAGS, &FILTER_BY_PROTOCOL.to_ne_bytes()),
            ),
            None => request,
        })
    }

    fn request(&self, attributes: Vec<ConntrackAttribute>) -> Request {
        let family = match *self.families {
            [Family::Ipv4] => NetfilterProtoFamily::IPv4,
            [Family::Ipv6] => NetfilterProtoFamily::IPv6,
            _ => NetfilterProtoFamily::Unspec,
        };
        typed(family, NLM_F_DUMP, ConntrackMessage::Get(attributes))
    }
}

/// A request of the connection tracking subsystem.
pub(super) fn typed(
    family: NetfilterProtoFamily,
    flags: u16,
    message: ConntrackMessage,
) -> Request {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    NetlinkMessage::new(header, NetlinkPayload::from(message)).into()
}

fn other(kind: u16, value: Vec<u8>) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(edit: impl FnOnce(&mut Collector)) -> Filter {
        let mut collector = Collector::default();
        edit(&mut collector);
        Filter::new(&collector)
    }

    #[test]
    fn the_default_asks_for_the_whole_table() {
        assert!(filter(|_| {}).narrow_request().is_none());
    }

    #[test]
    fn a_family_alone_needs_no_attribute() {
        let filter = filter(|collector| {
            collector.families = vec![Family::Ipv6];
            collector.protocols = vec![Protocol::Tcp, Protocol::Udp];
        });
        assert!(filter.narrow_request().is_none());
    }

    #[test]
    fn a_key_named_twice_is_named_once() {
        let filter = filter(|collector| {
            collector.families = vec![Family::Ipv4, Family::Ipv4];
            collector.protocols = vec![Protocol::Tcp, Protocol::Tcp];
        });
        assert!(filter.narrow_request().is_some());
    }
}
