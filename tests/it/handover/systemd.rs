//! By systemd: its sockets, and what waits in its descriptor store.

use super::*;
use crate::support::daemon::{binary, clean};
use crate::support::netns::eventually;
use crate::support::tools::{is_there, skip};

/// Starts the daemon as a service.
fn service(directory: &Path, body: &str, sockets: &str) -> Program {
    let config = configuration(directory, body);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/systemd.py");
    let mut service = Program::start(
        clean("python3")
            .arg(script)
            .arg(directory.join("notify"))
            .arg(sockets)
            .arg(binary())
            .arg("run")
            .arg("--config")
            .arg(config),
    );
    service.until("the service listens", |service| {
        service.stderr.text().matches(" listening ").count() == 3
    });
    service
}

#[test]
fn a_restart_by_systemd_loses_nothing_and_resets_nobody() {
    if !is_there("python3") {
        return skip("a restart by systemd", "python3 plays its part");
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let body = body(directory, &receiver.address, "on_full = \"block\"\n");
    let socket = directory.join("in.socket");
    // This one systemd makes; the others the daemon itself.
    let mut service = service(directory, &body, socket.to_str().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..3)
        .map(|context| {
            let (stop, socket) = (Arc::clone(&stop), socket.clone());
            let tcp = tcp_address(&body);
            thread::spawn(move || {
                if context == 0 {
                    let mut stream = TcpStream::connect(tcp).unwrap();
                    return send(|lines| stream.write_all(lines.as_bytes()), context, &stop);
                }
                let mut stream = UnixStream::connect(socket).unwrap();
                send(
                    |lines| stream.write_all(&framed(lines.as_bytes())),
                    context,
                    &stop,
                )
            })
        })
        .collect();
    service.until("it is ready", |service| service.stdout.contains("READY=1"));
    for time in 1..=3 {
        service.signal(Signal::HUP);
        service.until("the next goes on", |service| {
            service.stderr.text().matches(GOES_ON).count() == time
                && service.stdout.text().matches("READY=1").count() == time + 1
        });
    }
    stop.store(true, Ordering::Relaxed);
    let sent: usize = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .sum();
    receiver.sorted(sent);
    service.until("the watchdog is fed", |service| {
        service.stdout.text().matches("WATCHDOG=1").count() > 2
    });
    let ended = service.stop();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let told = [
        "started",
        "READY=1 STATUS=3 listeners, 1 outputs",
        "STOPPING=1",
        "ended 0",
    ];
    let mut rest = &*ended.stdout;
    for told in told.iter().cycle().take(4 * told.len()) {
        let Some((_, after)) = rest.split_once(told) else {
            panic!("no {told} in {rest}\n{}", ended.stdout);
        };
        rest = after;
    }
    let lines = receiver.lines();
    let handed = lines.iter().filter(|line| line.starts_with("handed."));
    assert_eq!(Tally::of(handed).increments(), sent, "{}", ended.stderr);
    assert!(socket.exists(), "it is systemd's");
}

#[test]
fn a_socket_file_of_systemds_is_systemds_to_make_anew() {
    const TEST: &str = "a_socket_file_of_systemds_is_systemds_to_make_anew";
    if !is_there("python3") {
        return skip(TEST, "python3 plays systemd's part");
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let body = body(directory, &receiver.address, "");
    let socket = directory.join("in.socket");
    let mut service = service(directory, &body, socket.to_str().unwrap());
    let mut connected = UnixStream::connect(&socket).unwrap();
    std::fs::remove_file(&socket).unwrap();
    service.until("it is told whose it is", |service| {
        let log = service.stderr.text();
        log.lines().any(|line| {
            line.contains("the socket file was removed") && line.contains(".socket unit")
        })
    });
    assert!(!socket.exists());
    connected.write_all(&framed(b"connected:1|c")).unwrap();
    receiver.sorted(1);
    let ended = service.stop();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(!ended.stderr.contains("made anew"), "{}", ended.stderr);
}

#[test]
fn readiness_does_not_wait_for_a_long_interval() {
    const TEST: &str = "readiness_does_not_wait_for_a_long_interval";
    if !is_there("python3") {
        return skip(TEST, "python3 plays systemd's part");
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let body = body(directory, &receiver.address, "");
    // The first tick is not only done but told.
    let told = |line: &String| line.starts_with("conntrack.hosts:");
    for (times, source) in ["auto", "sockets", "off"].into_iter().enumerate() {
        let body = body
            .replace("interval = \"1s\"", "interval = \"10m\"")
            .replace("source = \"off\"", &format!("source = \"{source}\""));
        let mut service = service(directory, &body, "");
        service.until("it is ready, and its watchdog fed", |service| {
            let told = service.stdout.text();
            told.contains("READY=1") && told.matches("WATCHDOG=1").count() > 2
        });
        if source != "off" {
            // And those of the stops before are told too.
            eventually("it is told", || {
                receiver.lines().iter().filter(|line| told(line)).count() == 2 * times + 1
            });
        }
        assert_eq!(service.stop().code, Some(0));
        std::fs::remove_file(directory.join("notify")).unwrap();
    }
}
