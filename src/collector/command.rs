//! What the collector's thread can be asked while it runs, and the way to it.
//!
//! The thread waits in `poll(2)` for the kernel; [`Commands`] has a descriptor that
//! is readable while a command waits. Whoever asks waits for so long and no longer:
//! an answer that nobody waits for any more is dropped with its channel.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::journal::{ClientId, Delta, Journal, JournalCounts, JournalError};
use crate::connections::filter::ConnectionFilter;
use crate::flow::key::FlowKey;

/// Commands that may wait for the thread.
const QUEUE: usize = 32;
/// How long it is waited for: it may be in the middle of a dump.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a flush may take, which makes a dump of its own.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows of the flow table in one answer.
pub const TABLE_PAGE: usize = 1024;

/// One question or order.
#[derive(Debug)]
pub enum Command {
    /// Of a client and what ended: [`JournalCommand::answer`] does it.
    Journal(JournalCommand),
    /// A description of itself.
    Describe(oneshot::Sender<Description>),
    /// Read nothing more until [`Command::Resume`], and answer ticks from what is known.
    Pause(oneshot::Sender<()>),
    /// Go on, with a resync.
    Resume(oneshot::Sender<()>),
    /// Read what events wait, resync, and announce what is over but still in the table;
    /// answered when done.
    Flush(oneshot::Sender<Flushed>),
    /// [`TABLE_PAGE`] rows of the flow table, from a place that an answer before gave.
    Table {
        /// 0, or [`TablePage::next`].
        from: u64,
        /// Where to.
        reply: oneshot::Sender<TablePage>,
    },
}

/// What the journal alone can answer.
#[derive(Debug)]
pub enum JournalCommand {
    /// [`Journal::view`].
    View {
        /// Who.
        client: ClientId,
        /// Where to.
        reply: oneshot::Sender<Result<HashSet<FlowKey>, JournalError>>,
    },
    /// [`Journal::ask`].
    Ask {
        /// Who.
        client: ClientId,
        /// What for.
        filter: ConnectionFilter,
        /// Where to.
        reply: oneshot::Sender<Result<Delta, JournalError>>,
    },
    /// [`Journal::remove_client`].
    Remove {
        /// Who.
        client: ClientId,
        /// Where to.
        reply: oneshot::Sender<Result<(), JournalError>>,
    },
    /// [`Journal::hide`].
    Hide {
        /// Who.
        client: ClientId,
        /// What.
        key: FlowKey,
        /// Where to.
        reply: oneshot::Sender<Result<(), JournalError>>,
    },
}

impl JournalCommand {
    /// Does it. One that nobody waits for any more is not begun: a position that moved
    /// for nobody would lose what it passed.
    pub fn answer(self, journal: &mut Journal, now: Instant) {
        // Whoever stopped waiting between then and now is told nothing.
        let _gone = match self {
            Self::View { reply, .. } if reply.is_closed() => true,
            Self::Ask { reply, .. } if reply.is_closed() => true,
            Self::View { client, reply } => reply.send(journal.view(&client, now)).is_err(),
            Self::Ask {
                client,
                filter,
                reply,
            } => reply.send(journal.ask(&client, &filter, now)).is_err(),
            Self::Remove { client, reply } => reply.send(journal.remove_client(&client)).is_err(),
            Self::Hide { client, key, reply } => {
                reply.send(journal.hide(&client, key, now)).is_err()
            }
        };
    }
}

