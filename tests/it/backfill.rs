//! `backfill`: an outage's counts and gauges come with the time that they came in.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::clients::framed;
use crate::support::daemon::daemon;
use crate::support::lines::{last, total};
use crate::support::receiver::Receiver;

/// How long the receiver is away: several ticks.
const OUTAGE: Duration = Duration::from_secs(5);

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn an_outages_points_have_their_own_times_and_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let place = directory.join("out");
    let receiver = Receiver::start("unixstream", &place);
    let output = receiver.address.clone();
    let socket = directory.join("in.socket");
    let mut daemon = daemon(
        directory,
        &format!(
            "interval = \"1s\"\n[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{output}\"\nsources = [\"listeners\"]\n\
             queue = \"64KiB\"\nbackfill = true\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            socket.display(),
        ),
    );
    let mut stream = UnixStream::connect(&socket).unwrap();
    let mut all = 0;
    let mut send = |lines: usize| {
        all += lines;
        let counts = "filled.count:1|c|#some:tag\n".repeat(lines);
        let gauge = format!("filled.gauge:{all}|g\nfilled.time:1|ms\n");
        for payload in [counts, gauge] {
            stream.write_all(&framed(payload.as_bytes())).unwrap();
        }
        all
    };
    send(100);
    receiver.sorted(100);
    drop(receiver);
    let begun = now();
    let over = begun + OUTAGE.as_secs();
    // More than the queue holds: what comes then is merged.
    while now() < over {
        send(200);
        thread::sleep(Duration::from_millis(20));
    }
    let all = send(1);
    let place = directory.join("out");
    std::fs::remove_file(place.join("socket")).unwrap();
    std::fs::rename(place.join("received"), place.join("before")).unwrap();
    std::fs::remove_file(place.join("address")).unwrap();
    let receiver = Receiver::start("unixstream", &place);
    let tag = format!("output:{output}");
    daemon.until("what was held is sent", |daemon| {
        let text = daemon.stdout.text();
        total(&text, "conntally.output.lines", &[&tag]) >= all
            && last(&text, "conntally.output.lines_held", &[&tag]) == Some(0)
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let mut points: BTreeMap<(String, u64), String> = BTreeMap::new();
    let mut counted = std::fs::read_to_string(place.join("before"))
        .unwrap()
        .matches("filled.count:1|c")
        .count();
    for line in receiver.lines() {
        let (name, rest) = line.split_once(':').unwrap();
        let (value, fields) = rest.split_once('|').unwrap();
        if name == "filled.count" {
            counted += value.parse::<usize>().unwrap();
        }
        let Some((_, time)) = fields.rsplit_once("|T") else {
            continue;
        };
        assert_ne!(name, "filled.time", "it is no count and no gauge: {line}");
        let time: u64 = time.parse().unwrap();
        assert!(
            (begun..=over).contains(&time),
            "{line} from {begun} to {over}"
        );
        let before = points.insert((name.to_owned(), time), value.to_owned());
        assert_eq!(before, None, "{line} is there twice");
    }
    assert_eq!(counted, all);
    let times = |name: &str| points.keys().filter(|(of, _)| of == name).count();
    assert!(times("filled.count") >= 2, "{points:?}");
    // A tick may begin between the two.
    assert!(
        times("filled.count").abs_diff(times("filled.gauge")) <= 1,
        "{points:?}"
    );
}
