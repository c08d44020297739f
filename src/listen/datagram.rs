//! A datagram listener, unix or UDP: every datagram is a frame.
//!
//! Each is received by itself. `recvmmsg(2)`, up to 32 at once, was tried and does not pay:
//! `cargo bench --bench relay -- f-unixgram f-udp` (two cores, Linux 6.18, one line a
//! datagram, CPU seconds a million) measured 1.40 to 1.54 with it and 1.42 to 1.49 without
//! for a bare loop over unix datagrams, 1.8 to 2.0 and 1.8 to 2.4 over UDP, and for the whole
//! of the daemon 1.67 to 1.96 and 1.70 to 1.80, 2.9 to 3.2 and 3.0 to 3.1.

mod envelope;
mod renewed;
mod socket;
mod sys;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

pub(super) use self::envelope::Tells;
use self::envelope::{Credentials, Envelope, Whom};
pub(super) use self::renewed::{Sockets, leave};
pub(super) use self::socket::{Socket, ask};
use super::intake::{Batch, READ_BYTES, Scratch, Sender, Stage, Turn};
use super::pressure::Keep;
use super::senders::Senders;
use super::{DRAIN_LIMIT, Ends};
use crate::config;
use crate::frame::{Cut, MAX_FRAME_BYTES};
use crate::output::Room;
use crate::output::backlog::SenderId;
use crate::telemetry::FrameDrop;

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
    max_frame: usize,
    senders: Senders,
    /// Who may send; empty for all.
    allow_uids: Vec<u32>,
    /// Of this socket, counted already.
    kernel_drops: u32,
    /// All of whom nothing is known, as one.
    nobody: SenderId,
}

/// What a burst came to.
struct Burst {
    /// Bytes, and [`DATAGRAM_BYTES`] for each datagram.
    taken: usize,
    is_dry: bool,
}

impl Datagrams {
    pub(super) fn new(
        config: &config::Listener,
        senders: Senders,
        socket: Option<&Socket>,
    ) -> Self {
        Self {
            max_frame: config.max_frame.as_usize().min(MAX_FRAME_BYTES),
            senders,
            allow_uids: config.allow_uids.clone(),
            // Another process has counted what it lost.
            kernel_drops: socket.and_then(Socket::kernel_drops).unwrap_or(0),
            nobody: SenderId::unique(),
        }
    }

