//! Real connections by the thousand, followed by events: is every one counted, and what
//! does it cost?
//!
//! `cargo bench --bench storm -- [RATE [SECONDS]]`, as root. In a network namespace of
//! its own, clients dial as many connections a second and reset them at once, while
//! others are held. The daemon follows them with room for all events, and with little:
//! then what it did not count must be among what the kernel says was lost, and the next
//! dump must put the gauges right.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends where it fails"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/daemon.rs"]
mod daemon;
#[path = "../it/support/lines.rs"]
mod lines;
#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../it/support/netns.rs"]
mod netns;

const DEFAULT_RATE: u64 = 20_000;
const DEFAULT_SECONDS: u64 = 10;
const CLIENTS: u64 = 3;
/// Each has a listener, and a thread that accepts.
const PORTS: [u16; 2] = [8080, 8081];
/// Addresses that are dialled, so that no client runs out of ports.
const ADDRESSES: u64 = 50;
/// Connections that are there all the time.
const HELD: usize = 500;
const BACKLOG: i32 = 4096;
/// `USER_HZ`, in which `/proc` counts.
const TICKS_A_SECOND: f64 = 100.0;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let rate = numbers.next().unwrap_or(DEFAULT_RATE);
    let seconds = numbers.next().unwrap_or(DEFAULT_SECONDS);
    if let Err(error) = netns::enter_new() {
        println!("SKIPPED: no network namespace: {error}; run it as root");
        return;
    }
    netns::run("ip link set lo up");
    netns::track();
    for port in PORTS {
        serve(port);
    }
    for settings in [
        // Nothing but events; dumps beside them, which show what they tell of; dumps
        // for the gauges; and too little room.
        ["events", "256MiB", "1h"],
        ["events", "8MiB", "1s"],
        ["hybrid", "8MiB", "1s"],
        ["events", "64KiB", "2s"],
    ] {
        storm(rate, seconds, settings);
        netns::run("conntrack -F");
    }
}

/// Accepts whoever comes, and closes; those of the first address stay.
fn serve(port: u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    socket.bind(&at.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    let listener = TcpListener::from(socket);
    thread::spawn(move || {
        let mut held = Vec::new();
        loop {
            // One that is gone already is no failure of ours.
            if let Ok((accepted, _)) = listener.accept()
                && accepted.local_addr().is_ok_and(|at| at.ip() == address(0))
            {
                held.push(accepted);
            }
        }
    });
}

fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number % 250).unwrap())
}

fn storm(rate: u64, seconds: u64, [mode, room, resync]: [&str; 3]) {
    let directory = tempfile::tempdir().unwrap();
    let body = format!(
        "interval = \"1s\"\n\
         [collector]\nsource = \"conntrack\"\nmode = \"{mode}\"\n\
         receive_buffer = \"{room}\"\nresync_interval = \"{resync}\"\n\
         [hosts]\nloopback = true\n\
         [[output]]\naddress = \"stdout:\"\nflush_interval = \"10ms\"\n"
    );
    let mut daemon = daemon::daemon(directory.path(), &body);
    daemon.until("its first tick", |daemon| flows(daemon).is_some());
    let held: Vec<_> = (0..HELD)
        .map(|_| TcpStream::connect((address(0), PORTS[0])).unwrap())
        .collect();

    let before = cpu_seconds(daemon.pid());
    let begun = Instant::now();
    let connects = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let connects = &connects;
            scope.spawn(move || dial(client, rate / CLIENTS, seconds, connects));
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let connects = usize::try_from(connects.into_inner()).unwrap();
    daemon.until("the flows are those of the table", |daemon| {
        let table: usize = netns::run("conntrack -C").trim().parse().unwrap();
        HELD <= table && flows(daemon) == Some(table)
    });
    let after = cpu_seconds(daemon.pid());
    let [user, system] = [after[0] - before[0], after[1] - before[1]];
    let text = daemon.stop().stdout;
    drop(held);

    let own = |name: &str| lines::total(&text, &format!("conntally.collector.{name}"), &[]);
    let (opened, lost, corrections) = (own("flows_opened"), own("events_lost"), own("corrections"));
    let (events, overruns) = (own("events"), own("overruns"));
    let micros = |seconds: f64| seconds * 1e6 / float(events);
    println!(
        "mode = {mode}, receive_buffer = {room}, {} dumps:",
        own("dumps")
    );
    println!(
        "{connects:>9} connects, {:.0} a second, and {HELD} held",
        float(connects) / took
    );
    println!(
        "{opened:>9} opened; {lost} events lost in {overruns} overruns, {corrections} corrections"
    );
    println!(
        "{events:>9} events, {:.0} a second: user {:.2} us, CPU {:.2} us of the daemon each",
        float(events) / took,
        micros(user),
        micros(user + system)
    );
    let missed = (connects + HELD).saturating_sub(opened);
    if lost == 0 {
        assert_eq!((missed, corrections), (0, 0), "connections were missed");
    }
    assert!(missed <= lost, "{missed} missed, {lost} lost");
    assert!(opened <= connects + HELD, "more than there were");
}

/// Dials so many a second, and resets each at once.
fn dial(client: u64, rate: u64, seconds: u64, connects: &AtomicU64) {
    let begun = Instant::now();
    let end = Duration::from_secs(seconds);
    let mut done = 0;
    while begun.elapsed() < end {
        let due = u64::try_from(begun.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while done < due {
            let to = address(1 + (client + done * CLIENTS) % ADDRESSES);
            let port = PORTS[usize::try_from(done).unwrap() % PORTS.len()];
            let dialled = TcpStream::connect((to, port)).unwrap();
            set_socket_linger(&dialled, Some(Duration::ZERO)).unwrap();
            done += 1;
        }
        thread::sleep(Duration::from_micros(200));
    }
    connects.fetch_add(done, Ordering::Relaxed);
}

fn flows(daemon: &daemon::Program) -> Option<usize> {
    lines::last(&daemon.stdout.text(), "conntally.collector.flows", &[])
}

/// User and system time of a process.
fn cpu_seconds(id: u32) -> [f64; 2] {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let mut times = after_name.split_whitespace().skip(11);
    [(); 2].map(|()| times.next().unwrap().parse::<f64>().unwrap() / TICKS_A_SECOND)
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
