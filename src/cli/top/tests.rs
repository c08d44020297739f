//! Keys in, screens out.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tokio::time::Instant;

use super::draw::{Theme, draw};
use super::feed::{Daemon, Look, Seen};
use super::model::{Goes, Key, MAX_HOSTS, Model, View};
use crate::admin::clients::ClientsLine;
use crate::admin::snapshot::{HostLine, SnapshotLine};
use crate::admin::status::StatusLine;

const THEME: Theme = Theme {
    color: false,
    unicode: true,
};

fn host(name: &str, states: [u64; 4]) -> HostLine<'static> {
    let [opening, open, closing, closed] = states;
    let text = format!(
        r#"{{"type":"host","host":"{name}","direction":"outbound","protocol":"tcp",
        "opening":{opening},"open":{open},"closing":{closing},"closed":{closed}}}"#
    );
    match serde_json::from_str(&text).unwrap() {
        SnapshotLine::Host(line) => HostLine::into_owned(line),
        line => panic!("{line:?}"),
    }
}

/// A daemon with a listener, an output that is away, and two clients, after so many
/// ticks of a second and a thousand lines.
fn daemon(tick: u64) -> Daemon {
    let lines = 1000 * tick;
    let status = [
        r#"{"type":"daemon","version":"1.2.3","pid":42,"started":1,"uptime_seconds":273600}"#
            .to_owned(),
        format!(
            r#"{{"type":"listener","address":"unixstream:///run/in","connections":2,"lines":{lines},
            "lines_dropped":{{"value":3}},"refused":{{"limit":0}}}}"#
        ),
        format!(
            r#"{{"type":"output","address":"udp://127.0.0.1:8125","format":"dogstatsd","health":"away",
            "lines":{lines},"lines_sent":10,"lines_held":7,"lines_dropped":{{"oversized":0}},
            "errors":{{"connect":5}}}}"#
        ),
    ];
    let mut daemon = Daemon {
        tick: Some(tick),
        ..Daemon::default()
    };
    for line in status {
        match serde_json::from_str(&line).unwrap() {
            StatusLine::Daemon(line) => daemon.process = Some(line),
            StatusLine::Listener(line) => daemon.listeners.push(line),
            StatusLine::Output(line) => daemon.outputs.push(line),
            line => panic!("{line:?}"),
        }
    }
    for (pid, program, bytes) in [(7, "python3", 900), (8, "php-fpm", 1_000)] {
        let line = format!(
            r#"{{"type":"client","listener":"unixstream:///run/in","id":1,"pid":{pid},"uid":33,
            "program":"{program}","since":1,"age_seconds":60,"idle_seconds":1,"frames":1,
            "lines":2,"bytes":{bytes},"bad_lines":0}}"#
        );
        match serde_json::from_str(&line).unwrap() {
            ClientsLine::Client(line) => daemon.clients.push(line),
            line => panic!("{line:?}"),
        }
    }
    daemon
}

/// Takes in the daemon's look after so many seconds.
fn tick(model: &mut Model, begun: Instant, number: u64, hosts: Vec<HostLine<'static>>) {
    model.take(Ok(Look {
        at: begun + Duration::from_secs(number),
        seen: Seen::Daemon(Box::new(daemon(number))),
        hosts,
    }));
}

fn look(model: &mut Model, hosts: Vec<HostLine<'static>>) {
    let at = Instant::now();
    let seen = Seen::Kernel("conntrack");
    model.take(Ok(Look { at, seen, hosts }));
}

fn screen(model: &Model, theme: Theme, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, theme, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(width.into());
    let rows = rows.map(|row| {
        let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        row.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        assert_eq!(model.press(Key::Char(key)), Goes::On, "{key}");
    }
}

/// The first words of the rows of a screen's sheet, the last of which is at the bottom.
fn names(model: &Model) -> Vec<String> {
    let screen = screen(model, THEME, 80, 24);
    let rows = screen.lines().skip(4).take_while(|row| !row.is_empty());
    let name = |row: &str| row.split(' ').next().unwrap().to_owned();
    rows.map(name).collect()
}

fn three_hosts() -> Vec<HostLine<'static>> {
    vec![
        host("db-primary", [0, 12, 2, 0]),
        host("10.0.0.7", [3, 1, 0, 0]),
        host("cache", [0, 4, 0, 1]),
    ]
}

#[tokio::test]
async fn hosts_have_their_states_and_a_history_with_a_value_for_each_tick() {
    let (mut model, begun) = (Model::new(None), Instant::now());
    for number in [1, 2, 2, 3] {
        let mut hosts = three_hosts();
        hosts[1].opening = 4 * number;
        tick(&mut model, begun, number, hosts);
    }
    let expected = "\
conntally 1.2.3, pid 42, up 3d 4h
 1 Hosts 3  2 Listeners 1  3 Outputs 1

REMOTE HOST DIRECTION PROTO OPENING OPEN CLOSING CLOSED TOTAL HISTORY
db-primary  outbound  tcp         0   12       2      0    14                ███
10.0.0.7    outbound  tcp        12    1       0      0    13                ▄▆█
cache       outbound  tcp         0    4       0      1     5                ███



q quit  Tab view  / filter  s sort  r reverse  p pause  Up Down PgUp PgDn scroll
";
    assert_eq!(screen(&model, THEME, 80, 11), expected);
}

