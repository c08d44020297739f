//! Events, read and decoded, beside a loop that receives and discards them, and beside
//! `conntrack -E >/dev/null`, which prints them.
//!
//! `cargo bench --bench events -- [FLOWS]`, as root. Each round makes so many entries in
//! a network namespace of its own and takes them out again: two events a flow.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends where it fails"
)]

use std::hint::black_box;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::Duration;

use conntally::config::{ByteSize, Collector};
use conntally::conntrack::{Events, Subscription};
use conntally::flow::{Protocol, State, TcpState};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/inject.rs"]
mod inject;
#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/netns.rs"]
mod netns;

const ROUNDS: usize = 10;
const DEFAULT_FLOWS: u32 = 40_000;
/// More than an event takes in the socket's buffer.
const ROOM_BYTES: u64 = 2048;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let flows = numbers.next().unwrap_or(DEFAULT_FLOWS);
    match netns::enter_new() {
        Ok(()) => compare(flows),
        Err(error) => println!("SKIPPED: no network namespace: {error}; run it as root"),
    }
}

fn compare(flows: u32) {
    let room = ByteSize(u64::from(flows) * 2 * ROOM_BYTES);
    let collector = Collector {
        receive_buffer: room,
        ..Collector::default()
    };
    let mut events = Events::open(&collector, Subscription::Full).unwrap();
    let mut discard = Discard::new(room);
    let mut rounds: Vec<[Cost; 2]> = Vec::new();
    let mut number = 0;
    for round in 0..=ROUNDS {
        let load = || {
            (0..flows).map(|n| {
                let state = State::Tcp(TcpState::Established);
                inject::flow(Protocol::Tcp, state, inject::v4(n, 5000))
            })
        };
        inject::inject(load());
        inject::delete(load());
        let mut ours = || {
            let drained = events.drain(usize::MAX, &mut |event| {
                black_box(event);
            });
            let drained = drained.unwrap();
            assert_eq!((drained.overruns, drained.skipped), (0, 0));
            drained.events
        };
        let mut theirs = || discard.run();
        // Both have the same events; whose turn is first changes.
        let ([a, b], [x, y]) = if round % 2 == 0 {
            let (ours, a) = measure(&mut ours);
            let (theirs, b) = measure(&mut theirs);
            ([a, b], [ours, theirs])
        } else {
            let (theirs, b) = measure(&mut theirs);
            let (ours, a) = measure(&mut ours);
            ([a, b], [ours, theirs])
        };
        assert_eq!(x, y);
        assert!(x >= u64::from(flows) * 2);
        // The first warms caches.
        if round > 0 {
            rounds.push([a, b]);
            number += x;
        }
    }
    println!("{number} events in {ROUNDS} rounds:");
    // The clock of user time ticks: only the sum over all rounds means something.
    let mut each = [[0.0; 2]; 2];
    for (place, name) in ["conntally", "receive and discard"].into_iter().enumerate() {
        let sum = |part: fn(&Cost) -> Duration| {
            let sum: Duration = rounds.iter().map(|costs| part(&costs[place])).sum();
            sum.as_secs_f64() * 1e9 / f64::from(u32::try_from(number).unwrap())
        };
        each[place] = [sum(|cost| cost.user), sum(|cost| cost.user + cost.system)];
        let [user, cpu] = each[place];
        println!("{name:>20}: user {user:6.0} ns, cpu {cpu:6.0} ns an event");
    }
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|[ours, theirs]| {
            (ours.user + ours.system).as_secs_f64() / (theirs.user + theirs.system).as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("user CPU an event: {:.0} ns (reach 500)", each[0][0]);
    println!(
        "cpu / receive and discard: {:.3}, median of {ROUNDS} rounds",
        ratios[ratios.len() / 2]
    );
    drop((events, discard));
    let theirs = printing(flows, room);
    println!(
        "conntrack -E >/dev/null: cpu {theirs:.0} ns an event; ours / its: {:.2}",
        each[0][1] / theirs
    );
}

/// Processor time that `conntrack -E` takes an event, ns, with the same load.
fn printing(flows: u32, room: ByteSize) -> f64 {
    let mut program = Command::new("conntrack")
        .args(["-E", "-b", &room.0.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = program.id();
    netns::eventually("conntrack listens", || waiting().is_some());
    let before = processor_time(pid);
    for _ in 0..ROUNDS {
        let load = || {
            (0..flows).map(|n| {
                let state = State::Tcp(TcpState::Established);
                inject::flow(Protocol::Tcp, state, inject::v4(n, 5000))
            })
        };
        inject::inject(load());
        inject::delete(load());
        netns::eventually("conntrack has read all", || waiting() == Some(0));
    }
    let took = processor_time(pid).saturating_sub(before);
    program.kill().unwrap();
    program.wait().unwrap();
    let rounds = u32::try_from(ROUNDS).unwrap();
    took.as_secs_f64() * 1e9 / f64::from(2 * flows * rounds)
}

/// Bytes that wait in the one socket of this namespace that listens to all events, if
/// there is one: of `/proc/net/netlink` the columns protocol, port, groups and receive
/// memory.
fn waiting() -> Option<u64> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match *fields {
            [_, "12", _port, "00000007", memory, ..] => Some(memory.parse().unwrap()),
            _ => None,
        }
    })
}

/// User and system time of a process, in the kernel's ticks of 10 ms.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    let sum: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * sum)
}

/// The least that reading events costs.
struct Discard {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Discard {
    fn new(room: ByteSize) -> Self {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        set_socket_recv_buffer_size_force(&socket, room.as_usize()).unwrap();
        for group in 1..=3 {
            socket.add_membership(group).unwrap();
        }
        Self {
            socket,
            buffer: Vec::with_capacity(64 * 1024),
        }
    }

    fn run(&mut self) -> u64 {
        let mut events = 0;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => events += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return events;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Cost {
    user: Duration,
    system: Duration,
}

fn measure<T>(run: impl FnOnce() -> T) -> (T, Cost) {
    let before = used();
    let result = run();
    let after = used();
    let cost = Cost {
        user: after.user.saturating_sub(before.user),
        system: after.system.saturating_sub(before.system),
    };
    (result, cost)
}

#[expect(unsafe_code, reason = "no crate at hand wraps getrusage(2)")]
fn used() -> Cost {
    // SAFETY: all-zero bytes are a value of this plain struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live struct of the type that the call fills.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(code, 0);
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Cost {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
    }
}
