//! `conntally top` in a real terminal: what it shows, and how it leaves the terminal.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use conntally::flow::TcpState;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::clients::framed;
use crate::support::daemon::{binary, configuration, conntally, daemon};
use crate::support::inject;
use crate::support::netns::{eventually, isolated};
use crate::support::terminal::Terminal;

fn connections(ports: std::ops::Range<u16>, host: &str) {
    let open = TcpState::Established;
    inject::inject(ports.map(|port| inject::tcp(port, host, open)));
}

/// Runs it behind a line of its own, tells how it ended, and goes on.
fn top(directory: &Path, environment: &str) -> Terminal {
    let config = directory.join("conntally.toml");
    let pid = directory.join("pid");
    Terminal::start(
        directory,
        &format!(
            "echo before; \
             sh -c 'echo $$ >{pid}; exec env {environment} {top} top --config {config} -i 100ms'; \
             echo \"ended=$? $(stty -a | grep -o -e '-*icanon')\"; exec cat",
            pid = pid.display(),
            top = binary().display(),
            config = config.display(),
        ),
    )
}

#[track_caller]
fn is_restored(terminal: &Terminal) {
    let screen = terminal.until("ended=");
    assert!(screen.contains("ended=0 icanon"), "{screen}");
    assert!(screen.starts_with("before\n"), "{screen}");
    assert!(terminal.is_usual());
}

#[test]
fn it_shows_hosts_listeners_and_outputs_of_a_daemon_and_gives_the_terminal_back() {
    isolated(&["tmux"], || {
        connections(1..4, "198.51.100.7");
        connections(1..2, "198.51.100.8");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let listener = path.join("in.socket");
        let body = format!(
            "interval = \"100ms\"\n[collector]\nsource = \"conntrack\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\n\
             [[output]]\naddress = \"udp://127.0.0.1:9\"\n",
            listener.display()
        );
        let mut daemon = daemon(path, &body);
        daemon.until("the admin socket is bound", |daemon| {
            daemon.stderr.contains("admin socket bound")
        });
        let mut client = UnixStream::connect(&listener).unwrap();
        client.write_all(&framed(b"a:1|c\nb:1|c\n")).unwrap();

        let terminal = top(path, "LANG=C.UTF-8");
        let screen = terminal.until("198.51.100.8");
        let pid = format!("pid {}, up", daemon.pid());
        assert!(screen.contains(&pid), "{screen}");
        let row: Vec<_> = screen.lines().nth(4).unwrap().split_whitespace().collect();
        let expected = ["198.51.100.7", "forwarded", "tcp", "0", "3", "0", "0", "3"];
        assert_eq!(row[..8], expected, "{screen}");
        terminal.until("███");
        terminal.press(&["/", "1", "0", "0", ".", "8", "Enter"]);
        eventually("the other host is filtered out", || {
            !terminal.screen(&[]).contains("198.51.100.7")
        });
        terminal.press(&["Escape"]);
        terminal.until("198.51.100.7");

        terminal.press(&["Tab"]);
        let screen = terminal.until("PROGRAM");
        let own = std::process::id().to_string();
        assert!(screen.contains(&own), "{screen}");
        terminal.press(&["3"]);
        terminal.until("udp://127.0.0.1:9");
        terminal.resize(20, 5);
        eventually("it is drawn for its size", || {
            let screen = terminal.screen(&[]);
            screen.lines().all(|line| line.chars().count() <= 20) && screen.contains("q quit")
        });
        terminal.resize(80, 24);
        daemon.stop();
        terminal.until("the daemon is not running");
        terminal.press(&["q"]);
        is_restored(&terminal);
    });
}

#[test]
fn without_a_daemon_it_looks_by_itself_and_ends_by_ctrl_c_or_a_signal() {
    isolated(&["tmux"], || {
        connections(1..3, "198.51.100.7");
        for by_key in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            configuration(directory.path(), "[collector]\nsource = \"conntrack\"\n");
            let terminal = top(directory.path(), "LANG=C.UTF-8");
            let screen = terminal.until("198.51.100.7");
            assert!(screen.starts_with("no daemon: the kernel's own tables, by conntrack"));
            if by_key {
                terminal.press(&["C-c"]);
            } else {
                let pid = std::fs::read_to_string(directory.path().join("pid")).unwrap();
                let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
                kill_process(pid, Signal::TERM).unwrap();
            }
            is_restored(&terminal);
        }
    });
}

#[test]
fn a_plain_terminal_gets_neither_colours_nor_blocks() {
    isolated(&["tmux"], || {
        connections(1..3, "198.51.100.7");
        for environment in ["TERM=vt100 LANG=C.UTF-8", "TERM=linux NO_COLOR=1"] {
            let directory = tempfile::tempdir().unwrap();
            configuration(directory.path(), "[collector]\nsource = \"conntrack\"\n");
            let terminal = top(directory.path(), environment);
            let screen = terminal.until("##");
            assert!(screen.is_ascii(), "{environment}: {screen}");
            let styled = terminal.screen(&["-e"]);
            // Bold, underlined, reversed and back, and the default colours (ECMA-48, SGR).
            let is_plain = |code: &str| {
                matches!(
                    code,
                    "" | "0" | "1" | "4" | "7" | "22" | "24" | "27" | "39" | "49"
                )
            };
            let sequences = styled.split("\u{1b}[").skip(1);
            let mut codes = sequences.filter_map(|text| Some(text.split_once('m')?.0));
            let colored = codes.find(|codes| !codes.split(';').all(is_plain));
            assert_eq!(colored, None, "{environment}: {styled:?}");
            terminal.press(&["q"]);
            is_restored(&terminal);
        }
    });
}

#[test]
fn what_is_no_terminal_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "");
    let ended = conntally(["top", "--config", config.to_str().unwrap()]);
    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("top needs a terminal"),
        "{}",
        ended.stderr
    );
    assert!(ended.stdout.is_empty());
}
