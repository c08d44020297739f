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
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
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
/// Reports over which the daemon's cost is averaged.
const TICKS: u32 = 10;
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
    for (name, mode, reports, reach) in [
        ("dump", "dump", "", 10),
        ("events", "events", "", 64),
        (
            "events, traffic, durations",
            "events",
            "[report]\ntraffic = true\ndurations = true\n",
            160,
        ),
    ] {
        let daemon = daemon(mode, reports);
        println!(
            "daemon, {name}: peak {:.1} MiB (reach {reach}), resident {:.1} MiB, the first dump \
             {:.0} ms, a tick without a dump {:.1} ms cpu with its report",
            mebibytes(daemon.peak),
            mebibytes(daemon.resident),
            daemon.dump.as_secs_f64() * 1e3,
            daemon.tick.as_secs_f64() * 1e3,
        );
    }
    after_a_flush();
}

/// What is left of the daemon's memory when every flow has gone at once.
fn after_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Running::start(directory.path(), "events", "");
    daemon.until("conntrack.hosts:", |hosts| hosts > 0);
    let before = daemon.memory("VmRSS:");
    netns::run("conntrack -F");
    let begun = Instant::now();
    daemon.until("conntally.collector.flows:", |flows| flows == 0);
    daemon.until("conntally.uptime_seconds:", |_| true);
    println!(
        "daemon, events, after a flush: resident {:.1} MiB of {:.1}, {:.1} s later",
        mebibytes(daemon.memory("VmRSS:")),
        mebibytes(before),
        begun.elapsed().as_secs_f64(),
    );
}

#[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
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

/// What the daemon took. Memory in KiB.
struct Daemon {
    peak: u64,
    resident: u64,
    /// The first dump.
    dump: Duration,
    /// Processor time between two reports.
    tick: Duration,
}

/// Runs the daemon until it has reported [`TICKS`] times.
fn daemon(mode: &str, reports: &str) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Running::start(directory.path(), mode, reports);
    // 0 while the first dump is being made.
    let dump = daemon.until("conntally.collector.dump.duration_us:", |micros| micros > 0);
    daemon.until("conntally.uptime_seconds:", |_| true);
    let before = processor_time(daemon.child.id());
    for _ in 0..TICKS {
        daemon.until("conntally.uptime_seconds:", |_| true);
    }
    let after = processor_time(daemon.child.id());
    Daemon {
        peak: daemon.memory("VmHWM:"),
        resident: daemon.memory("VmRSS:"),
        dump: Duration::from_micros(dump),
        tick: after.saturating_sub(before) / TICKS,
    }
}

/// The daemon, and what it prints.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Running {
    fn start(directory: &Path, mode: &str, reports: &str) -> Self {
        let config = directory.join("conntally.toml");
        let text = format!(
            "interval = \"1s\"\n[collector]\nsource = \"conntrack\"\nmode = \"{mode}\"\n\
             resync_interval = \"1h\"\n{reports}[admin]\nsocket = \"\"\n\
             [[output]]\naddress = \"stdout:\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_conntally"))
            .args(["run", "-q", "-q", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads until a line of this start has a value as wanted.
    fn until(&mut self, start: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        loop {
            let line = match self.lines.next() {
                Some(line) => line.unwrap(),
                None => panic!("the daemon ended before {start}"),
            };
            let value = line
                .strip_prefix(start)
                .and_then(|rest| rest.split('|').next()?.parse().ok());
            if let Some(value) = value.filter(|&value| wanted(value)) {
                return value;
            }
        }
    }

    /// KiB, of `/proc/PID/status`.
    fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }
}

/// User and system time of a process, in the kernel's ticks of 10 ms.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(10 * ticks)
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
