//! Network namespaces that are counted beside the daemon's own.
//!
//! They are named by links to descriptors of this process: nothing is mounted.

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use conntally::flow::{Flow, Protocol, State, TcpState, Tuple};

use crate::support::daemon::{Ended, Program, binary, clean, configuration, conntally, daemon};
use crate::support::inject;
use crate::support::lines::{last, total};
use crate::support::netns::{Peer, isolated, run};
use crate::support::tools::{find, skip};

const HERE: &str = "10.99.0.1";
const THERE: &str = "192.0.2.7";
const PORT: u16 = 25_000;

/// Established connections from here to there.
fn flows(count: u16) -> impl Iterator<Item = Flow> {
    let [here, there]: [IpAddr; 2] = [HERE, THERE].map(|address| address.parse().unwrap());
    (1..=count).map(move |port| {
        let original = Tuple {
            src: here,
            dst: there,
            src_port: port,
            dst_port: PORT,
        };
        inject::flow(Protocol::Tcp, State::Tcp(TcpState::Established), original)
    })
}

/// Gives the thread's namespace an address of its own, and connections.
fn fill(address: &str, count: u16) {
    run(&format!("ip address add {address}/32 dev lo"));
    inject::inject(flows(count));
}

/// Counts those namespaces ten times a second.
fn counting(source: &str, paths: &[&Path]) -> String {
    format!(
        "interval = \"100ms\"\n[collector]\nsource = \"{source}\"\nnetns = {paths:?}\n\
         [hosts]\nports = true\n[[output]]\naddress = \"stdout:\"\nflush_interval = \"10ms\"\n"
    )
}

fn connections(daemon: &Program, tags: &[&str]) -> Option<usize> {
    last(&daemon.stdout.text(), "conntrack.connections", tags)
}

/// How many threads of the daemon's collect.
fn collectors(daemon: &Program) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim() == "collector")
        .count()
}

#[test]
fn each_namespace_is_counted_with_its_own_addresses_and_sysctls_under_its_tag() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let [blue, red] = ["blue", "red"].map(|name| directory.path().join(name));
        let [in_blue, in_red] = [Peer::apart(), Peer::apart()];
        symlink(in_blue.path(), &blue).unwrap();
        symlink(in_red.path(), &red).unwrap();
        fill(HERE, 2);
        in_blue.run(|| {
            fill(HERE, 3);
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            fs::write(range, "20000 29999").unwrap();
        });
        // The same connections, of which this namespace is the other end.
        in_red.run(|| fill(THERE, 5));

        let mut daemon = daemon(directory.path(), &counting("conntrack", &[&blue, &red]));
        let here = format!("remote_host:{HERE}");
        let there = format!("remote_host:{THERE}");
        let port = format!("port:{PORT}");
        daemon.until("all are counted", |daemon| {
            connections(daemon, &["netns:red", "state:open"]).is_some()
                && connections(daemon, &["netns:blue", "state:open"]).is_some()
        });
        in_red.run(|| inject::delete(flows(1)));
        let end = |daemon: &Program| total(&daemon.stdout.text(), "conntrack.closed", &[]);
        daemon.until("one has ended", |daemon| end(daemon) == 1);
        daemon.until("one less is there", |daemon| {
            connections(daemon, &["netns:red", "state:open"]) == Some(4)
        });
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let text = &ended.stdout;
        let named = |line: &&str| line.starts_with("conntrack.connections:");
        let mut series: Vec<_> = text.lines().filter(named).collect();
        series.sort_unstable();
        series.dedup();
        let line = |count: u16, tags: &str| format!("conntrack.connections:{count}|g|#{tags}");
        let out = format!("{there},state:open,protocol:tcp,direction:outbound");
        let inside = format!("{here},state:open,protocol:tcp,direction:inbound,{port}");
        assert_eq!(
            series,
            [
                line(2, &format!("{out},{port}")),
                // In its range of ephemeral ports, so no service.
                line(3, &format!("netns:blue,{out}")),
                line(4, &format!("netns:red,{inside}")),
                line(5, &format!("netns:red,{inside}")),
            ]
        );
        for (tags, entries) in [("netns:blue", 3), ("netns:red", 4)] {
            assert_eq!(
                last(text, "conntrack.table.entries", &[tags]),
                Some(entries)
            );
            let tags = [tags, "source:conntrack"];
            assert_eq!(last(text, "conntally.collector.source", &tags), Some(1));
            let found = total(text, "conntally.collector.flows_found", &tags[..1]);
            assert_eq!(found, if entries == 3 { 3 } else { 5 });
        }
        let closed = total(text, "conntally.collector.flows_closed", &["netns:red"]);
        assert_eq!(closed, 1);
    });
}

