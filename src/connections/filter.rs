//! Which connections are asked for: from flags of the command line and from the query
//! of a request, by the same code.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::flow::{ConnectionState, DccpState, Direction, End, Failure, Protocol};
use crate::flow::{SctpState, State, TcpState, Tuple};
use crate::hosts::HostName;

/// A key is given at most so many values.
const MAX_VALUES: usize = 64;
/// The longest name of a host, as DNS has it (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 255;

const DIRECTIONS: [Direction; 4] = [
    Direction::Outbound,
    Direction::Inbound,
    Direction::Forwarded,
    Direction::Local,
];

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No such key.
    #[error("there is no filter {0:?}: write host, port, state, direction or protocol")]
    Key(String),
    /// Neither address, network nor name.
    #[error(
        "host: {0:?} is no host: write an address, a network as in \"10.0.0.0/8\", or the name \
         of a group or alias"
    )]
    Host(String),
    /// Not a number of 16 bits.
    #[error("port: {0:?} is no port: write a number from 0 to 65535")]
    Port(String),
    /// Neither general, nor the kernel's, nor an end.
    #[error(
        "state: {0:?} is no state: write opening, open, closing, closed, one of the kernel's own \
         such as established or time_wait, failed, or why it failed: refused, timeout, reset, \
         unreachable"
    )]
    State(String),
    /// No direction.
    #[error("direction: {0:?} is none: write outbound, inbound, forwarded or local")]
    Direction(String),
    /// No protocol that is told apart.
    #[error(
        "protocol: {0:?} is none that is told apart: write tcp, udp, sctp, dccp, icmp, icmpv6, \
         gre or udplite"
    )]
    Protocol(String),
    /// Too many values of one key.
    #[error("{0}: more than {MAX_VALUES} values")]
    TooMany(&'static str),
}

/// A host, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFilter {
    /// By address.
    Network(IpNet),
    /// By what it is called in the report.
    Name(String),
}

impl FromStr for HostFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let network = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => Ok(Self::Network(network)),
            Err(_)
                if text.is_empty()
                    || text.len() > MAX_NAME_BYTES
                    || text.contains(['/', '|', ','])
                    || text.chars().any(char::is_control) =>
            {
                Err(FilterError::Host(text.to_owned()))
            }
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for HostFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl HostFilter {
    /// `None` where the address would tell, and is not known.
    fn admits(&self, host: &HostName, address: Option<IpAddr>) -> Option<bool> {
        match (self, address) {
            (Self::Network(network), Some(address)) => Some(network.contains(&address)),
            (Self::Network(_), None) => None,
            (Self::Name(name), _) => Some(match host {
                HostName::Name(host) => **host == **name,
                HostName::Folded(host) => *host == *name,
                HostName::Address(_) => false,
            }),
        }
    }
}

/// A state that a connection is in, or the way it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// One of the four; "closed" is also how a connection ends.
    General(ConnectionState),
    /// The kernel's own, by its name.
    Raw(&'static str),
    /// Failed, whyever or for this reason.
    Failed(Option<Failure>),
}

impl StateFilter {
    const FAILED: &'static str = "failed";

    /// The filter's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::General(state) => state.as_str(),
            Self::Raw(name) => name,
            Self::Failed(None) => Self::FAILED,
            Self::Failed(Some(failure)) => failure.as_str(),
        }
    }

    fn admits(self, condition: Condition) -> bool {
        match (self, condition) {
            (Self::General(wanted), Condition::Now(state)) => state.general() == wanted,
            (Self::Raw(wanted), Condition::Now(state)) => state.as_str() == wanted,
            (Self::General(wanted), Condition::Ended(End::Closed)) => {
                wanted == ConnectionState::Closed
            }
            (Self::Failed(wanted), Condition::Ended(End::Failed(failure))) => {
                wanted.is_none_or(|wanted| wanted == failure)
            }
            _ => false,
        }
    }
}

impl FromStr for StateFilter {
    type Err = FilterError;

    /// The general names come first: where the kernel has the same, as SCTP's
    /// "closed", it means the same.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let named = |name: &&str| *name == text;
        let raw = || {
            let tcp = TcpState::ALL.iter().map(|&state| state.as_str());
            let sctp = SctpState::ALL.iter().map(|&state| state.as_str());
            let dccp = DccpState::ALL.iter().map(|&state| state.as_str());
            let others = [State::Unreplied, State::Replied, State::Assured].map(State::as_str);
            tcp.chain(sctp).chain(dccp).chain(others).find(named)
        };
        let general = ConnectionState::ALL
            .into_iter()
            .find(|state| state.as_str() == text);
        let failure = || Failure::ALL.into_iter().find(|why| why.as_str() == text);
        if let Some(state) = general {
            Ok(Self::General(state))
        } else if text == Self::FAILED {
            Ok(Self::Failed(None))
        } else if let Some(failure) = failure() {
            Ok(Self::Failed(Some(failure)))
        } else if let Some(name) = raw() {
            Ok(Self::Raw(name))
        } else {
            Err(FilterError::State(text.to_owned()))
        }
    }
}

/// A direction by its name.
///
/// # Errors
/// When there is none of this name.
pub fn direction(text: &str) -> Result<Direction, FilterError> {
    DIRECTIONS
        .into_iter()
        .find(|direction| direction.as_str() == text)
        .ok_or_else(|| FilterError::Direction(text.to_owned()))
}

