//! The dashboard for Grafana and the rules for Prometheus ask for nothing that is not
//! told.

use std::fs;
use std::path::Path;

use super::*;

/// What Prometheus adds to each series, and its own; rules add the last.
const OF_PROMETHEUS: [&str; 4] = ["instance", "job", "alertname", "severity"];

fn file(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/dashboards");
    fs::read_to_string(directory.join(name)).unwrap()
}

/// A file's text without its comments.
fn read(name: &str) -> String {
    let text = file(name);
    let is_text = |line: &&str| !line.trim_start().starts_with('#');
    let lines: Vec<_> = text.lines().filter(is_text).collect();
    // As JSON has its quotes.
    lines.join("\n").replace("\\\"", "\"")
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whole words that begin as names of ours do.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |word: &&str| word.starts_with("conntrack_") || word.starts_with("conntally_");
    text.split(|c| !is_word(c)).filter(is_name).collect()
}

/// Words before the quote of a selector, in a `by (…)`, and that texts are filled with.
fn labels(text: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    for operator in ["=\"", "=~\"", "!=\""] {
        let parts: Vec<_> = text.split(operator).collect();
        let selected = parts.iter().rev().skip(1);
        labels.extend(selected.filter_map(|part| part.rsplit(|c| !is_word(c)).next()));
    }
    let inside = |begin: &str, end: char| -> Vec<_> {
        let behind = text.split(begin).skip(1);
        behind.filter_map(|part| part.split(end).next()).collect()
    };
    for list in inside("by (", ')') {
        labels.extend(list.split(',').map(str::trim));
    }
    for filled in inside("{{", '}').into_iter().chain(inside("$labels.", ' ')) {
        let filled = filled.trim().trim_start_matches("$labels.");
        if !filled.starts_with('$') && filled.chars().all(is_word) {
            labels.insert(filled);
        }
    }
    labels.remove("");
    labels
}

/// The names that can be asked for, of a text.
fn told(text: &str) -> BTreeSet<String> {
    let types = samples(text, "# TYPE ");
    let name = |line: &str| {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        match kind {
            "counter" if !name.ends_with("_total") => format!("{name}_total"),
            _ => name.to_owned(),
        }
    };
    types.into_iter().map(name).collect()
}

#[tokio::test]
async fn what_the_dashboards_and_rules_for_prometheus_ask_for_is_told() {
    let [plain, open] = [Format::Prometheus, Format::OpenMetrics];
    let (plain, open) = (everything(plain).await, everything(open).await);
    let mut known: BTreeSet<_> = OF_PROMETHEUS.into();
    known.insert(looks::HOST);
    known.extend(labels(&plain));
    // A Prometheus asks for OpenMetrics; what rules record is named as in the other.
    for (file, told, least) in [
        ("grafana.json", told(&open), 30),
        ("prometheus-alerts.yml", told(&open), 12),
        ("prometheus-exporter-names.yml", told(&plain), 8),
        ("prometheus-rules.test.yml", told(&plain), 12),
    ] {
        let text = read(file);
        let used = names(&text);
        assert!(used.len() >= least, "{file}: {used:?}");
        let unknown: Vec<_> = used.iter().filter(|name| !told.contains(**name)).collect();
        assert!(
            unknown.is_empty(),
            "{file}: {unknown:?} are names of nothing"
        );
        let unknown: Vec<_> = labels(&text).difference(&known).copied().collect();
        assert!(
            unknown.is_empty(),
            "{file}: {unknown:?} are labels of nothing"
        );
    }
    serde_json::from_str::<serde_json::Value>(&file("grafana.json")).unwrap();
}
