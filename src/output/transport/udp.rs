//! A UDP receiver, by whichever of its addresses somebody listens on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use tokio::net::UdpSocket;

use super::connect::{ConnectError, resolve};
use super::{SendError, consider, count};
use crate::address::HostPort;
use crate::output::payload::Chunk;
use crate::output::throttle::Throttle;
use crate::telemetry::OutputCounters;

/// Refusals in a row after which a UDP receiver's name is looked up again.
const MAX_REFUSALS: u32 = 3;

/// A connected UDP socket, and the receiver's other addresses: which of them
/// somebody listens on shows only when one refuses.
#[derive(Debug)]
pub struct Udp {
    pub(super) socket: UdpSocket,
    /// The one in use is the last.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) refusals: u32,
}

impl Udp {
    pub(super) async fn connect(end: &HostPort, own: &[SocketAddr]) -> Result<Self, ConnectError> {
        let mut addresses = resolve(end, own).await?;
        // Whether anybody listens can't be asked beforehand, and the servers of
        // this protocol listen on IPv4 by default, whatever `localhost` resolves to.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut failure = ConnectError::NoAddress(end.host.clone());
        for turn in 0..addresses.len() {
            let Some(&address) = addresses.get(turn) else {
                break;
            };
            match udp_socket(address).await {
                Ok(socket) => {
                    addresses.rotate_left(turn + 1);
                    return Ok(Self {
                        socket,
                        addresses,
                        refusals: 0,
                    });
                }
                Err(error) => failure = ConnectError::to(&address, error),
            }
        }
        Err(failure)
    }

    /// Sends what is left of `chunk`, as [`super::Transport::send`] does.
    pub(super) async fn send(
        &mut self,
        chunk: &mut Chunk,
        throttle: &mut Throttle,
        counters: &OutputCounters,
    ) -> Result<(), SendError> {
        while let Some(payload) = chunk.next_payload() {
            throttle.ready(payload.len(), counters).await;
            match self.socket.send(payload).await {
                Ok(bytes) => {
                    self.refusals = 0;
                    throttle.went(bytes);
                    count(counters, chunk.pass_payload());
                }
                Err(error) => self.consider(error).await?,
            }
        }
        Ok(())
    }

    /// Takes the next address, if there is another.
    pub(super) async fn next_address(&mut self) -> io::Result<()> {
        if self.addresses.len() < 2 {
            return Ok(());
        }
        self.addresses.rotate_left(1);
        if let Some(&address) = self.addresses.last() {
            self.socket = udp_socket(address).await?;
        }
        Ok(())
    }

    /// A refusal was meant for an earlier datagram, and this one has not gone.
    async fn consider(&mut self, error: io::Error) -> Result<(), SendError> {
        if Errno::from_io_error(&error) == Some(Errno::CONNREFUSED) {
            self.refusals += 1;
            if self.refusals < MAX_REFUSALS {
                return Err(SendError::Refused);
            }
        }
        consider(error).await
    }
}

pub(super) async fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}
