//! Where an output sends and a listener listens: `scheme://…`, parsed and printed back;
//! and whether the one is the other.

mod file;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::file::{FileId, FileStamp};

/// The port that statsd servers listen on, when an address names none.
pub const DEFAULT_PORT: u16 = 8125;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `scheme://`, or one that is not ours.
    #[error(
        "{0:?} is not an address: write udp://host:port, unixgram:///path, unixstream:///path, \
         unix:///path, tcp://host:port or stdout:"
    )]
    Scheme(String),
    /// A path that does not begin at the root.
    #[error(
        "the socket path {0:?} must be absolute: three slashes, as in unixgram:///run/x.socket"
    )]
    RelativePath(String),
    /// Longer than `sun_path` of `sockaddr_un(7)`.
    #[error("the socket path {0:?} is too long: the system takes at most {MAX_PATH_BYTES} bytes")]
    LongPath(String),
    /// No host before the port.
    #[error("the address {0:?} names no host")]
    NoHost(String),
    /// The port is no number from 1 to 65535 (0 for a listener: any).
    #[error("{0:?} is not a port: write a number from 0 to 65535")]
    Port(String),
    /// An IPv6 address stands without brackets.
    #[error("write the IPv6 address in {0:?} in brackets, as in udp://[::1]:8125")]
    Brackets(String),
}

/// `sun_path` holds 108 bytes, the last of which ends the string.
const MAX_PATH_BYTES: usize = 107;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, IPv6 without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| AddressError::Brackets(text.to_owned()))?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(AddressError::NoHost(text.to_owned()));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(AddressError::Port(rest.to_owned())),
            }
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    return Err(AddressError::Brackets(text.to_owned()));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        let port = match port {
            Some(port) => port
                .parse()
                .map_err(|_| AddressError::Port(port.to_owned()))?,
            None => DEFAULT_PORT,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One end that conntally sends to or listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// `udp://host:port`
    Udp(HostPort),
    /// `tcp://host:port`, newline-delimited.
    Tcp(HostPort),
    /// `unixgram:///path`: a datagram is a payload.
    UnixDatagram(PathBuf),
    /// `unixstream:///path`: payloads behind a little-endian `u32` length.
    UnixStream(PathBuf),
    /// `unix:///path`: datagram or stream, whichever the socket turns out to be.
    Unix(PathBuf),
    /// `stdout:`
    Stdout,
}

impl Address {
    /// The socket file, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::UnixDatagram(path) | Self::UnixStream(path) | Self::Unix(path) => Some(path),
            Self::Udp(_) | Self::Tcp(_) | Self::Stdout => None,
        }
    }

    /// The scheme, as in the address: also the name of the transport in tags.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Tcp(_) => "tcp",
            Self::UnixDatagram(_) => "unixgram",
            Self::UnixStream(_) => "unixstream",
            Self::Unix(_) => "unix",
            Self::Stdout => "stdout",
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "stdout:" {
            return Ok(Self::Stdout);
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let path = || {
            if !rest.starts_with('/') || rest.len() < 2 {
                Err(AddressError::RelativePath(rest.to_owned()))
            } else if rest.len() > MAX_PATH_BYTES {
                Err(AddressError::LongPath(rest.to_owned()))
            } else {
                Ok(PathBuf::from(rest))
            }
        };
        Ok(match scheme {
            "udp" => Self::Udp(rest.parse()?),
            "tcp" => Self::Tcp(rest.parse()?),
            "unixgram" => Self::UnixDatagram(path()?),
            "unixstream" => Self::UnixStream(path()?),
            "unix" => Self::Unix(path()?),
            _ => return Err(AddressError::Scheme(text.to_owned())),
        })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout:"),
            Self::Udp(end) | Self::Tcp(end) => write!(f, "{}://{end}", self.scheme()),
            Self::UnixDatagram(path) | Self::UnixStream(path) | Self::Unix(path) => {
                write!(f, "{}://{}", self.scheme(), path.display())
            }
        }
    }
}

/// Whether what is sent to `to` comes to a socket of this host that is bound to `bound`.
#[must_use]
pub fn reaches(to: SocketAddr, bound: SocketAddr) -> bool {
    if to.port() != bound.port() {
        return false;
    }
    // To send to the wildcard is to send to the host itself: ip(7), ipv6(7).
    let to = match to.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        to => to,
    };
    // To listen on it is to listen on every address of the host, of IPv6 on IPv4 too.
    match bound.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => to.is_ipv4() && is_own(to),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => is_own(to),
        bound => to == bound,
    }
}

/// Whether the host itself has the address: a socket can be bound to no other.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_to_a_bound_address_or_to_any_of_a_wildcard_reaches_it() {
        for (to, bound, reached) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("127.0.0.2:1", "0.0.0.0:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::]:1", "127.0.0.1:1", false),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            // Of no host at all: RFC 5737.
            ("192.0.2.1:1", "0.0.0.0:1", false),
        ] {
            let ends = [to, bound].map(|end| end.parse().unwrap());
            assert_eq!(reaches(ends[0], ends[1]), reached, "{to} {bound}");
        }
    }

    #[test]
    fn every_kind_of_address_prints_back_as_it_was_written() {
        for text in [
            "udp://127.0.0.1:8125",
            "udp://[::1]:8125",
            "udp://agent.example:9125",
            "tcp://localhost:9125",
            "unixgram:///run/dsd.socket",
            "unixstream:///run/dsd_stream.socket",
            "unix:///run/dsd.socket",
            "stdout:",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_without_a_port_means_the_statsd_port() {
        assert_eq!(
            "udp://agent".parse::<Address>().unwrap().to_string(),
            "udp://agent:8125"
        );
        assert_eq!(
            "udp://[fd00::1]".parse::<Address>().unwrap().to_string(),
            "udp://[fd00::1]:8125"
        );
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, part) in [
            ("127.0.0.1:8125", "is not an address"),
            ("http://x", "is not an address"),
            ("unixgram://run/x", "must be absolute"),
            ("unixgram:///", "must be absolute"),
            ("udp://:8125", "names no host"),
            ("udp://x:99999", "is not a port"),
            ("udp://x:", "is not a port"),
            ("udp://::1", "in brackets"),
            ("udp://[::1", "in brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("unixgram:///{}", "x".repeat(107));
        assert!(
            long.parse::<Address>()
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }
}
