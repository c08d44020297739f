//! The admin socket: its routes, its bounds, and who may be there.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::support::admin::{ask, read, send};
use crate::support::collector::{ROWS, Rig, ended};
use crate::support::daemon::{Program, binary, clean, configuration, daemon};
use crate::support::netns::eventually;
use conntally::admin::{Admin, Limits};
use conntally::config::{Config, SourceChoice};
use conntally::flow::{End, Failure};
use conntally::telemetry::AdminRefusal;

/// This host's sockets: to be read by anybody.
fn sockets() -> Config {
    let mut config = Config::default();
    config.collector.source = SourceChoice::Sockets;
    config
}

fn rig() -> Rig {
    Rig::start(&sockets(), Limits::default())
}

#[test]
fn the_collector_describes_itself_pauses_and_goes_on() {
    let rig = rig();
    let answer = ask(&rig.socket, "GET", "/collector");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: application/json"));
    let description = answer.last();
    assert_eq!(description["mode"], "events");
    assert_eq!(description["paused"], false);
    assert_eq!(description["journal"]["clients"], 0);
    assert_eq!(description["counters"]["errors.overrun"], 0);
    let paused = || ask(&rig.socket, "GET", "/collector").last()["paused"].clone();
    assert_eq!(ask(&rig.socket, "POST", "/collector/pause").status, 200);
    assert_eq!(paused(), true);
    assert_eq!(ask(&rig.socket, "POST", "/collector/resume").status, 200);
    assert_eq!(paused(), false);
}

#[test]
fn what_is_no_request_is_told_what_would_be_one() {
    let rig = rig();
    let answer = ask(&rig.socket, "GET", "/metrics");
    assert_eq!(answer.status, 404);
    let routes = answer.last()["routes"].as_array().unwrap();
    assert!(routes.iter().any(|route| route["path"] == "/debug/tables"));
    let answer = ask(&rig.socket, "GET", "/collector/flush");
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    let answer = ask(&rig.socket, "GET", "/connections?state=up");
    assert_eq!(answer.status, 400);
    let message = answer.last()["message"].as_str().unwrap();
    assert!(message.contains("\"up\" is no state"), "{message}");
    assert_eq!(ask(&rig.socket, "GET", "/").last()["type"], "routes");
    assert_eq!(rig.telemetry.admin.requests.get(), 4);
}

#[test]
fn a_client_is_told_once_what_ended_since_it_last_asked() {
    let rig = rig();
    let question = "/connections?client=a&state=closed,failed";
    let first = ask(&rig.socket, "GET", question);
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.last()["type"], "end");
    assert_eq!(first.last()["delta"]["ended"], 0);
    assert_eq!(first.last()["delta"].get("since_ms"), None);
    rig.record(vec![
        ended(1, End::Closed),
        ended(2, End::Failed(Failure::Refused)),
        // The same tuple again: another connection.
        ended(1, End::Closed),
    ]);
    let second = ask(&rig.socket, "GET", question);
    let told = second.of_type("ended");
    assert_eq!(told.len(), 3, "{second:?}");
    assert_eq!(told[0]["end"], "closed");
    assert_eq!(told[1]["reason"], "refused");
    assert_eq!(told[1]["original"]["dst_port"], 443);
    assert_eq!(second.last()["delta"]["ended"], 3);
    assert!(second.last()["delta"]["since_ms"].is_u64());
    assert!(
        ask(&rig.socket, "GET", question)
            .of_type("ended")
            .is_empty()
    );
    assert_eq!(ask(&rig.socket, "DELETE", "/clients/a").status, 200);
    assert_eq!(ask(&rig.socket, "DELETE", "/clients/a").status, 404);
}

#[test]
fn a_connection_is_removed_from_the_view_of_one_client() {
    let rig = rig();
    let question = |client: &str| {
        let target = format!("/connections?client={client}&state=closed");
        ask(&rig.socket, "GET", &target).of_type("ended").len()
    };
    let hide = "/clients/a/connections/0000000000000007";
    assert_eq!(
        ask(&rig.socket, "DELETE", hide).status,
        404,
        "no such client"
    );
    assert_eq!((question("a"), question("b")), (0, 0));
    assert_eq!(ask(&rig.socket, "DELETE", hide).status, 200);
    rig.record(vec![ended(7, End::Closed), ended(8, End::Closed)]);
    assert_eq!((question("a"), question("b")), (1, 2));
    let wrong = ask(&rig.socket, "DELETE", "/clients/a/connections/7");
    assert_eq!(wrong.status, 400);
}

#[test]
fn a_flush_tells_of_what_is_over_and_not_a_second_time() {
    let rig = rig();
    rig.act(|played| played.pending = vec![ended(1, End::Closed)]);
    let count = |target: &str| {
        let answer = ask(&rig.socket, "GET", target);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.of_type("ended").len()
    };
    assert_eq!(count("/connections?client=a&state=closed"), 0);
    assert_eq!(count("/connections?client=a&state=closed&flush=1"), 1);
    rig.record(vec![ended(1, End::Closed)]);
    assert_eq!(count("/connections?client=a&state=closed"), 0);
    let flushed = ask(&rig.socket, "POST", "/collector/flush");
    assert_eq!(flushed.last()["announced"], 1);
}

#[test]
fn the_tables_are_dumped_page_by_page() {
    let rig = rig();
    let answer = ask(&rig.socket, "GET", "/debug/tables");
    let rows = answer.of_type("flow");
    assert_eq!(rows.len() as u64, ROWS);
    assert_eq!(rows[0]["state"], "established");
    assert_eq!(answer.last()["rows"], ROWS);
}

