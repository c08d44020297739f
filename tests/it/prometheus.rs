//! What the HTTP endpoint shows, read by who reads it: `promtool`, a Prometheus, and the
//! rules of `OpenMetrics`.

mod openmetrics;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use conntally::flow::{Flow, Protocol, State, TcpState, Tuple};
use serde_json::Value;

use crate::http::{at, bound};
use crate::support::clients::{framed, send};
use crate::support::daemon::{Program, clean, daemon};
use crate::support::http::ask;
use crate::support::inject;
use crate::support::netns::{Peer, eventually, isolated, run, track};
use crate::support::tools::{find, skip};

const ENDPOINT: &str = "127.0.0.1:9318";
const PROMETHEUS: &str = "127.0.0.1:9090";
const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";
/// This host, in the namespace.
const HERE: &str = "10.99.0.1";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Counts the kernel's table, and has something of everything else to tell.
fn counting(directory: &Path, more: &str) -> Program {
    at(directory, ENDPOINT);
    let mut daemon = daemon(
        directory,
        &format!(
            "interval = \"200ms\"\n\
             [collector]\nsource = \"conntrack\"\n\
             {more}\
             [[listener]]\naddress = \"unixstream://{base}/in.socket\"\norigin = \"none\"\n\
             [[output]]\naddress = \"stdout:\"\n\
             [[output]]\naddress = \"unixgram://{base}/absent \\\"quoted\\\" \\\\.socket\"\n",
            base = directory.display()
        ),
    );
    bound(&mut daemon);
    let ready =
        || ask(address(ENDPOINT), "GET /readyz", "*/*").is_some_and(|ready| ready.status == 200);
    eventually("it is ready", ready);
    daemon
}

#[track_caller]
fn metrics(accept: &str) -> String {
    let response = ask(address(ENDPOINT), "GET /metrics", accept).unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    response.body
}

/// An established connection that this host dialled, or was dialled by.
fn flow(src: &str, dst: &str, n: u16) -> Flow {
    let [src, dst] = [src, dst].map(|address| address.parse::<IpAddr>().unwrap());
    let original = Tuple {
        src,
        dst,
        src_port: 40_000 + n,
        dst_port: 443,
    };
    inject::flow(Protocol::Tcp, State::Tcp(TcpState::Established), original)
}

fn promtool(arguments: &[&str], input: Option<&Path>) -> Option<Output> {
    let mut command = Command::new(find("promtool")?);
    let input = input.map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into());
    Some(command.args(arguments).stdin(input).output().unwrap())
}

#[test]
fn promtool_reads_it_and_minds_nothing_but_the_names_of_the_exporter() {
    const TEST: &str = "promtool_reads_it_and_minds_nothing_but_the_names_of_the_exporter";
    if find("promtool").is_none() {
        return skip(TEST, "promtool is not installed");
    }
    isolated(&[], || {
        run(&format!("ip address add {HERE}/32 dev lo"));
        inject::inject([flow(HERE, "192.0.2.7", 0), flow("192.0.2.8", HERE, 1)]);
        let directory = tempfile::tempdir().unwrap();
        let _daemon = counting(directory.path(), "");
        let path = directory.path().join("metrics.txt");
        fs::write(&path, metrics("text/plain")).unwrap();
        let output = promtool(&["check", "metrics"], Some(&path)).unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let mut said: Vec<_> = said.lines().collect();
        said.sort_unstable();
        let expected = ["closed", "closing", "open", "opening"].map(|state| {
            format!(
                "conntrack_{state}_connections_total non-counter metrics should not have \
                 \"_total\" suffix"
            )
        });
        assert_eq!(said, expected);
    });
}

