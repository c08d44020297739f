//! Senders on connections of their own, who send as fast as they may.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use crate::support::clients::framed;
use crate::support::netns::PATIENCE;
use crate::support::tally::Tally;

/// Connections, each with a thread.
const SENDERS: usize = 8;
/// Lines of a frame.
const FRAME_LINES: usize = 50;
/// Contexts of counts; has no divisor in common with [`GAUGE_EVERY`].
const CONTEXTS: usize = 49;
/// One line of so many is a gauge: how many lines its sender has sent before.
const GAUGE_EVERY: usize = 10;

/// The shortest line that is sent, bytes with the newline.
pub(super) const SHORTEST_LINE: usize = "sums.count:1|c|#context:0\n".len();

fn line(sender: usize, n: usize) -> String {
    if n.is_multiple_of(GAUGE_EVERY) {
        format!("sums.gauge:{n}|g|#sender:{sender}\n")
    } else {
        format!("sums.count:1|c|#context:{}\n", n % CONTEXTS)
    }
}

/// How many frames each may have sent by now, and whether that is all.
#[derive(Default)]
struct Leave {
    frames: usize,
    is_last: bool,
}

#[derive(Default)]
struct Gate {
    leave: Mutex<Leave>,
    changed: Condvar,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut Leave)) {
        change(&mut self.leave.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until the frame of this number may go; `false` if it never will.
    fn passes(&self, frame: usize) -> bool {
        let leave = self.leave.lock().unwrap();
        let wait = |leave: &mut Leave| leave.frames <= frame && !leave.is_last;
        let leave = self.changed.wait_while(leave, wait).unwrap();
        frame < leave.frames
    }
}

/// All of them.
pub(super) struct Senders {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<usize>>,
}

impl Senders {
    /// Connects them to a listener. They wait for leave.
    pub(super) fn start(listener: &Path) -> Self {
        let gate = Arc::<Gate>::default();
        let threads = (0..SENDERS).map(|sender| {
            let mut stream = UnixStream::connect(listener).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut sent = 0;
                while gate.passes(sent / FRAME_LINES) {
                    let lines = (sent..sent + FRAME_LINES).map(|n| line(sender, n));
                    let payload: String = lines.collect();
                    stream.write_all(&framed(payload.as_bytes())).unwrap();
                    sent += FRAME_LINES;
                }
                sent
            })
        });
        Self {
            threads: threads.collect(),
            gate,
        }
    }

    /// Lets each send so many frames more.
    pub(super) fn allow(&self, frames: usize) {
        self.gate.change(|leave| leave.frames += frames);
    }

    /// Waits until all is sent that they may send: what that was.
    pub(super) fn finish(self) -> Tally {
        self.gate.change(|leave| leave.is_last = true);
        let mut sent = Tally::default();
        for (sender, thread) in self.threads.into_iter().enumerate() {
            for n in 0..thread.join().unwrap() {
                sent.add(line(sender, n).trim_end());
            }
        }
        sent
    }
}
