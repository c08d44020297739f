//! Receivers as their users run them: what the program sends them, they have; what came
//! while they were away too.
//!
//! Each runs in a network namespace of its own test, where the entries of the
//! connection tracking table are known and every port is free.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::Path;

use conntally::flow::{Protocol, State, TcpState, Tuple};

use crate::support::clients::{framed, send};
use crate::support::daemon::{Program, clean, daemon};
use crate::support::inject;
use crate::support::netns::{isolated, run};
use crate::support::tools::{find, skip, statsd_of_npm};

/// This host, in the namespace.
const HERE: &str = "10.99.0.1";
/// The remote host, and its name where dots separate parts of a name.
const THERE: &str = "192.0.2.7";
const THERE_PLAIN: &str = "192_0_2_7";
/// Established connections between the two.
const OPEN: u16 = 5;
/// What the application counts before the receiver goes away, while it is, and then.
const REQUESTS: u32 = 17;
const MEANWHILE: u32 = 11;
const AFTERWARDS: u32 = 5;

/// Five connections in the table, and a daemon that sends to `address`.
fn sender(directory: &Path, address: &str) -> Program {
    run(&format!("ip address add {HERE}/32 dev lo"));
    let established = State::Tcp(TcpState::Established);
    let here: IpAddr = HERE.parse().unwrap();
    let there: IpAddr = THERE.parse().unwrap();
    inject::inject((0..OPEN).map(|n| {
        let original = Tuple {
            src: here,
            dst: there,
            src_port: 40_000 + n,
            dst_port: 443,
        };
        inject::flow(Protocol::Tcp, established, original)
    }));
    daemon(
        directory,
        &format!(
            "interval = \"1s\"\n\
             [collector]\nsource = \"conntrack\"\n\
             [[listener]]\naddress = \"unixstream://{}/in.socket\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{address}\"\nformat = \"statsd\"\n",
            directory.display()
        ),
    )
}

/// Counts so many requests as an application does: some together, and the rest.
fn request(directory: &Path, requests: u32) {
    let rest = format!("relayed.requests:{}|c\n", requests - 4);
    let frames = [
        framed(b"relayed.requests:2|c\nrelayed.requests:2|c"),
        framed(rest.as_bytes()),
    ];
    send(&directory.join("in.socket"), &frames.concat());
}

/// Starts the receiver and a daemon that sends to it, and again when it has been away,
/// which it has no memory of. `count` and `gauge` look at what it has.
fn has_all(
    directory: &Path,
    address: &str,
    start: impl Fn() -> Program,
    count: impl Fn() -> Option<f64>,
    gauge: impl Fn() -> Option<f64>,
) {
    let has = |receiver: &mut Program, requests: u32| {
        receiver.until("the count arrives", |_| count() == Some(requests.into()));
        receiver.until("the gauge arrives", |_| gauge() == Some(OPEN.into()));
    };
    let mut receiver = start();
    let mut daemon = sender(directory, address);
    request(directory, REQUESTS);
    has(&mut receiver, REQUESTS);
    receiver.stop();
    request(directory, MEANWHILE);
    daemon.until("it is missed", |daemon| {
        daemon.stderr.contains("cannot send")
    });
    let mut receiver = start();
    has(&mut receiver, MEANWHILE);
    request(directory, AFTERWARDS);
    has(&mut receiver, MEANWHILE + AFTERWARDS);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    receiver.stop();
}

/// Whether somebody in the thread's namespace receives there; `proc_net(5)`.
fn udp_port_is_bound(port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    sockets.contains(&format!(":{port:04X} "))
}

/// The number behind the last separator of the last line.
fn last_number(text: &str, separator: char) -> Option<f64> {
    text.lines()
        .last()?
        .rsplit(separator)
        .next()?
        .trim()
        .parse()
        .ok()
}

#[test]
fn collectd_has_counts_and_gauges_also_those_of_its_absence() {
    const TEST: &str = "collectd_has_counts_and_gauges_also_those_of_its_absence";
    let Some(collectd) = find("collectd") else {
        return skip(TEST, "collectd is not installed");
    };
    isolated(&[], move || {
        // It creates no directory below one whose name begins with a dot.
        let directory = tempfile::TempDir::with_prefix("collectd").unwrap();
        let directory = directory.path();
        let config = directory.join("collectd.conf");
        let base = directory.display();
        fs::write(
            &config,
            format!(
                "BaseDir \"{base}\"\nPIDFile \"{base}/pid\"\nHostname \"test\"\nInterval 1\n\
                 LoadPlugin statsd\nLoadPlugin csv\n\
                 <Plugin statsd>\nHost \"127.0.0.1\"\nPort \"8125\"\nCounterSum true\n</Plugin>\n\
                 <Plugin csv>\nDataDir \"{base}/csv\"\n</Plugin>\n"
            ),
        )
        .unwrap();
        let start = || {
            let mut command = clean(&collectd);
            let mut collectd = Program::start(command.arg("-f").arg("-C").arg(&config));
            collectd.until("collectd listens", |_| udp_port_is_bound(8125));
            collectd
        };
        // One file a metric and day: KIND-NAME-DATE.
        let metric = |begin: &str, part: &str| {
            let files = fs::read_dir(directory.join("csv/test/statsd")).ok()?;
            let text = files
                .map(|file| file.unwrap())
                .filter(|file| {
                    let name = file.file_name().into_string().unwrap();
                    name.starts_with(begin) && name.contains(part)
                })
                .find_map(|file| fs::read_to_string(file.path()).ok())?;
            last_number(&text, ',')
        };
        has_all(
            directory,
            "udp://127.0.0.1:8125",
            start,
            || metric("derive-relayed.requests", ""),
            || {
                metric(
                    "gauge-conntrack.connections.",
                    &format!(".{THERE_PLAIN}.open"),
                )
            },
        );
    });
}

