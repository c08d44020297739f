//! From one process to the next: what a daemon leaves to the one that takes its place.
//!
//! Sockets outlive a process whose successor has their descriptors: connections are not
//! reset, and what senders write meanwhile waits in the kernel. So a daemon that is replaced
//! leaves its listening and its open sockets; of each connection what was read and is no
//! whole frame yet; of each output the lines that had not gone; the socket in which the
//! kernel's events wait; and which series were sent. Everything else is made anew.
//!
//! Two ways lead from one to the other:
//!
//! - **In place** (`SIGUSR2`): the process executes the program that is now at its path, with
//!   the descriptors left open. The process id stays.
//! - **By systemd's descriptor store** (`FDSTORE=1`, `sd_notify(3)`): what a daemon leaves at
//!   `SIGTERM` waits there for the next one that is started by a restart.
//!
//! In both, a memory file says what each descriptor is. Sockets that systemd made
//! for a `.socket` unit come with no such file, and are told by the address they are bound to.

mod exec;
mod inherit;
mod signals;
mod state;

use std::fs;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use tracing::warn;

pub use self::exec::{HandoverError, Program, has_store, store};
pub use self::inherit::Inherited;
pub use self::signals::{hold_signals, release_signals};
use crate::address::{Address, FileId};
use crate::config::{Format, Framing};
use crate::conntrack::Subscription;
use crate::output::spool::Contents;
use crate::report::SentSeries;

/// All that a daemon leaves.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// What its outputs had not sent.
    pub outputs: Vec<Output>,
    /// What it had not heard of the kernel, in its own network namespace.
    pub events: Option<Events>,
    /// The series that it sent: who goes on tells as 0 those that are gone.
    pub series: SentSeries,
}

/// A socket in which the kernel's events wait: what begins and ends while nobody reads it is
/// counted by who goes on.
#[derive(Debug)]
pub struct Events {
    /// The socket, which has joined its groups.
    pub socket: OwnedFd,
    /// Which events come.
    pub subscription: Subscription,
    /// Of which protocols, as the process that opened it had them.
    pub protocols: String,
}

/// A listener that lives on.
#[derive(Debug)]
pub struct Listener {
    /// As it is configured, but for a port that the system chose.
    pub address: String,
    /// The bound socket.
    pub socket: OwnedFd,
    /// The file of a unix socket that it made, and is to take away in the end.
    pub file: Option<FileId>,
    /// The unix sockets before that, whose files were gone: the oldest first.
    pub older: Vec<(OwnedFd, FileId)>,
    /// The open connections.
    pub connections: Vec<Connection>,
}

/// A connection that lives on.
#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub socket: OwnedFd,
    /// What was read and is no whole frame yet.
    pub held: Vec<u8>,
    /// How far its stream was cut.
    pub cut: Cut,
    /// What it has done.
    pub past: Past,
}

/// How far a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Cut {
    /// How its frames are told apart, as far as that is known.
    pub framing: Framing,
    /// Of a frame that is skipped: see [`crate::frame::Framer`].
    pub skip: usize,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Past {
    /// When it was accepted.
    pub since: SystemTime,
    /// Frames, or lines where they are not framed.
    pub frames: u64,
    /// Lines that passed the check.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Lines that did not pass.
    pub bad_lines: u64,
}

/// What an output had not sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// As it is configured.
    pub address: String,
    /// Of the lines that were ready to go.
    pub format: Format,
    /// The lines.
    pub contents: Contents,
}

impl Listener {
    /// Ends what nobody goes on with: the file of its socket goes too, if it is still that.
    fn close(self) {
        let path = self.address.parse::<Address>().ok();
        let path = path.as_ref().and_then(Address::path);
        let mut files = self.older.iter().map(|&(_, file)| file).chain(self.file);
        if let Some(path) = path
            && FileId::of(path).is_ok_and(|there| files.any(|file| file == there))
            && let Err(error) = fs::remove_file(path)
        {
            warn!(path = %path.display(), %error, "the socket file stays behind");
        }
    }
}

impl Legacy {
    /// Ends what nobody goes on with.
    pub fn close(self) {
        self.listeners.into_iter().for_each(Listener::close);
    }

    /// How many descriptors it comes to, without the file that tells of them.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let of_one = |listener: &Listener| 1 + listener.older.len() + listener.connections.len();
        let events = usize::from(self.events.is_some());
        events + self.listeners.iter().map(of_one).sum::<usize>()
    }

    /// How many lines had not gone.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.outputs
            .iter()
            .map(|output| output.contents.lines())
            .sum()
    }

    /// Takes out what was left of the listener of this address.
    pub fn take_listener(&mut self, address: &str) -> Option<Listener> {
        let place = self
            .listeners
            .iter()
            .position(|one| one.address == address)?;
        Some(self.listeners.swap_remove(place))
    }

    /// Takes out what was left of the output of this address.
    pub fn take_output(&mut self, address: &str) -> Option<Output> {
        let place = self.outputs.iter().position(|one| one.address == address)?;
        Some(self.outputs.swap_remove(place))
    }
}
