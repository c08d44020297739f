//! What the kernel says of one connection: pure data, without input or output.
//!
//! Numbers are the kernel's own: protocols as in IANA's registry, states as in
//! `include/uapi/linux/netfilter/nf_conntrack_{tcp,sctp}.h` and
//! `include/linux/netfilter/nf_conntrack_dccp.h`.

mod end;
pub mod key;

use std::fmt;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use self::end::{End, Failure};

/// A transport protocol that connection tracking tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// ICMP for IPv4.
    Icmp = 1,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// DCCP (tracked by kernels before 6.16).
    Dccp = 33,
    /// Generic routing encapsulation.
    Gre = 47,
    /// ICMP for IPv6.
    Icmpv6 = 58,
    /// SCTP.
    Sctp = 132,
    /// UDP-Lite.
    UdpLite = 136,
}

impl Protocol {
    /// Every protocol, by number.
    pub const ALL: [Self; 8] = [
        Self::Icmp,
        Self::Tcp,
        Self::Udp,
        Self::Dccp,
        Self::Gre,
        Self::Icmpv6,
        Self::Sctp,
        Self::UdpLite,
    ];

    /// The protocol with this IANA number, if it is one that is tracked apart.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            33 => Self::Dccp,
            47 => Self::Gre,
            58 => Self::Icmpv6,
            132 => Self::Sctp,
            136 => Self::UdpLite,
            _ => return None,
        })
    }

    /// The IANA number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in configuration and tags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dccp => "dccp",
            Self::Gre => "gre",
            Self::Icmpv6 => "icmpv6",
            Self::Sctp => "sctp",
            Self::UdpLite => "udplite",
        }
    }

    /// Whether the tuple's port fields are ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp | Self::Icmpv6 | Self::Gre)
    }
}

/// Declares a protocol's states: the kernel's number of each, and its name in lower
/// case as tags have it.
macro_rules! kernel_states {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $state:ident = $number:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the kernel's own names say it")]
        pub enum $name { $($(#[$doc])* $state = $number,)+ }

        impl $name {
            /// Every state, by number.
            pub const ALL: &[Self] = &[$(Self::$state,)+];

            /// The state with this number.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            /// The kernel's name for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$state => $text,)+ }
            }
        }
    };
}

kernel_states! {
    /// State of a tracked TCP connection (`enum tcp_conntrack`); 10 and beyond are no states.
    TcpState {
        None = 0 "none",
        SynSent = 1 "syn_sent",
        SynRecv = 2 "syn_recv",
        Established = 3 "established",
        FinWait = 4 "fin_wait",
        CloseWait = 5 "close_wait",
        LastAck = 6 "last_ack",
        TimeWait = 7 "time_wait",
        Close = 8 "close",
        SynSent2 = 9 "syn_sent2",
    }
}

kernel_states! {
    /// State of a tracked SCTP association (`enum sctp_conntrack`).
    SctpState {
        None = 0 "none",
        Closed = 1 "closed",
        CookieWait = 2 "cookie_wait",
        CookieEchoed = 3 "cookie_echoed",
        Established = 4 "established",
        ShutdownSent = 5 "shutdown_sent",
        ShutdownRecd = 6 "shutdown_recd",
        ShutdownAckSent = 7 "shutdown_ack_sent",
        HeartbeatSent = 8 "heartbeat_sent",
        /// Until Linux 6.0.
        HeartbeatAcked = 9 "heartbeat_acked",
    }
}

kernel_states! {
    /// State of a tracked DCCP connection (`enum ct_dccp_states`); 8 and 9 are verdicts
    /// that no entry keeps.
    DccpState {
        None = 0 "none",
        Request = 1 "request",
        Respond = 2 "respond",
        PartOpen = 3 "partopen",
        Open = 4 "open",
        CloseReq = 5 "closereq",
        Closing = 6 "closing",
        TimeWait = 7 "timewait",
    }
}

/// What the kernel knows of a flow's state: its protocol's own, or, where the
/// protocol has none, whether it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// A TCP connection.
    Tcp(TcpState),
    /// An SCTP association.
    Sctp(SctpState),
    /// A DCCP connection.
    Dccp(DccpState),
    /// No packet came back so far.
    Unreplied,
    /// Packets went both ways.
    Replied,
    /// Packets went both ways for long enough that the entry outlives pressure.
    Assured,
}

impl State {
    /// The general state, by the mapping that `conntrack_exporter` introduced.
    #[must_use]
    pub const fn general(self) -> ConnectionState {
        use ConnectionState::{Closed, Closing, Open, Opening};
        match self {
            Self::Tcp(state) => match state {
                TcpState::None | TcpState::SynSent | TcpState::SynSent2 | TcpState::SynRecv => {
                    Opening
                }
                TcpState::Established => Open,
                TcpState::FinWait
                | TcpState::CloseWait
                | TcpState::LastAck
                | TcpState::TimeWait => Closing,
                TcpState::Close => Closed,
            },
            Self::Sctp(state) => match state {
                SctpState::None
                | SctpState::CookieWait
                | SctpState::CookieEchoed
                | SctpState::HeartbeatSent => Opening,
                SctpState::Established | SctpState::HeartbeatAcked => Open,
                SctpState::ShutdownSent | SctpState::ShutdownRecd | SctpState::ShutdownAckSent => {
                    Closing
                }
                SctpState::Closed => Closed,
            },
            Self::Dccp(state) => match state {
                DccpState::None | DccpState::Request | DccpState::Respond | DccpState::PartOpen => {
                    Opening
                }
                DccpState::Open => Open,
                DccpState::CloseReq | DccpState::Closing | DccpState::TimeWait => Closing,
            },
            Self::Unreplied => Opening,
            Self::Replied | Self::Assured => Open,
        }
    }

