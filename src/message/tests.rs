use proptest::prelude::*;

use super::*;

#[test]
fn every_type_is_known() {
    for kind in [
        MetricKind::Count,
        MetricKind::Gauge,
        MetricKind::Set,
        MetricKind::Histogram,
        MetricKind::Timing,
        MetricKind::Distribution,
    ] {
        let line = format!("app.requests:1|{}", kind.as_str());
        assert_eq!(check(line.as_bytes()), Ok(Kind::Metric(kind)), "{line}");
    }
}

#[test]
fn fields_come_in_any_order_and_unknown_ones_pass() {
    let line: &[u8] =
        b"a.b:1:2.5|d|T1656581400|x:new|#env:prod,,bare|c:ci-abc|@0.5|card:low|e:it-false,cn-n||z";
    let Ok(Message::Metric(metric)) = Message::parse(line) else {
        panic!("not a metric");
    };
    assert_eq!(
        metric,
        Metric {
            name: b"a.b",
            values: b"1:2.5",
            kind: MetricKind::Distribution,
            rate: Some(b"0.5"),
            tags: Tags(b"env:prod,,bare"),
            timestamp: Some(1_656_581_400),
            container: Some(b"ci-abc"),
            external: Some(b"it-false,cn-n"),
            cardinality: Some(b"low"),
        }
    );
    assert!(metric.tags.iter().eq([&b"env:prod"[..], b"bare"]));
    assert!(metric.numbers().eq([1.0, 2.5]));
    assert!((metric.sample_rate() - 0.5).abs() < f64::EPSILON);
}

#[test]
fn a_set_takes_any_value() {
    for line in ["users:alice|s", "users:a:b|s", "users:-|s", "users: |s"] {
        assert_eq!(
            check(line.as_bytes()),
            Ok(Kind::Metric(MetricKind::Set)),
            "{line}"
        );
    }
    assert_eq!(check(b"users:|s"), Err(Malformed::NoValue));
}

#[test]
fn what_is_wrong_with_a_metric_is_told_apart() {
    for (line, reason) in [
        ("", Malformed::NoValue),
        ("name", Malformed::NoValue),
        ("name|c", Malformed::NoValue),
        ("na|me:1|c", Malformed::NoValue),
        ("name:|c", Malformed::NoValue),
        (":1|c", Malformed::Name),
        ("na\tme:1|c", Malformed::NameControl),
        ("na\0me:1|c", Malformed::NameControl),
        ("na\x7fme:1|c", Malformed::NameControl),
        ("name:1", Malformed::NoType),
        ("name:1|", Malformed::NoType),
        ("name:1||#a", Malformed::NoType),
        ("name:1|x", Malformed::UnknownType),
        ("name:1|m", Malformed::UnknownType),
        ("name:1|gg", Malformed::UnknownType),
        ("name:1|#a", Malformed::UnknownType),
        ("name:one|c", Malformed::Value),
        ("name:1:two|c", Malformed::Value),
        ("name:NaN|g", Malformed::Value),
        ("name:+Inf|g", Malformed::Value),
        ("name:1e400|g", Malformed::Value),
        ("name:::|g", Malformed::Value),
        ("name:1|c|@", Malformed::Rate),
        ("name:1|c|@half", Malformed::Rate),
        ("name:1|c|@0", Malformed::Rate),
        ("name:1|c|@-0.5", Malformed::Rate),
        ("name:1|c|@NaN", Malformed::Rate),
        ("name:1|c|T", Malformed::Timestamp),
        ("name:1|c|T0", Malformed::Timestamp),
        ("name:1|c|T1.5", Malformed::Timestamp),
        ("name:1|c|Tomorrow", Malformed::Timestamp),
        ("name:1|c|T9223372036854775808", Malformed::Timestamp),
    ] {
        assert_eq!(check(line.as_bytes()), Err(reason), "{line:?}");
    }
}

#[test]
fn what_the_agent_takes_passes() {
    for line in [
        "name:+5|g",
        "name:-5|g",
        "name:1e-3|h",
        "name:0x1p-2|d",
        "name:21::22|h",
        "name:1|c|@2",
        "name:1|c|@1e-3",
        "name:1|c|#",
        "name:1|c|",
        "name with spaces:1|c",
        "näme:1|c",
        "_e:1|c",
        "_sched:1|c",
        "name:1|c|#tag with |spaces",
    ] {
        assert!(check(line.as_bytes()).is_ok(), "{line}");
    }
    assert!(check(b"n\xff:1|c|#\xfe").is_ok());
}

#[test]
fn an_event_is_cut_by_the_bytes_that_it_says() {
    let Ok(Message::Event(event)) = Message::parse("_e{7,3}:titlé||x|y|#a".as_bytes()) else {
        panic!("not an event");
    };
    assert_eq!(event.title, "titlé|".as_bytes());
    assert_eq!(event.text, b"x|y");
    assert_eq!(event.tags, Tags(b"a"));
}

