//! The running daemon follows the kernel's connections, by events and by dumps: what
//! it counts is held to what the test did, to the last one.
//!
//! Where both modes can tell, two daemons watch the same connections, one in each. The
//! one that makes a dump at each tick has the kernel drop entries as soon as they
//! expire.

mod addresses;
mod choice;
mod course;
mod details;
mod ends;
mod replaced;
mod storm;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use conntally::flow::{Protocol, State, TcpState, Tuple};
use rustix::net::sockopt::set_socket_linger;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::daemon::{Program, daemon};
use crate::support::inject;
use crate::support::lines::{Metric, last, total};
use crate::support::netns::{PATIENCE, Peer};

/// The modes that hear of every beginning and end.
const BOTH: [&str; 2] = ["events", "hybrid"];

/// A daemon that tells on its standard output what it counts.
struct Watch {
    mode: &'static str,
    daemon: Program,
    _directory: TempDir,
}

impl Watch {
    /// Starts it, with more keys of `[collector]`, and tables; waits for its first tick.
    #[track_caller]
    fn start(mode: &'static str, collector: &str, tables: &str) -> Self {
        Self::every("500ms", mode, collector, tables)
    }

    #[track_caller]
    fn every(tick: &str, mode: &'static str, collector: &str, tables: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let body = format!(
            "interval = \"{tick}\"\n\
             [collector]\nsource = \"conntrack\"\nmode = \"{mode}\"\n{collector}\n{tables}\n\
             [[output]]\naddress = \"stdout:\"\nflush_interval = \"10ms\"\nspread = false\n"
        );
        let mut watch = Self {
            mode,
            daemon: daemon(directory.path(), &body),
            _directory: directory,
        };
        watch.until("the first tick", |text| {
            last(text, "conntally.collector.flows", &[]).is_some()
        });
        watch
    }

    /// Polls until the condition holds; else says what the daemon told, in short.
    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.daemon.stdout.text();
            if holds(&text) {
                return;
            }
            assert!(
                self.daemon.runs() && Instant::now() < end,
                "{} mode, not in time: {what}\n{:#?}\n{:#?}\n{:#?}\n{}",
                self.mode,
                told(&text),
                gauges(&text),
                corrected(&text),
                self.daemon.stderr.text()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until so many connections are in these series.
    #[track_caller]
    fn shows(&mut self, tags: &[&str], connections: usize) {
        self.until(&format!("{connections} of {tags:?}"), |text| {
            sum(&gauges(text), tags) == connections
        });
    }

    /// Ends it after it has told all of this, and holds it to have told nothing else,
    /// corrections included; all that it said.
    #[track_caller]
    fn settle(mut self, rates: &Rates<'_>, corrections: &Rates<'_>) -> String {
        self.until(&format!("{rates:?}"), |text| told(text) == owned(rates));
        let mode = self.mode;
        let ended = self.daemon.stop();
        let text = ended.stdout;
        assert_eq!(ended.code, Some(0), "{mode}: {}", ended.stderr);
        assert_eq!(told(&text), owned(rates), "{mode}\n{text}");
        assert_eq!(corrected(&text), owned(corrections), "{mode}\n{text}");
        balance(&text);
        text
    }
}

/// Counts by what is counted: "opened 10.0.0.1 tcp outbound".
type Rates<'a> = [(&'a str, usize)];

fn owned(rates: &Rates<'_>) -> BTreeMap<String, usize> {
    rates
        .iter()
        .map(|&(what, count)| (what.to_owned(), count))
        .collect()
}

/// A pair of daemons for the same connections.
fn both(collector: &str, tables: &str) -> [Watch; 2] {
    BOTH.map(|mode| Watch::start(mode, collector, tables))
}

/// What was opened, closed and failed, by the values of the tags.
fn told(text: &str) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for metric in text.lines().filter_map(Metric::parse) {
        let name = metric.name.strip_prefix("conntrack.");
        if let Some(name @ ("opened" | "closed" | "failed")) = name {
            let values = metric.tags.iter().map(|tag| tag.split_once(':').unwrap().1);
            let what: Vec<_> = std::iter::once(name).chain(values).collect();
            *told.entry(what.join(" ")).or_default() += metric.value;
        }
    }
    told
}

