//! What Datadog's own dashboards read of the agent, as of any `DogStatsD` client.

use crate::support::clients::send;
use crate::support::daemon::relay;
use crate::support::lines::total;
use crate::support::receiver::Receiver;

const LINES: usize = 5_000;

#[test]
fn the_outputs_of_a_running_daemon_are_told_of_as_clients() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let [datagrams, text] =
        ["unixgram", "tcp"].map(|scheme| Receiver::start(scheme, &directory.join(scheme)));
    let socket = directory.join("in.socket");
    let mut daemon = relay(
        directory,
        &format!(
            "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
             [[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
             [[output]]\naddress = \"unixgram://{}\"\nsources = [\"listeners\"]\n\
             queue = \"64KiB\"\non_full = \"drop\"\n",
            datagrams.address,
            text.address,
            directory.join("absent.socket").display(),
        ),
    );
    let lines: Vec<_> = (0..LINES)
        .map(|n| format!("dashboard.lines:{n}|c|#number:{n}\n"))
        .collect();
    let lines = lines.concat();
    send(&socket, lines.as_bytes());
    let client = |text: &str, name: &str, transport: &str| {
        let name = format!("datadog.dogstatsd.client.{name}");
        total(text, &name, &[&format!("client_transport:{transport}")])
    };
    let told = |text: &str, transport: &str, output: &str| {
        let queue_full: &[&str] = &[output, "reason:queue_full"];
        let pairs = [
            ("metrics", "lines", &[output][..]),
            ("metric_dropped_on_receive", "lines_dropped", queue_full),
            ("packets_sent", "payloads", &[output]),
            ("bytes_sent", "bytes", &[output]),
            ("bytes_dropped_queue", "bytes_dropped_queue", &[output]),
            ("bytes_dropped_writer", "bytes_dropped_writer", &[output]),
        ];
        pairs.into_iter().all(|(name, own, tags)| {
            let counted = total(text, &format!("conntally.output.{own}"), tags);
            client(text, name, transport) == counted
        })
    };
    let mut out = String::new();
    daemon.until("all is told, and the same as of each output", |daemon| {
        out = daemon.stdout.text();
        client(&out, "metrics", "uds") == 2 * LINES
            && client(&out, "metrics", "tcp") == LINES
            && total(&out, "conntally.output.lines_sent", &["output:"]) >= 2 * LINES
            && told(&out, "uds", "output:unixgram")
            && told(&out, "tcp", "output:tcp")
    });
    let out = &out;
    for name in [
        "metric_dropped_on_receive",
        "bytes_dropped_queue",
        "packets_dropped_queue",
    ] {
        assert!(client(out, name, "uds") > 0, "{name}");
        assert_eq!(client(out, name, "tcp"), 0, "{name}");
    }
    assert!(client(out, "bytes_sent", "uds") > lines.len() / 2);
    assert!(client(out, "packets_sent", "tcp") > 0);
    let tags = format!(
        "|c|#client:rust-conntally,client_version:{},client_transport:tcp",
        env!("CARGO_PKG_VERSION")
    );
    let told = |line: &str| line.starts_with("datadog.dogstatsd.client.") && line.ends_with(&tags);
    assert!(out.lines().any(told), "{out}");
    assert!(!out.contains("client_transport:stdout"));
}
