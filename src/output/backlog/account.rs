//! What goes into a backlog and what comes out of it, in numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::LineSource;
use crate::telemetry::LineDrop;

/// What a backlog may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Contexts and lines that never merge. Of the latter a tenth of it.
    pub contexts: usize,
    /// Bytes of memory.
    pub bytes: usize,
    /// The longest that a merged line may become, its newline not counted.
    pub line_bytes: usize,
    /// Bytes of one context's values, of which 16 each may be kept.
    pub values_bytes: usize,
    /// Seconds from one tick to the next.
    pub tick_seconds: u32,
}

/// Bytes of one context's values that are kept, and beyond which a sample is.
pub const VALUES_BYTES: usize = 16 << 10;

/// Who is to have a share of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenderId(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Agent,
    Process(u32),
    Remote(IpAddr),
    /// Counted.
    Unknown(u64),
}

static NEXT_UNKNOWN: AtomicU64 = AtomicU64::new(0);

impl SenderId {
    /// Of a process, however many connections it has.
    #[must_use]
    pub fn of_process(pid: u32) -> Self {
        Self(Kind::Process(pid))
    }

    /// Of a host, whichever ports it sends from. All of 127/8 is one host, and so is an
    /// IPv6 network of 64 bits, in which a host may take as many addresses as it likes
    /// (RFC 8981); but for the link-local one, which all of a link's hosts share.
    #[must_use]
    pub fn of_remote(address: IpAddr) -> Self {
        Self(Kind::Remote(match address.to_canonical() {
            IpAddr::V4(own) if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(other) if !other.is_unicast_link_local() => {
                Ipv6Addr::from_bits(other.to_bits() & NETWORK_MASK).into()
            }
            other => other,
        }))
    }

    /// Unlike any other, for who is not known.
    #[must_use]
    pub fn unique() -> Self {
        Self(Kind::Unknown(NEXT_UNKNOWN.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The upper 64 bits of an IPv6 address.
const NETWORK_MASK: u128 = !(u64::MAX as u128);

/// The agent's own, whatever others have.
pub const OWN: SenderId = SenderId(Kind::Agent);

/// Whose lines these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Lines of one source never merge with the other's.
    pub source: LineSource,
    /// Who has the share. The agent is one, whatever stands here.
    pub id: SenderId,
}

/// Lines given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// [`LineDrop::BacklogFull`]
    pub full: u64,
    /// [`LineDrop::BacklogEvicted`]: lines that had been taken before.
    pub evicted: u64,
    /// [`LineDrop::BacklogUnmerged`]
    pub unmerged: u64,
    /// [`LineDrop::BacklogSet`]
    pub set: u64,
    /// How long all of them were, about: of an entry, its first line counts for each.
    pub bytes: u64,
}

impl Dropped {
    /// Each reason with its lines.
    #[must_use]
    pub const fn by_reason(self) -> [(LineDrop, u64); 4] {
        [
            (LineDrop::BacklogFull, self.full),
            (LineDrop::BacklogEvicted, self.evicted),
            (LineDrop::BacklogUnmerged, self.unmerged),
            (LineDrop::BacklogSet, self.set),
        ]
    }

    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.full + self.evicted + self.unmerged + self.set
    }

    pub(super) const fn note(&mut self, reason: LineDrop, bytes: usize) {
        self.bytes += bytes as u64;
        match reason {
            LineDrop::BacklogUnmerged => self.unmerged += 1,
            LineDrop::BacklogSet => self.set += 1,
            _ => self.full += 1,
        }
    }
}

/// What taking lines came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Lines that there were.
    pub lines: u64,
    /// Those among them that came into a context that was there.
    pub absorbed: u64,
    /// Lines that are now lost, of these or earlier ones.
    pub dropped: Dropped,
}

/// Lines given back that are of one source, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub source: LineSource,
    /// How many.
    pub lines: u64,
    /// How long, newlines included.
    pub bytes: usize,
}

/// What giving back came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Lines given back.
    pub lines: u64,
    /// Contexts, and lines that never merge, given back whole.
    pub entries: usize,
    /// Lines that are in those, and now held no longer.
    pub merged_away: u64,
    /// Contexts given back whole that more than one line had come to.
    pub merged_contexts: u64,
}

/// How much to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Contexts, and lines that never merge.
    pub entries: usize,
    /// Bytes, or a line more.
    pub bytes: usize,
}

impl Portion {
    /// As many as are there, of so many bytes.
    #[must_use]
    pub const fn of_bytes(bytes: usize) -> Self {
        Self {
            entries: usize::MAX,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> SenderId {
        SenderId::of_remote(address.parse().unwrap())
    }

    #[test]
    fn a_host_is_one_sender_whichever_of_its_addresses_it_uses() {
        for (one, other) in [
            ("127.0.0.1", "127.1.2.3"),
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("2001:db8::1", "2001:db8::ffff:1:2:3"),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
        for (one, other) in [
            ("10.0.0.1", "10.0.0.2"),
            ("2001:db8::1", "2001:db8:0:1::1"),
            ("fe80::1", "fe80::2"),
        ] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
        assert_ne!(SenderId::unique(), SenderId::unique());
    }
}
