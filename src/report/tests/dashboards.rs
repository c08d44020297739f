//! The dashboard and the monitors for Datadog ask for nothing that is not sent.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::config::Output;
use crate::conntrack::KernelCounters;
use crate::telemetry::ListenerCounters;

/// What Datadog knows of each line by itself: the reporting host.
const REPORTING_HOST: &str = "host";

/// Names and keys of tags.
#[derive(Debug, Default)]
struct Used {
    names: BTreeSet<String>,
    keys: BTreeSet<String>,
}

impl Used {
    /// Of a metric line.
    fn line(&mut self, line: &str) {
        let (name, rest) = line.split_once(':').unwrap();
        self.names.insert(name.to_owned());
        let tags = rest.split('|').find_map(|field| field.strip_prefix('#'));
        let keys = tags.iter().flat_map(|tags| tags.split(','));
        let keys = keys.map(|tag| tag.split(':').next().unwrap().to_owned());
        self.keys.extend(keys);
    }

    /// Of a query: names stand before the braces of their scope, keys in these, and in
    /// those behind a `by`.
    fn query(&mut self, query: &str) {
        let mut rest = query;
        while let Some((before, behind)) = rest.split_once('{') {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
            let name = before.rsplit(|c| !is_name(c)).next().unwrap();
            let (inside, behind) = behind.split_once('}').unwrap();
            if !name.is_empty() {
                self.names.insert(name.to_owned());
            }
            let keys = inside.split(',').map(|tag| tag.split(':').next().unwrap());
            let keys = keys
                .filter(|key| *key != "*")
                .map(|key| key.trim_start_matches(['$', '!']));
            self.keys.extend(keys.map(str::to_owned));
            rest = behind;
        }
    }

    /// Of all queries of a document.
    fn document(&mut self, value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.document(value)),
            Value::Object(members) => {
                for (key, value) in members {
                    match value.as_str().filter(|_| key == "query") {
                        Some(query) => self.query(query),
                        None => self.document(value),
                    }
                }
            }
            _ => {}
        }
    }
}

/// Everything that is ever sent, with everything turned on.
async fn sent() -> Used {
    let settings = config::Report {
        traffic: true,
        durations: true,
        ..config::Report::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.reporter = bench.reporter.telling_of(&[Output::default()]);
    bench.process.resident = Some(1);
    bench.collector().mode.set(Some(Mode::Hybrid));
    let telemetry = &mut bench.telemetry;
    telemetry
        .collectors
        .push((Some("blue".into()), Arc::default()));
    let output = (
        "udp://127.0.0.1:8125".to_owned(),
        Arc::<OutputCounters>::default(),
    );
    telemetry.outputs.push(output);
    let listener = (
        "udp://127.0.0.1:8126".to_owned(),
        Arc::<ListenerCounters>::default(),
    );
    telemetry.listeners.push(listener);
    telemetry.http = Some(Arc::default());
    let mut busy = activity("a", Direction::Outbound, Protocol::Tcp);
    let of = &mut busy.activity;
    (of.opened, of.closed, of.failed) = (1, 1, [1; 4]);
    let traffic = Traffic {
        packets: 1,
        bytes: 1,
    };
    of.sent.add(traffic);
    of.received.add(traffic);
    of.durations.push(1.0);
    let mut full = snapshot(vec![row("a", Open, 1)]);
    full.connections.activities.push(busy);
    full.table = Some(TableSize {
        entries: 1,
        limit: Some(2),
    });
    full.kernel = KernelCounters::default().iter().collect();
    let mut sent = Used::default();
    for line in bench.tick(Some(&full)).await.0 {
        sent.line(&line);
    }
    sent.keys.insert(REPORTING_HOST.to_owned());
    sent
}

#[tokio::test]
async fn what_the_dashboards_for_datadog_ask_for_is_sent() {
    let sent = sent().await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/dashboards");
    for (file, most) in [("datadog-dashboard.json", 30), ("datadog-monitors.json", 8)] {
        let text = fs::read_to_string(directory.join(file)).unwrap();
        let mut used = Used::default();
        used.document(&serde_json::from_str(&text).unwrap());
        assert!(used.names.len() >= most, "{file}: {used:?}");
        let unsent: Vec<_> = used.names.difference(&sent.names).collect();
        assert!(unsent.is_empty(), "{file}: {unsent:?} are names of nothing");
        let unsent: Vec<_> = used.keys.difference(&sent.keys).collect();
        assert!(unsent.is_empty(), "{file}: {unsent:?} are tags of nothing");
    }
}
