//! The loads that are compared, and the figures to reach with each.

use std::fmt;
use std::io;
use std::str::FromStr;

/// How many lines a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// As many as 8 KiB take.
    Packed,
    /// As many as a UDP datagram takes that Ethernet need not cut.
    Datagram,
    /// One.
    Single,
}

/// What one write of the generator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// A frame.
    Frame,
    /// The frames that 64 KiB take.
    Batch,
}

/// How lines come to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Frames behind a little-endian `u32` length.
    UnixStream,
    /// A datagram a frame.
    UnixDatagram,
    /// A datagram a frame.
    Udp,
}

/// How the bare relay takes datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// By `recvmsg(2)`, each by itself.
    Single,
    /// By `recvmmsg(2)`, as many as have come.
    Batch,
}

/// Where the relay sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Frames behind a little-endian `u32` length.
    UnixStream,
    /// Lines.
    Tcp,
    /// A datagram a payload.
    UnixDatagram,
    /// A datagram a payload.
    Udp,
}

/// Tells a role on its command line what the parent chose.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = io::Error;

            fn from_str(word: &str) -> io::Result<Self> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(io::Error::other(format!("{word:?} is not known"))),
                }
            }
        }
    };
}
words!(Frames { Packed = "packed", Datagram = "datagram", Single = "single" });
words!(Writes { Frame = "frame", Batch = "batch" });
words!(Source { UnixStream = "unixstream", UnixDatagram = "unixgram", Udp = "udp" });
words!(Reads { Single = "recvmsg", Batch = "recvmmsg" });
words!(Sink { UnixStream = "unixstream", Tcp = "tcp", UnixDatagram = "unixgram", Udp = "udp" });

/// One load, and what is to be reached under it.
pub(crate) struct Workload {
    /// How the command line names it.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) source: Source,
    pub(crate) frames: Frames,
    pub(crate) writes: Writes,
    /// Lines a second; none: as many as go.
    pub(crate) per_second: Option<u64>,
    pub(crate) sink: Sink,
    /// Lines in a round, unless the command line says otherwise.
    pub(crate) messages: u64,
    /// CPU time as a share of the bare relay's, at most.
    pub(crate) cpu: Option<f64>,
    /// Rate as a share of the bare relay's, at least.
    pub(crate) rate: Option<f64>,
}

/// Connections of the matrix.
pub(crate) const CONNECTIONS: [usize; 4] = [1, 10, 100, 1000];

impl Workload {
    /// Every kind of frame to every kind of sink, without figures to reach.
    pub(crate) fn matrix() -> impl Iterator<Item = Self> {
        let sinks = [Sink::UnixStream, Sink::UnixDatagram, Sink::Udp, Sink::Tcp];
        let frames = [(Frames::Packed, 2_000_000), (Frames::Single, 200_000)];
        frames.into_iter().flat_map(move |(frames, messages)| {
            sinks.into_iter().map(move |sink| Self {
                key: "matrix",
                title: "",
                source: Source::UnixStream,
                frames,
                writes: Writes::Frame,
                per_second: None,
                sink,
                messages,
                cpu: None,
                rate: None,
            })
        })
    }

    /// Every one, in the order of the design's figures.
    pub(crate) const ALL: &[Self] = &[
        Self {
            key: "a",
            title: "8 KiB frames, to unix stream",
            source: Source::UnixStream,
            frames: Frames::Packed,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 8_000_000,
            cpu: Some(2.7),
            rate: Some(0.6),
        },
        Self {
            key: "b",
            title: "a line a frame, a frame a write",
            source: Source::UnixStream,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 1_000_000,
            cpu: Some(1.25),
            rate: None,
        },
        Self {
            key: "b2",
            title: "the same, at 100,000 lines a second",
            source: Source::UnixStream,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: Some(100_000),
            sink: Sink::UnixStream,
            messages: 200_000,
            cpu: Some(1.3),
            rate: None,
        },
        Self {
            key: "c",
            title: "a line a frame, 64 KiB writes",
            source: Source::UnixStream,
            frames: Frames::Single,
            writes: Writes::Batch,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 8_000_000,
            cpu: Some(2.7),
            rate: Some(0.6),
        },
        Self {
            key: "d-udp",
            title: "a line a frame, to udp",
            source: Source::UnixStream,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::Udp,
            messages: 400_000,
            cpu: Some(0.4),
            rate: None,
        },
        Self {
            key: "d-unixgram",
            title: "a line a frame, to unixgram",
            source: Source::UnixStream,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixDatagram,
            messages: 400_000,
            cpu: Some(0.5),
            rate: None,
        },
        Self {
            key: "e",
            title: "8 KiB frames, to tcp",
            source: Source::UnixStream,
            frames: Frames::Packed,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::Tcp,
            messages: 8_000_000,
            cpu: Some(2.7),
            rate: Some(0.6),
        },
        Self {
            key: "f-unixgram",
            title: "a line a datagram, from unixgram",
            source: Source::UnixDatagram,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 1_000_000,
            cpu: None,
            rate: None,
        },
        Self {
            key: "f-unixgram-packed",
            title: "1432 B datagrams, from unixgram",
            source: Source::UnixDatagram,
            frames: Frames::Datagram,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 4_000_000,
            cpu: None,
            rate: None,
        },
        Self {
            key: "f-udp",
            title: "a line a datagram, from udp",
            source: Source::Udp,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 1_000_000,
            cpu: None,
            rate: None,
        },
        Self {
            key: "f-udp-packed",
            title: "1432 B datagrams, from udp",
            source: Source::Udp,
            frames: Frames::Datagram,
            writes: Writes::Frame,
            per_second: None,
            sink: Sink::UnixStream,
            messages: 4_000_000,
            cpu: None,
            rate: None,
        },
        Self {
            key: "f-udp-paced",
            title: "a line a datagram, 100,000 a second",
            source: Source::Udp,
            frames: Frames::Single,
            writes: Writes::Frame,
            per_second: Some(100_000),
            sink: Sink::UnixStream,
            messages: 200_000,
            cpu: None,
            rate: None,
        },
    ];
}