/// A protocol by its name.
///
/// # Errors
/// When there is none of this name.
pub fn protocol(text: &str) -> Result<Protocol, FilterError> {
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.as_str() == text)
        .ok_or_else(|| FilterError::Protocol(text.to_owned()))
}

/// A port by its number.
///
/// # Errors
/// When it is not a number of 16 bits.
pub fn port(text: &str) -> Result<u16, FilterError> {
    text.parse().map_err(|_| FilterError::Port(text.to_owned()))
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In the table, in this state.
    Now(State),
    /// Gone.
    Ended(End),
}

/// The ports that a filter compares: dialled, answering, and what the report takes for
/// the service's.
#[derive(Clone, Copy, Debug)]
pub struct ServicePorts {
    ports: [u16; 3],
    count: usize,
}

impl ServicePorts {
    /// Of what is known of a connection; `None` where that is nothing.
    #[must_use]
    pub fn new(
        protocol: Protocol,
        tuples: Option<(&Tuple, &Tuple)>,
        port: Option<u16>,
    ) -> Option<Self> {
        let (ports, count) = match (tuples, port) {
            _ if !protocol.has_ports() => ([0; 3], 0),
            (Some((original, reply)), port) => {
                let dialled = original.dst_port;
                ([dialled, reply.src_port, port.unwrap_or(dialled)], 3)
            }
            (None, Some(port)) => ([port; 3], 1),
            (None, None) => return None,
        };
        Some(Self { ports, count })
    }

    /// The ports themselves.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.ports[..self.count]
    }
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The remote host.
    pub host: &'a HostName,
    /// Its address, where one is known.
    pub address: Option<IpAddr>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who dialled.
    pub direction: Direction,
    /// The ports that may be the service's; `None` where they are not known.
    pub ports: Option<ServicePorts>,
    /// State or end.
    pub condition: Condition,
}

/// Connections by host, port, state, direction and protocol. Of several values of one
/// key any does; of several keys all must hold. An empty filter lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Remote hosts.
    pub hosts: Vec<HostFilter>,
    /// The service's ports: dialled, or answering behind a translation.
    pub ports: Vec<u16>,
    /// States and ends.
    pub states: Vec<StateFilter>,
    /// Directions.
    pub directions: Vec<Direction>,
    /// Protocols.
    pub protocols: Vec<Protocol>,
}

impl ConnectionFilter {
    /// Takes one key and its values, separated by commas.
    ///
    /// # Errors
    /// When the key or a value is none.
    pub fn add(&mut self, key: &str, values: &str) -> Result<(), FilterError> {
        for value in values.split(',') {
            match key {
                "host" => push(&mut self.hosts, "host", value.parse()?)?,
                "port" => push(&mut self.ports, "port", port(value)?)?,
                "state" => push(&mut self.states, "state", value.parse()?)?,
                "direction" => push(&mut self.directions, "direction", direction(value)?)?,
                "protocol" => push(&mut self.protocols, "protocol", protocol(value)?)?,
                _ => return Err(FilterError::Key(key.to_owned())),
            }
        }
        Ok(())
    }

    /// Keys and values that [`ConnectionFilter::add`] makes the same filter of.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let of = |key: &'static str| move |text: String| (key, text);
        let hosts = self.hosts.iter().map(ToString::to_string).map(of("host"));
        let ports = self.ports.iter().map(ToString::to_string).map(of("port"));
        let states = self.states.iter().map(|state| state.as_str().to_owned());
        let directions = self.directions.iter().map(ToString::to_string);
        let protocols = self.protocols.iter().map(ToString::to_string);
        hosts
            .chain(ports)
            .chain(states.map(of("state")))
            .chain(directions.map(of("direction")))
            .chain(protocols.map(of("protocol")))
    }

    /// Whether it lets something through; `None` where what is known of it does not
    /// tell.
    #[must_use]
    pub fn admits(&self, subject: &Subject<'_>) -> Option<bool> {
        let certain = one_of(&self.protocols, &subject.protocol)
            && one_of(&self.directions, &subject.direction)
            && (self.states.is_empty()
                || (self.states.iter()).any(|state| state.admits(subject.condition)));
        if !certain {
            return Some(false);
        }
        let port = match (self.ports.is_empty(), subject.ports) {
            (true, _) => Some(true),
            (false, ports) => {
                ports.map(|ports| (ports.as_slice().iter()).any(|port| self.ports.contains(port)))
            }
        };
        let host = if self.hosts.is_empty() {
            Some(true)
        } else {
            let admits = |filter: &HostFilter| filter.admits(subject.host, subject.address);
            let verdicts = || self.hosts.iter().map(admits);
            if verdicts().any(|verdict| verdict == Some(true)) {
                Some(true)
            } else {
                verdicts().find(Option::is_none).unwrap_or(Some(false))
            }
        };
        match (port, host) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }
}

fn one_of<T: PartialEq>(wanted: &[T], one: &T) -> bool {
    wanted.is_empty() || wanted.contains(one)
}

fn push<T>(values: &mut Vec<T>, key: &'static str, value: T) -> Result<(), FilterError> {
    if values.len() == MAX_VALUES {
        return Err(FilterError::TooMany(key));
    }
    values.push(value);
    Ok(())
}
