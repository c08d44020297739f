//! Several outputs: what each takes, and what those of a group share.

use std::path::Path;

use crate::support::clients::{framed, send};
use crate::support::counted::Counted;
use crate::support::daemon::relay;
use crate::support::receiver::Receiver;

#[test]
fn only_lets_through_exactly_what_it_names_to_each_output() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let apps = Receiver::start("unixstream", &directory.join("apps"));
    let errors = Receiver::start("unixgram", &directory.join("errors"));
    let mut daemon = relay(
        directory,
        &format!(
            "[[output]]\naddress = \"{}\"\nonly = [\"app.*\", \"conntally.uptime_seconds\"]\n\
             [[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\nonly = [\"*.errors\", \"Deploy*\"]\n",
            apps.address, errors.address
        ),
    );
    let (mut all, mut to_apps, mut to_errors) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..3_000 {
        for (line, app, error) in [
            (format!("app.requests:{n}|c|#db.errors:x"), true, false),
            (format!("app.errors:{n}|c"), true, true),
            (format!("db.errors:{n}|c"), false, true),
            (format!("db.requests:{n}|g|#app.x:y"), false, false),
        ] {
            to_apps.extend(app.then(|| line.clone()));
            to_errors.extend(error.then(|| line.clone()));
            all.push(line);
        }
    }
    let check = "_sc|app.up|0|m:db.errors".to_owned();
    let event = "_e{10,4}:Deploy: it|text".to_owned();
    to_apps.push(check.clone());
    to_errors.push(event.clone());
    all.extend([check, event]);
    let frames: Vec<u8> = all
        .chunks(40)
        .flat_map(|lines| framed(lines.join("\n").as_bytes()))
        .collect();
    send(&directory.join("in.socket"), &frames);

    let relayed = |receiver: &Receiver| {
        let mut lines = receiver.lines();
        lines.retain(|line| !line.starts_with("conntally."));
        lines.sort();
        lines
    };
    to_apps.sort();
    to_errors.sort();
    daemon.until("what is named arrives", |_| {
        relayed(&apps).len() >= to_apps.len() && errors.lines().len() >= to_errors.len()
    });
    assert_eq!(relayed(&apps), to_apps);
    assert_eq!(errors.sorted(0), to_errors);
    daemon.until("the report names its own time", |_| {
        apps.lines()
            .iter()
            .any(|line| line.starts_with("conntally.uptime_seconds:"))
    });
    daemon.until("the rest is counted", |daemon| {
        let counted = Counted::of(&daemon.stdout.text(), &errors.address);
        counted.sent == to_errors.len() && counted.filtered == all.len() - to_errors.len()
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let own: Vec<String> = apps
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("conntally."))
        .collect();
    assert!(
        own.iter()
            .all(|line| line.starts_with("conntally.uptime_seconds:")),
        "{own:?}"
    );
    let counted = Counted::of(&ended.stdout, &errors.address);
    assert_eq!((counted.accepted, counted.dropped), (to_errors.len(), 0));
    counted.assert_balanced();
}

/// One counter's line of its own context, in a frame of its own.
fn tick(socket: &Path, n: usize) -> String {
    let line = format!("tick:{n}|c|#n:{n}");
    send(socket, &framed(line.as_bytes()));
    line
}

