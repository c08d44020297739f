use proptest::prelude::*;

use super::*;
use crate::output::payload::count_lines;

fn encode(format: Format, hostname: &str, source: LineSource, lines: &str) -> (String, Encoded) {
    let mut to = Vec::new();
    let outcome = Encoding::new(format, hostname).encode(lines.as_bytes(), source, &mut to);
    (String::from_utf8(to).unwrap(), outcome)
}

fn relayed(format: Format, line: &str) -> String {
    encode(format, "", LineSource::Listeners, &format!("{line}\n")).0
}

fn own(format: Format, hostname: &str, line: &str) -> String {
    encode(
        format,
        hostname,
        LineSource::Collector,
        &format!("{line}\n"),
    )
    .0
}

#[test]
fn in_statsd_the_tag_values_of_own_lines_become_parts_of_the_name() {
    for (line, wanted) in [
        (
            "conntrack.connections:3|g|#remote_host:10.0.0.1,state:open",
            "conntrack.connections.10_0_0_1.open:3|g\n",
        ),
        (
            "conntrack.opened:7|c|#remote_host:fe80::1,protocol:tcp,direction:inbound",
            "conntrack.opened.fe80__1.tcp.inbound:7|c\n",
        ),
        (
            "conntally.output.lines:1|c|#output:unix:///run/x.sock,reason:a b",
            "conntally.output.lines.unix____run_x_sock.a_b:1|c\n",
        ),
        ("a:1|c|#bare,,empty:", "a.bare._:1|c\n"),
        ("a:1|c|#city:Zürich", "a.Z_rich:1|c\n"),
    ] {
        assert_eq!(own(Format::Statsd, "", line), wanted);
    }
}

#[test]
fn in_statsd_the_host_name_comes_first_on_own_lines_alone() {
    assert_eq!(
        own(
            Format::Statsd,
            "web-1.example.com",
            "conntrack.hosts:4|g|#x:y"
        ),
        "web-1_example_com.conntrack.hosts.y:4|g\n"
    );
    let (text, _) = encode(
        Format::Statsd,
        "web-1",
        LineSource::Listeners,
        "app.hits:1|c\n",
    );
    assert_eq!(text, "app.hits:1|c\n");
}

#[test]
fn in_statsd_relayed_lines_lose_tags_and_the_fields_of_dogstatsd() {
    for (line, wanted) in [
        ("a.b:1|c|@0.5|#x:1,y|c:ci-abc|e:it-false", "a.b:1|c|@0.5\n"),
        ("a:1.5|h|#x:1", "a:1.5|ms\n"),
        ("a:1|d|@0.1", "a:1|ms|@0.1\n"),
        ("a:7|ms|T1656581400|card:low", "a:7|ms\n"),
        ("a:1|g|@0.5", "a:1|g\n"),
        ("a b/c;d:1|c", "a_b_c_d:1|c\n"),
        ("users:ann:smith|s|#x", "users:ann_smith|s\n"),
        ("a:1|c\r", "a:1|c\n"),
    ] {
        assert_eq!(relayed(Format::Statsd, line), wanted);
    }
}

#[test]
fn packed_values_become_a_line_each() {
    assert_eq!(
        encode(
            Format::Statsd,
            "",
            LineSource::Listeners,
            "a:1:2.5::-3|ms|@0.5\n"
        ),
        (
            "a:1|ms|@0.5\na:2.5|ms|@0.5\na:-3|ms|@0.5\n".to_owned(),
            Encoded {
                lines: 3,
                dropped: 0
            }
        )
    );
}

#[test]
fn own_durations_in_seconds_become_timings_in_milliseconds() {
    let line = "conntrack.duration:1.5:0:86400.004|d|@0.25|#remote_host:a";
    assert_eq!(
        own(Format::Statsd, "", line),
        "conntrack.duration.a:1500|ms|@0.25\nconntrack.duration.a:0|ms|@0.25\n\
         conntrack.duration.a:86400004|ms|@0.25\n"
    );
    assert_eq!(
        own(Format::Graphite, "", "t:1.0006|d|#remote_host:a"),
        "t;remote_host=a:1001|ms\n"
    );
    assert_eq!(
        own(Format::Influx, "", "t:1.5|d|#remote_host:a"),
        "t,remote_host=a:1.5|h\n"
    );
    assert_eq!(relayed(Format::Statsd, "t:1.5|d"), "t:1.5|ms\n");
    assert_eq!(own(Format::Statsd, "", "t:1.5|h"), "t:1.5|ms\n");
}