#[test]
fn the_fields_of_an_event_are_found() {
    let line: &[u8] =
        "_e{6,6}:titlé|a|b\\nc|d:1|h:web|k:key|p:low|s:src|t:error|#x:y|c:id|e:ext|card:none"
            .as_bytes();
    assert_eq!(
        Message::parse(line),
        Ok(Message::Event(Event {
            title: "titlé".as_bytes(),
            text: b"a|b\\nc",
            timestamp: Some(b"1"),
            hostname: Some(b"web"),
            aggregation_key: Some(b"key"),
            priority: Some(b"low"),
            source_type: Some(b"src"),
            alert_type: Some(b"error"),
            tags: Tags(b"x:y"),
            container: Some(b"id"),
            external: Some(b"ext"),
            cardinality: Some(b"none"),
        }))
    );
    assert_eq!(check(b"_e{5,0}:title|"), Ok(Kind::Event));
    assert_eq!(check(b"_e{5,0}:title||#a"), Ok(Kind::Event));
}

#[test]
fn an_event_whose_lengths_count_characters_is_cut_as_the_agent_cuts_it() {
    for (line, title, text, tags) in [
        ("_e{4,4}:ïtle|text|#a", "ïtl", "|tex", "a"),
        ("_e{5,3}:title|text|#a,b", "title", "tex", "a,b"),
        ("_e{4,5}:title|text", "titl", "|text", ""),
        ("_e{5,4}:title|textual|#a", "title", "text", "a"),
        // Not a field, as no bar is before it.
        ("_e{5,4}:title|text#a", "title", "text", ""),
    ] {
        let Ok(Message::Event(event)) = Message::parse(line.as_bytes()) else {
            panic!("not an event: {line}");
        };
        let cut = [event.title, event.text, event.tags.0];
        assert_eq!(cut, [title, text, tags].map(str::as_bytes), "{line}");
    }
}

#[test]
fn what_is_wrong_with_an_event_is_told_apart() {
    for (line, reason) in [
        ("_e{", Malformed::EventHeader),
        ("_e{5,4:title|text", Malformed::EventHeader),
        ("_e{5}:title|text", Malformed::EventHeader),
        ("_e{-5,4}:title|text", Malformed::EventHeader),
        ("_e{five,4}:title|text", Malformed::EventHeader),
        ("_e{5,4}title|text", Malformed::EventHeader),
        ("_e{0,4}:|text", Malformed::EventHeader),
        (
            "_e{99999999999999999999,4}:title|text",
            Malformed::EventHeader,
        ),
        ("_e{5,5}:title|text", Malformed::EventLength),
        ("_e{6,4}:title|text", Malformed::EventLength),
        ("_e{5,0}:title", Malformed::EventLength),
        ("_e{6,0}:title", Malformed::EventLength),
        ("_e{18446744073709551615,1}:t|t", Malformed::EventLength),
    ] {
        assert_eq!(check(line.as_bytes()), Err(reason), "{line:?}");
    }
}

#[test]
fn the_fields_of_a_service_check_are_found() {
    assert_eq!(
        Message::parse(b"_sc|db.up|2|d:1|h:web|#x:y|c:id|m:no answer"),
        Ok(Message::ServiceCheck(ServiceCheck {
            name: b"db.up",
            status: Status::Critical,
            timestamp: Some(b"1"),
            hostname: Some(b"web"),
            tags: Tags(b"x:y"),
            message: Some(b"no answer"),
            container: Some(b"id"),
            external: None,
            cardinality: None,
        }))
    );
    for (line, reason) in [
        ("_sc|", Malformed::CheckStatus),
        ("_sc|name", Malformed::CheckStatus),
        ("_sc|name|", Malformed::CheckStatus),
        ("_sc|name|4", Malformed::CheckStatus),
        ("_sc|name|00", Malformed::CheckStatus),
        ("_sc||0", Malformed::CheckName),
    ] {
        assert_eq!(check(line.as_bytes()), Err(reason), "{line:?}");
    }
}

/// Text of a field: anything but bars and line ends.
fn text() -> impl Strategy<Value = String> {
    "[^|\r\n]{0,12}"
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|number| number.to_string()),
        any::<f32>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "[+-]?[0-9]{1,8}(\\.[0-9]{0,4})?([eE][+-]?[0-9])?",
        "[+-]?0[xX][0-9a-fA-F]{1,8}(\\.[0-9a-fA-F]{0,4})?p[+-]?[0-9]{1,2}",
    ]
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        text().prop_map(|tags| format!("#{tags}")),
        (1..1000_u32).prop_map(|rate| format!("@{}", f64::from(rate) / 1000.0)),
        (1..i64::MAX).prop_map(|seconds| format!("T{seconds}")),
        text().prop_map(|id| format!("c:{id}")),
        text().prop_map(|external| format!("e:{external}")),
        text().prop_map(|cardinality| format!("card:{cardinality}")),
        text().prop_map(|rest| format!("z{rest}")),
    ]
}