#[test]
fn failover_takes_over_comes_back_and_every_line_arrives_at_one_of_both() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (first_place, second_place) = (directory.join("first"), directory.join("second"));
    let first = Receiver::start("unixstream", &first_place);
    let second = Receiver::start("unixstream", &second_place);
    let outputs: String = [&first, &second]
        .map(|receiver| {
            format!(
                "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\ngroup = \"pair\"\n",
                receiver.address
            )
        })
        .concat();
    let mut daemon = relay(directory, &outputs);
    let socket = directory.join("in.socket");
    let mut sent: Vec<String> = (0..100).map(|n| tick(&socket, n)).collect();
    first.sorted(sent.len());
    assert!(second.lines().is_empty());

    drop(first);
    daemon.until("the second takes over", |_| {
        sent.push(tick(&socket, sent.len()));
        !second.lines().is_empty()
    });
    let first = Receiver::start("unixstream", &first_place);
    daemon.until("the first has the lines again", |_| {
        sent.push(tick(&socket, sent.len()));
        is_newer(&first, &second)
    });
    let all = |sent: &[String]| {
        let mut lines = [first.lines(), second.lines()].concat();
        lines.sort();
        let mut sent = sent.to_vec();
        sent.sort();
        (lines, sent)
    };
    daemon.until("all has arrived", |_| {
        let (lines, sent) = all(&sent);
        lines.len() >= sent.len()
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let (lines, expected) = all(&sent);
    assert_eq!(lines, expected);
    let went = |line: &&str| line.contains("lines go to another output");
    assert_eq!(
        ended.stderr.lines().filter(went).count(),
        2,
        "{}",
        ended.stderr
    );
    for receiver in [&first, &second] {
        let counted = Counted::of(&ended.stdout, &receiver.address);
        assert_eq!(counted.dropped, 0);
        counted.assert_balanced();
    }
}

/// Whether the first has a later line than any of the second's.
fn is_newer(first: &Receiver, second: &Receiver) -> bool {
    let newest = |receiver: &Receiver| {
        let number = |line: String| line.strip_prefix("tick:")?.split('|').next()?.parse().ok();
        receiver
            .lines()
            .into_iter()
            .filter_map(number)
            .max()
            .unwrap_or(0_usize)
    };
    newest(first) > newest(second)
}

/// What no permutation of the tags changes.
fn context(line: &str) -> String {
    let (name, rest) = line.split_once(':').unwrap();
    let (_, tags) = rest.split_once('#').unwrap();
    let mut tags: Vec<&str> = tags.split(',').collect();
    tags.sort_unstable();
    format!("{name} {}", tags.join(","))
}

#[test]
fn by_hash_each_context_arrives_at_one_receiver_which_keeps_it_through_an_outage() {
    const CONTEXTS: usize = 300;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let places: Vec<_> = (0..3).map(|n| directory.join(n.to_string())).collect();
    let mut receivers: Vec<_> = places
        .iter()
        .map(|place| Receiver::start("unixstream", place))
        .collect();
    let outputs: Vec<String> = receivers
        .iter()
        .map(|receiver| {
            format!(
                "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\ngroup = \"ring\"\ngroup_mode = \"hash\"\n",
                receiver.address
            )
        })
        .collect();
    let mut daemon = relay(directory, &outputs.concat());
    let socket = directory.join("in.socket");
    let round = |value: usize| -> Vec<String> {
        let line = |n: usize| {
            let tags = if n.is_multiple_of(2) ^ value.is_multiple_of(2) {
                format!("env:x,n:{n}")
            } else {
                format!("n:{n},env:x")
            };
            format!("app.count:{value}|c|#{tags}")
        };
        (0..CONTEXTS).map(line).collect()
    };
    let deliver = |value: usize| {
        let lines = round(value);
        let frames: Vec<u8> = lines
            .chunks(7)
            .flat_map(|lines| framed(lines.join("\n").as_bytes()))
            .collect();
        send(&socket, &frames);
        lines
    };
    let arrived = |receivers: &[Receiver]| {
        receivers
            .iter()
            .map(|receiver| receiver.lines().len())
            .sum::<usize>()
    };

    let mut sent = [deliver(0), deliver(1)].concat();
    daemon.until("two rounds arrive", |_| arrived(&receivers) >= sent.len());
    let shares: Vec<usize> = receivers
        .iter()
        .map(|receiver| receiver.lines().len() / 2)
        .collect();
    assert!(
        shares.iter().all(|share| (60..=140).contains(share)),
        "{shares:?}"
    );

    drop(receivers.remove(0));
    sent.extend(deliver(2));
    daemon.until("the others' shares arrive", |_| {
        arrived(&receivers) >= 3 * (shares[1] + shares[2])
    });
    assert_eq!(arrived(&receivers), 3 * (shares[1] + shares[2]));
    receivers.insert(0, Receiver::start("unixstream", &places[0]));
    daemon.until("what was kept arrives", |_| {
        arrived(&receivers) >= sent.len()
    });

    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut lines: Vec<String> = receivers.iter().flat_map(Receiver::lines).collect();
    lines.sort();
    sent.sort();
    assert_eq!(lines, sent);
    let mut homes = std::collections::BTreeMap::new();
    for (n, receiver) in receivers.iter().enumerate() {
        for line in receiver.lines() {
            assert_eq!(*homes.entry(context(&line)).or_insert(n), n, "{line}");
        }
        Counted::of(&ended.stdout, &receiver.address).assert_balanced();
    }
    assert_eq!(homes.len(), CONTEXTS);
}

#[test]
fn senders_who_wait_for_an_output_that_is_stuck_go_on_with_the_next() {
    const LINES: usize = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let first = Receiver::start("unixstream", &directory.join("first"));
    let second = Receiver::start("unixstream", &directory.join("second"));
    let outputs = [&first, &second].map(|receiver| {
        format!(
            "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\ngroup = \"pair\"\nqueue = \"64KiB\"\non_full = \"block\"\n",
            receiver.address
        )
    });
    let mut daemon = relay(directory, &outputs.concat());
    let socket = directory.join("in.socket");
    let mut sent = vec![tick(&socket, LINES)];
    first.sorted(1);
    first.pause();
    // More than the first's queue and the sockets before and behind it hold.
    sent.extend((0..LINES).map(|n| format!("stuck.count:{n}|c|#env:test,some:more")));
    let frames: Vec<u8> = sent[1..]
        .chunks(50)
        .flat_map(|lines| framed(lines.join("\n").as_bytes()))
        .collect();
    send(&socket, &frames);
    let last = sent.last().cloned().unwrap();
    daemon.until("the last line arrives at the second", |_| {
        second.lines().contains(&last)
    });
    first.resume();
    daemon.until("all has arrived", |_| {
        first.lines().len() + second.lines().len() >= sent.len()
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut lines = [first.lines(), second.lines()].concat();
    lines.sort();
    sent.sort();
    assert!(lines == sent, "{} of {} lines", lines.len(), sent.len());
}
