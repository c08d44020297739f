//! The daemon between senders and a receiver that is ended and started again.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::senders::Senders;
use crate::support::counted::Counted;
use crate::support::daemon::{Program, relay};
use crate::support::netns::PATIENCE;
use crate::support::receiver::{Pace, Receiver, TORN};
use crate::support::tally::Tally;

/// After so long by one connection the daemon's pauses begin short again.
const SETTLED: Duration = Duration::from_millis(1100);

/// Marsaglia's xorshift: the same moments in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn sleep_below(&mut self, milliseconds: u64) {
        thread::sleep(Duration::from_millis(self.below(milliseconds)));
    }
}

/// How a receiver goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By SIGKILL.
    Killed,
    /// Once it has read what was sent to it.
    AtItsEnd,
}

impl Way {
    fn go(self, receiver: &mut Receiver) {
        match self {
            Self::Killed => receiver.kill(),
            Self::AtItsEnd => receiver.end(),
        }
    }
}

/// What is peculiar to a receiver's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Nothing.
    Plain,
    /// It stands still for some time.
    Stopped,
    /// It reads slowly.
    Slow,
    /// Another takes its place behind a new socket file while it lives.
    Replaced,
}

/// What went in, what came out, and what the daemon says of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) sent: Tally,
    pub(super) received: Tally,
    pub(super) counted: Counted,
}

/// All of it.
pub(super) struct Relay {
    /// Of senders, a round's.
    frames: usize,
    random: Random,
    receiver: Receiver,
    /// What each receiver wrote.
    received: Vec<PathBuf>,
    senders: Senders,
    daemon: Program,
    directory: TempDir,
}

impl Relay {
    /// Starts all. Each sender has `frames` a round; `output` is added to the output's
    /// configuration.
    pub(super) fn start(scheme: &str, output: &str, frames: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = match scheme {
            "tcp" | "udp" => format!("{scheme}://127.0.0.1:0"),
            _ => format!("{scheme}://{}/out.socket", directory.path().display()),
        };
        let receiver = Receiver::start_at(&at, &directory.path().join("0"), Pace::Full);
        let listener = directory.path().join("in.socket");
        let daemon = relay(
            directory.path(),
            &format!(
                "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
                 queue = \"256KiB\"\n{output}\n",
                receiver.address
            ),
        );
        Self {
            frames,
            random: Random(0x9e37_79b9_7f4a_7c15),
            received: vec![receiver.received().to_owned()],
            receiver,
            senders: Senders::start(&listener),
            daemon,
            directory,
        }
    }

    /// Lets senders send a round's frames.
    pub(super) fn send(&self) {
        self.senders.allow(self.frames);
    }

    /// Waits for the receiver to have anything, for so long.
    fn gets_lines(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while !self.receiver.has_lines() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn start_receiver(&mut self, pace: Pace) -> Receiver {
        let directory = self.directory.path().join(self.received.len().to_string());
        let receiver = Receiver::start_at(&self.receiver.address, &directory, pace);
        self.received.push(receiver.received().to_owned());
        receiver
    }

    /// Lets the receiver live for some time while senders send, then ends it, and
    /// starts the next.
    pub(super) fn round(&mut self, life: Life, way: Way) {
        self.send();
        if way == Way::Killed && life == Life::Plain {
            // Moments at which the daemon has not found it yet are moments too.
            let patience = 10 + self.random.below(40);
            self.gets_lines(Duration::from_millis(patience));
        } else {
            let found = self.gets_lines(PATIENCE);
            assert!(found, "not found:\n{}", self.daemon.stderr.text());
        }
        match life {
            Life::Plain => self.random.sleep_below(30),
            Life::Stopped => {
                thread::sleep(SETTLED);
                self.receiver.pause();
                self.send();
                self.random.sleep_below(300);
                // Every other is killed as it stands.
                if way == Way::AtItsEnd || self.random.below(2) == 0 {
                    self.receiver.resume();
                    self.random.sleep_below(20);
                }
            }
            Life::Slow => {
                self.go(way, Pace::Slow);
                self.send();
                assert!(self.gets_lines(PATIENCE));
                thread::sleep(SETTLED);
            }
            Life::Replaced => {
                let next = self.start_receiver(Pace::Full);
                let mut last = std::mem::replace(&mut self.receiver, next);
                let end = Instant::now() + PATIENCE;
                while !self.gets_lines(Duration::from_millis(50)) {
                    assert!(
                        Instant::now() < end,
                        "a new socket file is not noticed:\n{}",
                        self.daemon.stderr.text()
                    );
                    self.senders.allow(1);
                }
                way.go(&mut last);
                thread::sleep(SETTLED);
            }
        }
        self.go(way, Pace::Full);
    }

    /// Ends the receiver, and starts the next after some time.
    fn go(&mut self, way: Way, pace: Pace) {
        way.go(&mut self.receiver);
        self.random.sleep_below(20);
        self.receiver = self.start_receiver(pace);
    }

    /// Waits until all has gone its way.
    pub(super) fn finish(mut self) -> Outcome {
        let sent = self.senders.finish();
        let address = self.receiver.address.clone();
        let counted = |text: &str| Counted::of(text, &address);
        self.daemon.until("the daemon has sent all", |daemon| {
            counted(&daemon.stdout.text()).have_gone(sent.lines)
        });
        let ended = self.daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        self.receiver.end();
        let mut received = Tally::default();
        for file in &self.received {
            let text = fs::read_to_string(file).unwrap();
            // One that was killed may not have come to the end of a line.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines().filter(|&line| line != TORN) {
                received.add(line);
            }
        }
        Outcome {
            sent,
            received,
            counted: counted(&ended.stdout),
        }
    }
}