/// What the collector says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Where connections are read from: conntrack, sockets or off.
    pub source: &'static str,
    /// How: dump, hybrid or events.
    pub mode: &'static str,
    /// Why this source and this mode, in a sentence.
    pub why: String,
    /// Whether it was told to pause.
    pub paused: bool,
    /// Entries of the kernel's table at the last look, where it may be asked.
    pub entries: Option<u64>,
    /// Its limit.
    pub limit: Option<u64>,
    /// Entries of the flow table; none in dump mode.
    pub flows: u64,
    /// Bytes that the flow table takes.
    pub flow_bytes: u64,
    /// Bytes that the kernel granted the event socket.
    pub receive_buffer: Option<u64>,
    /// Milliseconds since the last dump.
    pub last_dump_ms: Option<u64>,
    /// How long it took, in microseconds.
    pub dump_us: Option<u64>,
    /// Milliseconds until the next resync, where there is one to come.
    pub next_resync_ms: Option<u64>,
    /// The journal's own.
    pub journal: JournalCounts,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flushed {
    /// Ends that the events which waited, and the resync, brought.
    pub ended: u64,
    /// Connections told of before they leave the table.
    pub announced: u64,
}

/// Rows of the flow table, and where the next ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablePage {
    /// At most [`TABLE_PAGE`].
    pub rows: Vec<TableRow>,
    /// `None` at the end.
    pub next: Option<u64>,
}

/// A row of the flow table, for debugging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableRow {
    /// The flow's key.
    pub key: FlowKey,
    /// The number of its row in the tally.
    pub row: u32,
    /// The kernel's name of its state.
    pub state: &'static str,
    /// The names of the flags that are set.
    pub flags: Vec<&'static str>,
}

/// Why the collector did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is none: `collector.source` is off, or its thread has ended.
    #[error(
        "the collector does not run: collector.source is \"off\", or its thread has ended (the \
         log says why)"
    )]
    Gone,
    /// Too many wait already.
    #[error("the collector is busy: {QUEUE} commands wait already; try again")]
    Full,
    /// It did not come to it in time.
    #[error("the collector did not answer within {} s; try again", .0.as_secs())]
    Timeout(Duration),
    /// The journal said no.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The way to the collector's thread.
#[derive(Clone, Debug)]
pub struct CollectorHandle {
    commands: mpsc::Sender<Command>,
    /// An eventfd(2), as the thread waits for descriptors alone.
    wake: Arc<OwnedFd>,
}

/// The thread's end of it.
#[derive(Debug)]
pub struct Commands {
    commands: mpsc::Receiver<Command>,
    wake: Arc<OwnedFd>,
}

/// A way to a collector, and the collector's end.
///
/// # Errors
/// Fails when the system is out of descriptors.
pub fn channel() -> io::Result<(CollectorHandle, Commands)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, commands) = mpsc::channel(QUEUE);
    let handle = CollectorHandle {
        commands: sender,
        wake: Arc::clone(&wake),
    };
    Ok((handle, Commands { commands, wake }))
}

impl AsFd for Commands {
    /// Readable while a command waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Commands {
    /// The next command, if one waits. Take them until there is none: only then may
    /// the descriptor be waited for again.
    pub fn take(&mut self) -> Option<Command> {
        if let Ok(command) = self.commands.try_recv() {
            return Some(command);
        }
        // Reset first, then look once more: what comes in between wakes again.
        let mut count = [0; 8];
        let _none = rustix::io::read(&*self.wake, &mut count);
        self.commands.try_recv().ok()
    }
}