    /// Receives until the end, then what is queued, or leaves it with the socket.
    async fn run(mut self, socket: Socket, stage: Arc<Stage>, ends: Ends) -> Option<Socket> {
        let Ends { stop, leave } = ends;
        if let Some(bytes) = socket.buffer_bytes() {
            stage.counters.receive_buffer_bytes.set(bytes);
        }
        let mut room = stage.fanout.room(self.nobody);
        let mut drops = interval(DROPS_INTERVAL);
        drops.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = Turn::default();
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
            let burst = self.receive(&stage, space, |buffer, envelope| {
                socket.try_receive(buffer, envelope)
            });
            room.release();
            match burst {
                Ok(burst) if burst.is_dry => turn.end(),
                Ok(burst) => turn.go_on(burst.taken).await,
                Err(error) => rest(&stage, &error).await,
            }
        }
        room.release();
        self.count_drops(&socket, &stage);
        if leave.is_cancelled() {
            return Some(socket);
        }
        match socket.close() {
            Ok(()) => self.drain(&socket, &stage, &mut room).await,
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
        mut receive: impl FnMut(&mut [u8], &mut Envelope) -> io::Result<()>,
    ) -> io::Result<Burst> {
        Scratch::lend(|scratch| {
            // One byte more tells a datagram that is too long.
            let (buffer, gathered) = scratch.parts(self.max_frame + 1);
            let mut envelope = Envelope::EMPTY;
            let mut batch = Batch::new(stage, room, gathered);
            self.senders.begin();
            let (mut bytes, mut taken) = (0, 0);
            let received = loop {
                if taken + self.max_frame > self.room_bytes() {
                    break Ok(false);
                }
                match receive(buffer, &mut envelope) {
                    Ok(()) => {
                        bytes += envelope.bytes;
                        taken += envelope.bytes + DATAGRAM_BYTES;
                        self.take(buffer, &envelope, &mut batch);
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

    fn take(&mut self, buffer: &[u8], envelope: &Envelope, batch: &mut Batch<'_, '_>) {
        let whom = envelope.whom();
        if !is_allowed(&self.allow_uids, &whom) {
            return refuse(batch.stage(), &whom);
        }
        let frame = if envelope.bytes > self.max_frame {
            Cut::Oversized
        } else {
            Cut::Body(buffer.get(..envelope.bytes).unwrap_or_default())
        };
        let forward = match whom {
            Whom::Local(Credentials {
                pid: Some(pid),
                sent,
                ..
            }) => self.senders.of(pid, sent),
            _ => self.senders.plain(),
        };
        batch.turn_to(whom.sender().unwrap_or(self.nobody));
        batch.take(frame, false, Sender::new(forward, &whom));
    }

    /// Receives what had come when it was called.
    async fn drain(&mut self, socket: &Socket, stage: &Stage, room: &mut Room<'_>) {
        let mut most = socket.most_bytes();
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            if timeout_at(deadline, room.refill(self.room_bytes()))
                .await
                .is_err()
            {
                break self.abandon(socket, stage, most);
            }
            let burst = self.receive(stage, Some(room), |buffer, envelope| {
                socket.receive(buffer, envelope)
            });
            room.release();
            match burst {
                Ok(burst) if !burst.is_dry && burst.taken < most => most -= burst.taken,
                _ => break,
            }
            yield_now().await;
        }
    }

    /// Counts what had come and will not be handed on.
    fn abandon(&self, socket: &Socket, stage: &Stage, most: usize) {
        let bytes = Scratch::lend(|scratch| {
            let (buffer, _) = scratch.parts(READ_BYTES.max(self.max_frame));
            let mut envelope = Envelope::EMPTY;
            let (mut bytes, mut taken) = (0, 0);
            while taken < most && socket.receive(buffer, &mut envelope).is_ok() {
                bytes += envelope.bytes;
                taken += envelope.bytes + DATAGRAM_BYTES;
            }
            bytes
        });
        stage.counters.abandoned_bytes.add(bytes as u64);
        tracing::warn!(listener = %stage.listener, bytes, "stopped with bytes unread");
    }

    fn count_drops(&mut self, socket: &Socket, stage: &Stage) {
        if let Some(drops) = socket.kernel_drops() {
            let new = drops.wrapping_sub(self.kernel_drops);
            stage.counters.kernel_drops.add(new.into());
            self.kernel_drops = drops;
        }
    }
}

fn is_allowed(uids: &[u32], whom: &Whom) -> bool {
    uids.is_empty() || whom.uid().is_some_and(|uid| uids.contains(&uid))
}

/// Drops a datagram for its user's sake.
fn refuse(stage: &Stage, whom: &Whom) {
    match whom.uid() {
        Some(uid) => {
            let error = format_args!("user {uid} is not in allow_uids");
            stage.drop_frame(FrameDrop::Uid, whom, &error);
        }
        None => stage.drop_frame(FrameDrop::Uid, whom, &"the user is not told"),
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
    use tokio::net::UdpSocket;

    use super::*;
    use crate::config::OriginChoice;
    use crate::forward::Forward;
    use crate::listen::{LOG_LINES, LOG_WINDOW};
    use crate::log_limit::LogLimit;

    fn stage() -> Stage {
        Stage {
            listener: String::new(),
            fanout: Arc::default(),
            counters: Arc::default(),
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
            pressure: Arc::default(),
        }
    }

    async fn socket() -> (Socket, Datagrams) {
        let socket = Socket::Udp(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let senders = Senders::new(Forward::default(), OriginChoice::None);
        let datagrams = Datagrams::new(&config::Listener::default(), senders, Some(&socket));
        (socket, datagrams)
    }

    #[tokio::test]
    async fn empty_datagrams_without_end_leave_the_others_their_turn() {
        let (stage, (_, mut datagrams)) = (stage(), socket().await);
        let mut room = stage.fanout.room(SenderId::unique());
        let mut received = 0;
        let burst = datagrams.receive(&stage, Some(&mut room), |_, _| {
            received += 1;
            if received > READ_BYTES {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(())
        });
        assert_eq!(received * DATAGRAM_BYTES, burst.unwrap().taken);
        assert_eq!(stage.counters.frames.get(), received as u64);
    }

    #[tokio::test]
    async fn empty_datagrams_without_end_do_not_hold_up_the_end() {
        let (socket, datagrams) = socket().await;
        let Socket::Udp(receiver) = &socket else {
            unreachable!()
        };
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            sender.send_to(&[], receiver.local_addr().unwrap()).unwrap();
        }
        datagrams.abandon(&socket, &stage(), 4 * DATAGRAM_BYTES);
        let (mut left, mut envelope) = (0, Envelope::EMPTY);
        while socket.receive(&mut [], &mut envelope).is_ok() {
            left += 1;
        }
        assert_eq!(left, 6);
    }
}
