//! What the running daemon counts, and from which source.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::support::daemon::{Program, binary, clean, configuration, daemon};
use crate::support::lines::last;
use crate::support::netns::isolated;

/// Counts the host's connections with itself, five times a second, on standard output.
const LOOPBACK: &str = r#"
interval = "200ms"
[hosts]
loopback = true
[[output]]
address = "stdout:"
flush_interval = "10ms"
"#;

/// A connection of the host with itself: both its ends.
fn connection(listener: &TcpListener) -> [TcpStream; 2] {
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [dialled, listener.accept().unwrap().0]
}

fn open(daemon: &Program) -> Option<usize> {
    let tags = ["remote_host:127.0.0.1", "state:open"];
    last(&daemon.stdout.text(), "conntrack.connections", &tags)
}

fn reads(daemon: &Program, source: &str) -> bool {
    let tag = format!("source:{source}");
    last(&daemon.stdout.text(), "conntally.collector.source", &[&tag]) == Some(1)
}

#[test]
fn sockets_are_counted_until_the_rule_that_is_named_makes_the_kernel_track() {
    isolated(&["nft", "sh"], || {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = connection(&listener);
        let mut daemon = daemon(directory.path(), LOOPBACK);
        daemon.until("a socket is counted", |daemon| open(daemon) == Some(1));
        assert!(reads(&daemon, "sockets"));

        let log = daemon.stderr.text();
        let (_, rule) = log.split_once("such as ").unwrap();
        let rule = rule.lines().next().unwrap();
        assert!(
            Command::new("sh")
                .args(["-c", rule])
                .status()
                .unwrap()
                .success()
        );
        drop(before);
        let _after = [connection(&listener), connection(&listener)];
        daemon.until("the kernel's table is counted", |daemon| {
            reads(daemon, "conntrack") && open(daemon) >= Some(2)
        });
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("tracks nothing").count(), 1);
        assert_eq!(
            ended
                .stderr
                .matches("counting by connection tracking")
                .count(),
            1
        );
    });
}

#[test]
fn a_series_that_vanished_is_sent_as_zero() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let [dialled, accepted] = connection(&listener);
        let mut daemon = daemon(directory.path(), LOOPBACK);
        daemon.until("it is counted", |daemon| open(daemon) == Some(1));
        drop(accepted);
        drop(dialled);
        daemon.until("it is counted no more", |daemon| open(daemon) == Some(0));
    });
}

#[test]
fn lines_for_other_servers_carry_the_host_as_they_want_it() {
    isolated(&[], || {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _held = connection(&listener);
        for (format, line) in [
            (
                "statsd",
                "\nhere.conntrack.connections.127_0_0_1.open:1|g\n",
            ),
            (
                "graphite",
                "\nconntrack.connections;host=here;remote_host=127.0.0.1;state=open;protocol=tcp;direction=local:1|g\n",
            ),
            (
                "influx",
                "\nconntrack.connections,host=here,remote_host=127.0.0.1,state=open,protocol=tcp,direction=local:1|g\n",
            ),
        ] {
            let mut daemon = daemon(
                directory.path(),
                &format!("hostname = \"here\"\n{LOOPBACK}format = \"{format}\"\n"),
            );
            daemon.until(line, |daemon| daemon.stdout.contains(line));
        }
    });
}

#[test]
fn a_daemon_whose_only_output_nobody_reads_any_more_ends() {
    isolated(&["sh", "head"], || {
        let directory = tempfile::tempdir().unwrap();
        let config = configuration(directory.path(), LOOPBACK);
        let line = format!(
            "{} run --config {} | head -n 1",
            binary().display(),
            config.display()
        );
        let ended = Program::start(clean("sh").args(["-c", &line])).wait();
        assert_eq!(ended.stdout.lines().count(), 1);
        assert!(
            ended.stderr.contains("nobody reads any output"),
            "{}",
            ended.stderr
        );
    });
}
