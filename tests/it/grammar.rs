//! The grammar, line by line: what the public documentation of the protocol allows
//! (<https://docs.datadoghq.com/extend/dogstatsd/datagram_shell>, versions 1.0 to 1.6) and what it
//! does not, by the check itself and through the program.

mod corpus;

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use conntally::message::{Kind, Malformed, MetricKind, check};
use conntally::telemetry::Reason as _;

use crate::support::admin::ask;
use crate::support::clients::{framed, send};
use crate::support::daemon::{Program, daemon};
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

const COUNT: Kind = Kind::Metric(MetricKind::Count);
const GAUGE: Kind = Kind::Metric(MetricKind::Gauge);
const SET: Kind = Kind::Metric(MetricKind::Set);
const HISTOGRAM: Kind = Kind::Metric(MetricKind::Histogram);
const TIMING: Kind = Kind::Metric(MetricKind::Timing);
const DISTRIBUTION: Kind = Kind::Metric(MetricKind::Distribution);

/// The first version that has it, what it is, and the line.
const ACCEPTED: &[(&str, Kind, &str)] = &[
    // Metrics.
    ("1.0", COUNT, "page.views:1|c"),
    ("1.0", COUNT, "page.views:-12|c"),
    ("1.0", COUNT, "page_views.v2:1.5e3|c"),
    ("1.0", GAUGE, "fuel.level:0.5|g"),
    ("1.0", GAUGE, "fuel.level:.5|g"),
    ("1.0", GAUGE, "fuel.level:5.|g"),
    // With statsd, a change of the gauge; with the Agent, a value.
    ("1.0", GAUGE, "fuel.level:+4|g"),
    ("1.0", GAUGE, "fuel.level:-4|g"),
    ("1.0", HISTOGRAM, "song.length:240|h|@0.5"),
    ("1.0", TIMING, "song.load:320|ms|@1"),
    ("1.0", DISTRIBUTION, "song.latency:0.25|d|@0.125"),
    ("1.0", SET, "users.uniques:1234|s"),
    ("1.0", SET, "users.uniques:mallory@example.org|s"),
    ("1.0", SET, "users.uniques:a:b:c|s"),
    ("1.0", SET, "users.uniques:köln|s|#stadt:köln"),
    ("1.0", COUNT, "users.online:1|c|#country:china"),
    ("1.0", COUNT, "users.online:1|c|@0.5|#country:china"),
    ("1.0", COUNT, "users.online:1|c|#country:china|@0.5"),
    (
        "1.0",
        COUNT,
        "users.online:1|c|#bare,country:china,url:http://x/?a=b",
    ),
    ("1.0", COUNT, "users.online:1|c|#,,empty:,:"),
    // Tags that the Agent keeps for itself are tags like others.
    (
        "1.0",
        GAUGE,
        "users.idle:1|g|#host:,dd.internal.entity_id:none",
    ),
    // The rate is of 0 to 1 by the documentation; the Agent takes more.
    ("1.0", COUNT, "users.online:1|c|@1.0000000001"),
    // Metrics beyond the documented names, as the Agent takes them.
    ("1.0", GAUGE, "naïve.café:1|g|#stadt:köln"),
    ("1.0", GAUGE, "with space and/slash:1|g"),
    ("1.0", COUNT, "_e:1|c"),
    ("1.0", COUNT, "_sc:1|c"),
    // Events: lengths are those of the UTF-8, in bytes.
    (
        "1.0",
        Kind::Event,
        "_e{21,36}:An exception occurred|Cannot parse CSV file from 10.0.0.17|t:warning|#err_type:bad_file",
    ),
    (
        "1.0",
        Kind::Event,
        r#"_e{21,42}:An exception occurred|Cannot parse JSON request:\\n{"foo: "bar"}|p:low|#err_type:bad_request"#,
    ),
    (
        "1.0",
        Kind::Event,
        r#"_e{21,41}:An exception occurred|Cannot parse JSON request:\n{"foo: "bar"}|p:low|#err_type:bad_request"#,
    ),
    ("1.0", Kind::Event, r"_e{4,8}:\n\n|\n\n\n\n"),
    ("1.0", Kind::Event, "_e{7,4}:tïtlé|text"),
    ("1.0", Kind::Event, "_e{6,9}:日本|三文字|#国:日本"),
    ("1.0", Kind::Event, "_e{4,8}:🔥|🔥🔥|t:error"),
    (
        "1.0",
        Kind::Event,
        "_e{7,3}:a|b|c|d|e|f|k:bars|s:do not count",
    ),
    // Lengths that are too short, as of clients that count characters, or a line end as one:
    // the Agent cuts where they say, and so it is for it to do.
    ("1.0", Kind::Event, "_e{5,4}:tïtlé|text"),
    ("1.0", Kind::Event, "_e{1,2}:🔥|🔥🔥|t:error"),
    ("1.0", Kind::Event, r"_e{5,7}:title|one\ntwo"),
    ("1.0", Kind::Event, "_e{5,4}:title|text#a:b"),
    ("1.0", Kind::Event, "_e{5,0}:title|"),
    ("1.0", Kind::Event, "_e{05,004}:title|text"),
    (
        "1.0",
        Kind::Event,
        "_e{5,4}:title|text|d:1656581400|h:web-1|k:deploys|p:normal|s:my apps|t:success|#env:prod",
    ),
    // What an event says beside its title and text is the Agent's to judge.
    (
        "1.0",
        Kind::Event,
        "_e{5,4}:title|text|d:yesterday|p:urgent|t:",
    ),
    // Service checks.
    (
        "1.0",
        Kind::ServiceCheck,
        "_sc|Redis connection|2|#env:dev|m:Redis connection timed out after 10s",
    ),
    ("1.0", Kind::ServiceCheck, "_sc|db.up|0"),
    (
        "1.0",
        Kind::ServiceCheck,
        "_sc|db.up|1|d:1656581400|h:db-1|#a:b",
    ),
    ("1.0", Kind::ServiceCheck, "_sc|db.up|3|m:"),
    (
        "1.0",
        Kind::ServiceCheck,
        r"_sc|db.up|1|m:line one\nline two, m\: and 日本",
    ),
    // The message is to be the last field by the documentation; the Agent does not mind.
    ("1.0", Kind::ServiceCheck, "_sc|db.up|2|m:early|#late:tag"),
    ("1.0", Kind::ServiceCheck, "_sc|db.up|2|m:one|two"),
    // Packed values.
    ("1.1", DISTRIBUTION, "page.views:1:2:32|d"),
    ("1.1", HISTOGRAM, "song.length:240:234|h|@0.5"),
    ("1.1", TIMING, "song.load:1:2.5:-3e-2|ms|#env:dev"),
    ("1.1", COUNT, "page.views:1:1:1|c"),
    ("1.1", GAUGE, "fuel.level:1:2|g"),
    // Of values that are left out the Agent takes no notice.
    ("1.1", DISTRIBUTION, "page.views:1::32|d"),
    ("1.1", DISTRIBUTION, "page.views::32:|d"),
    // Containers.
    (
        "1.2",
        GAUGE,
        "page.views:1|g|#env:dev|c:83c0a99c0a54c0c187f461c7980e9b57f3f6a8b0c918c8d93df19a9de6f3fe1d",
    ),
    ("1.2", Kind::Event, "_e{5,4}:title|text|c:83c0a99c0a54|#a:b"),
    ("1.2", Kind::ServiceCheck, "_sc|db.up|0|c:83c0a99c0a54"),
    ("1.2", COUNT, "page.views:1|c|c:"),
    // Timestamps.
    ("1.3", COUNT, "page.views:15|c|#env:dev|T1656581400"),
    ("1.3", GAUGE, "fuel.level:1|g|T1"),
    ("1.3", COUNT, "page.views:1:2:3|c|T1656581400|@0.5"),
    ("1.3", COUNT, "page.views:1|c|T9223372036854775807"),
    // Of counts and gauges alone by the documentation; the Agent does not mind.
    ("1.3", HISTOGRAM, "song.length:240|h|T1656581400"),
    // Containers by cgroup inode.
    (
        "1.4",
        COUNT,
        "page.views:1|c|c:ci-83c0a99c0a54c0c187f461c7980e9b57",
    ),
    ("1.4", COUNT, "page.views:1|c|c:in-4026531835"),
    (
        "1.4",
        COUNT,
        "page.views:1|c|c:ci-83c0a99c0a54,in-4026531835",
    ),
    ("1.4", COUNT, "page.views:1|c|c:cid-83c0a99c0a54"),
    // What the cluster says.
    (
        "1.5",
        COUNT,
        "page.views:1|c|#env:dev|e:it-false,cn-nginx-webserver,pu-75a2b6d5-3949-4afb-ad0d-92ff0674e759",
    ),
    ("1.5", Kind::Event, "_e{5,4}:title|text|e:it-true,cn-init"),
    ("1.5", Kind::ServiceCheck, "_sc|db.up|0|e:cn-db"),
    // How many tags are wanted.
    ("1.6", COUNT, "page.views:1|c|card:none"),
    ("1.6", GAUGE, "page.views:1|g|#env:dev|card:low"),
    (
        "1.6",
        SET,
        "page.views:1|s|card:orchestrator|c:ci-83c0a99c0a54",
    ),
    ("1.6", DISTRIBUTION, "page.views:1:2|d|card:high|e:cn-db|T5"),
    ("1.6", Kind::Event, "_e{5,4}:title|text|card:low"),
    ("1.6", Kind::ServiceCheck, "_sc|db.up|0|card:high|m:last"),
    ("1.6", COUNT, "page.views:1|c|card:sideways"),
    // Versions to come: fields that nobody knows yet.
    ("later", COUNT, "page.views:1|c|x:1"),
    ("later", COUNT, "page.views:1|c|carded:1|cc:2|tT:3|~"),
    ("later", COUNT, "page.views:1|c|"),
    ("later", COUNT, "page.views:1|c||#a:b||"),
    ("later", Kind::Event, "_e{5,4}:title|text|zz:top||"),
    ("later", Kind::ServiceCheck, "_sc|db.up|0|zz:top||"),
];