    /// A number that no other state has, for where a byte must do.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Unreplied => 0,
            Self::Replied => 1,
            Self::Assured => 2,
            Self::Tcp(state) => 0x10 | state as u8,
            Self::Sctp(state) => 0x20 | state as u8,
            Self::Dccp(state) => 0x30 | state as u8,
        }
    }

    /// The state with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let number = code & 0x0f;
        match code >> 4 {
            0 => [Self::Unreplied, Self::Replied, Self::Assured]
                .get(usize::from(number))
                .copied(),
            1 => TcpState::from_number(number).map(Self::Tcp),
            2 => SctpState::from_number(number).map(Self::Sctp),
            3 => DccpState::from_number(number).map(Self::Dccp),
            _ => None,
        }
    }

    /// The kernel's name for it, in lower case as tags have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp(state) => state.as_str(),
            Self::Sctp(state) => state.as_str(),
            Self::Dccp(state) => state.as_str(),
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
            Self::Assured => "assured",
        }
    }
}

/// The four states that operators ask for, whatever the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ConnectionState {
    /// Asked for, not yet answered in full.
    Opening = 0,
    /// Established.
    Open = 1,
    /// One side has said goodbye.
    Closing = 2,
    /// Torn down; the entry waits to expire.
    Closed = 3,
}

impl ConnectionState {
    /// Every state, in the order of a connection's life.
    pub const ALL: [Self; 4] = [Self::Opening, Self::Open, Self::Closing, Self::Closed];

    /// The value of the `state` tag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// Who asked for the connection, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// This host, or a container masqueraded behind it, dialled.
    Outbound,
    /// The remote host dialled.
    Inbound,
    /// Passes through this host.
    Forwarded,
    /// Both ends are this host.
    Local,
}

impl Direction {
    /// Every direction, by number.
    pub const ALL: [Self; 4] = [Self::Outbound, Self::Inbound, Self::Forwarded, Self::Local];

    /// The value of the `direction` tag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Forwarded => "forwarded",
            Self::Local => "local",
        }
    }
}

macro_rules! display_as_str {
    ($($type:ty),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}
display_as_str!(Protocol, State, ConnectionState, Direction, Failure, End);

/// One way of a flow. For protocols without ports, `src_port` holds the ICMP
/// identifier or GRE key, and `dst_port` the ICMP type and code, as the kernel's
/// tuple does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where packets of this way come from.
    pub src: IpAddr,
    /// Where they go.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// `CTA_STATUS`: bits of `enum ip_conntrack_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// `IPS_SEEN_REPLY`: a packet came back.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// `IPS_ASSURED`: outlives pressure on the table.
    pub const ASSURED: u32 = 1 << 2;
    /// `IPS_DYING`: out of the table, about to be freed; every DESTROY event has it.
    pub const DYING: u32 = 1 << 9;
    /// `IPS_OFFLOAD`: a flow table carries it; dumps then leave its state out.
    pub const OFFLOAD: u32 = 1 << 14;

    /// Whether any of `bits` is set.
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

/// Packets of one way and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Their bytes, headers of the network layer included.
    pub bytes: u64,
}

impl Traffic {
    /// Adds more of it.
    pub fn add(&mut self, more: Self) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Whether a source saw how a flow began, so that its original way is the way it
/// was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It did.
    Seen,
    /// It picked the flow up in mid-stream: the first packet that it saw may have
    /// been an answer.
    Missed,
    /// It does not tell.
    Unknown,
}

/// One connection, as a source tells it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet went.
    pub original: Tuple,
    /// As answers come, after address translation.
    pub reply: Tuple,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The protocol's own state.
    pub state: State,
    /// Status bits.
    pub status: Status,
    /// Conntrack zone; 0 is the default one.
    pub zone: u16,
    /// Conntrack mark; 0 when unset.
    pub mark: u32,
    /// Whether `original` is surely the way it was dialled.
    pub beginning: Beginning,
}

/// What an entry may tell beside the flow. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// TCP: one end said goodbye (FIN) while the connection was established, so that a
    /// reset after it is no failure. Not told, and then `false`, where the state is not,
    /// and in a DESTROY event.
    pub fin_seen: bool,
    /// Of the original and of the reply way, where `nf_conntrack_acct` was on when the
    /// entry was made.
    pub traffic: Option<[Traffic; 2]>,
    /// When the entry was made, where `nf_conntrack_timestamp` was on then.
    pub started: Option<u64>,
    /// When it ended, or expired: in a DESTROY event alone.
    pub stopped: Option<u64>,
    /// When the event happened, as far as the kernel tells (Linux 6.14 with
    /// `nf_conntrack_timestamp`).
    pub event_time: Option<u64>,
    /// Seconds until the entry expires, unless a packet comes.
    pub timeout: Option<u32>,
}

/// An entry of the table, as a dump shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The connection.
    pub flow: Flow,
    /// What else it tells.
    pub details: Details,
}

/// The time now, as the kernel tells times of flows: nanoseconds since the epoch.
#[must_use]
pub fn nanoseconds_since_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
