//! A UDP receiver, by whichever of its addresses somebody listens on.
//!
//! That nobody does is told by an ICMP message, which the kernel keeps for the next
//! call on the socket. On this host it is there as soon as the datagram has gone: a
//! datagram counts as sent when the next call has not been told so, and the one that
//! was refused is sent again. From another host it comes later, and may be meant for an
//! earlier datagram: a few are lost then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::connect::{ConnectError, resolve};
use super::{SendError, consider, count};
use crate::address::HostPort;
use crate::output::payload::Chunk;
use crate::output::throttle::Throttle;
use crate::telemetry::OutputCounters;

/// How long the refusal of another host is waited for, once one has come before.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);

/// A connected UDP socket, and the receiver's other addresses: which of them
/// somebody listens on shows only when one refuses.
#[derive(Debug)]
pub struct Udp {
    pub(super) socket: UdpSocket,
    /// The one in use is the last.
    pub(super) addresses: Vec<SocketAddr>,
    /// Addresses in a row that refused.
    pub(super) refusals: usize,
    /// Whether the next datagram is to show first that somebody listens.
    pub(super) is_on_trial: bool,
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
                        is_on_trial: false,
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
                    throttle.went(bytes);
                    count(counters, chunk.prove());
                    chunk.try_payload();
                    if self.is_on_trial {
                        self.refusal().await;
                        self.prove(chunk, counters)?;
                        self.is_on_trial = false;
                    }
                }
                Err(error) if is_refusal(&error) => return Err(self.refused(chunk)),
                Err(error) => {
                    count(counters, chunk.prove());
                    consider(error).await?;
                }
            }
        }
        self.prove(chunk, counters)
    }

    /// Counts the last datagram as sent, unless it was refused.
    fn prove(&mut self, chunk: &mut Chunk, counters: &OutputCounters) -> Result<(), SendError> {
        match self.socket.take_error() {
            Ok(Some(error)) if is_refusal(&error) => Err(self.refused(chunk)),
            _ => {
                self.refusals = 0;
                count(counters, chunk.prove());
                Ok(())
            }
        }
    }

    fn refused(&mut self, chunk: &mut Chunk) -> SendError {
        chunk.step_back();
        self.refusals += 1;
        SendError::Refused(io::ErrorKind::ConnectionRefused.into())
    }

    /// Waits for a refusal that comes from another host.
    async fn refusal(&self) {
        let is_local = (self.addresses.last()).is_some_and(|address| address.ip().is_loopback());
        if !is_local {
            let refusal = self.socket.ready(Interest::ERROR);
            // Either way the socket is asked.
            drop(timeout(REFUSAL_TIMEOUT, refusal).await);
        }
    }

    /// Sends an empty datagram, which means nothing to a receiver, to each address until one
    /// does not refuse it.
    pub(super) async fn probe(&mut self) -> io::Result<()> {
        loop {
            self.socket.send(&[]).await?;
            self.refusal().await;
            let Some(error) = self.socket.take_error()? else {
                return Ok(());
            };
            self.refusals += 1;
            if !self.next_address().await? {
                return Err(error);
            }
        }
    }

    /// Takes the next address after a refusal, if there is one that has not refused too.
    pub(super) async fn next_address(&mut self) -> io::Result<bool> {
        if self.refusals >= self.addresses.len() {
            return Ok(false);
        }
        self.addresses.rotate_left(1);
        if let Some(&address) = self.addresses.last() {
            self.socket = udp_socket(address).await?;
        }
        Ok(true)
    }
}

fn is_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::CONNREFUSED)
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