fn fields() -> impl Strategy<Value = String> {
    prop::collection::vec(field().prop_map(|field| format!("|{field}")), 0..6)
        .prop_map(|fields| fields.concat())
}

/// Lines that the grammar allows.
pub(crate) fn lines() -> impl Strategy<Value = String> {
    let name = "[a-zA-Z][a-zA-Z0-9_. é-]{0,20}";
    let packed = prop::collection::vec(number(), 1..4).prop_map(|numbers| numbers.join(":"));
    let typed = prop_oneof![
        (packed, prop::sample::select(vec!["c", "g", "h", "ms", "d"]))
            .prop_map(|(values, kind)| format!("{values}|{kind}")),
        text()
            .prop_filter("not empty", |value| !value.is_empty())
            .prop_map(|value| format!("{value}|s")),
    ];
    prop_oneof![
        4 => (name, typed, fields()).prop_map(|(name, typed, fields)| format!("{name}:{typed}{fields}")),
        1 => ("[^\r\n]{1,12}", "[^\r\n]{0,12}", fields()).prop_map(|(title, text, fields)| {
            format!("_e{{{},{}}}:{title}|{text}{fields}", title.len(), text.len())
        }),
        1 => (name, 0..4, fields(), prop::option::of(text())).prop_map(|(name, status, fields, message)| {
            let message = message.map_or_else(String::new, |message| format!("|m:{message}"));
            format!("_sc|{name}|{status}{fields}{message}")
        }),
    ]
}

/// Nearly lines: a good one with a few bytes changed.
fn near_lines() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (lines(), changes).prop_map(|(line, changes)| {
        let mut line = line.into_bytes();
        for (at, byte) in changes {
            let at = at.index(line.len());
            line[at] = byte;
        }
        line
    })
}

proptest! {
    /// Looking at eight bytes at a time finds what looking at each one finds.
    #[test]
    fn prop_a_name_ends_at_the_first_byte_that_ends_it(
        line in prop::collection::vec(prop::sample::select(&b"ab:|\x1f\x20\x7e\x7f\x80\x9f\xba\xfc\xff"[..]), 0..40),
    ) {
        let end = line.iter().position(|&byte| matches!(byte, b':' | b'|') || byte.is_ascii_control());
        prop_assert_eq!(end_of_name(&line), end);
    }

    /// What is taken for a number at a glance is one.
    #[test]
    fn prop_a_plain_value_is_a_number(text in "[0-9.+|e:]{0,8}") {
        let (length, is_plain) = number::scan_values(text.as_bytes());
        prop_assert_eq!(length, text.find('|').unwrap_or(text.len()));
        prop_assert!(!is_plain || number::parse(&text.as_bytes()[..length]).is_some());
    }

    #[test]
    fn prop_a_plain_rate_is_above_0(text in "[0-9.]{0,24}|[0-9.+e-]{0,4}") {
        let text = text.as_bytes();
        let is_above = number::parse(text).is_some_and(|rate| rate > 0.0);
        prop_assert!(!number::is_plain_rate(text) || is_above);
    }

    /// No line that the grammar allows is rejected.
    #[test]
    fn prop_the_check_takes_what_the_grammar_allows(line in lines()) {
        prop_assert!(check(line.as_bytes()).is_ok(), "{line:?}: {:?}", check(line.as_bytes()));
    }

    /// Checking and parsing come to the same verdict, and neither panics.
    #[test]
    fn prop_check_and_parse_agree(line in prop_oneof![near_lines(), any::<Vec<u8>>()]) {
        prop_assert_eq!(check(&line), Message::parse(&line).map(|message| message.kind()));
    }

    /// Lines in = lines in runs + lines alone + bad lines + empty lines.
    #[test]
    fn prop_every_line_is_shown_once(
        lines in prop::collection::vec(prop_oneof![lines().prop_map(String::into_bytes), near_lines()], 0..8),
        end in prop::sample::select(vec!["", "\n", "\r\n"]),
    ) {
        let mut body = lines.join(&b'\n');
        body.extend_from_slice(end.as_bytes());
        let expected: Vec<&[u8]> = body
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.is_empty())
            .collect();
        let mut shown: Vec<&[u8]> = Vec::new();
        check_lines(&body, |run| match run {
            Run::Lines(lines, count) => {
                let before = shown.len();
                shown.extend(lines.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n'));
                assert_eq!(shown.len() - before, usize::try_from(count).unwrap());
            }
            Run::Bare(line) | Run::Bad(line, _) => shown.push(line),
        });
        prop_assert_eq!(shown, expected);
    }
}
