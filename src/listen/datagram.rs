//! A datagram listener, unix or UDP: every datagram is a frame.

mod renewed;
mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

pub(super) use self::renewed::Sockets;
use self::socket::{Queue, Whom};
pub(super) use self::socket::{Socket, Tells};
use super::intake::{Batch, READ_BYTES, READS_PER_TURN, Scratch, Sender, Stage};
use super::pressure::Keep;
use super::senders::Senders;
use super::{DRAIN_LIMIT, Ends};
use crate::frame::Cut;
use crate::output::Room;
use crate::output::backlog::SenderId;

/// How often the kernel is asked what it dropped.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// How long reading rests after it failed.
const ERROR_REST: Duration = Duration::from_millis(100);

/// What a datagram takes beside its bytes, empty or not: of the kernel's memory at
/// least so much (`SKB_TRUESIZE(0)` in `linux/skbuff.h` is more), and of our time.
const DATAGRAM_BYTES: usize = 256;

/// What a datagram listener's lines get.
#[derive(Clone, Debug)]
pub(super) struct Datagrams {
    pub(super) max_frame: usize,
    pub(super) senders: Senders,
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
    /// Receives until the end, then what is queued, or leaves it with the socket.
    async fn run(mut self, socket: Socket, stage: Arc<Stage>, ends: Ends) -> Option<Socket> {
        let Ends { stop, leave } = ends;
        if let Some(bytes) = socket.buffer_bytes() {
            stage.counters.receive_buffer_bytes.set(bytes);
        }
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
            return Some(socket);
        }
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
        &mut self,
        stage: &Stage,
        room: Option<&mut Room<'_>>,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<(usize, Whom)>,
    ) -> io::Result<Burst> {
        Scratch::lend(|scratch| {
            // One byte more tells a datagram that is too long.
            let (buffer, gathered) = scratch.parts(self.max_frame + 1);
            let mut batch = Batch::new(stage, room, gathered);
            self.senders.begin(Instant::now());
            let (mut bytes, mut taken) = (0, 0);
            let received = loop {
                if taken + self.max_frame > self.room_bytes() {
                    break Ok(false);
                }
                match recv(buffer) {
                    Ok((length, whom)) => {
                        bytes += length;
                        taken += length + DATAGRAM_BYTES;
                        let frame = self.frame(buffer, length);
                        let forward = match whom {
                            Whom::Process(pid) => self.senders.of(pid),
                            Whom::Unknown | Whom::Remote(_) => self.senders.plain(),
                        };
                        batch.take(frame, false, Sender::new(forward, &whom));
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
    async fn drain(&mut self, queue: &Queue, stage: &Stage, room: &mut Room<'_>) {
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
                    Ok((length, _)) => {
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

async fn rest(stage: &Stage, error: &io::Error) {
    if let Some(suppressed) = stage.log.permit() {
        tracing::warn!(listener = %stage.listener, %error, suppressed, "cannot receive, trying again");
    }
    sleep(ERROR_REST).await;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::config::OriginChoice;
    use crate::forward::Forward;
    use crate::listen::{LOG_LINES, LOG_WINDOW};
    use crate::log_limit::LogLimit;

    fn datagrams() -> Datagrams {
        Datagrams {
            max_frame: 8 << 10,
            senders: Senders::new(Forward::default(), OriginChoice::None),
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
            Ok((0, Whom::Unknown))
        });
        assert_eq!(received * DATAGRAM_BYTES, burst.unwrap().taken);
        assert_eq!(stage.counters.frames.get(), received as u64);
    }

    #[test]
    fn empty_datagrams_without_end_do_not_hold_up_the_end() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
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
}
