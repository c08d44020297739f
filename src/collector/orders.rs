//! What the collector's thread does when it is told to.

use std::time::Duration;

use tokio::time::Instant;

use super::command::{Command, Description, Flushed};
use super::ending::Detail;
use super::worker::Worker;
use crate::report::Source;
use crate::telemetry::Reason as _;

impl<D: Detail> Worker<D> {
    /// Does what is asked. Who asked may have stopped waiting: that is no failure.
    pub(super) fn obey(&mut self, command: Command) {
        let _waits = match command {
            Command::Journal(command) => {
                command.answer(&mut self.desk.journal, Instant::now());
                self.desk.watch_ends();
                true
            }
            Command::Describe(reply) => reply.send(self.describe()).is_ok(),
            Command::Pause(reply) => {
                self.pause(true);
                self.desk.close_events();
                reply.send(()).is_ok()
            }
            Command::Resume(reply) => {
                self.pause(false);
                // A failure is said there.
                let _shown = self.look();
                reply.send(()).is_ok()
            }
            Command::Flush(reply) => reply.send(self.flush()).is_ok(),
            Command::Table { from, reply } => reply.send(self.desk.page(from)).is_ok(),
        };
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.desk.counters.paused.set(paused.into());
    }

    /// Reads what waits, makes a dump, which drives out what has expired, and tells of
    /// what is over.
    fn flush(&mut self) -> Flushed {
        let before = self.desk.journal.counts().recorded;
        self.desk.look_for_over();
        // A failure is said there.
        let _shown = self.look();
        let ended = self.desk.journal.counts().recorded - before;
        Flushed {
            ended,
            announced: self.desk.announce_over(),
        }
    }

    fn describe(&self) -> Description {
        let (flows, bytes, buffer) = self.desk.sizes();
        let mut why = self.sources.fallback().unwrap_or_default().to_owned();
        if why.is_empty() {
            why.clone_from(&self.desk.why);
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let source = self.last.map_or(Source::Off, |last| last.source);
        let table = self.last.and_then(|last| last.table);
        let now = Instant::now();
        Description {
            source: source.as_str(),
            mode: self.desk.mode().as_str(),
            why,
            paused: self.paused,
            entries: table.map(|table| table.entries.into()),
            limit: table.map(|table| table.limit.into()),
            flows: flows as u64,
            flow_bytes: bytes as u64,
            receive_buffer: buffer.map(|bytes| bytes as u64),
            last_dump_ms: self.last.map(|last| millis(now.duration_since(last.ended))),
            dump_us: self.last.map(|last| micros(last.took)),
            next_resync_ms: self
                .due()
                .map(|due| millis(due.saturating_duration_since(now))),
            journal: self.desk.journal.counts(),
        }
    }
}