#[test]
fn a_signed_gauge_stays_a_value_and_becomes_no_change() {
    for format in [Format::Statsd, Format::Graphite, Format::Influx] {
        assert_eq!(relayed(format, "a:+5|g"), "a:5|g\n");
        assert_eq!(relayed(format, "a:-5|g"), "a:0|g\na:-5|g\n");
        assert_eq!(relayed(format, "a:1:-2|g"), "a:1|g\na:0|g\na:-2|g\n");
    }
    assert_eq!(relayed(Format::Statsd, "a:-5|c"), "a:-5|c\n");
}

#[test]
fn graphite_and_influx_have_tags_in_the_name() {
    let line = "conntrack.connections:3|g|#remote_host:fe80::1,state:open,bare,a=b:c~;d e";
    assert_eq!(
        own(Format::Graphite, "", line),
        "conntrack.connections;remote_host=fe80__1;state=open;bare=true;a_b=c__d_e:3|g\n"
    );
    assert_eq!(
        own(Format::Influx, "", line),
        "conntrack.connections,remote_host=fe80__1,state=open,bare=true,a_b=c__d_e:3|g\n"
    );
    assert_eq!(relayed(Format::Graphite, "a:1|d|#x:"), "a;x=_:1|ms\n");
    assert_eq!(
        relayed(Format::Influx, "a:1|d|@0.5|#x:ü"),
        "a,x=ü:1|h|@0.5\n"
    );
}

#[test]
fn graphite_and_influx_name_the_host_unless_the_line_does() {
    assert_eq!(
        own(Format::Influx, "web 1.example", "a:1|c|#x:y"),
        "a,host=web_1.example,x=y:1|c\n"
    );
    assert_eq!(
        own(Format::Graphite, "web", "a:1|c|#host:db"),
        "a;host=db:1|c\n"
    );
}

#[test]
fn what_a_dialect_has_no_form_for_is_counted() {
    let lines =
        "_e{1,1}:a|b\n_sc|db|0|#x:y\na:1|c\na:NaN|g\na:0x10|c\na:inf|ms\na:1|q\na:|c\nnoise\n";
    for format in [Format::Statsd, Format::Graphite, Format::Influx] {
        let (text, outcome) = encode(format, "", LineSource::Listeners, lines);
        assert_eq!(text, "a:1|c\n");
        assert_eq!(
            outcome,
            Encoded {
                lines: 1,
                dropped: 8
            }
        );
    }
}

#[test]
fn dogstatsd_lines_go_as_they_come() {
    let lines = "_e{1,1}:a|b\na:NaN|g|#x\n";
    let (text, outcome) = encode(Format::Dogstatsd, "web", LineSource::Collector, lines);
    assert_eq!(text, lines);
    assert_eq!(outcome.lines, 2);
}

proptest! {
    /// Whatever comes in, lines in are lines written or dropped, each written line
    /// ends with its only newline, and nothing reserved stands in name or value.
    #[test]
    fn prop_every_written_line_is_plain_statsd(
        lines in prop::collection::vec("[a-zé.:|#,@;=~! 0-9+_-]{0,12}(:[0-9.+:-]{1,6}\\|(c|g|ms|h|d|s))?(\\|@0.5)?(\\|#[a-zü:;=., |@]{0,12})?\n", 0..8),
        format in prop::sample::select(vec![Format::Statsd, Format::Graphite, Format::Influx]),
        own in any::<bool>(),
    ) {
        let source = if own { LineSource::Collector } else { LineSource::Listeners };
        let text = lines.concat();
        let count = lines.len() as u64;
        let (written, outcome) = encode(format, "h.x", source, &text);
        prop_assert!(outcome.dropped <= count);
        prop_assert!(outcome.lines + outcome.dropped >= count);
        prop_assert_eq!(outcome.lines, count_lines(written.as_bytes()));
        for line in written.lines() {
            let (name, rest) = line.split_once(':').unwrap();
            prop_assert!(!name.is_empty() && !name.contains(['|', '@', ' ', '#']));
            prop_assert!(!rest.contains([':', ' ', ';', '=', ',']));
            let fields: Vec<&str> = rest.split('|').collect();
            prop_assert!((2..=3).contains(&fields.len()), "{line}");
        }
    }
}