impl CollectorHandle {
    async fn ask<T>(
        &self,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .try_send(command(reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommandError::Full,
                mpsc::error::TrySendError::Closed(_) => CommandError::Gone,
            })?;
        // It fails where the count is full, and then the thread is awake.
        let _full = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|_| CommandError::Gone),
            Err(_) => Err(CommandError::Timeout(limit)),
        }
    }

    /// Which connections a client hides; takes it in if it is new.
    ///
    /// # Errors
    /// When there is no room for a client, or no answer.
    pub async fn view(&self, client: &ClientId) -> Result<HashSet<FlowKey>, CommandError> {
        let client = client.clone();
        let command = |reply| Command::Journal(JournalCommand::View { client, reply });
        Ok(self.ask(ANSWER_TIMEOUT, command).await??)
    }

    /// What ended since the client last asked.
    ///
    /// # Errors
    /// When there is no room for a client, or no answer.
    pub async fn delta(
        &self,
        client: &ClientId,
        filter: &ConnectionFilter,
    ) -> Result<Delta, CommandError> {
        let (client, filter) = (client.clone(), filter.clone());
        let command = |reply| {
            Command::Journal(JournalCommand::Ask {
                client,
                filter,
                reply,
            })
        };
        Ok(self.ask(ANSWER_TIMEOUT, command).await??)
    }

    /// Forgets a client.
    ///
    /// # Errors
    /// When nobody has this name, or no answer comes.
    pub async fn remove_client(&self, client: &ClientId) -> Result<(), CommandError> {
        let client = client.clone();
        let command = |reply| Command::Journal(JournalCommand::Remove { client, reply });
        Ok(self.ask(ANSWER_TIMEOUT, command).await??)
    }

    /// Leaves a connection out of what a client sees.
    ///
    /// # Errors
    /// When nobody has this name, it hides as much as it may, or no answer comes.
    pub async fn hide(&self, client: &ClientId, key: FlowKey) -> Result<(), CommandError> {
        let client = client.clone();
        let command = |reply| Command::Journal(JournalCommand::Hide { client, key, reply });
        Ok(self.ask(ANSWER_TIMEOUT, command).await??)
    }

    /// What the collector says of itself.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn describe(&self) -> Result<Description, CommandError> {
        self.ask(ANSWER_TIMEOUT, Command::Describe).await
    }

    /// Stops reading.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn pause(&self) -> Result<(), CommandError> {
        self.ask(ANSWER_TIMEOUT, Command::Pause).await
    }

    /// Goes on.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn resume(&self) -> Result<(), CommandError> {
        self.ask(ANSWER_TIMEOUT, Command::Resume).await
    }

    /// Makes every end visible that the kernel holds back.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn flush(&self) -> Result<Flushed, CommandError> {
        self.ask(FLUSH_TIMEOUT, Command::Flush).await
    }

    /// A part of the flow table.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn table(&self, from: u64) -> Result<TablePage, CommandError> {
        let command = |reply| Command::Table { from, reply };
        self.ask(ANSWER_TIMEOUT, command).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(commands: &Commands) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut waited = [PollFd::new(commands, PollFlags::IN)];
        poll(&mut waited, Some(&now)).unwrap() == 1
    }

    #[tokio::test]
    async fn the_thread_is_woken_until_it_has_taken_every_command() {
        let (handle, mut commands) = channel().unwrap();
        assert!(!is_readable(&commands));
        let asked = [handle.clone(), handle.clone()]
            .map(|handle| tokio::spawn(async move { handle.describe().await.unwrap().flows }));
        tokio::task::yield_now().await;
        let mut answered = 0;
        while is_readable(&commands) {
            while let Some(command) = commands.take() {
                let Command::Describe(reply) = command else {
                    panic!("{command:?}");
                };
                answered += 1;
                let flows = answered;
                reply
                    .send(Description {
                        flows,
                        ..Description::default()
                    })
                    .unwrap();
            }
        }
        for asked in asked {
            assert!((1..=2).contains(&asked.await.unwrap()));
        }
        assert_eq!(answered, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_no_more_than_so_many_wait() {
        let (handle, commands) = channel().unwrap();
        let waits: Vec<_> = (0..QUEUE)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.pause().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(handle.resume().await, Err(CommandError::Full));
        for wait in waits {
            let error = wait.await.unwrap().unwrap_err();
            assert_eq!(error, CommandError::Timeout(ANSWER_TIMEOUT));
        }
        drop(commands);
        assert_eq!(handle.resume().await, Err(CommandError::Gone));
    }

    #[tokio::test]
    async fn a_position_does_not_move_for_one_who_stopped_waiting() {
        let mut journal = Journal::default();
        let (reply, answer) = oneshot::channel();
        drop(answer);
        let client = "a".parse().unwrap();
        let command = JournalCommand::View { client, reply };
        command.answer(&mut journal, Instant::now());
        assert!(!journal.is_followed());
    }
}
