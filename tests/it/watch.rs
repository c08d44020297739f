//! `--watch`: below each other where it is piped, in place on a terminal.

use conntally::flow::{Flow, TcpState};

use crate::support::daemon::{Program, binary, clean, configuration, daemon};
use crate::support::inject;
use crate::support::netns::{eventually, isolated};
use crate::support::terminal::Terminal;

fn flows(ports: std::ops::Range<u16>) -> impl Iterator<Item = Flow> {
    ports.map(|port| inject::tcp(port, "198.51.100.7", TcpState::Established))
}

#[test]
fn each_command_that_looks_goes_on_where_it_is_piped() {
    isolated(&[], || {
        inject::inject(flows(1..3));
        let directory = tempfile::tempdir().unwrap();
        let body = "[collector]\nsource = \"conntrack\"\n[[output]]\naddress = \"stdout:\"\n";
        let mut daemon = daemon(directory.path(), body);
        daemon.until("the admin socket is bound", |daemon| {
            daemon.stderr.contains("admin socket bound")
        });
        for (command, heading) in [
            ("snapshot", "REMOTE HOST"),
            ("connections", "STATE "),
            ("status", "SOURCE "),
            ("clients", "LISTENER "),
        ] {
            let config = directory.path().join("conntally.toml");
            let watching = |more: &[&str]| {
                let mut program = clean(binary());
                program.args([command, "--watch", "100ms", "--config"]);
                Program::start(program.arg(&config).args(more))
            };
            let mut table = watching(&[]);
            table.until("it looks again", |table| {
                table.stdout.text().matches(heading).count() > 2
            });
            let text = table.stdout.text();
            assert!(
                text.contains(&format!("\n\n{heading}")) || command == "status",
                "{text}"
            );
            assert!(!text.contains('\u{1b}'), "{text}");
            let mut json = watching(&["--format", "json"]);
            let lines = if command == "clients" { 0 } else { 6 };
            json.until("it looks again", |json| {
                json.stdout.text().lines().count() >= lines
            });
            let text = json.stdout.text();
            let mut lines = text.lines().take(lines);
            assert!(lines.all(|line| line.starts_with('{')), "{text}");
        }
    });
}

#[test]
fn on_a_terminal_a_table_takes_the_place_of_the_one_before() {
    isolated(&["tmux"], || {
        inject::inject(flows(1..3));
        let directory = tempfile::tempdir().unwrap();
        let config = configuration(directory.path(), "[collector]\nsource = \"conntrack\"\n");
        let terminal = Terminal::start(
            directory.path(),
            &format!(
                "{} connections --watch 100ms --config {}",
                binary().display(),
                config.display()
            ),
        );
        terminal.until("192.0.2.1:2");
        inject::inject(flows(3..40));
        let screen = terminal.until("lines more)");
        assert_eq!(screen.matches("STATE").count(), 1, "{screen}");
        assert!(screen.starts_with("STATE"), "{screen}");
        inject::delete(flows(2..40));
        eventually("what is gone is not shown any more", || {
            let rows = terminal.screen(&[]);
            rows.lines().filter(|row| !row.trim().is_empty()).count() == 2
        });
    });
}
