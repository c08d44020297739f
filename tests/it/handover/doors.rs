//! Where the daemon is asked, and what it remembers of what it told.

use std::net::SocketAddr;

use super::*;
use crate::http::{at, bound};
use crate::support::admin;
use crate::support::http;
use crate::support::netns::{eventually, isolated};

/// Asks both doors until it is told to stop, and says how often; that nobody answers is the
/// test's end.
fn ask_all_the_while(endpoint: SocketAddr, socket: &Path, stop: &AtomicBool) -> usize {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        let scrape = http::ask(endpoint, "GET /metrics", "*/*").unwrap();
        assert_eq!(scrape.status, 200);
        assert_eq!(admin::ask(socket, "GET", "/status").status, 200);
        times += 1;
    }
    times
}

#[test]
fn who_asks_all_the_while_is_never_refused() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    at(directory, "127.0.0.1:0");
    let body =
        "interval = \"1s\"\n[collector]\nsource = \"off\"\n[[output]]\naddress = \"stdout:\"\n";
    let mut daemon = daemon(directory, body);
    let endpoint = bound(&mut daemon);
    let socket = directory.join("admin.socket");
    daemon.until("the admin socket is there", |_| socket.exists());
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, is_over) = (socket.clone(), Arc::clone(&stop));
    let asking = thread::spawn(move || ask_all_the_while(endpoint, &asked, &is_over));
    for time in 1..=5 {
        replace(&mut daemon, time);
        daemon.until("it is bound again", |daemon| {
            daemon.stderr.text().matches("HTTP endpoint bound").count() == time + 1
        });
    }
    configuration(directory, &body.replace("1s", "2s"));
    daemon.signal(Signal::HUP);
    daemon.until("it is bound again", |daemon| {
        daemon.stderr.text().matches("HTTP endpoint bound").count() == 7
    });
    stop.store(true, Ordering::Relaxed);
    let times = asking.join().unwrap();
    assert!(times > 5, "asked {times} times");
    // The file is taken away in the end by whoever has the socket.
    assert_eq!(daemon.stop().code, Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_series_that_is_gone_over_a_replacement_is_told_as_0_after_it() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap();
        // No tick is due but those at a beginning and an end.
        let mut daemon = daemon(
            directory.path(),
            "interval = \"10m\"\n[collector]\nsource = \"sockets\"\n\
             [hosts]\nloopback = true\n[report]\ntelemetry = false\n\
             [[output]]\naddress = \"stdout:\"\n",
        );
        let told = |daemon: &Program, value: &str| {
            let begins = format!("conntrack.connections:{value}|g|#remote_host:");
            let log = daemon.stdout.text();
            let told = log
                .lines()
                .filter(|line| line.starts_with(&begins) && line.contains("state:open,"));
            told.count()
        };
        daemon.until("it is there", |daemon| told(daemon, "1") > 0);
        drop((dialled, accepted));
        let series = told(&daemon, "1");
        // One 0 by the process that goes, and one by the process that comes.
        replace(&mut daemon, 1);
        eventually("the next tells of it too", || {
            told(&daemon, "0") == 2 * series
        });
        assert_eq!(daemon.stop().code, Some(0));
    });
}
