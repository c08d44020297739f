//! One connection of a stream listener: wait, reserve room, read, cut, check, hand on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::intake::{Batch, READ_BYTES, Scratch, Sender, Stage, Turn};
use super::pressure::Keep;
use super::stream::Reader;
use super::tracker::{Ending, Open};
use crate::config::{ByteRate, Framing};
use crate::forward::Forward;
use crate::frame::{Cut, Framer};
use crate::handover;
use crate::output::Room;
use crate::output::backlog::SenderId;
use crate::rate::Rate;
use crate::telemetry::{Closing, FrameDrop};

/// A connection's own state. It has a buffer only while a frame is incomplete.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) stage: Arc<Stage>,
    pub(super) stream: Reader,
    pub(super) framer: Framer,
    pub(super) forward: Forward,
    pub(super) open: Open,
    /// The beginning of a frame.
    held: Vec<u8>,
    /// What it may send; apart, as most may send what they like.
    rate: Option<Box<Rate>>,
}

/// What a read came to.
enum Progress {
    /// Nothing there.
    Dry,
    /// So many bytes came.
    Read(usize),
    /// It was the last.
    End(Closing),
}

impl Task {
    pub(super) fn new(
        stage: Arc<Stage>,
        stream: Reader,
        framer: Framer,
        forward: Forward,
        open: Open,
        rate: ByteRate,
    ) -> Self {
        Self {
            stage,
            stream,
            framer,
            forward,
            open,
            held: Vec::new(),
            // A second's worth may come at once.
            rate: (rate.0)
                .and_then(|rate| Rate::new(rate.0, rate.0))
                .map(Box::new),
        }
    }

    /// Goes on where another process stood.
    pub(super) fn go_on(&mut self, held: Vec<u8>, cut: handover::Cut) {
        self.framer = self.framer.clone().at(cut);
        self.open.connection.set_rest(&self.framer, &held);
        self.held = held;
    }

    /// Reads until the end.
    pub(super) async fn run(mut self) {
        let stage = Arc::clone(&self.stage);
        let sender =
            (self.open.connection.peer.pid).map_or_else(SenderId::unique, SenderId::of_process);
        let mut room = stage.fanout.room(sender);
        let mut turn = Turn::default();
        let closing = loop {
            if let Err(error) = self.stream.readable().await {
                break self.fail(&error);
            }
            self.open.connection.set_held_up(true);
            let bytes = self.allowance();
            if let Some(rate) = self.rate_held()
                && !rate.is_ready(bytes)
            {
                // Apart, as every connection's task would have room for the timer.
                let micros = Box::pin(rate.ready(bytes)).await;
                stage.counters.throttled.add(1);
                stage.counters.throttled_us.add(micros.unwrap_or_default());
            }
            let keep = stage.wait_for_memory().await;
            // Only who has something to read takes room, and nobody holds it idly.
            if keep == Keep::All && room.refill(bytes).await {
                stage.counters.waits.add(1);
            }
            self.open.connection.set_held_up(false);
            let progress = poll_fn(|cx| {
                let room = (keep == Keep::All).then_some(&mut room);
                Poll::Ready(self.read(bytes, cx, room))
            })
            .await;
            room.release();
            match progress {
                Progress::End(closing) => break closing,
                Progress::Dry => turn.end(),
                Progress::Read(bytes) => turn.go_on(bytes).await,
            }
        };
        self.open.ending = Ending::Closed(closing);
    }

    /// The rate to be held: none once the connection is ended, of which no more comes
    /// than what is queued.
    fn rate_held(&mut self) -> Option<&mut Rate> {
        let is_ended = self.open.connection.verdict().is_some();
        self.rate.as_deref_mut().filter(|_| !is_ended)
    }

    /// Most bytes of the next read.
    fn allowance(&mut self) -> usize {
        self.rate_held()
            .map_or(READ_BYTES, |rate| rate.burst().min(READ_BYTES))
    }

    fn fail(&self, error: &std::io::Error) -> Closing {
        tracing::debug!(
            listener = %self.stage.listener, peer = %self.open.connection.peer, %error, "read failed"
        );
        Closing::Error
    }

