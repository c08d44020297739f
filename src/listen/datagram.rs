//! A datagram listener, unix or UDP: every datagram is a frame.

use std::fs;
use std::io;
use std::net as std_net;
use std::os::fd::OwnedFd;
use std::os::unix::net as std_unix;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{Shutdown, sockopt};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::intake::{Batch, READ_BYTES, READS_PER_TURN, Scratch, Stage};
use super::pressure::Keep;
use super::socket::SocketFile;
use super::{DRAIN_LIMIT, Ends};
use crate::forward::Forward;
use crate::frame::Cut;
use crate::handover;
use crate::output::Room;
use crate::output::backlog::SenderId;

/// How often the kernel is asked what it dropped.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// How long reading rests after it failed.
const ERROR_REST: Duration = Duration::from_millis(100);

/// What a datagram takes beside its bytes, empty or not: of the kernel's memory at
/// least so much (`SKB_TRUESIZE(0)` in `linux/skbuff.h` is more), and of our time.
const DATAGRAM_BYTES: usize = 256;

/// Datagrams say nothing about their senders.
const SENDER: &str = "unknown";

/// A bound datagram socket.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.readable().await,
            Self::Udp(socket) => socket.readable().await,
        }
    }

    /// The next datagram, cut off at the buffer's end.
    fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.try_recv(buffer),
            Self::Udp(socket) => socket.try_recv(buffer),
        }
    }

    fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(socket) => socket.into_std().map(OwnedFd::from),
            Self::Udp(socket) => socket.into_std().map(OwnedFd::from),
        }
    }

    /// Lets nothing more come, where that can be.
    fn into_queued(self) -> io::Result<Queue> {
        match self {
            Self::Unix(socket) => {
                rustix::net::shutdown(&socket, Shutdown::Read)?;
                socket.into_std().map(Queue::Unix)
            }
            Self::Udp(socket) => socket.into_std().map(Queue::Udp),
        }
    }

    /// Datagrams that the kernel dropped for want of room since the socket was
    /// bound. Unix senders wait instead.
    fn kernel_drops(&self) -> Option<u64> {
        let Self::Udp(socket) = self else { return None };
        let inode = rustix::fs::fstat(socket).ok()?.st_ino;
        ["/proc/net/udp", "/proc/net/udp6"]
            .iter()
            .find_map(|table| drops_of(&fs::read_to_string(table).ok()?, inode))
    }
}

/// A socket whose datagrams are asked of the system itself: the runtime may not
/// have looked yet.
enum Queue {
    Unix(std_unix::UnixDatagram),
    Udp(std_net::UdpSocket),
}

impl Queue {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.recv(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }

    /// The most that can be waiting, [`DATAGRAM_BYTES`] for each datagram included.
    fn most_bytes(&self) -> usize {
        match self {
            Self::Unix(_) => usize::MAX,
            Self::Udp(socket) => sockopt::socket_recv_buffer_size(socket).unwrap_or(usize::MAX),
        }
    }
}

/// The last column of the line of this inode, the tenth column, in
/// `/proc/net/udp` (`proc_net_udp(5)`).
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        if columns.nth(9)?.parse() != Ok(inode) {
            return None;
        }
        columns.next_back()?.parse().ok()
    })
}

/// What a datagram listener's lines get.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) max_frame: usize,
    pub(super) forward: Forward,
    /// Of this socket, counted already.
    pub(super) kernel_drops: u64,
}

/// What a burst came to.
struct Burst {
    /// Bytes, and [`DATAGRAM_BYTES`] for each datagram.
    taken: usize,
    is_dry: bool,
}

