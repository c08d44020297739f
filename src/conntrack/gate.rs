//! A program in the kernel that keeps events of other protocols out of the event
//! socket's buffer.
//!
//! Never to be attached to a socket that dumps: it would judge a whole datagram by its
//! first entry, and the dump would stop at the first that it drops.
//!
//! Classic BPF: `Documentation/networking/filter.rst`, with the two loads that find
//! netlink attributes (`bpf_skb_get_nlattr` in `net/core/filter.c`), which yield 0
//! where there is none.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use super::decode::{CTA_PROTO_NUM, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO};
use crate::flow::Protocol;

/// `NFNL_SUBSYS_CTNETLINK`, the high byte of `nlmsg_type`.
const SUBSYSTEM: u32 = 1;

/// Where an integer of two bytes in host order has its high byte, and its low one.
const HIGH: u32 = cfg!(target_endian = "little") as u32;
const LOW: u32 = 1 - HIGH;
/// Where `nlmsg_type` stands in `struct nlmsghdr`.
const TYPE_AT: u32 = 4;
/// Where attributes begin: after `struct nlmsghdr` and `struct nfgenmsg`.
const ATTRIBUTES_AT: u32 = 16 + 4;
/// `nla_len` of an attribute of one byte, and where that byte stands.
const BYTE_ATTRIBUTE: u32 = 5;
const VALUE_AT: u32 = 4;

/// `SKF_AD_OFF + SKF_AD_NLATTR` and `SKF_AD_OFF + SKF_AD_NLATTR_NEST` of
/// `include/uapi/linux/filter.h`.
const FIND: u32 = 0xffff_f00c;
const FIND_NESTED: u32 = 0xffff_f010;

// Classes, modes, sizes and operations of `include/uapi/linux/bpf_common.h` combined.
const LOAD: u16 = 0x00;
const LOAD_AT: u16 = 0x20;
const LOAD_BYTE_AT: u16 = 0x30;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_LENGTH: u16 = 0x80;
const LOAD_X: u16 = 0x01;
const COPY_TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;

const PASS: u32 = u32::MAX;
const DROP: u32 = 0;

/// Lets events of these protocols through alone, and all that it cannot read.
pub(super) fn attach(socket: impl AsFd, protocols: &[Protocol]) -> io::Result<()> {
    SockRef::from(&socket).attach_filter(&program(protocols))
}

/// A step of the program: an operation, or a condition that lets the message pass.
#[derive(Clone, Copy)]
enum Step {
    Do(u16, u32),
    PassIf(u16, u32),
    PassUnless(u16, u32),
}

fn program(protocols: &[Protocol]) -> Vec<SockFilter> {
    use Step::{Do, PassIf, PassUnless};
    let mut steps = vec![
        Do(LOAD_LENGTH, 0),
        PassUnless(IF_GREATER, TYPE_AT + HIGH),
        Do(LOAD_BYTE_AT, TYPE_AT + HIGH),
        PassUnless(IF_EQUAL, SUBSYSTEM),
        Do(LOAD, ATTRIBUTES_AT),
        Do(LOAD_X, CTA_TUPLE_ORIG.into()),
        Do(LOAD_AT, FIND),
        PassIf(IF_EQUAL, 0),
        Do(LOAD_X, CTA_TUPLE_PROTO.into()),
        Do(LOAD_AT, FIND_NESTED),
        PassIf(IF_EQUAL, 0),
        Do(LOAD_X, CTA_PROTO_NUM.into()),
        Do(LOAD_AT, FIND_NESTED),
        PassIf(IF_EQUAL, 0),
        Do(COPY_TO_X, 0),
        Do(LOAD_BYTE_AT_X, LOW),
        PassUnless(IF_EQUAL, BYTE_ATTRIBUTE),
        Do(LOAD_BYTE_AT_X, VALUE_AT),
    ];
    steps.extend(
        protocols
            .iter()
            .map(|protocol| PassIf(IF_EQUAL, protocol.number().into())),
    );
    steps.extend([Do(RETURN, DROP), Do(RETURN, PASS)]);
    let last = steps.len() - 1;
    steps
        .iter()
        .enumerate()
        .map(|(place, step)| {
            // Jumps count from the step after; the last one passes.
            let to_pass = u8::try_from(last - place).map_or(u8::MAX, |to| to.saturating_sub(1));
            match *step {
                Do(code, value) => SockFilter::new(code, 0, 0, value),
                PassIf(code, value) => SockFilter::new(code, to_pass, 0, value),
                PassUnless(code, value) => SockFilter::new(code, 0, to_pass, value),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use netlink_packet_core::NLA_F_NESTED;

    use super::*;
    use crate::netlink::attribute;

    /// Whether a socket with the program receives these bytes.
    struct Gate {
        sender: UnixDatagram,
        receiver: UnixDatagram,
    }

    impl Gate {
        fn new(protocols: &[Protocol]) -> Self {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            attach(&receiver, protocols).unwrap();
            Self { sender, receiver }
        }

        fn passes(&self, bytes: &[u8]) -> bool {
            self.sender.send(bytes).unwrap();
            match self.receiver.recv(&mut [0; 512]) {
                Ok(received) => {
                    assert_eq!(received, bytes.len());
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    false
                }
            }
        }
    }

    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ATTRIBUTES_AT as usize];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(attributes);
        bytes
    }

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        attribute(kind | NLA_F_NESTED, value)
    }

    fn event(kind: u16, number: &[u8]) -> Vec<u8> {
        let proto = nested(2, &[attribute(1, number), attribute(2, &[0; 2])].concat());
        let tuple = nested(1, &[nested(1, &attribute(1, &[10; 4])), proto].concat());
        message(kind, &[tuple, attribute(3, &[0; 4])].concat())
    }

    #[test]
    fn events_of_the_protocols_pass_and_others_do_not() {
        for chosen in [
            &[][..],
            &[Protocol::Tcp],
            &[Protocol::Udp, Protocol::Sctp],
            &Protocol::ALL,
        ] {
            let gate = Gate::new(chosen);
            for number in 0..=u8::MAX {
                let is_chosen =
                    Protocol::from_number(number).is_some_and(|of| chosen.contains(&of));
                for kind in [0x100, 0x102] {
                    let passed = gate.passes(&event(kind, &[number]));
                    assert_eq!(passed, is_chosen, "{number} through {chosen:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_passes() {
        let gate = Gate::new(&[Protocol::Tcp]);
        let udp = event(0x100, &[17]);
        assert!(!gate.passes(&udp));
        let whole = udp.len();
        let tuple = nested(1, &nested(2, &attribute(1, &[17])));
        for (bytes, what) in [
            (event(0x202, &[17]), "another subsystem's"),
            (event(0x100, &[]), "a protocol number without a value"),
            (event(0x100, &[17, 0]), "a protocol number of two bytes"),
            (message(0x100, &[]), "no attribute"),
            (message(0x100, &attribute(2, &[0; 40])), "no tuple"),
            (message(0x100, &nested(1, &[])), "an empty tuple"),
            (message(0x100, &nested(1, &nested(2, &[]))), "no number"),
            (message(0x100, &tuple[..tuple.len() - 4]), "a tuple cut"),
            (vec![], "nothing"),
            (vec![0xff; 300], "noise"),
        ] {
            assert!(gate.passes(&bytes), "{what}");
        }
        // Until its tuple is whole.
        for length in 0..whole - 8 {
            assert!(gate.passes(&udp[..length]), "{length} of {whole} bytes");
        }
    }
}
