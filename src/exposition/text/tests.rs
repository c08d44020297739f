use proptest::prelude::*;

use super::*;

fn text(families: &Families, format: Format) -> String {
    let mut out = String::new();
    families.write(format, &mut out);
    out.push_str(format.end());
    out
}

fn some() -> Families {
    let mut families = Families::default();
    families
        .family(
            "app.lines",
            Kind::Count,
            "Lines: \"all\" \\ of them.\nEver.",
        )
        .add([], 7);
    let gauge = families
        .family("open_connections", Kind::Gauge, "Now.")
        .with_twin();
    gauge.add([("host", "b"), ("netns", "x\\\"\n")], 2);
    gauge.add([("host", "a")], 1);
    families
        .family("9waits_seconds", Kind::Count, "How long.")
        .of(Unit::Micros)
        .add([], 12_000_340);
    families
}

#[test]
fn the_old_format_is_written_as_its_readers_know_it() {
    let expected = r#"# HELP app_lines_total Lines: "all" \\ of them.\nEver.
# TYPE app_lines_total counter
app_lines_total 7
# HELP open_connections Now.
# TYPE open_connections gauge
open_connections{host="a"} 1
open_connections{host="b",netns="x\\\"\n"} 2
# HELP open_connections_total Now.
# TYPE open_connections_total gauge
open_connections_total{host="a"} 1
open_connections_total{host="b",netns="x\\\"\n"} 2
# HELP _9waits_seconds_total How long.
# TYPE _9waits_seconds_total counter
_9waits_seconds_total 12.000340
"#;
    assert_eq!(text(&some(), Format::Prometheus), expected);
}

#[test]
fn openmetrics_names_counters_without_total_and_has_no_gauge_that_ends_so() {
    let expected = r#"# HELP app_lines Lines: \"all\" \\ of them.\nEver.
# TYPE app_lines counter
app_lines_total 7
# HELP open_connections Now.
# TYPE open_connections gauge
open_connections{host="a"} 1
open_connections{host="b",netns="x\\\"\n"} 2
# HELP _9waits_seconds How long.
# TYPE _9waits_seconds counter
_9waits_seconds_total 12.000340
# EOF
"#;
    assert_eq!(text(&some(), Format::OpenMetrics), expected);
}

#[test]
fn a_family_stands_together_and_a_series_once_however_they_come() {
    let mut families = Families::default();
    for (name, label, value) in [("a", "1", 1), ("b", "1", 5), ("a", "2", 2), ("a", "1", 3)] {
        families
            .family(name, Kind::Gauge, "A number.")
            .add([("label", label)], value);
    }
    let text = text(&families, Format::Prometheus);
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        samples,
        ["a{label=\"1\"} 4", "a{label=\"2\"} 2", "b{label=\"1\"} 5"]
    );
    assert_eq!(text.matches("# TYPE a ").count(), 1);
}

#[test]
fn the_format_is_the_one_that_a_reader_likes_best() {
    let of_2_42 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                   version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let of_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (header, format) in [
        (of_2_42, Format::OpenMetrics),
        (of_3, Format::OpenMetrics),
        (
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            Format::OpenMetrics,
        ),
        ("application/openmetrics-text", Format::OpenMetrics),
        (
            "text/plain, application/openmetrics-text;q=0.9",
            Format::Prometheus,
        ),
        (
            "application/openmetrics-text;version=0.0.1",
            Format::Prometheus,
        ),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        (
            "application/openmetrics-text;q=nonsense",
            Format::Prometheus,
        ),
        (
            "text/html,application/xhtml+xml,*/*;q=0.8",
            Format::Prometheus,
        ),
        ("*/*", Format::Prometheus),
        ("", Format::Prometheus),
        (";;,=q;q=", Format::Prometheus),
    ] {
        assert_eq!(Format::accepted(header), format, "{header}");
    }
}

/// Reads a sample line as its readers do: name, labels, value.
fn parse(line: &str) -> (String, Vec<(String, String)>, String) {
    let mut labels = Vec::new();
    let (name, mut rest) = match line.find(['{', ' ']) {
        Some(end) => line.split_at(end),
        None => panic!("no value: {line:?}"),
    };
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, value) = rest.split_once("=\"").unwrap();
            let mut text = String::new();
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (end, '"') => break end,
                    (_, '\\') => text.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} in {line:?}"),
                    }),
                    (_, c) => text.push(c),
                }
            };
            labels.push((key.to_owned(), text));
            rest = value.get(end + 1..).unwrap();
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{line:?}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap().to_owned();
    (name.to_owned(), labels, value)
}

proptest! {
    /// Whatever is in a label's value, the line is one line, and is read back as it was.
    #[test]
    fn prop_a_sample_is_read_back_whatever_its_labels_are(
        values in prop::collection::vec(any::<String>(), 0..4),
        number: u64,
    ) {
        let keys = ["host", "netns", "reason", "state"];
        let labels: Vec<_> = keys.into_iter().zip(values.iter().map(String::as_str)).collect();
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut families = Families::default();
            families.family("x", Kind::Gauge, "\\ \" \n").add(labels.iter().copied(), number);
            let text = text(&families, format);
            let samples: Vec<_> = text.split('\n').filter(|line| line.starts_with('x')).collect();
            prop_assert_eq!(samples.len(), 1);
            let (name, read, value) = parse(samples[0]);
            prop_assert_eq!(name, "x");
            prop_assert_eq!(value, number.to_string());
            let read: Vec<_> = read.iter().map(|(key, value)| (&**key, &**value)).collect();
            prop_assert_eq!(read, labels.clone());
            let lines = text.split_terminator('\n').count();
            prop_assert_eq!(lines, 3 + usize::from(format == Format::OpenMetrics));
        }
    }

    /// A name of whatever characters is one that readers take.
    #[test]
    fn prop_a_name_is_always_fit(name in "\\PC{1,20}") {
        let name = clean(&name);
        prop_assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
        prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }

    /// No header makes it fail.
    #[test]
    fn prop_every_accept_header_is_answered(header: String) {
        Format::accepted(&header);
    }

    /// Seconds have six digits, and are as many microseconds as they were.
    #[test]
    fn prop_microseconds_are_written_exactly(micros: u64) {
        let mut text = String::new();
        Unit::Micros.write(micros, &mut text);
        let (whole, rest) = text.split_once('.').unwrap();
        prop_assert_eq!(rest.len(), 6);
        let read = whole.parse::<u64>().unwrap() * 1_000_000 + rest.parse::<u64>().unwrap();
        prop_assert_eq!(read, micros);
    }
}