#[tokio::test]
async fn listeners_stand_above_their_clients() {
    let (mut model, begun) = (Model::new(None), Instant::now());
    for number in 1..=3 {
        tick(&mut model, begun, number, Vec::new());
    }
    assert_eq!(model.press(Key::Tab), Goes::On);
    let expected = "\
conntally 1.2.3, pid 42, up 3d 4h
 1 Hosts 0  2 Listeners 1  3 Outputs 1

LISTENER             CONNECTIONS LINES/S LINES DROPPED REFUSED HISTORY
unixstream:///run/in           2    1000  3000       3       0                ██

PROGRAM PID UID   AGE IDLE FRAMES LINES BYTES BAD LINES LISTENER
php-fpm 8   33  1m 0s   1s      1     2  1000         0 unixstream:///run/in
python3 7   33  1m 0s   1s      1     2   900         0 unixstream:///run/in

q quit  Tab view  / filter  s sort  r reverse  p pause  Up Down PgUp PgDn scroll
";
    assert_eq!(screen(&model, THEME, 80, 11), expected);
}

#[tokio::test]
async fn outputs_tell_whether_they_are_away_and_what_they_hold() {
    let (mut model, begun) = (Model::new(None), Instant::now());
    for number in 1..=2 {
        tick(&mut model, begun, number, Vec::new());
    }
    press(&mut model, "3");
    let screen = screen(&model, THEME, 80, 8);
    let rows: Vec<_> = screen.lines().skip(3).take(2).collect();
    let expected = [
        "OUTPUT               STATE LINES/S SENT HELD MERGED DROPPED ERRORS HISTORY",
        "udp://127.0.0.1:8125 away     1000   10    7      0       0      5             █",
    ];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn without_a_daemon_it_says_so_and_why() {
    let mut model = Model::new(Some("the daemon is not running".to_owned()));
    let waiting = screen(&model, THEME, 80, 24);
    assert!(waiting.starts_with("conntally top: waiting"), "{waiting}");
    look(&mut model, three_hosts());
    let shown = screen(&model, THEME, 80, 24);
    let first = "no daemon: the kernel's own tables, by conntrack\n";
    assert!(shown.starts_with(first), "{shown}");
    assert_eq!(names(&model), ["db-primary", "cache", "10.0.0.7"]);
    press(&mut model, "2");
    let shown = screen(&model, THEME, 80, 24);
    assert!(shown.contains("the daemon is not running"), "{shown}");
}

#[tokio::test]
async fn rows_are_ordered_by_the_column_that_is_chosen() {
    let mut model = Model::new(None);
    look(&mut model, three_hosts());
    assert_eq!(
        names(&model),
        ["db-primary", "cache", "10.0.0.7"].map(String::from)
    );
    press(&mut model, "r");
    assert_eq!(names(&model), ["10.0.0.7", "cache", "db-primary"]);
    // Behind the last column comes the first.
    press(&mut model, "s");
    assert_eq!(names(&model), ["10.0.0.7", "cache", "db-primary"]);
    press(&mut model, "SSS");
    assert_eq!(
        names(&model),
        ["db-primary", "10.0.0.7", "cache"],
        "by closing"
    );
    press(&mut model, ">");
    assert_eq!(
        names(&model),
        ["cache", "10.0.0.7", "db-primary"],
        "by closed"
    );
}

#[tokio::test]
async fn a_filter_is_typed_and_taken_away() {
    let mut model = Model::new(None);
    look(&mut model, three_hosts());
    press(&mut model, "/DB-q");
    assert!(screen(&model, THEME, 80, 24).ends_with("filter: db-q_\n"));
    assert!(names(&model).is_empty());
    model.press(Key::Backspace);
    model.press(Key::Enter);
    assert_eq!(names(&model), ["db-primary"]);
    let shown = screen(&model, THEME, 80, 24);
    assert!(shown.contains("filter: db-\n"), "{shown}");
    // It is a key again, and no longer text.
    press(&mut model, "p");
    assert!(model.paused);
    model.press(Key::Escape);
    assert_eq!(names(&model).len(), 3);
    press(&mut model, "/q");
    model.press(Key::Escape);
    assert!(model.filter.is_empty() && !model.typing);
    press(&mut model, "/");
    assert_eq!(model.press(Key::Interrupt), Goes::Out);
    model.press(Key::Enter);
    assert_eq!(model.press(Key::Char('q')), Goes::Out);
}

#[tokio::test]
async fn what_is_paused_stays_until_it_goes_on() {
    let mut model = Model::new(None);
    look(&mut model, three_hosts());
    press(&mut model, "p");
    look(&mut model, vec![host("new", [0, 99, 0, 0])]);
    assert_eq!(names(&model).len(), 3);
    assert!(screen(&model, THEME, 80, 24).contains("[PAUSED]"));
    press(&mut model, " ");
    look(&mut model, vec![host("new", [0, 99, 0, 0])]);
    assert_eq!(names(&model)[0], "new");
}

#[tokio::test]
async fn a_host_that_is_gone_stays_as_long_as_its_history() {
    let mut model = Model::new(None);
    look(&mut model, vec![host("gone", [0, 1, 0, 0])]);
    for _ in 0..super::history::LENGTH - 1 {
        look(&mut model, Vec::new());
        assert_eq!(model.count(View::Hosts), 1);
    }
    look(&mut model, Vec::new());
    assert_eq!(model.count(View::Hosts), 0);
}

#[tokio::test]
async fn of_very_many_hosts_those_with_most_connections_are_kept() {
    let mut model = Model::new(None);
    let hosts = (0..MAX_HOSTS as u64 + 5).map(|n| host(&format!("h{n}"), [0, n + 1, 0, 0]));
    look(&mut model, hosts.collect());
    assert_eq!(model.count(View::Hosts), MAX_HOSTS);
    let shown = screen(&model, THEME, 80, 24);
    assert!(
        shown.contains("5 more hosts, with fewer connections"),
        "{shown}"
    );
    press(&mut model, "r");
    assert_eq!(names(&model)[0], "h5");
}

#[tokio::test]
async fn a_long_list_is_scrolled_through_to_its_last_screen() {
    let mut model = Model::new(None);
    let hosts = (0..100).map(|n| host(&format!("h{n}"), [0, 1000 - n, 0, 0]));
    look(&mut model, hosts.collect());
    assert_eq!(names(&model)[0], "h0");
    model.press(Key::PageDown);
    model.press(Key::Down);
    assert_eq!(names(&model)[0], "h11");
    model.press(Key::Up);
    model.press(Key::PageUp);
    assert_eq!(names(&model)[0], "h0");
    model.press(Key::End);
    let shown = screen(&model, THEME, 80, 24);
    assert!(
        shown.lines().nth(22).unwrap().starts_with("h99 "),
        "{shown}"
    );
    model.press(Key::Home);
    assert_eq!(names(&model)[0], "h0");
    // Fewer rows than were scrolled past.
    model.press(Key::End);
    press(&mut model, "/h7");
    assert_eq!(names(&model)[0], "h7");
}

#[tokio::test]
async fn a_failure_is_shown_until_a_look_is_good_again() {
    let mut model = Model::new(None);
    look(&mut model, three_hosts());
    model.take(Err("the daemon is not running".to_owned()));
    let shown = screen(&model, THEME, 80, 24);
    assert!(shown.contains("\nthe daemon is not running\n"), "{shown}");
    assert_eq!(names(&model).len(), 3, "what was known stays");
    look(&mut model, three_hosts());
    assert!(!screen(&model, THEME, 80, 24).contains("not running"));
}

#[tokio::test]
async fn every_view_fits_into_every_size() {
    let (mut model, begun) = (Model::new(Some("why".to_owned())), Instant::now());
    for empty in [true, false] {
        if !empty {
            tick(&mut model, begun, 1, three_hosts());
            model.take(Err("it is away".to_owned()));
        }
        for view in ["1", "2", "3"] {
            press(&mut model, view);
            for typing in [false, true] {
                model.typing = typing;
                for (width, height) in (1..=40).flat_map(|w| (1..=12).map(move |h| (w, h))) {
                    let shown = screen(&model, THEME, width, height);
                    assert_eq!(shown.lines().count(), usize::from(height));
                }
            }
            model.typing = false;
        }
    }
    // The name and one number are left of a host.
    press(&mut model, "1");
    let shown = screen(&model, THEME, 20, 8);
    assert!(shown.contains("db-primary    12"), "{shown}");
}

#[tokio::test]
async fn a_terminal_that_knows_only_ascii_gets_only_that() {
    let (mut model, begun) = (Model::new(None), Instant::now());
    let mut hosts = three_hosts();
    hosts.push(host(&"long-".repeat(20), [0, 1, 0, 0]));
    for number in 1..=3 {
        tick(&mut model, begun, number, hosts.clone());
    }
    let ascii = Theme {
        color: true,
        unicode: false,
    };
    for view in ["1", "2", "3"] {
        press(&mut model, view);
        let shown = screen(&model, ascii, 80, 24);
        assert!(shown.is_ascii(), "{shown}");
    }
    press(&mut model, "1");
    assert!(screen(&model, ascii, 80, 24).contains("long-~"));
    assert!(screen(&model, THEME, 80, 24).contains("long-…"));
}