#[test]
fn more_clients_than_there_is_room_for_are_refused() {
    let rig = rig();
    let ask = |n: usize| {
        ask(
            &rig.socket,
            "GET",
            &format!("/connections?client=c{n}&port=1"),
        )
    };
    for n in 0..64 {
        assert_eq!(ask(n).status, 200);
    }
    let refused = ask(64);
    assert_eq!(refused.status, 429);
    let message = refused.last()["message"].as_str().unwrap();
    assert!(message.contains("64 clients ask already"), "{message}");
}

#[test]
fn connections_beyond_the_bound_are_turned_away() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let rig = Rig::start(&sockets(), limits);
    let held = [(); 2].map(|()| UnixStream::connect(&rig.socket).unwrap());
    let answer = read(UnixStream::connect(&rig.socket).unwrap());
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 1"));
    let refused = &rig.telemetry.admin.refused;
    assert_eq!(refused.get(AdminRefusal::Connections), 1);
    drop(held);
    eventually("there is room again", || {
        ask(&rig.socket, "GET", "/").status == 200
    });
}

#[test]
fn a_request_that_does_not_come_or_has_no_end_is_let_go() {
    let limits = Limits {
        request_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let rig = Rig::start(&sockets(), limits);
    for sent in ["", "GET / HTT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = UnixStream::connect(&rig.socket).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(!text.starts_with("HTTP/1.1 200"), "{sent:?}: {text}");
    }
    let mut stream = UnixStream::connect(&rig.socket).unwrap();
    let huge = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(1 << 20));
    // It is not read to its end.
    stream.write_all(huge.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    let many = "x: y\r\n".repeat(100);
    let mut stream = UnixStream::connect(&rig.socket).unwrap();
    write!(stream, "GET / HTTP/1.0\r\n{many}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.0 431"),
        "{answer}"
    );
    assert_eq!(ask(&rig.socket, "GET", "/").status, 200);
}

/// More than the sockets between hold.
fn fill(rig: &Rig) {
    ask(&rig.socket, "GET", "/connections?client=slow&port=443");
    rig.record((0..10_000).map(|n| ended(n, End::Closed)).collect());
}

#[test]
fn one_dump_runs_at_a_time_and_ends_with_the_one_who_asked() {
    let limits = Limits {
        stall_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let rig = Rig::start(&sockets(), limits);
    fill(&rig);
    let mut slow = send(&rig.socket, "GET", "/connections?client=slow&port=443");
    // The answer has begun, and cannot end.
    slow.read_exact(&mut [0; 16]).unwrap();
    let refused = ask(&rig.socket, "GET", "/connections");
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"));
    assert_eq!(rig.telemetry.admin.refused.get(AdminRefusal::Busy), 1);
    // What needs no dump goes on.
    assert_eq!(ask(&rig.socket, "GET", "/collector").status, 200);
    drop(slow);
    eventually("the next one is served", || {
        ask(&rig.socket, "GET", "/connections?port=443").status == 200
    });
}

#[test]
fn a_reader_who_does_not_read_is_let_go() {
    let stall = Limits {
        stall_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let too_long = Limits {
        answer_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    for limits in [stall, too_long] {
        let_go(limits);
    }
}

fn let_go(limits: Limits) {
    let rig = Rig::start(&sockets(), limits);
    fill(&rig);
    let mut slow = send(&rig.socket, "GET", "/connections?client=slow&port=443");
    eventually("the next one is served", || {
        ask(&rig.socket, "GET", "/connections?port=443").status == 200
    });
    let mut text = Vec::new();
    slow.read_to_end(&mut text).ok();
    let text = String::from_utf8_lossy(&text);
    assert!(!text.contains("\"type\":\"end\""), "it was cut off");
}

#[test]
fn the_socket_is_of_the_owner_and_the_group_and_goes_with_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.socket");
    // One that a daemon left behind.
    drop(UnixListener::bind(&socket).unwrap());
    let body = "[collector]\nsource = \"off\"\n[[output]]\naddress = \"stdout:\"\n";
    let mut first = daemon(directory.path(), body);
    first.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    let metadata = socket.metadata().unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(ask(&socket, "GET", "/").status, 200);
    let config = configuration(directory.path(), body);
    let second = Program::start(clean(binary()).arg("run").arg("--config").arg(config)).wait();
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    assert!(
        second.stderr.contains("another process listens on"),
        "{}",
        second.stderr
    );
    let ended = first.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!socket.exists());
}

#[test]
fn a_daemon_without_a_collector_says_so_to_who_asks_it() {
    let directory = tempfile::tempdir().unwrap();
    let body = "[collector]\nsource = \"off\"\n[[output]]\naddress = \"stdout:\"\n";
    let mut daemon = daemon(directory.path(), body);
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    let answer = ask(&directory.path().join("admin.socket"), "GET", "/collector");
    assert_eq!(answer.status, 503);
    let message = answer.last()["message"].as_str().unwrap();
    assert!(message.contains("the collector does not run"), "{message}");
}

#[test]
fn stopping_takes_the_socket_away_and_cuts_off_who_waits() {
    let rig = rig();
    let socket = rig.socket.clone();
    let mut waits = UnixStream::connect(&socket).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(Admin::open(&socket, Limits::default(), None))
        .unwrap_err();
    assert!(error.to_string().contains("address in use"), "{error}");
    let _directory = rig.stop();
    assert!(!socket.exists());
    assert_eq!(waits.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn without_a_configuration_file_the_socket_is_in_the_runtime_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = clean(binary());
    command
        .arg("run")
        .env("RUNTIME_DIRECTORY", directory.path());
    let mut daemon = Program::start(&mut command);
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    let socket = directory.path().join("admin.sock");
    assert_eq!(ask(&socket, "GET", "/").status, 200);
    daemon.stop();
    assert!(!socket.exists());
}
