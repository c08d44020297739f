//! A dump of a full table, beside a loop that receives and discards, and beside
//! `conntrack -L >/dev/null`.
//!
//! `cargo bench --bench dump -- [FLOWS [HOSTS]]`, as root. The table is that of a
//! network namespace of its own. `nf_conntrack_max`, which is one for the machine, is
//! raised if it must be, and set back at the end.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends where it fails"
)]

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use conntally::collector::{Count, Sink as _};
use conntally::config::{Collector, Config};
use conntally::conntrack::{Conntrack, Step};
use conntally::flow::{Protocol, State, TcpState};
use conntally::report::Source;
use netlink_packet_core::NLMSG_DONE;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use tokio::time::Instant;

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/inject.rs"]
mod inject;
#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/netns.rs"]
mod netns;

const ROUNDS: usize = 5;
const DEFAULT_FLOWS: u32 = 200_000;
const DEFAULT_HOSTS: u32 = 5_000;
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let flows = numbers.next().unwrap_or(DEFAULT_FLOWS);
    let hosts = numbers.next().unwrap_or(DEFAULT_HOSTS);
    let _raised = RaisedLimit::at_least(flows);
    // Only the machine's own namespace may set the limit back, so this thread stays there.
    let inside = std::thread::spawn(move || match netns::enter_new() {
        Ok(()) => compare(flows, hosts),
        Err(error) => println!("SKIPPED: no network namespace: {error}; run it as root"),
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

fn compare(flows: u32, hosts: u32) {
    // The clients are this host's own: every connection is outbound.
    netns::run("ip link set lo up");
    netns::run("ip route add local 10.0.0.0/8 dev lo");
    // IPv4 alone: all that `conntrack -L` lists by itself.
    inject::inject((0..flows).map(|n| {
        let state = match n % 10 {
            0 => TcpState::SynSent,
            1 | 2 => TcpState::TimeWait,
            _ => TcpState::Established,
        };
        inject::flow(Protocol::Tcp, State::Tcp(state), inject::v4(n, hosts))
    }));

    let mut discard = Discard::new();
    let mut ours = Ours::new();
    let mut rounds: Vec<[Cost; 3]> = Vec::new();
    for round in 0..=ROUNDS {
        let costs = [
            measure(Of::Thread, || discard.run()),
            measure(Of::Thread, || assert_eq!(ours.run(), u64::from(flows))),
            measure(Of::Children, list),
        ];
        // The first warms caches and finds the programs.
        if round > 0 {
            rounds.push(costs);
        }
    }
    println!("{flows} flows, {hosts} hosts, median of {ROUNDS} rounds:");
    for (place, name) in ["receive and discard", "conntally", "conntrack -L"]
        .into_iter()
        .enumerate()
    {
        let median = |part: fn(Cost) -> Duration| {
            let of: Vec<_> = rounds.iter().map(|costs| part(costs[place])).collect();
            median(of).as_secs_f64() * 1e3
        };
        println!(
            "{name:>20}: cpu {:8.1} ms (user {:7.1}), wall {:8.1} ms",
            median(|cost| cost.user + cost.system),
            median(|cost| cost.user),
            median(|cost| cost.wall),
        );
    }
    let ratio = |part: fn(Cost) -> Duration, to: usize| {
        let of = |costs: &[Cost; 3]| part(costs[1]).as_secs_f64() / part(costs[to]).as_secs_f64();
        median(rounds.iter().map(of).collect())
    };
    println!(
        "cpu / receive and discard: {:.3} (reach 1.10)",
        ratio(|cost| cost.user + cost.system, 0)
    );
    println!(
        "wall / conntrack -L: {:.3} (reach 0.6)",
        ratio(|cost| cost.wall, 2)
    );
    println!(
        "the daemon's peak memory: {} KiB (reach 10240)",
        daemon_peak()
    );
}

/// The least that a dump costs.
struct Discard {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Discard {
    fn new() -> Self {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self {
            socket,
            buffer: Vec::with_capacity(64 * 1024),
        }
    }

    fn run(&mut self) {
        let mut request = [0; 20];
        request[0] = 20;
        // IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK, NLM_F_REQUEST | NLM_F_DUMP.
        request[4..8].copy_from_slice(&[1, 1, 1, 3]);
        self.socket.send(&request, 0).unwrap();
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0).unwrap();
            let kind = u16::from_ne_bytes([self.buffer[4], self.buffer[5]]);
            if kind == NLMSG_DONE {
                return;
            }
        }
    }
}

/// The program's own dump, each flow placed and counted as the collector does it.
struct Ours {
    conntrack: Conntrack,
    count: Count,
}

impl Ours {
    fn new() -> Self {
        Self {
            conntrack: Conntrack::open(&Collector::default()).unwrap(),
            count: Count::new(&Config::default()),
        }
    }

    fn run(&mut self) -> u64 {
        let Self { conntrack, count } = self;
        count.begin(Source::Conntrack);
        let dump = conntrack
            .dump(&mut |step| {
                if let Step::Entry(entry) = step {
                    count.entry(entry);
                }
            })
            .unwrap();
        black_box(count.tally());
        dump.entries
    }
}

/// The most memory that the daemon had resident when it had counted the table
/// three times, in KiB.
fn daemon_peak() -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("conntally.toml");
    let text = "interval = \"1s\"\n[collector]\nsource = \"conntrack\"\n[[output]]\naddress = \"stdout:\"\n";
    std::fs::write(&config, text).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_conntally"))
        .args(["run", "--quiet", "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let mut ticks = (&mut lines)
        .map_while(Result::ok)
        .filter(|line| line.starts_with("conntrack.hosts:"));
    assert!(ticks.nth(2).is_some(), "the daemon ended");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn list() {
    let status = Command::new("conntrack")
        .arg("-L")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

#[derive(Clone, Copy)]
struct Cost {
    user: Duration,
    system: Duration,
    wall: Duration,
}

/// Whose time is counted.
#[derive(Clone, Copy)]
enum Of {
    Thread = libc::RUSAGE_THREAD as isize,
    Children = libc::RUSAGE_CHILDREN as isize,
}

fn measure(of: Of, run: impl FnOnce()) -> Cost {
    let (user, system) = used(of);
    let start = Instant::now();
    run();
    let wall = start.elapsed();
    let (user_after, system_after) = used(of);
    Cost {
        user: user_after.saturating_sub(user),
        system: system_after.saturating_sub(system),
        wall,
    }
}

#[expect(unsafe_code, reason = "no crate at hand wraps getrusage(2)")]
fn used(of: Of) -> (Duration, Duration) {
    // SAFETY: all-zero bytes are a value of this plain struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live struct of the type that the call fills.
    let code = unsafe { libc::getrusage(of as libc::c_int, &raw mut usage) };
    assert_eq!(code, 0);
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}

fn median<T: Copy + PartialOrd>(mut of: Vec<T>) -> T {
    of.sort_by(|a, b| a.partial_cmp(b).unwrap());
    of[of.len() / 2]
}

/// `nf_conntrack_max`, raised for as long as this lives.
struct RaisedLimit {
    before: Option<String>,
}

impl RaisedLimit {
    fn at_least(flows: u32) -> Self {
        let before = std::fs::read_to_string(LIMIT).unwrap();
        let enough = before.trim().parse::<u32>().unwrap() > flows;
        if !enough {
            std::fs::write(LIMIT, (flows + 1000).to_string()).unwrap();
        }
        Self {
            before: (!enough).then_some(before),
        }
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            std::fs::write(LIMIT, before).unwrap();
        }
    }
}