#[test]
fn the_names_and_labels_are_those_of_conntrack_exporter() {
    isolated(&[], || {
        run(&format!("ip address add {HERE}/32 dev lo"));
        let mut opening = flow(HERE, "192.0.2.7", 9);
        opening.state = State::Tcp(TcpState::SynSent);
        opening.status = conntally::flow::Status(0);
        let established = (0..3).map(|n| flow(HERE, "192.0.2.7", n));
        inject::inject(established.chain([opening, flow("192.0.2.8", HERE, 4)]));
        let udp = Tuple {
            src_port: 53,
            ..flow(HERE, "192.0.2.9", 5).original
        };
        inject::inject([inject::flow(Protocol::Udp, State::Replied, udp)]);
        let directory = tempfile::tempdir().unwrap();
        let _daemon = counting(directory.path(), "protocols = [\"tcp\", \"udp\"]\n");
        let plain = metrics("text/plain");
        let open = metrics(OPENMETRICS);
        let counts = [
            ("opening", [1, 0]),
            ("open", [3, 1]),
            ("closing", [0, 0]),
            ("closed", [0, 0]),
        ];
        for (state, [dialled, was_dialled]) in counts {
            for (name, is_in_openmetrics) in [
                (format!("conntrack_{state}_connections"), true),
                (format!("conntrack_{state}_connections_total"), false),
            ] {
                let expected = [
                    format!("{name}{{host=\"192.0.2.7:443\"}} {dialled}"),
                    format!("{name}{{host=\"192.0.2.8\"}} {was_dialled}"),
                ];
                let begin = format!("{name}{{");
                let lines = |text: &str| -> Vec<_> {
                    text.lines()
                        .filter(|line| line.starts_with(&begin))
                        .map(str::to_owned)
                        .collect()
                };
                assert_eq!(lines(&plain), expected, "{plain}");
                assert_eq!(lines(&open).is_empty(), !is_in_openmetrics, "{open}");
            }
        }
    });
}

#[test]
fn another_namespaces_connections_have_its_name_beside_the_host() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let blue = directory.path().join("blue");
        let other = Peer::apart();
        symlink(other.path(), &blue).unwrap();
        let fill = |number: u16| {
            run(&format!("ip address add {HERE}/32 dev lo"));
            inject::inject((0..number).map(|n| flow(HERE, "192.0.2.7", n)));
        };
        fill(2);
        other.run(|| fill(3));
        let mut daemon = counting(directory.path(), &format!("netns = [{blue:?}]\n"));
        let lines = [
            "conntrack_open_connections{host=\"192.0.2.7:443\"} 2",
            "conntrack_open_connections{netns=\"blue\",host=\"192.0.2.7:443\"} 3",
        ];
        daemon.until("both are told", |_| {
            let text = metrics("text/plain");
            lines
                .iter()
                .all(|line| text.lines().any(|told| told == *line))
        });
        openmetrics::check(&metrics(OPENMETRICS));
    });
}

#[test]
fn openmetrics_is_written_by_its_rules() {
    isolated(&[], || {
        run(&format!("ip address add {HERE}/32 dev lo"));
        inject::inject((0..30).map(|n| flow(HERE, &format!("192.0.2.{n}"), n)));
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = counting(directory.path(), "[hosts]\nmax = 5\n");
        inject::delete((0..10).map(|n| flow(HERE, &format!("192.0.2.{n}"), n)));
        let mut text = String::new();
        daemon.until("ends are told", |_| {
            text = metrics(OPENMETRICS);
            text.contains("conntrack_closed_total{")
        });
        let families = openmetrics::check(&text);
        assert!(families > 80, "{families}");
        assert!(text.contains("host=\"other\""), "{text}");
        assert!(text.contains("absent \\\"quoted\\\" \\\\.socket"), "{text}");
    });
}

/// A Prometheus that scrapes the endpoint, and keeps what it has in the directory.
fn prometheus(program: &Path, directory: &Path) -> Program {
    let config = directory.join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n\
             scrape_configs:\n  - job_name: conntally\n    static_configs:\n      \
             - targets: ['{ENDPOINT}']\n"
        ),
    )
    .unwrap();
    let mut command = clean(program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .arg("--log.level=warn");
    Program::start(&mut command)
}

/// The one value that a query without characters that URLs mind has now.
fn value(query: &str) -> Option<f64> {
    let request = format!("GET /api/v1/query?query={}", encoded(query));
    let response = ask(address(PROMETHEUS), &request, "*/*")?;
    let answer: Value = serde_json::from_str(&response.body).ok()?;
    let results = answer["data"]["result"].as_array()?;
    assert!(results.len() <= 1, "{query}: {answer}");
    results.first()?["value"][1].as_str()?.parse().ok()
}

/// Percent-encoding of a query (RFC 3986, 2.1).
fn encoded(query: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    query.bytes().map(encode).collect()
}

