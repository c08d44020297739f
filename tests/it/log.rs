//! The log: what it tells, and no more often than it helps.

use std::ffi::OsStr;
use std::path::Path;

use crate::support::clients::{framed, free_udp_port, send};
use crate::support::daemon::{Program, binary, clean, configuration, conntally, daemon};
use crate::support::lines::total;

/// A daemon that reports on standard output, with this listener and this output.
fn relay(directory: &Path, listener: &str, output: &str) -> Program {
    let body = format!(
        "interval = \"100ms\"\n\
         [collector]\nsource = \"off\"\n\
         [[listener]]\naddress = \"{listener}\"\norigin = \"none\"\n\
         [[output]]\n{output}\nsources = [\"listeners\"]\n\
         [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n"
    );
    daemon(directory, &body)
}

#[test]
fn lines_longer_than_max_payload_are_told_once_with_the_output_and_both_lengths() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let socket = directory.join("in.socket");
    let output = format!("unixstream://{}", directory.join("none").display());
    let mut daemon = relay(
        directory,
        &format!("unixstream://{}", socket.display()),
        &format!("address = \"{output}\"\nmax_payload = \"128B\""),
    );
    // Each in a read of its own.
    for n in 1..=3 {
        send(
            &socket,
            &framed(format!("{}:1|c\n", "x".repeat(200)).as_bytes()),
        );
        daemon.until("the line is dropped", |daemon| {
            let too_long: &[&str] = &["output:unixstream", "reason:oversized"];
            let text = daemon.stdout.text();
            total(&text, "conntally.output.lines_dropped", too_long) == n
        });
    }
    let log = daemon.stop().stderr;
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("longer than max_payload"))
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    for part in ["WARN", &output, "line_bytes=204", "max_payload=128"] {
        assert!(told[0].contains(part), "no {part} in {}", told[0]);
    }
}

#[test]
fn every_command_logs_as_much_as_it_is_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "[collector]\nsource = \"sockets\"\n");
    for command in ["check", "snapshot"] {
        let said = |more: &[&str]| {
            let arguments = [command, "--config"].map(OsStr::new);
            let more = more.iter().map(OsStr::new);
            let ended = conntally(
                arguments
                    .into_iter()
                    .chain([config.as_os_str()])
                    .chain(more),
            );
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            assert!(!ended.stdout.contains("DEBUG"), "{}", ended.stdout);
            ended.stderr
        };
        for (more, is_asked) in [
            (&[][..], false),
            (&["-q"], false),
            (&["--log", "info"], false),
            (&["--log", "conntally::cli=debug"], true),
            (&["-v"], true),
        ] {
            let log = said(more);
            assert_eq!(log.contains("DEBUG"), is_asked, "{command} {more:?}: {log}");
        }
    }
}

#[test]
fn a_filter_that_is_none_is_named_by_where_it_stands() {
    for command in ["run", "check", "snapshot"] {
        let ended = conntally([command, "--log", "conntally=loud"]);
        assert_eq!(ended.code, Some(64), "{command}: {}", ended.stderr);
        let told = "conntally: --log: \"conntally=loud\" is not a filter";
        assert!(ended.stderr.starts_with(told), "{}", ended.stderr);

        let mut program = clean(binary());
        program.arg(command).env("CONNTALLY_LOG", "conntally=loud");
        let ended = Program::start(&mut program).wait();
        assert_eq!(ended.code, Some(64), "{command}: {}", ended.stderr);
        let told = "conntally: CONNTALLY_LOG: \"conntally=loud\" is not a filter";
        assert!(ended.stderr.starts_with(told), "{}", ended.stderr);
    }
}

#[test]
fn an_output_whose_name_is_an_own_listener_is_told_once_and_sent_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_udp_port();
    // Known to be the listener's only once it is looked up: inet_aton(3).
    let output = format!("udp://127.1:{port}");
    let mut daemon = relay(
        directory.path(),
        &format!("udp://127.0.0.1:{port}"),
        &format!("address = \"{output}\""),
    );
    daemon.until("it tried several times", |daemon| {
        let text = daemon.stdout.text();
        total(
            &text,
            "conntally.output.errors",
            &["output:udp", "reason:connect"],
        ) > 2
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut told = ended
        .stderr
        .lines()
        .filter(|line| line.contains("own listeners"));
    let line = told.next().unwrap_or_default();
    assert!(
        line.contains("ERROR") && line.contains(&output),
        "{}",
        ended.stderr
    );
    assert_eq!(told.next(), None);
    let connects = total(&ended.stdout, "conntally.output.connects", &["output:udp"]);
    assert_eq!(connects, 0);
}
