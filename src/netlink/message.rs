//! Netlink's layout, read in place: messages in a datagram, attributes in a
//! message; and the requests that go the other way.
//!
//! Nothing is copied and nothing is allocated while reading: a dump of a full
//! table passes through here a million times.
//!
//! Layout: `include/uapi/linux/netlink.h`. Headers are in host order.

use netlink_packet_core::{NLA_TYPE_MASK, NLM_F_REQUEST, NetlinkMessage, NetlinkSerializable};

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;

/// A length field that does not fit what holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a length field does not fit the bytes around it")]
pub struct BadLength;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: that of the request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of a datagram.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads a datagram.
    #[must_use]
    pub const fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, BadLength>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
            self.rest.first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(payload) = self.rest.get(HEADER_BYTES..length) else {
            self.rest = &[];
            return Some(Err(BadLength));
        };
        self.rest = after(self.rest, length);
        Some(Ok(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        }))
    }
}

/// The attributes of a message, or of an attribute that nests others: type
/// (without its flag bits) and value.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads a run of attributes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), BadLength>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let &[l0, l1, k0, k1] = self.rest.first_chunk::<ATTRIBUTE_HEADER_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = self.rest.get(ATTRIBUTE_HEADER_BYTES..length) else {
            self.rest = &[];
            return Some(Err(BadLength));
        };
        self.rest = after(self.rest, length);
        Some(Ok((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value)))
    }
}

/// What follows an item of this length and its padding, which the last may lack.
#[inline]
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes
        .get(length.next_multiple_of(ALIGNMENT)..)
        .unwrap_or_default()
}

/// A request, ready to be sent but for its sequence number.
#[derive(Clone, Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request with these flags (`NLM_F_REQUEST` is added) and this fixed part.
    #[must_use]
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self(bytes).finish()
    }

    /// Appends an attribute, of type and flag bits as given.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&attribute(kind, value));
        self.finish()
    }

    /// The request as the kernel is to see it.
    pub(super) fn numbered(&mut self, sequence: u32) -> &[u8] {
        put(&mut self.0, 8, &sequence.to_ne_bytes());
        &self.0
    }

    fn finish(mut self) -> Self {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        put(&mut self.0, 0, &length.to_ne_bytes());
        self
    }
}

impl<T: NetlinkSerializable> From<NetlinkMessage<T>> for Request {
    fn from(mut message: NetlinkMessage<T>) -> Self {
        message.header.flags |= NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self(bytes)
    }
}

/// One attribute with its padding. The value is cut at what a length field can tell.
#[must_use]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let longest = usize::from(u16::MAX) - ATTRIBUTE_HEADER_BYTES;
    let value = value.get(..longest).unwrap_or(value);
    let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(ALIGNMENT));
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written_flag_bits_apart() {
        let bytes = [
            attribute(0x8001, b"abc"),
            attribute(2, b""),
            attribute(3, b"defg"),
        ]
        .concat();
        let read: Result<Vec<_>, _> = Attributes::new(&bytes).collect();
        assert_eq!(
            read.unwrap(),
            [(1, &b"abc"[..]), (2, &b""[..]), (3, &b"defg"[..])]
        );
    }

    #[test]
    fn the_last_attribute_may_lack_its_padding() {
        let bytes = attribute(7, b"x");
        let mut read = Attributes::new(&bytes[..5]);
        assert_eq!(read.next(), Some(Ok((7, &b"x"[..]))));
        assert_eq!(read.next(), None);
    }

    #[test]
    fn a_length_shorter_than_its_header_or_beyond_the_end_is_an_error_and_the_end() {
        for bytes in [[3, 0, 1, 0], [9, 0, 1, 0]] {
            let mut read = Attributes::new(&bytes);
            assert_eq!(read.next(), Some(Err(BadLength)));
            assert_eq!(read.next(), None);
        }
    }

    #[test]
    fn messages_step_by_aligned_length() {
        let mut first = Request::new(20, 2, b"abcde");
        let mut second = Request::new(21, 0, b"");
        let mut bytes = first.numbered(7).to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes.extend_from_slice(second.numbered(8));
        let read: Result<Vec<_>, _> = Messages::new(&bytes).collect();
        let read = read.unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence), (20, 7));
        assert_eq!(read[0].flags, 2 | NLM_F_REQUEST);
        assert_eq!(read[0].payload, b"abcde");
        assert_eq!((read[1].kind, read[1].sequence), (21, 8));
    }

    #[test]
    fn a_request_counts_its_attributes_in_its_length() {
        let mut request = Request::new(1, 0, &[0; 4]).attribute(5, b"123456");
        let bytes = request.numbered(1).to_vec();
        assert_eq!(bytes.len(), 16 + 4 + 12);
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let attributes: Result<Vec<_>, _> = Attributes::new(&message.payload[4..]).collect();
        assert_eq!(attributes.unwrap(), [(5, &b"123456"[..])]);
    }

    proptest! {
        /// Reading ends, without a panic, whatever the bytes are.
        #[test]
        fn prop_any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages::new(&bytes).flatten() {
                prop_assert!(message.payload.len() <= bytes.len());
            }
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len());
        }
    }
}