impl Datagrams {
    /// Receives until the end, then what is queued, or leaves it.
    pub(super) async fn run(
        mut self,
        socket: Socket,
        file: Option<SocketFile>,
        stage: Arc<Stage>,
        ends: Ends,
    ) -> Option<handover::Listener> {
        let Ends { stop, leave } = ends;
        let mut room = stage.fanout.room(SenderId::unique());
        let mut drops = interval(DROPS_INTERVAL);
        drops.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bursts = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = drops.tick(), if matches!(socket, Socket::Udp(_)) => {
                    self.count_drops(&socket, &stage);
                    continue;
                }
                ready = socket.readable() => if let Err(error) = ready {
                    rest(&stage, &error).await;
                    continue;
                },
            }
            let ready = async {
                let keep = stage.wait_for_memory().await;
                if keep == Keep::All && room.refill(self.room_bytes()).await {
                    stage.counters.waits.add(1);
                }
                keep
            };
            let keep = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                keep = ready => keep,
            };
            let space = (keep == Keep::All).then_some(&mut room);
            let burst = self.receive(&stage, space, |buffer| socket.try_recv(buffer));
            room.release();
            match burst {
                Ok(burst) if burst.is_dry => bursts = 0,
                Ok(_) => bursts += 1,
                Err(error) => rest(&stage, &error).await,
            }
            if bursts == READS_PER_TURN {
                bursts = 0;
                yield_now().await;
            }
        }
        room.release();
        self.count_drops(&socket, &stage);
        if leave.is_cancelled() {
            return leave_socket(socket, file, &stage);
        }
        drop(file);
        match socket.into_queued() {
            Ok(queue) => self.drain(&queue, &stage, &mut room).await,
            Err(error) => {
                tracing::warn!(listener = %stage.listener, %error, "cannot read what is queued");
            }
        }
        None
    }

    fn room_bytes(&self) -> usize {
        READ_BYTES.max(self.max_frame)
    }

    /// Takes datagrams while the room that is reserved surely holds the next; of
    /// small and of empty ones, fewer than it could hold. Without room, as many, whose
    /// lines are given up.
    fn receive(
        &self,
        stage: &Stage,
        room: Option<&mut Room<'_>>,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Burst> {
        Scratch::lend(|scratch| {
            // One byte more tells a datagram that is too long.
            let (buffer, gathered) = scratch.parts(self.max_frame + 1);
            let mut batch = Batch::new(stage, &self.forward, &SENDER, room, gathered);
            let (mut bytes, mut taken) = (0, 0);
            let received = loop {
                if taken + self.max_frame > self.room_bytes() {
                    break Ok(false);
                }
                match recv(buffer) {
                    Ok(length) => {
                        bytes += length;
                        taken += length + DATAGRAM_BYTES;
                        batch.take(self.frame(buffer, length), false);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(true),
                    Err(error) => break Err(error),
                }
            };
            batch.finish();
            stage.counters.bytes.add(bytes as u64);
            received.map(|is_dry| Burst { taken, is_dry })
        })
    }

    fn frame<'a>(&self, buffer: &'a [u8], length: usize) -> Cut<&'a [u8]> {
        if length > self.max_frame {
            Cut::Oversized
        } else {
            Cut::Body(buffer.get(..length).unwrap_or_default())
        }
    }

    /// Receives what had come when it was called.
    async fn drain(&self, queue: &Queue, stage: &Stage, room: &mut Room<'_>) {
        let mut most = queue.most_bytes();
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            if timeout_at(deadline, room.refill(self.room_bytes()))
                .await
                .is_err()
            {
                break self.abandon(queue, stage, most);
            }
            let burst = self.receive(stage, Some(room), |buffer| queue.recv(buffer));
            room.release();
            match burst {
                Ok(burst) if !burst.is_dry && burst.taken < most => most -= burst.taken,
                _ => break,
            }
            yield_now().await;
        }
    }

    /// Counts what had come and will not be handed on.
    fn abandon(&self, queue: &Queue, stage: &Stage, most: usize) {
        let bytes = Scratch::lend(|scratch| {
            let (buffer, _) = scratch.parts(READ_BYTES.max(self.max_frame));
            let (mut bytes, mut taken) = (0, 0);
            while taken < most {
                match queue.recv(buffer) {
                    Ok(length) => {
                        bytes += length;
                        taken += length + DATAGRAM_BYTES;
                    }
                    Err(_) => break,
                }
            }
            bytes
        });
        stage.counters.abandoned_bytes.add(bytes as u64);
        tracing::warn!(listener = %stage.listener, bytes, "stopped with bytes unread");
    }

    fn count_drops(&mut self, socket: &Socket, stage: &Stage) {
        if let Some(drops) = socket.kernel_drops() {
            let new = drops.saturating_sub(self.kernel_drops);
            stage.counters.kernel_drops.add(new);
            self.kernel_drops = drops;
        }
    }
}

/// Leaves the socket, and what is queued in it, to the process that takes our place.
fn leave_socket(
    socket: Socket,
    file: Option<SocketFile>,
    stage: &Stage,
) -> Option<handover::Listener> {
    match socket.into_descriptor() {
        Ok(socket) => Some(handover::Listener {
            address: stage.listener.clone(),
            socket,
            file: file.map(SocketFile::leave),
            connections: Vec::new(),
        }),
        Err(error) => {
            tracing::error!(listener = %stage.listener, %error, "the socket cannot be left");
            None
        }
    }
}

async fn rest(stage: &Stage, error: &io::Error) {
    if let Some(suppressed) = stage.log.permit() {
        tracing::warn!(listener = %stage.listener, %error, suppressed, "cannot receive, trying again");
    }
    sleep(ERROR_REST).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{LOG_LINES, LOG_WINDOW};
    use crate::log_limit::LogLimit;

    fn datagrams() -> Datagrams {
        Datagrams {
            max_frame: 8 << 10,
            forward: Forward::default(),
            kernel_drops: 0,
        }
    }

    fn stage() -> Stage {
        Stage {
            listener: String::new(),
            fanout: Arc::default(),
            counters: Arc::default(),
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
            pressure: Arc::default(),
        }
    }

    #[test]
    fn empty_datagrams_without_end_leave_the_others_their_turn() {
        let stage = stage();
        let mut room = stage.fanout.room(SenderId::unique());
        let mut received = 0;
        let burst = datagrams().receive(&stage, Some(&mut room), |_| {
            received += 1;
            if received > READ_BYTES {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(0)
        });
        assert_eq!(received * DATAGRAM_BYTES, burst.unwrap().taken);
        assert_eq!(stage.counters.frames.get(), received as u64);
    }

    #[test]
    fn empty_datagrams_without_end_do_not_hold_up_the_end() {
        let socket = std_net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let sender = std_net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            sender.send_to(&[], socket.local_addr().unwrap()).unwrap();
        }
        let queue = Queue::Udp(socket);
        datagrams().abandon(&queue, &stage(), 4 * DATAGRAM_BYTES);
        let mut left = 0;
        while queue.recv(&mut []).is_ok() {
            left += 1;
        }
        assert_eq!(left, 6);
    }

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  382: 0100007F:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 00000000a1b2c3d4 17
  541: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 815 2 00000000deadbeef 0
";

    #[test]
    fn the_kernels_drops_are_found_by_inode() {
        assert_eq!(drops_of(TABLE, 4711), Some(17));
        assert_eq!(drops_of(TABLE, 815), Some(0));
        assert_eq!(drops_of(TABLE, 1), None);
        assert_eq!(drops_of("", 1), None);
    }

    #[tokio::test]
    async fn a_bound_socket_is_in_the_kernels_table() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address).await else {
                continue;
            };
            assert_eq!(Socket::Udp(socket).kernel_drops(), Some(0), "{address}");
        }
    }
}
