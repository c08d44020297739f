//! Hostile clients, each against the running program, with a well-behaved one beside it
//! whose lines must arrive whole all the while.

mod connections;
mod descriptors;
mod frames;
mod role;
mod socket_file;
mod start;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Resource, getrlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::admin::ask;
use crate::support::clients::{Stream, framed, free_tcp_port};
use crate::support::daemon::{Ended, Program, daemon};
use crate::support::lines::total;
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

/// What connections come over.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Unix,
    Tcp,
}

/// A daemon with one stream listener, a receiver behind it, and a client that does as it
/// should.
struct Rig {
    /// Shared with whoever looks at what is left at the end.
    directory: Arc<TempDir>,
    transport: Transport,
    /// Of the listener.
    address: String,
    receiver: Receiver,
    daemon: Program,
    neighbour: Neighbour,
}

impl Rig {
    /// Over a unix stream, with these further keys of the listener.
    #[track_caller]
    fn start(keys: &str) -> Self {
        Self::over(Transport::Unix, keys)
    }

    /// One after the other, over each transport.
    fn over_each(keys: &str) -> impl Iterator<Item = Self> {
        let transports = [Transport::Unix, Transport::Tcp].into_iter();
        transports.map(move |transport| Self::over(transport, keys))
    }

    #[track_caller]
    fn over(transport: Transport, keys: &str) -> Self {
        eprintln!("over {transport:?}");
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let receiver = Receiver::start("unixstream", &directory.path().join("out"));
        let address = match transport {
            Transport::Unix => {
                let own = directory.path().join("run");
                fs::create_dir(&own).unwrap();
                format!("unixstream://{}/in.socket", own.display())
            }
            Transport::Tcp => format!("tcp://127.0.0.1:{}", free_tcp_port()),
        };
        let mut daemon = daemon(
            directory.path(),
            &format!(
                "[collector]\nsource = \"off\"\n\
                 [report]\ntelemetry = false\n\
                 [[listener]]\naddress = \"{address}\"\norigin = \"none\"\n{keys}\n\
                 [[output]]\naddress = \"{}\"\n",
                receiver.address
            ),
        );
        daemon.until("the admin socket is there", |daemon| {
            daemon.stderr.contains("admin socket bound")
        });
        let neighbour = Neighbour::start(&address);
        let rig = Self {
            directory,
            transport,
            address,
            receiver,
            daemon,
            neighbour,
        };
        rig.hears_the_neighbour();
        rig
    }

    /// The listener's socket file, with unix streams, in a directory of its own.
    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/in.socket")
    }

    fn connect(&self) -> Stream {
        Stream::connect(&self.address)
    }

    /// What the daemon calls the senders of this process, or the part that all have.
    fn name_of_senders(&self) -> String {
        match self.transport {
            Transport::Unix => format!("(pid {})", std::process::id()),
            Transport::Tcp => "peer=127.0.0.1:".to_owned(),
        }
    }

    /// What the daemon tells of its listener.
    fn listener(&self) -> Value {
        let admin = self.directory.path().join("admin.socket");
        let status = ask(&admin, "GET", "/status");
        status.of_type("listener")[0].clone()
    }

    /// Waits until this is so of what the daemon tells of its listener.
    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        let admin = self.directory.path().join("admin.socket");
        let mut last = Value::Null;
        self.daemon.until(what, |_| {
            let status = ask(&admin, "GET", "/status");
            last = status.of_type("listener")[0].clone();
            holds(&last)
        });
    }

    /// Waits until the receiver has what the neighbour has sent by now, and more.
    #[track_caller]
    fn hears_the_neighbour(&self) {
        let sent = self.neighbour.sent.load(Ordering::Relaxed) + 1;
        self.receives(NEIGHBOUR, sent);
    }

    /// Waits until the receiver has counts of that name that add up to so much.
    #[track_caller]
    fn receives(&self, name: &str, sum: usize) {
        eventually(&format!("{sum} {name} arrive"), || self.sum(name) >= sum);
    }

    /// What the counts of that name that are at the receiver add up to.
    fn sum(&self, name: &str) -> usize {
        total(&self.text(), name, &[])
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.receiver.bytes(0)).into_owned()
    }

    /// Ends the receiver and starts another at its place, while nothing is on its way.
    #[track_caller]
    fn restart_receiver(&mut self) {
        let turn = Arc::clone(&self.neighbour.turn);
        let turn = turn.lock().unwrap();
        self.receives(NEIGHBOUR, self.neighbour.sent.load(Ordering::Relaxed));
        self.receiver.restart();
        drop(turn);
    }

    /// Lets the daemon have so many file descriptors open; whether that can be.
    fn may_have_descriptors(&self, number: usize) -> bool {
        let pid = i32::try_from(self.daemon.pid()).unwrap();
        let pid = Pid::from_raw(pid);
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(number as u64);
        prlimit(pid, Resource::Nofile, limit).is_ok()
    }

    /// Ends the neighbour and the daemon; the sum of the one must have come by the other.
    #[track_caller]
    fn end(self) -> (Ended, String) {
        let Self {
            directory: _directory,
            receiver,
            daemon,
            mut neighbour,
            ..
        } = self;
        let sent = neighbour.end();
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        // The receiver is a process of its own, and may be behind.
        let mut text = String::new();
        eventually("all that the neighbour sent arrives", || {
            text = String::from_utf8_lossy(&receiver.bytes(0)).into_owned();
            total(&text, NEIGHBOUR, &[]) >= sent
        });
        assert_eq!(total(&text, NEIGHBOUR, &[]), sent, "of the neighbour");
        (ended, text)
    }
}

/// What the neighbour counts.
const NEIGHBOUR: &str = "neighbour.lines";

/// A client that sends a few lines all the time, over one connection.
struct Neighbour {
    /// What its lines add up to so far.
    sent: Arc<AtomicUsize>,
    /// Held while it sends.
    turn: Arc<Mutex<()>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    fn start(address: &str) -> Self {
        let mut stream = Stream::connect(address);
        let sent = Arc::<AtomicUsize>::default();
        let stop = Arc::<AtomicBool>::default();
        let turn = Arc::<Mutex<()>>::default();
        let (counts, turns, is_over) = (Arc::clone(&sent), Arc::clone(&turn), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let lines = format!("{NEIGHBOUR}:1|c|#env:test\n{NEIGHBOUR}:2|c|#env:test\n");
            while !is_over.load(Ordering::Relaxed) {
                let turn = turns.lock().unwrap();
                stream.write_all(&framed(lines.as_bytes())).unwrap();
                counts.fetch_add(3, Ordering::Relaxed);
                drop(turn);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            sent,
            turn,
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it; all that it sent.
    #[track_caller]
    fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the neighbour was cut off");
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// KiB of memory that a process has resident.
fn resident_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.trim().parse().unwrap()
}

/// Descriptors that a process has open.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
