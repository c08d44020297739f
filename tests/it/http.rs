//! The HTTP endpoint: what there is, what there is not, and its bounds.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;

use crate::support::daemon::{Program, binary, clean, configuration, conntally, daemon};
use crate::support::http::{Response, ask, read};
use crate::support::netns::{eventually, isolated};

/// Counts this host's sockets, which anybody may read.
const SOCKETS: &str = "interval = \"200ms\"\n[collector]\nsource = \"sockets\"\n\
    [[output]]\naddress = \"stdout:\"\n";

/// Adds an endpoint at an address to the configuration that a test's daemon will have.
pub(crate) fn at(directory: &Path, address: &str) {
    let more = directory.join("conf.d");
    fs::create_dir_all(&more).unwrap();
    let text = format!("[admin]\nhttp = \"{address}\"\n");
    fs::write(more.join("http.toml"), text).unwrap();
}

/// Where the daemon's endpoint is bound.
#[track_caller]
pub(crate) fn bound(daemon: &mut Program) -> SocketAddr {
    let mut address = None;
    daemon.until("the endpoint is bound", |daemon| {
        let log = daemon.stderr.text();
        let line = log
            .lines()
            .find(|line| line.contains("HTTP endpoint bound"));
        let found = line.and_then(|line| line.split_once("address=")?.1.parse().ok());
        address = found;
        found.is_some()
    });
    address.unwrap()
}

fn get(to: SocketAddr, path: &str) -> Response {
    ask(to, &format!("GET {path}"), "*/*").unwrap()
}

fn endpoint(directory: &Path) -> (Program, SocketAddr) {
    at(directory, "127.0.0.1:0");
    let mut daemon = daemon(directory, SOCKETS);
    let address = bound(&mut daemon);
    (daemon, address)
}

#[test]
fn there_are_three_paths_to_read_and_no_control() {
    let directory = tempfile::tempdir().unwrap();
    let (daemon, address) = endpoint(directory.path());
    eventually("it is ready", || get(address, "/readyz").status == 200);
    let health = get(address, "/healthz?verbose=1");
    assert_eq!(
        (health.status, &*health.body),
        (200, "{\"type\":\"fine\"}\n")
    );
    let plain = get(address, "/metrics");
    assert_eq!(plain.status, 200);
    assert!(
        plain
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        plain.head
    );
    let accept = "application/openmetrics-text; version=1.0.0";
    let open = ask(address, "GET /metrics", accept).unwrap();
    assert!(
        open.head
            .contains("content-type: application/openmetrics-text; version=1.0.0")
    );
    assert!(open.body.ends_with("# EOF\n") && !plain.body.contains("# EOF"));

    let missing = get(address, "/status");
    assert_eq!(missing.status, 404);
    assert!(
        missing
            .body
            .contains("\"paths\":[\"/metrics\",\"/healthz\",\"/readyz\"]")
    );
    for request in [
        "POST /collector/pause",
        "DELETE /clients/a",
        "GET /connections",
        "GET /",
    ] {
        assert_eq!(
            ask(address, request, "*/*").unwrap().status,
            404,
            "{request}"
        );
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let refused = ask(address, &format!("POST {path}"), "*/*").unwrap();
        assert_eq!(refused.status, 405, "{path}");
        assert!(refused.head.contains("allow: get"), "{}", refused.head);
    }
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(TcpStream::connect(address).is_err());
}

/// Connections that may be open at once.
const CONNECTIONS: usize = 16;

#[test]
fn connections_and_requests_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let (_daemon, address) = endpoint(directory.path());
    let held = [(); CONNECTIONS].map(|()| TcpStream::connect(address).unwrap());
    let refused = read(TcpStream::connect(address).unwrap()).unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"));
    drop(held);
    eventually("there is room again", || {
        get(address, "/healthz").status == 200
    });
    let refusals = "conntally_http_refused_total{reason=\"connections\"} ";
    let body = get(address, "/metrics").body;
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(refusals))
        .unwrap();
    assert!(line.parse::<u64>().unwrap() >= 1, "{line}");

    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.0\r\n{}\r\n",
        "x: y\r\n".repeat(100)
    )
    .unwrap();
    assert_eq!(read(stream).unwrap().status, 431);
    let mut stream = TcpStream::connect(address).unwrap();
    // It is not read to its end.
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nx: {}",
        "x".repeat(1 << 20)
    )
    .ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(get(address, "/healthz").status, 200);
}

#[test]
fn a_port_that_is_taken_is_an_error_as_it_is_for_a_listener() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    at(directory.path(), &address);
    let config = configuration(directory.path(), SOCKETS);
    let check = conntally(["check".as_ref(), "--config".as_ref(), config.as_os_str()]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    let ended = Program::start(clean(binary()).arg("run").arg("--config").arg(config)).wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let said = format!("address in use: another process listens on tcp://{address}");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

#[test]
fn a_reload_leaves_the_endpoint_where_it_is_asked_for_and_a_failed_one_where_it_was() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        at(directory, "127.0.0.1:9318");
        let mut daemon = daemon(directory, SOCKETS);
        let before = bound(&mut daemon);
        let is_ready = |at| ask(at, "GET /readyz", "*/*").is_some_and(|ready| ready.status == 200);
        eventually("it is ready", || is_ready(before));
        let mut reload = |body: &str, said: &str, times: usize| {
            configuration(directory, body);
            daemon.signal(Signal::HUP);
            daemon.until(said, |daemon| {
                daemon.stderr.text().matches(said).count() == times
            });
        };
        let slower = SOCKETS.replace("200ms", "300ms");
        reload(&slower, "HTTP endpoint bound", 2);
        eventually("it is ready at the same place", || is_ready(before));

        at(directory, "127.0.0.1:9319");
        let after = "127.0.0.1:9319".parse().unwrap();
        reload(&slower, "HTTP endpoint bound", 3);
        eventually("it is ready elsewhere", || is_ready(after));
        assert!(TcpStream::connect(before).is_err());

        let taken = TcpListener::bind("127.0.0.1:9320").unwrap();
        at(directory, &taken.local_addr().unwrap().to_string());
        reload(&slower, "goes on with the configuration of before", 1);
        eventually("it is ready where it was", || is_ready(after));
    });
}