/// Why, and the line.
const REFUSED: &[(Malformed, &str)] = &[
    (Malformed::NoValue, "page.views"),
    (Malformed::NoValue, "page.views|c"),
    (Malformed::NoValue, "page.views:|c"),
    (Malformed::NoValue, "set.of.nothing:|s"),
    (Malformed::Name, ":1|c"),
    (Malformed::NameControl, "page\tviews:1|c"),
    (Malformed::NameControl, "page\x1bviews:1|c"),
    (Malformed::NameControl, "page\rviews:1|c"),
    (Malformed::NoType, "page.views:1"),
    (Malformed::NoType, "page.views:1|"),
    (Malformed::NoType, "page.views:1||#env:dev"),
    // A meter, which some clients of statsd know.
    (Malformed::UnknownType, "page.views:1|m"),
    (Malformed::UnknownType, "page.views:1|C"),
    (Malformed::UnknownType, "page.views:1|count"),
    (Malformed::UnknownType, "page.views:1|c#env:dev"),
    (Malformed::UnknownType, "page.views:1| c"),
    (Malformed::UnknownType, "page.views:1|@0.5|c"),
    (Malformed::Value, "page.views:one|c"),
    (Malformed::Value, "page.views: 1|c"),
    (Malformed::Value, "page.views:1,5|c"),
    (Malformed::Value, "page.views:nan|g"),
    (Malformed::Value, "page.views:-Inf|g"),
    (Malformed::Value, "page.views:1e309|g"),
    (Malformed::Value, "page.views:1:two:3|d"),
    (Malformed::Value, "page.views::|d"),
    (Malformed::Value, "name:with:colons:1|c"),
    (Malformed::Rate, "page.views:1|c|@"),
    (Malformed::Rate, "page.views:1|c|@0"),
    (Malformed::Rate, "page.views:1|c|@-1"),
    (Malformed::Rate, "page.views:1|c|@50%"),
    (Malformed::Rate, "page.views:1|c|@0.5|#a:b|@inf"),
    (Malformed::Timestamp, "page.views:1|c|T"),
    (Malformed::Timestamp, "page.views:1|c|T-5"),
    (Malformed::Timestamp, "page.views:1|c|T0"),
    (Malformed::Timestamp, "page.views:1|c|T1656581400.5"),
    (Malformed::Timestamp, "page.views:1|c|T2022-06-30"),
    (Malformed::EventHeader, "_e{5}:title|text"),
    (Malformed::EventHeader, "_e{,}:title|text"),
    (Malformed::EventHeader, "_e{5,4} :title|text"),
    (Malformed::EventHeader, "_e{5, 4}:title|text"),
    (Malformed::EventHeader, "_e{+5,4}:title|text"),
    (Malformed::EventHeader, "_e{0,4}:|text"),
    (Malformed::EventHeader, "_e{5,4}"),
    (Malformed::EventLength, "_e{5,40}:title|text|t:error"),
    (Malformed::EventLength, "_e{5,4}:title"),
    (Malformed::EventLength, "_e{5,0}:title"),
    (Malformed::CheckName, "_sc||0"),
    (Malformed::CheckStatus, "_sc|db.up"),
    (Malformed::CheckStatus, "_sc|db.up|"),
    (Malformed::CheckStatus, "_sc|db.up|4"),
    (Malformed::CheckStatus, "_sc|db.up|-1"),
    (Malformed::CheckStatus, "_sc|db.up|OK"),
    (Malformed::CheckStatus, "_sc|db.up|10"),
    (Malformed::CheckStatus, "_sc|db.up||#a:b"),
];

