//! One connection of a stream listener: wait, reserve room, read, cut, check, hand on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::task::yield_now;

use super::intake::{Batch, READ_BYTES, READS_PER_TURN, Scratch, Stage};
use super::stream::Reader;
use super::tracker::Open;
use crate::config::Framing;
use crate::forward::Forward;
use crate::frame::{Cut, Framer};
use crate::output::Room;
use crate::output::backlog::SenderId;
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
}

/// What a read came to.
enum Progress {
    /// Nothing there.
    Dry,
    /// Something came.
    Read,
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
    ) -> Self {
        Self {
            stage,
            stream,
            framer,
            forward,
            open,
            held: Vec::new(),
        }
    }

    /// Reads until the end.
    pub(super) async fn run(mut self) {
        let stage = Arc::clone(&self.stage);
        let sender =
            (self.open.connection.peer.pid).map_or_else(SenderId::unique, SenderId::of_process);
        let mut room = stage.fanout.room(sender);
        let mut reads = 0;
        self.open.closing = loop {
            if let Err(error) = self.stream.readable().await {
                break self.fail(&error);
            }
            // Only who has something to read takes room, and nobody holds it idly.
            self.open.connection.set_waits_for_room(true);
            if room.refill(READ_BYTES).await {
                stage.counters.waits.add(1);
            }
            self.open.connection.set_waits_for_room(false);
            let progress = poll_fn(|cx| Poll::Ready(self.read(cx, &mut room))).await;
            room.release();
            match progress {
                Progress::End(closing) => break closing,
                Progress::Dry => reads = 0,
                Progress::Read => {
                    reads += 1;
                    if reads == READS_PER_TURN {
                        reads = 0;
                        yield_now().await;
                    }
                }
            }
        };
    }

    fn fail(&self, error: &std::io::Error) -> Closing {
        tracing::debug!(
            listener = %self.stage.listener, peer = %self.open.connection.peer, %error, "read failed"
        );
        Closing::Error
    }

    /// Reads once, and hands on the lines that are whole.
    fn read(&mut self, cx: &mut Context<'_>, room: &mut Room<'_>) -> Progress {
        Scratch::lend(|scratch| {
            let held = self.held.len();
            let (space, gathered) = scratch.parts(held + READ_BYTES);
            let (before, free) = space.split_at_mut(held);
            let mut buffer = ReadBuf::new(free);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Pending => return Progress::Dry,
                Poll::Ready(Err(error)) => return Progress::End(self.fail(&error)),
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled().len();
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
        room: &mut Room<'_>,
        gathered: &mut Vec<u8>,
    ) -> Progress {
        let stage = &*self.stage;
        let connection = &*self.open.connection;
        let mut batch = Batch::new(stage, &self.forward, &connection.peer, room, gathered);
        let mut rest = input;
        let mut progress = Progress::Read;
        if read == 0 {
            // A line that the client ended by going is a line; one that we cut off is none.
            match self.framer.finish(rest) {
                Some(Cut::Body(_)) if connection.verdict().is_some() => {
                    batch.take(Cut::Truncated, false);
                }
                Some(cut) => batch.take(cut, true),
                None => {}
            }
            rest = &[];
            progress = Progress::End(Closing::Eof);
        } else {
            loop {
                match self.framer.cut(&mut rest) {
                    Ok(Some(cut)) => batch.take(cut, self.framer.framing() == Framing::Newline),
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
        connection.lines.add(tally.lines);
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
        });
        let (stream, _peer) = UnixStream::pair().unwrap();
        let accepted = Accepted::Unix(stream);
        let peer = accepted.peer();
        let (reader, handle) = accepted.split();
        let open = Arc::<Tracker>::default().open(peer, handle, &stage.counters);
        let framer = Framer::new(Framing::Auto, 8 << 10);
        let task = Task::new(stage, reader, framer, Forward::default(), open);
        let bytes = size_of_val(&task.run());
        assert!(bytes <= 768, "{bytes} bytes");
    }
}
