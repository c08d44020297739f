//! The rules of `OpenMetrics` 1.0 that concern what we write:
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::collections::BTreeSet;

/// A family as its first lines declare it.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
}

impl Family<'_> {
    /// The one name that its samples may have.
    fn sample(&self) -> String {
        match self.kind {
            "counter" => format!("{}_total", self.name),
            "gauge" => self.name.to_owned(),
            kind => panic!("{}: {kind} is no type of ours", self.name),
        }
    }
}

/// Checks a whole text; how many families it has.
#[track_caller]
pub(crate) fn check(text: &str) -> usize {
    let (body, end) = text.rsplit_once("# EOF").expect("it has an end");
    assert_eq!(end, "\n", "nothing stands behind the end");
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut samples = BTreeSet::new();
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        // What describes a family stands before its samples, each once.
        let help = line
            .strip_prefix("# HELP ")
            .unwrap_or_else(|| panic!("{line:?}"));
        let (name, help) = help.split_once(' ').unwrap();
        check_escapes(help);
        let kind = lines.next().unwrap();
        let kind = kind
            .strip_prefix(&format!("# TYPE {name} "))
            .unwrap_or_else(|| panic!("{kind:?}"));
        let family = Family { name, kind };
        assert!(families.insert(name), "{name} stands together");
        assert!(!name.ends_with("_total"), "{name}");
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        assert!(name.starts_with(is_start), "{name}");
        assert!(
            name.chars().all(|c| is_start(c) || c.is_ascii_digit()),
            "{name}"
        );
        let sample = family.sample();
        assert!(
            samples.insert(sample.clone()),
            "{sample} is another family's"
        );
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (of, value) = line.rsplit_once(' ').unwrap();
            let labels = of
                .strip_prefix(&*sample)
                .unwrap_or_else(|| panic!("{line}: not of {name}"));
            check_labels(labels);
            assert!(series.insert(of.to_owned()), "{of} comes once");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
        }
    }
    families.len()
}

/// Names are letters, values are quoted, and no name comes twice.
#[track_caller]
fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let inside = labels
        .strip_prefix('{')
        .and_then(|labels| labels.strip_suffix("\"}"));
    let mut names = BTreeSet::new();
    for label in inside.unwrap_or_else(|| panic!("{labels}")).split("\",") {
        let (name, value) = label
            .split_once("=\"")
            .unwrap_or_else(|| panic!("{labels}"));
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
            "{labels}"
        );
        assert!(names.insert(name), "{labels}");
        check_escapes(value);
    }
}

/// A backslash stands before another, a quote or an `n`; a quote, behind one.
#[track_caller]
fn check_escapes(text: &str) {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => assert!(matches!(chars.next(), Some('\\' | '"' | 'n')), "{text:?}"),
            '"' | '\n' => panic!("{text:?}"),
            _ => {}
        }
    }
}