/// The documentation wants UTF-8. The Agent does not look, and nor do we: what programs of
/// other encodings send passes as it is.
const NO_UTF8: &[&[u8]] = &[
    b"latin\xe9.name:1|c|#tag:\xfc\xff",
    b"\x80\x81:2|g",
    b"_e{2,2}:\xff\xfe|\xfd\xfc|#\xfb",
    b"_sc|\xf0\x9f|1|m:\xf8",
];

#[test]
fn every_line_of_every_version_is_taken_for_what_it_is() {
    for &(version, kind, line) in ACCEPTED {
        assert_eq!(check(line.as_bytes()), Ok(kind), "{version}: {line}");
    }
    for line in NO_UTF8 {
        assert!(check(line).is_ok(), "{}", line.escape_ascii());
    }
}

#[test]
fn what_no_version_allows_is_refused_with_its_reason() {
    for &(reason, line) in REFUSED {
        assert_eq!(check(line.as_bytes()), Err(reason), "{line:?}");
    }
}

/// A daemon that changes nothing of what comes to its two sockets.
struct Relay {
    directory: tempfile::TempDir,
    receiver: Receiver,
    daemon: Program,
}

impl Relay {
    fn start(output: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(output, &directory.path().join("out"));
        let path = |name| directory.path().join(name).display().to_string();
        let daemon = daemon(
            directory.path(),
            &format!(
                "[collector]\nsource = \"off\"\n\
                 [report]\ntelemetry = false\n\
                 [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
                 [[listener]]\naddress = \"unixgram://{}\"\norigin = \"none\"\n\
                 [[output]]\naddress = \"{}\"\non_full = \"block\"\n",
                path("stream.socket"),
                path("datagram.socket"),
                receiver.address
            ),
        );
        Self {
            directory,
            receiver,
            daemon,
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn send_frames(&self, frames: &[u8]) {
        send(&self.path().join("stream.socket"), frames);
    }

    fn send_datagrams(&self, datagrams: &[&[u8]]) {
        let client = UnixDatagram::unbound().unwrap();
        let to = self.path().join("datagram.socket");
        for datagram in datagrams {
            client.send_to(datagram, &to).unwrap();
        }
    }
}

#[test]
fn what_is_accepted_comes_out_of_the_program_byte_for_byte() {
    let lines: Vec<&[u8]> = (ACCEPTED.iter())
        .map(|&(_, _, line)| line.as_bytes())
        .chain(NO_UTF8.iter().copied())
        .collect();
    let one_a_frame: Vec<u8> = lines.iter().flat_map(|line| framed(line)).collect();
    let text = [lines.join(&b'\n'), b"\n".to_vec()].concat();
    let returned = lines.join(&b"\r\n"[..]);
    let comes_out = |how: &str, send: &dyn Fn(&Relay)| {
        for output in ["unixstream", "tcp"] {
            let relay = Relay::start(output);
            send(&relay);
            let came = relay.receiver.bytes(lines.len());
            assert_eq!(relay.daemon.stop().code, Some(0));
            // In one sequence they come, so in one they go.
            for (came, &sent) in came.split(|&byte| byte == b'\n').zip(&lines) {
                let shown = came.escape_ascii();
                assert_eq!(came, sent, "{how}, to {output}: {shown}");
            }
            assert_eq!(came, text, "{how}, to {output}");
        }
    };
    comes_out("a frame each", &|relay| relay.send_frames(&one_a_frame));
    comes_out("a frame of all", &|relay| {
        relay.send_frames(&framed(&returned));
    });
    comes_out("text", &|relay| relay.send_frames(&text));
    comes_out("a datagram each", &|relay| relay.send_datagrams(&lines));
}

#[test]
fn what_is_refused_is_counted_by_the_program_and_hurts_no_neighbour() {
    let relay = Relay::start("unixstream");
    let frames: Vec<u8> = (REFUSED.iter())
        .flat_map(|(_, line)| framed(format!("before:1|c\n{line}\nbehind:1|c\n").as_bytes()))
        .collect();
    relay.send_frames(&frames);
    let lines = relay.receiver.sorted(2 * REFUSED.len());
    let neighbours = ["before:1|c", "behind:1|c"];
    assert!(lines.iter().all(|line| neighbours.contains(&line.as_str())));

    let mut dropped = serde_json::Value::Null;
    let admin = relay.path().join("admin.socket");
    eventually("every line is counted", || {
        let status = ask(&admin, "GET", "/status");
        let listener = status.of_type("listener")[0];
        dropped = listener["lines_dropped"].clone();
        listener["lines"] == 2 * REFUSED.len()
    });
    for &reason in Malformed::ALL {
        let expected = REFUSED.iter().filter(|&&(why, _)| why == reason).count();
        assert!(expected > 0, "no line is refused for its {reason:?}");
        assert_eq!(dropped[reason.as_str()], expected, "{reason:?}");
    }
    assert_eq!(relay.daemon.stop().code, Some(0));
    assert_eq!(relay.receiver.lines().len(), 2 * REFUSED.len());
}
