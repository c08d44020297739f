//! A unix datagram receiver.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, sockopt};
use tokio::net::UnixDatagram;

use super::unread::Unread;
use super::{SendError, consider, count, outq};
use crate::output::payload::Chunk;
use crate::output::throttle::Throttle;
use crate::telemetry::OutputCounters;

/// What a sending socket holds where the system does not say: the default of
/// `net.core.wmem_default`.
const BUFFER: usize = 212_992;

/// The least that a datagram takes of it (`SKB_TRUESIZE` in `linux/skbuff.h`, of the
/// smallest buffer).
const LEAST_BYTES: usize = 768;

/// A connected socket, and what its receiver may not have read.
#[derive(Debug)]
pub struct Datagrams {
    socket: UnixDatagram,
    unread: Unread,
}

impl Datagrams {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        let most = sockopt::socket_send_buffer_size(&socket);
        Ok(Self {
            socket,
            unread: Unread::new(most.unwrap_or(BUFFER)),
        })
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
                    let passed = chunk.pass_payload();
                    self.unread.note(bytes.max(LEAST_BYTES), passed.lines);
                    count(counters, passed);
                }
                Err(error) => consider(error).await?,
            }
        }
        Ok(())
    }

    /// Whether the receiver is dead, which nothing else tells before the next datagram:
    /// to connect once more to who is there changes nothing.
    pub(super) fn look(&mut self, path: &Path) -> Option<io::Error> {
        if outq::is_empty(&self.socket) {
            self.unread.clear();
        }
        let again = SocketAddrUnix::new(path)
            .and_then(|address| rustix::net::connect(&self.socket, &address));
        match again {
            Err(error @ (Errno::CONNREFUSED | Errno::PROTOTYPE)) => Some(error.into()),
            // Without its file it may go on receiving.
            _ => None,
        }
    }

    /// Lines that the receiver may not have read when it went.
    pub(super) const fn lines_at_risk(&self) -> u64 {
        self.unread.lines()
    }
}