    /// Reads once, at most so many bytes, and hands on the lines that are whole; without
    /// room, gives them up.
    fn read(
        &mut self,
        bytes: usize,
        cx: &mut Context<'_>,
        room: Option<&mut Room<'_>>,
    ) -> Progress {
        Scratch::lend(|scratch| {
            let held = self.held.len();
            let (space, gathered) = scratch.parts(held + bytes);
            let (before, free) = space.split_at_mut(held);
            let mut buffer = ReadBuf::new(free);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Pending => return Progress::Dry,
                Poll::Ready(Err(error)) => return Progress::End(self.fail(&error)),
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled().len();
            if let Some(rate) = &mut self.rate {
                rate.went(read);
            }
            before.copy_from_slice(&self.held);
            let input = space.get(..held + read).unwrap_or_default();
            self.take(input, read, room, gathered)
        })
    }

    /// Takes `input`: what was held, and `read` bytes that came; at none it is the end.
    fn take(
        &mut self,
        input: &[u8],
        read: usize,
        room: Option<&mut Room<'_>>,
        gathered: &mut Vec<u8>,
    ) -> Progress {
        let stage = &*self.stage;
        let connection = &*self.open.connection;
        let mut batch = Batch::new(stage, room, gathered);
        let from = Sender::new(&self.forward, &connection.peer);
        let mut rest = input;
        let mut progress = Progress::Read(read);
        if read == 0 {
            // A line that the client ended by going is a line; one that we cut off is none.
            match self.framer.finish(rest) {
                Some(Cut::Body(_)) if connection.verdict().is_some() => {
                    batch.take(Cut::Truncated, false, from);
                }
                Some(cut) => batch.take(cut, true, from),
                None => {}
            }
            rest = &[];
            progress = Progress::End(Closing::Eof);
        } else {
            loop {
                match self.framer.cut(&mut rest) {
                    Ok(Some(cut)) => {
                        batch.take(cut, self.framer.framing() == Framing::Newline, from);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let reason = error.reason().unwrap_or(FrameDrop::Unframed);
                        stage.drop_frame(reason, &connection.peer, &error);
                        rest = &[];
                        progress = Progress::End(Closing::Protocol);
                        break;
                    }
                }
            }
        }
        let tally = batch.finish();
        stage.counters.bytes.add(read as u64);
        connection.bytes.add(read as u64);
        connection.frames.add(tally.frames);
        connection.lines.add(tally.good_lines());
        connection.bad_lines.add(tally.bad_lines);
        connection.set_rest(&self.framer, rest);
        if rest.is_empty() {
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        progress
    }
}

impl Drop for Task {
    /// Wherever it was dropped, what it read whole has been handed on.
    fn drop(&mut self) {
        let Self {
            open,
            stream,
            held,
            framer,
            ..
        } = self;
        open.leave(|| Ok((stream.descriptor()?, std::mem::take(held), framer.place())));
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::listen::stream::Accepted;
    use crate::listen::tracker::Tracker;
    use crate::listen::{LOG_LINES, LOG_WINDOW};
    use crate::log_limit::LogLimit;

    /// A connection's memory is this, and what the runtime and the tracker keep.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let stage = Arc::new(Stage {
            listener: String::new(),
            fanout: Arc::default(),
            counters: Arc::default(),
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
            pressure: Arc::default(),
        });
        let (stream, _peer) = UnixStream::pair().unwrap();
        let accepted = Accepted::Unix(stream);
        let peer = accepted.peer();
        let (reader, handle) = accepted.split();
        let open = Arc::<Tracker>::default().open(peer, handle, None, &stage.counters);
        let framer = Framer::new(Framing::Auto, 8 << 10);
        let task = Task::new(
            stage,
            reader,
            framer,
            Forward::default(),
            open,
            ByteRate::default(),
        );
        let bytes = size_of_val(&task.run());
        assert!(bytes <= 768, "{bytes} bytes");
    }
}