/// So many connections to a listener, both ends of each.
fn connections(from: Option<&Peer>, listener: &TcpListener, number: usize) -> Vec<[TcpStream; 2]> {
    let to = listener.local_addr().unwrap();
    let dial = || TcpStream::connect(to).unwrap();
    let connect = |_| {
        let dialled = from.map_or_else(dial, |peer| peer.run(dial));
        [dialled, listener.accept().unwrap().0]
    };
    (0..number).map(connect).collect()
}

#[test]
fn a_prometheus_has_the_kernels_connections_and_the_agents_counters() {
    const TEST: &str = "a_prometheus_has_the_kernels_connections_and_the_agents_counters";
    let Some(program) = find("prometheus") else {
        return skip(TEST, "prometheus is not installed");
    };
    isolated(&["nft"], move || scraped(&program));
}

fn scraped(program: &Path) {
    const LINES: u32 = 17;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let peer = Peer::connected();
    track();
    let [here, _] = Peer::HERE;
    let [there, there_v6] = Peer::THERE;
    let there_v6 = format!("[{there_v6}]");
    let at = |host: &str, port: u16| format!("{host}:{port}").parse::<SocketAddr>().unwrap();
    let [abroad, abroad_v6] =
        [there, &there_v6].map(|host| peer.run(|| TcpListener::bind(at(host, 7000)).unwrap()));
    let home = TcpListener::bind(at(here, 7001)).unwrap();
    let _daemon = counting(directory, "");
    let dialled = connections(None, &abroad, 3);
    let _kept = [
        connections(None, &abroad_v6, 1),
        connections(Some(&peer), &home, 2),
    ];
    assert!(
        TcpStream::connect(at(there, 7009)).is_err(),
        "nobody listens there"
    );
    let lines: Vec<_> = (0..LINES).map(|n| format!("requests:{n}|c\n")).collect();
    send(
        &directory.join("in.socket"),
        &framed(lines.concat().as_bytes()),
    );

    let mut prometheus = prometheus(program, directory);
    let has = |prometheus: &mut Program, query: &str, expected: f64| {
        prometheus.until(&format!("{query} is {expected}"), |_| {
            value(query).is_some_and(|value| (value - expected).abs() < 1e-9)
        });
    };
    for (query, expected) in [
        ("up{job=\"conntally\"}".to_owned(), 1.0),
        (
            format!("conntrack_open_connections{{host=\"{there}:7000\"}}"),
            3.0,
        ),
        (
            format!("conntrack_open_connections{{host=\"{there_v6}:7000\"}}"),
            1.0,
        ),
        (
            format!("conntrack_open_connections{{host=\"{there}\"}}"),
            2.0,
        ),
        (
            format!(
                "conntrack_failed_total{{remote_host=\"{there}\",reason=\"refused\",direction=\"outbound\"}}"
            ),
            1.0,
        ),
        ("conntally_listener_lines_total".to_owned(), LINES.into()),
        (
            "conntally_collector_source{source=\"conntrack\"}".to_owned(),
            1.0,
        ),
    ] {
        has(&mut prometheus, &query, expected);
    }
    // Prometheus asks for OpenMetrics, where no gauge may be called so.
    assert_eq!(value("count(conntrack_open_connections_total)"), None);
    let limit = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
    has(
        &mut prometheus,
        "conntrack_table_limit",
        limit.trim().parse().unwrap(),
    );
    assert!(value("conntrack_table_entries") >= Some(6.0));

    drop(dialled);
    let open = format!("conntrack_open_connections{{host=\"{there}:7000\"}}");
    has(&mut prometheus, &open, 0.0);
    let closing = format!("conntrack_closing_connections{{host=\"{there}:7000\"}}");
    has(&mut prometheus, &closing, 3.0);
    let ended = prometheus.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("scrape"), "{}", ended.stderr);
}

#[test]
fn promtool_has_nothing_against_the_alerts_and_they_fire_when_they_should() {
    const TEST: &str = "promtool_has_nothing_against_the_alerts_and_they_fire_when_they_should";
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/dashboards");
    let [alerts, names, tests] = ["alerts.yml", "exporter-names.yml", "rules.test.yml"]
        .map(|name| format!("{directory}/prometheus-{name}"));
    for arguments in [
        &["check", "rules", &*alerts, &*names][..],
        &["test", "rules", &*tests],
    ] {
        let Some(output) = promtool(arguments, None) else {
            return skip(TEST, "promtool is not installed");
        };
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("SUCCESS"), "{said}");
    }
}