/// Corrections by kind.
fn corrected(text: &str) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for metric in text.lines().filter_map(Metric::parse) {
        if metric.name == "conntally.collector.corrections" {
            let kind = metric
                .tags
                .iter()
                .find_map(|tag| tag.strip_prefix("kind:"))
                .unwrap();
            *kinds.entry(kind.to_owned()).or_default() += metric.value;
        }
    }
    kinds.retain(|_, &mut count| count > 0);
    kinds
}

/// Connections now, by the tags of their series.
fn gauges(text: &str) -> BTreeMap<Vec<&str>, usize> {
    text.lines()
        .filter_map(Metric::parse)
        .filter(|metric| metric.name == "conntrack.connections")
        .map(|metric| (metric.tags, metric.value))
        .collect()
}

/// Connections of all series that have these tags.
fn sum(gauges: &BTreeMap<Vec<&str>, usize>, tags: &[&str]) -> usize {
    gauges
        .iter()
        .filter(|(of, _)| tags.iter().all(|tag| of.contains(tag)))
        .map(|(_, count)| count)
        .sum()
}

fn own(text: &str, name: &str) -> usize {
    total(text, &format!("conntally.collector.{name}"), &[])
}

fn flows(text: &str) -> usize {
    last(text, "conntally.collector.flows", &[]).unwrap()
}

/// Whether the daemon says that it follows connections in this mode now.
fn is_in(text: &str, mode: &str) -> bool {
    let tag = format!("mode:{mode}");
    last(text, "conntally.collector.mode", &[&tag]) == Some(1)
}

/// Every flow began once, and ended once or is there now; what is told by host and what
/// the daemon tells of itself are the same. Of all that a daemon said until its end.
#[track_caller]
fn balance(text: &str) {
    let [opened, closed, failed] = ["opened", "closed", "failed"].map(|what| {
        let of_itself = own(text, &format!("flows_{what}"));
        let by_host = total(text, &format!("conntrack.{what}"), &[]);
        assert_eq!(of_itself, by_host, "{what}\n{text}");
        of_itself
    });
    let begun = opened + own(text, "flows_picked_up") + own(text, "flows_found");
    let ended = closed + failed + own(text, "flows_forgotten");
    assert_eq!(begun, ended + flows(text), "{text}");
}

/// Sets a knob of the thread's namespace.
fn set(name: &str, value: &str) {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// A peer whose link addresses are known: else a first packet waits to be sent, for
/// longer than a short timeout of its entry.
fn neighbour() -> Peer {
    let peer = Peer::connected();
    for there in Peer::THERE {
        TcpStream::connect(at(there, 8081)).unwrap_err();
    }
    peer
}

/// Entries of connections that are over go within a second or two.
fn expire_soon() {
    for state in ["time_wait", "close", "syn_sent"] {
        set(&format!("tcp_timeout_{state}"), "1");
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Both ends of a new connection.
#[track_caller]
fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (dialled, listener.accept().unwrap().0)
}

/// Both ends say goodbye, one after the other.
#[track_caller]
fn close(first: TcpStream, mut second: TcpStream) {
    drop(first);
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
}

/// Sends RST when it is closed.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Dials, and gives up at once.
fn knock(at: SocketAddr) {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(&SockAddr::from(at)).unwrap_err();
}

/// The entry of a connection, as far as it takes to delete it.
fn entry(dialled: &TcpStream) -> conntally::flow::Flow {
    let (src, dst) = (dialled.local_addr().unwrap(), dialled.peer_addr().unwrap());
    let original = Tuple {
        src: src.ip(),
        dst: dst.ip(),
        src_port: src.port(),
        dst_port: dst.port(),
    };
    inject::flow(Protocol::Tcp, State::Tcp(TcpState::Established), original)
}