/// The body of a document; nothing while nobody serves it.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Netdata keeps gauges as whole numbers of thousandths.
const NETDATA_GAUGE_UNITS: f64 = 1_000.0;

/// What netdata would collect by itself, at a cost that is not this test's.
const NETDATA_PLUGINS: [&str; 19] = [
    "proc",
    "diskspace",
    "cgroups",
    "tc",
    "idlejitter",
    "checks",
    "timex",
    "python.d",
    "charts.d",
    "node.d",
    "go.d",
    "apps",
    "perf",
    "slabinfo",
    "nfacct",
    "ebpf",
    "freeipmi",
    "netdata monitoring",
    "netdata monitoring extended",
];

fn netdata_config(directory: &Path) -> String {
    let base = directory.display();
    let plugins: String = NETDATA_PLUGINS
        .iter()
        .flat_map(|plugin| [plugin, " = no\n"])
        .collect();
    format!(
        "[global]\nhostname = test\n\
         [directories]\ncache = {base}/cache\nlib = {base}/lib\nlog = {base}/log\nconfig = {base}\n\
         [db]\nmode = ram\nupdate every = 1\n\
         [logs]\nerror = stderr\ndebug = none\naccess = none\nhealth = none\n\
         [ml]\nenabled = no\n[health]\nenabled = no\n[registry]\nenabled = no\n\
         [plugins]\n{plugins}statsd = yes\n\
         [web]\nbind to = 127.0.0.1:19999\n\
         [statsd]\nbind to = tcp:127.0.0.1:8125\nupdate every (flushInterval) = 1\n"
    )
}

#[test]
fn netdata_has_counts_and_gauges_also_those_of_its_absence() {
    const TEST: &str = "netdata_has_counts_and_gauges_also_those_of_its_absence";
    let Some(netdata) = find("netdata") else {
        return skip(TEST, "netdata is not installed");
    };
    isolated(&[], move || {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for name in ["cache", "lib", "log"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        let config = directory.join("netdata.conf");
        fs::write(&config, netdata_config(directory)).unwrap();
        let start = || {
            let mut command = clean(&netdata);
            let command = command.args(["-D", "-u", "root", "-c"]).arg(&config);
            let mut netdata = Program::start(command);
            netdata.until("netdata serves", |_| get(19999, "/api/v1/info").is_some());
            netdata.until("netdata's statsd listens", |_| {
                TcpStream::connect("127.0.0.1:8125").is_ok()
            });
            netdata
        };
        // As collected: a count's total, not a rate that was worked out of it.
        let metric = |family: &str, part: &str| {
            let all = get(
                19999,
                "/api/v1/allmetrics?format=prometheus&source=as-collected",
            )?;
            let line = all.lines().find(|line| {
                line.contains(&format!("{part}_{family}")) && !line.starts_with('#')
            })?;
            line.rsplit_once('}')?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        has_all(
            directory,
            "tcp://127.0.0.1:8125",
            start,
            || metric("counter", "relayed.requests"),
            || {
                let gauge = metric("gauge", &format!("{THERE_PLAIN}.open"));
                gauge.map(|gauge| gauge / NETDATA_GAUGE_UNITS)
            },
        );
    });
}

/// What the statsd of npm answers to a command on its management port, down to its `END`.
fn ask_statsd(command: &str) -> Option<String> {
    let mut stream = TcpStream::connect("127.0.0.1:8126").ok()?;
    stream.write_all(command.as_bytes()).ok()?;
    BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| line != "END")
        .map(|line| line + "\n")
        .collect::<String>()
        .into()
}

#[test]
fn the_statsd_of_npm_has_counts_and_gauges_also_those_of_its_absence() {
    const TEST: &str = "the_statsd_of_npm_has_counts_and_gauges_also_those_of_its_absence";
    let (Some(node), Some(statsd)) = (find("node"), statsd_of_npm()) else {
        return skip(
            TEST,
            "node or the package statsd is not there; .ci/run installs them",
        );
    };
    isolated(&[], move || {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let config = directory.join("statsd.js");
        fs::write(
            &config,
            // No flush during the test: counts add up until they are asked for.
            "{ address: '127.0.0.1', port: 8125, mgmt_address: '127.0.0.1', mgmt_port: 8126,\n\
             backends: ['./backends/console'], flushInterval: 3600000, title: false }\n",
        )
        .unwrap();
        let start = || {
            let mut receiver = Program::start(clean(&node).arg(&statsd).arg(&config));
            receiver.until("statsd answers", |_| {
                udp_port_is_bound(8125) && ask_statsd("counters").is_some()
            });
            receiver
        };
        let metric = |command: &str, part: &str| {
            let all = ask_statsd(command)?;
            let line = all.lines().find(|line| line.contains(part))?;
            last_number(line.trim_end_matches([',', ' ', '}']), ':')
        };
        has_all(
            directory,
            "udp://127.0.0.1:8125",
            start,
            || metric("counters", "relayed.requests"),
            || metric("gauges", &format!("{THERE_PLAIN}.open")),
        );
    });
}