#[test]
fn a_namespace_that_vanishes_is_let_go_and_counted_again_when_it_is_back() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let blue = directory.path().join("blue");
        let [first, second] = [Peer::apart(), Peer::apart()];
        first.run(|| fill(HERE, 3));
        second.run(|| fill(HERE, 7));
        symlink(first.path(), &blue).unwrap();

        let mut daemon = daemon(directory.path(), &counting("conntrack", &[&blue]));
        let tags = ["netns:blue", "state:open"];
        daemon.until("it is counted", |daemon| {
            connections(daemon, &tags) == Some(3)
        });
        assert_eq!(collectors(&daemon), 2);
        fs::remove_file(&blue).unwrap();
        let entries = |daemon: &Program| {
            let name = "conntrack.table.entries";
            last(&daemon.stdout.text(), name, &["netns:blue"])
        };
        daemon.until("nothing is there", |daemon| {
            connections(daemon, &tags) == Some(0) && entries(daemon) == Some(0)
        });
        daemon.until("its thread has ended", |daemon| collectors(daemon) == 1);

        symlink(second.path(), &blue).unwrap();
        daemon.until("it is counted again", |daemon| {
            connections(daemon, &tags) == Some(7)
        });
        // Another under the same name, without a moment between.
        let next = directory.path().join("next");
        symlink(first.path(), &next).unwrap();
        fs::rename(&next, &blue).unwrap();
        daemon.until("the other is counted", |daemon| {
            connections(daemon, &tags) == Some(3)
        });
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        for message in ["the network namespace is gone", "is there again: counting"] {
            assert_eq!(ended.stderr.matches(message).count(), 2, "{}", ended.stderr);
        }
        let total = |name: &str| {
            let name = format!("conntally.collector.flows_{name}");
            total(&ended.stdout, &name, &["netns:blue"])
        };
        let (found, forgotten) = (total("found"), total("forgotten"));
        assert_eq!((found, forgotten), (13, 10), "{}", ended.stdout);
    });
}

#[test]
fn a_missing_namespace_is_named_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blue");
    let config = configuration(directory.path(), &counting("auto", &[&path]));
    let ended = conntally(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    fails(&ended, 66, &[path.to_str().unwrap(), "ip netns add"]);
    for look in ["snapshot", "connections"] {
        let ended = conntally([look, "--netns", "no-such-namespace"]);
        let parts = ["/run/netns/no-such-namespace", "ip netns add"];
        fails(&ended, 66, &parts);
    }
    fs::write(&path, "").unwrap();
    let ended = conntally(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    fails(
        &ended,
        78,
        &[path.to_str().unwrap(), "is no network namespace"],
    );
}

#[track_caller]
fn fails(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for part in parts {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn without_the_capability_to_enter_a_namespace_it_and_the_drop_in_are_named() {
    const TEST: &str = "without_the_capability_to_enter_a_namespace_it_and_the_drop_in_are_named";
    let Some(unshare) = find("unshare") else {
        return skip(TEST, "unshare is not installed");
    };
    let directory = tempfile::tempdir().unwrap();
    // Of its own namespace it may know the sockets.
    let config = counting("auto", &[Path::new("/proc/self/fd/7")]);
    let config = configuration(directory.path(), &config);
    // Nobody in a new user namespace, with this one's network at hand.
    let line = "exec 7</proc/self/ns/net; exec \"$0\" -Un -- \"$@\"";
    let outside = |arguments: &[&OsStr]| {
        let mut command = clean("sh");
        command.args(["-c", line]).arg(&unshare).args(arguments);
        Program::start(&mut command).wait()
    };
    if outside(&["true".as_ref()]).code != Some(0) {
        return skip(TEST, "user namespaces are forbidden");
    }
    let program = binary();
    let run: [&OsStr; 4] = [
        program.as_ref(),
        "run".as_ref(),
        "--config".as_ref(),
        config.as_ref(),
    ];
    let look: [&OsStr; 4] = [
        program.as_ref(),
        "snapshot".as_ref(),
        "--netns".as_ref(),
        "/proc/self/fd/7".as_ref(),
    ];
    for arguments in [run, look] {
        let ended = outside(&arguments);
        let parts = ["CAP_SYS_ADMIN", "conntally.service.d/netns.conf", "fd/7"];
        fails(&ended, 77, &parts);
    }
}

#[test]
fn a_namespace_of_ip_netns_is_looked_into_by_its_name() {
    isolated(&["unshare", "mount", "conntrack"], || {
        // In a mount namespace of its own, where /run is nobody else's.
        let script = "set -e; mount -t tmpfs tmpfs /run; ip netns add blue; \
                      ip netns exec blue ip link set lo up; \
                      ip netns exec blue conntrack -I -p tcp -s 127.0.0.1 -d 192.0.2.7 \
                      --sport 1 --dport 443 --state ESTABLISHED -u SEEN_REPLY -t 60 >/dev/null 2>&1; \
                      for format in json statsd; do \
                      \"$0\" snapshot --netns blue --config \"$1\" --format $format; done";
        let directory = tempfile::tempdir().unwrap();
        let config = "[collector]\nsource = \"conntrack\"\n";
        let config = configuration(directory.path(), config);
        let mut command = clean("unshare");
        command.args(["-m", "--", "sh", "-c", script]);
        let ended = Program::start(command.arg(binary()).arg(config)).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let mut lines = ended.stdout.lines();
        let json = lines.next().unwrap();
        assert!(json.contains("\"host\":\"192.0.2.7\""), "{json}");
        let statsd = lines.next().unwrap();
        assert!(
            statsd.starts_with("conntrack.connections:1|g|#netns:blue,remote_host:192.0.2.7,"),
            "{statsd}"
        );
    });
}
