//! What the administrator has set, in the network namespace of the calling thread.
//! Read, never written.
//!
//! `Documentation/networking/nf_conntrack-sysctl.rst`

use std::fs;
use std::str::FromStr;

use crate::flow::{Protocol, SctpState, State, TcpState};

const DIRECTORY: &str = "/proc/sys/net/netfilter/nf_conntrack_";

/// Whether the kernel tells of events at all (`nf_conntrack_events`): always, or as soon
/// as somebody listens. `None` where it cannot be read.
#[must_use]
pub fn events_enabled() -> Option<bool> {
    is_on("events")
}

/// Whether entries that are made now count packets and bytes (`nf_conntrack_acct`).
#[must_use]
pub fn accounting() -> Option<bool> {
    is_on("acct")
}

/// Whether entries that are made now know when they were (`nf_conntrack_timestamp`).
#[must_use]
pub fn timestamps() -> Option<bool> {
    is_on("timestamp")
}

fn is_on(name: &str) -> Option<bool> {
    read(name).map(|value: u32| value != 0)
}

fn read<T: FromStr>(name: &str) -> Option<T> {
    let text = fs::read_to_string(format!("{DIRECTORY}{name}")).ok()?;
    text.trim().parse().ok()
}

/// State, sysctl, and the kernel's own value in seconds.
const TCP: [(TcpState, &str, u32); 9] = [
    (TcpState::SynSent, "tcp_timeout_syn_sent", 120),
    (TcpState::SynRecv, "tcp_timeout_syn_recv", 60),
    (TcpState::Established, "tcp_timeout_established", 432_000),
    (TcpState::FinWait, "tcp_timeout_fin_wait", 120),
    (TcpState::CloseWait, "tcp_timeout_close_wait", 60),
    (TcpState::LastAck, "tcp_timeout_last_ack", 30),
    (TcpState::TimeWait, "tcp_timeout_time_wait", 120),
    (TcpState::Close, "tcp_timeout_close", 10),
    // It has no sysctl in any kernel so far.
    (TcpState::SynSent2, "tcp_timeout_syn_sent2", 120),
];

/// The same for SCTP.
const SCTP: [(SctpState, &str, u32); 8] = [
    (SctpState::Closed, "sctp_timeout_closed", 10),
    (SctpState::CookieWait, "sctp_timeout_cookie_wait", 3),
    (SctpState::CookieEchoed, "sctp_timeout_cookie_echoed", 3),
    (SctpState::Established, "sctp_timeout_established", 210),
    (SctpState::ShutdownSent, "sctp_timeout_shutdown_sent", 3),
    (SctpState::ShutdownRecd, "sctp_timeout_shutdown_recd", 3),
    (
        SctpState::ShutdownAckSent,
        "sctp_timeout_shutdown_ack_sent",
        3,
    ),
    (SctpState::HeartbeatSent, "sctp_timeout_heartbeat_sent", 30),
];

/// How long an entry outlives its last packet, by state. An entry's end is later by that
/// than the end of what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    tcp: [u32; TcpState::ALL.len()],
    sctp: [u32; SctpState::ALL.len()],
    udp: u32,
    udp_stream: u32,
    gre: u32,
    gre_stream: u32,
    icmp: u32,
    icmpv6: u32,
}

impl Timeouts {
    /// Reads them; where one cannot be read, it is the kernel's own value.
    #[must_use]
    pub fn read() -> Self {
        Self::by(|name, usual| read(name).unwrap_or(usual))
    }

    fn by(value: impl Fn(&str, u32) -> u32) -> Self {
        let mut tcp = [0; TcpState::ALL.len()];
        for (state, name, usual) in TCP {
            if let Some(place) = tcp.get_mut(state as usize) {
                *place = value(name, usual);
            }
        }
        let mut sctp = [0; SctpState::ALL.len()];
        for (state, name, usual) in SCTP {
            if let Some(place) = sctp.get_mut(state as usize) {
                *place = value(name, usual);
            }
        }
        Self {
            tcp,
            sctp,
            udp: value("udp_timeout", 30),
            udp_stream: value("udp_timeout_stream", 120),
            gre: value("gre_timeout", 30),
            gre_stream: value("gre_timeout_stream", 180),
            icmp: value("icmp_timeout", 30),
            icmpv6: value("icmpv6_timeout", 30),
        }
    }

    /// Seconds for an entry in this state; 0 where there is no such timeout. A TCP entry
    /// may have had less (`nf_conntrack_tcp_timeout_{unacknowledged,max_retrans}`), and
    /// rules may set others.
    #[must_use]
    pub fn of(&self, protocol: Protocol, state: State) -> u32 {
        let at = |timeouts: &[u32], place: u8| timeouts.get(usize::from(place)).copied();
        match (protocol, state) {
            (_, State::Tcp(state)) => at(&self.tcp, state as u8).unwrap_or_default(),
            (_, State::Sctp(state)) => at(&self.sctp, state as u8).unwrap_or_default(),
            (Protocol::Udp | Protocol::UdpLite, State::Assured) => self.udp_stream,
            (Protocol::Udp | Protocol::UdpLite, _) => self.udp,
            (Protocol::Gre, State::Unreplied) => self.gre,
            (Protocol::Gre, _) => self.gre_stream,
            (Protocol::Icmp, _) => self.icmp,
            (Protocol::Icmpv6, _) => self.icmpv6,
            (Protocol::Tcp | Protocol::Sctp | Protocol::Dccp, _) => 0,
        }
    }
}

impl Default for Timeouts {
    /// The kernel's own values.
    fn default() -> Self {
        Self::by(|_, usual| usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_the_timeout_of_its_own_sysctl() {
        let timeouts = Timeouts::by(|name, usual| match name {
            "tcp_timeout_time_wait" => 7,
            "sctp_timeout_established" => 8,
            "udp_timeout_stream" => 9,
            _ => usual,
        });
        for (protocol, state, seconds) in [
            (Protocol::Tcp, State::Tcp(TcpState::TimeWait), 7),
            (Protocol::Tcp, State::Tcp(TcpState::Established), 432_000),
            (Protocol::Tcp, State::Tcp(TcpState::SynSent2), 120),
            (Protocol::Tcp, State::Tcp(TcpState::None), 0),
            (Protocol::Sctp, State::Sctp(SctpState::Established), 8),
            (Protocol::Udp, State::Assured, 9),
            (Protocol::UdpLite, State::Replied, 30),
            (Protocol::Gre, State::Replied, 180),
            (Protocol::Icmpv6, State::Unreplied, 30),
        ] {
            assert_eq!(
                timeouts.of(protocol, state),
                seconds,
                "{protocol:?} {state:?}"
            );
        }
    }
}
