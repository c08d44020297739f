//! Receivers as their users run them: what the program sends them, they have.
//!
//! Each runs in a network namespace of its own test, where the entries of the
//! connection tracking table are known and every port is free.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::Path;

use conntally::flow::{Protocol, State, TcpState, Tuple};
use rustix::process::Signal;

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
/// What the application counts in all.
const REQUESTS: u32 = 17;

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
    let socket = directory.join("in.socket");
    let daemon = daemon(
        directory,
        &format!(
            "interval = \"1s\"\n\
             [collector]\nsource = \"conntrack\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{address}\"\nformat = \"statsd\"\n",
            socket.display()
        ),
    );
    let frames = [
        framed(b"relayed.requests:5|c\nrelayed.requests:5|c"),
        framed(b"relayed.requests:7|c\n"),
    ];
    send(&socket, &frames.concat());
    daemon
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

fn is(value: Option<f64>, expected: impl Into<f64>) -> bool {
    value == Some(expected.into())
}

#[test]
fn collectd_has_a_relayed_count_and_a_gauge_of_the_collector() {
    const TEST: &str = "collectd_has_a_relayed_count_and_a_gauge_of_the_collector";
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
        let mut collectd = Program::start(clean(collectd).arg("-f").arg("-C").arg(config));
        collectd.until("collectd listens", |_| udp_port_is_bound(8125));
        let daemon = sender(directory, "udp://127.0.0.1:8125");
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
        collectd.until("the count arrives", |_| {
            is(metric("derive-relayed.requests", ""), REQUESTS)
        });
        collectd.until("the gauge arrives", |_| {
            let name = format!(".{THERE_PLAIN}.open");
            is(metric("gauge-conntrack.connections.", &name), OPEN)
        });
        assert_eq!(daemon.stop().code, Some(0));
        collectd.stop();
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
const NETDATA_GAUGE_UNITS: u16 = 1_000;

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
fn netdata_has_a_relayed_count_and_a_gauge_of_the_collector() {
    const TEST: &str = "netdata_has_a_relayed_count_and_a_gauge_of_the_collector";
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
        let mut netdata =
            Program::start(clean(netdata).args(["-D", "-u", "root", "-c"]).arg(config));
        netdata.until("netdata serves", |_| get(19999, "/api/v1/info").is_some());
        netdata.until("netdata's statsd listens", |_| {
            TcpStream::connect("127.0.0.1:8125").is_ok()
        });
        let daemon = sender(directory, "tcp://127.0.0.1:8125");
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
        netdata.until("the count arrives", |_| {
            is(metric("counter", "relayed.requests"), REQUESTS)
        });
        netdata.until("the gauge arrives", |_| {
            let gauge = metric("gauge", &format!("{THERE_PLAIN}.open"));
            is(gauge, OPEN * NETDATA_GAUGE_UNITS)
        });
        assert_eq!(daemon.stop().code, Some(0));
        netdata.stop();
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
fn the_statsd_of_npm_has_a_relayed_count_and_a_gauge_of_the_collector() {
    const TEST: &str = "the_statsd_of_npm_has_a_relayed_count_and_a_gauge_of_the_collector";
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
        let mut receiver = Program::start(clean(node).arg(statsd).arg(config));
        receiver.until("statsd answers", |_| {
            udp_port_is_bound(8125) && ask_statsd("counters").is_some()
        });
        let daemon = sender(directory, "udp://127.0.0.1:8125");
        let metric = |command: &str, part: &str| {
            let all = ask_statsd(command)?;
            let line = all.lines().find(|line| line.contains(part))?;
            last_number(line.trim_end_matches([',', ' ', '}']), ':')
        };
        receiver.until("the count arrives", |_| {
            is(metric("counters", "relayed.requests"), REQUESTS)
        });
        receiver.until("the gauge arrives", |_| {
            is(metric("gauges", &format!("{THERE_PLAIN}.open")), OPEN)
        });
        assert_eq!(daemon.stop().code, Some(0));
        receiver.signal(Signal::TERM);
        receiver.wait();
    });
}
