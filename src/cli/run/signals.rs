//! The signals that the daemon listens for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::handover;

/// Those that end the daemon, reload it, and replace it.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    replace: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The end, by the signal of this name.
    End(&'static str),
    /// To read the configuration anew.
    Reload,
    /// To let the program that now stands at our path take our place.
    Replace,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            replace: signal(SignalKind::user_defined2())?,
        };
        // Those too that came while one program replaced another.
        handover::release_signals();
        Ok(signals)
    }

    /// What the next signal asks for.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.replace.recv() => Asked::Replace,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
