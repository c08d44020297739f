//! What the configuration accepts, and how it says what it does not.

use std::path::{Path, PathBuf};

use super::*;
use crate::address::Address;

fn read(text: &str) -> Result<Config, String> {
    read_all(&[("conntally.toml", text)])
}

fn read_all(files: &[(&str, &str)]) -> Result<Config, String> {
    let files: Vec<File> = files
        .iter()
        .map(|&(path, text)| File {
            path: PathBuf::from(path),
            text: text.to_owned(),
        })
        .collect();
    parse(&files, &Environment::of(&[("PORT", "9125")])).map_err(|wrong| {
        let texts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        texts.join("\n")
    })
}

#[test]
fn the_shipped_file_shows_every_key_at_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/conntally.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let shipped = read(&text).unwrap();
    let expected = Config {
        outputs: vec![Output::default()],
        listeners: vec![
            Listener::default(),
            Listener {
                address: Address::UnixDatagram("/run/conntally/dsd.socket".into()),
                ..Listener::default()
            },
        ],
        ..Config::default()
    };
    assert_eq!(shipped, expected);
    let complete = Config {
        outputs: vec![Output {
            max_payload: Some(ByteSize(1432)),
            ..Output::default()
        }],
        ..expected
    };
    for line in toml::to_string(&complete).unwrap().lines() {
        // A table of a listener's own stands in one line.
        let line = line.strip_prefix("[listener.").unwrap_or(line);
        let key = line.split([' ', '=', ']']).next().unwrap();
        let shown = text
            .lines()
            .any(|line| line.trim_start_matches("# ").starts_with(key));
        assert!(shown, "the shipped file does not show {key}");
    }
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let config = read("[[output]]\nmax_payload = \"4KiB\"\n[[listener]]\n").unwrap();
    let printed = toml::to_string_pretty(&config).unwrap();
    assert_eq!(read(&printed).unwrap(), config);
}

#[test]
fn a_file_without_outputs_or_listeners_has_none() {
    let config = read("interval = \"1s\"").unwrap();
    assert!(config.outputs.is_empty() && config.listeners.is_empty());
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_keys_there_are() {
    let error = read("interval = \"1s\"\n\n[hosts]\nmaximum = 5\n").unwrap_err();
    assert!(
        error.starts_with("conntally.toml:4:1: hosts.maximum: unknown field"),
        "{error}"
    );
    assert!(error.contains("`max`"), "{error}");
    assert!(error.contains("4 | maximum = 5\n  | ^^^^^^^"), "{error}");
}

#[test]
fn every_mistake_of_a_file_is_found_at_once() {
    let error = read(
        "interval = 10\n[collector]\nprotocols = [\"tpc\"]\n[[output]]\naddress = \"http://x\"\nqueu = \"1MiB\"\n",
    )
    .unwrap_err();
    for part in [
        "conntally.toml:1:12: interval: ",
        "conntally.toml:3:14: collector.protocols: ",
        "conntally.toml:5:11: output[0].address: ",
        "conntally.toml:6:1: output[0].queu: ",
    ] {
        assert!(error.contains(part), "no {part} in\n{error}");
    }
}

#[test]
fn a_quantity_without_its_unit_is_shown_with_an_example() {
    let error = read("[[output]]\nflush_interval = \"100\"\n").unwrap_err();
    assert!(
        error.contains("conntally.toml:2:18: output[0].flush_interval"),
        "{error}"
    );
    assert!(error.contains("\"10s\""), "{error}");
}

#[test]
fn broken_syntax_is_shown_where_it_breaks() {
    let error = read("interval = \"10s\"\n[hosts\nmax = 1\n").unwrap_err();
    assert!(error.contains("conntally.toml:2:"), "{error}");
}

#[test]
fn fragments_are_merged_in_order_and_mistakes_name_their_file() {
    let config = read_all(&[
        (
            "a.toml",
            "tags = [\"a:1\"]\n[hosts]\nmax = 5\nports = true\n[[output]]\naddress = \"stdout:\"\n",
        ),
        (
            "b.toml",
            "tags = [\"b:2\"]\n[hosts]\nmax = 6\n[[output]]\naddress = \"udp://h:${PORT}\"\n",
        ),
    ])
    .unwrap();
    assert_eq!(config.tags, ["b:2"]);
    assert_eq!((config.hosts.max, config.hosts.ports), (6, true));
    let outputs: Vec<String> = config
        .outputs
        .iter()
        .map(|o| o.address.to_string())
        .collect();
    assert_eq!(outputs, ["stdout:", "udp://h:9125"]);

    let error = read_all(&[
        ("a.toml", "[[output]]\n"),
        ("b.toml", "\n\n[[output]]\nqueue = \"1KiB\"\n"),
    ])
    .unwrap_err();
    assert!(
        error.starts_with("b.toml:4:9: output[1].queue: "),
        "{error}"
    );
}

#[test]
fn what_only_several_keys_show_to_be_wrong_is_shown_at_one_of_them() {
    for (text, part) in [
        ("interval = \"0s\"", ":1:12: interval: must be at least"),
        ("tags = [\"host:me\"]", ":1:8: tags: "),
        ("tags = [\"a|b\"]", "which ends a tag"),
        ("[hosts]\nmax = 0", ":2:7: hosts.max"),
        ("[collector]\nprotocols = []", ":2:13: collector.protocols"),
        (
            "[collector]\nnetns = [\"blue\", \"blue\"]",
            ":2:18: collector.netns[1]: \"blue\" is named twice",
        ),
        (
            "[collector]\nnetns = [\"blue\", \"red\",\n\"/run/netns/blue\"]",
            ":3:1: collector.netns[2]: \"/run/netns/blue\" would be tagged netns:blue as \"blue\" is",
        ),
        (
            "[collector]\nnetns = [\"blue\", \"\"]",
            ":2:9: collector.netns: an empty name",
        ),
        (
            "[collector]\nnetns = [\"netns/blue\"]",
            ":2:9: collector.netns: \"netns/blue\" is neither a name nor an absolute path",
        ),
        ("[collector]\nnetns = [\"a|b\"]", "cannot be a tag with '|'"),
        ("[hosts.groups]\n\"10.0.0.0/8\" = \"other\"", "hosts.groups"),
        ("[report]\nprefix = \"a b\"", ":2:10: report.prefix"),
        (
            "[[output]]\nmax_payload = \"1MiB\"",
            ":2:15: output[0].max_payload",
        ),
        ("[[output]]\nsources = []", "output[0].sources"),
        (
            "[[output]]\nonly = [\"a\", \"\"]",
            ":2:14: output[0].only[1]",
        ),
        (
            "[[output]]\ngroup = \"g\"\n[[output]]\naddress = \"stdout:\"\ngroup = \"g\"\ngroup_mode = \"hash\"",
            ":6:14: output[1].group_mode: must be as output[0].group_mode is: both are in group \"g\"",
        ),
        (
            "[[output]]\ngroup = \"g\"\n[[output]]\naddress = \"stdout:\"\ngroup = \"g\"\nonly = [\"a\"]",
            ":6:8: output[1].only: must be as",
        ),
        (
            "[[output]]\ngroup = \"g\"\n[[output]]\n[[output]]\ngroup = \"g\"",
            "output[2].address: udp://127.0.0.1:8125 is in group \"g\" already",
        ),
        ("[[output]]\naddress = \"udp://x:0\"", "port 0"),
        ("[[listener]]\naddress = \"stdout:\"", "listener[0].address"),
        (
            "[[listener]]\nmax_frame = \"1GiB\"",
            "listener[0].max_frame",
        ),
        ("[[listener]]\nmode = \"rw\"", "octal"),
        ("[[listener]]\n[[listener]]", "is listened on already"),
        (
            "[[listener]]\nowner = \"a:b:c\"",
            ":2:9: listener[0].owner: \"a:b:c\" is not an owner",
        ),
        (
            "[[listener]]\nrate = \"1B/s\"",
            ":2:8: listener[0].rate: must be from 1KiB/s to 1GiB/s",
        ),
        (
            "[[listener]]\nallow = [\"app.*\", \"\"]",
            ":2:19: listener[0].allow[1]: an empty glob",
        ),
        (
            "[[listener]]\ndeny = [\"\"]",
            ":2:9: listener[0].deny[0]: an empty glob",
        ),
        (
            "[[listener]]\nrename = { \"a:\" = \"b\" }",
            ":2:10: listener[0].rename: \"a:\" is not the beginning of a name",
        ),
        (
            "[[listener]]\ndrop_tags = [\"pod_uid:*\"]",
            ":2:14: listener[0].drop_tags[0]: \"pod_uid:*\" is not a tag's key",
        ),
        ("[memory]\nlow = 0.9", "memory.low"),
        (
            "[memory]\nlimit = \"most\"",
            ":2:9: memory.limit: \"most\" is not a limit: write \"auto\"",
        ),
        (
            "hostname = \"${NOPE}\"",
            ":1:12: hostname: the environment variable NOPE is not set",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(part), "{text}: no {part:?} in\n{error}");
    }
}

#[test]
fn an_owner_may_be_a_user_or_a_group_alone() {
    for owner in ["root", ":root", "root:root", "1000", ""] {
        let config = read(&format!("[[listener]]\nowner = \"{owner}\"\n")).unwrap();
        assert_eq!(config.listeners[0].owner.to_string(), owner);
    }
}

#[test]
fn an_output_that_is_an_own_listener_is_refused() {
    for (listener, output) in [
        ("unixstream:///run/a.socket", "unixstream:///run/a.socket"),
        ("unixstream:///run/a.socket", "unix:///run/a.socket"),
        ("udp://0.0.0.0:8125", "udp://127.0.0.1:8125"),
        ("udp://0.0.0.0:8125", "udp://127.0.0.2:8125"),
        ("udp://127.0.0.1:8125", "udp://0.0.0.0:8125"),
        ("udp://[::1]:8125", "udp://ip6-localhost:8125"),
        ("tcp://localhost:9125", "tcp://127.0.0.1:9125"),
    ] {
        let text =
            format!("[[listener]]\naddress = \"{listener}\"\n[[output]]\naddress = \"{output}\"\n");
        let error = read(&text).unwrap_err();
        assert!(
            error.contains("conntally.toml:4:11: output[0].address"),
            "{error}"
        );
        assert!(error.contains("own listeners"), "{error}");
    }
    let apart = "[[listener]]\naddress = \"udp://127.0.0.1:8126\"\n[[output]]\n";
    assert!(read(apart).is_ok());
}

#[test]
fn the_admin_socket_is_a_path_of_its_own_or_none() {
    for (socket, part) in [
        ("run/admin.sock", "must be absolute"),
        ("/run/a", "is the socket of a listener already"),
    ] {
        let text = format!(
            "[admin]\nsocket = \"{socket}\"\n[[listener]]\naddress = \"unixgram:///run/a\"\n"
        );
        let error = read(&text).unwrap_err();
        assert!(
            error.contains("conntally.toml:2:10: admin.socket: "),
            "{error}"
        );
        assert!(error.contains(part), "{error}");
    }
    assert!(read("[admin]\nsocket = \"\"\n").is_ok());
}

#[test]
fn the_http_endpoint_has_an_address_and_a_port_of_its_own_or_none() {
    let with = |http: &str, listener: &str| {
        let listener = format!("[[listener]]\naddress = \"{listener}\"\n");
        read(&format!("[admin]\nhttp = \"{http}\"\n{listener}"))
    };
    for (http, listener, part) in [
        ("9318", "udp://127.0.0.1:1", "write an address and a port"),
        ("127.0.0.1:1", "tcp://127.0.0.1:1", "port of a listener"),
        ("127.0.0.1:1", "tcp://0.0.0.0:1", "port of a listener"),
        ("0.0.0.0:1", "tcp://127.0.0.1:1", "port of a listener"),
    ] {
        let error = with(http, listener).unwrap_err();
        let place = "conntally.toml:2:8: admin.http: ";
        assert!(error.contains(place) && error.contains(part), "{error}");
    }
    for (http, listener) in [
        ("127.0.0.1:1", "udp://127.0.0.1:1"),
        ("127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("", "tcp://127.0.0.1:1"),
    ] {
        assert!(with(http, listener).is_ok(), "{http} {listener}");
    }
}

#[test]
fn an_own_listener_behind_a_link_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real");
    let link = directory.path().join("link");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let text = format!(
        "[[listener]]\naddress = \"unixgram://{}/a\"\n[[output]]\naddress = \"unixgram://{}/a\"\n",
        real.display(),
        link.display()
    );
    assert!(read(&text).unwrap_err().contains("own listeners"));
}

#[test]
fn a_rate_has_a_burst_that_holds_a_payload() {
    let output = |keys: &str| {
        let text = format!("[[output]]\naddress = \"udp://127.0.0.1:8125\"\n{keys}\n");
        read(&text).map(|config| config.outputs[0].burst_bytes())
    };
    assert_eq!(output("rate = \"2MiB/s\""), Ok(2 << 20));
    assert_eq!(output("rate = \"1KiB/s\""), Ok(1432));
    assert_eq!(output("rate = \"1KiB/s\"\nburst = \"64KiB\""), Ok(64 << 10));
    for (keys, wrong) in [
        (
            "rate = \"1MiB/s\"\nburst = \"1KiB\"",
            "output[0].burst: must be at least 1432 bytes",
        ),
        (
            "rate = \"1023B/s\"",
            "output[0].rate: must be from 1KiB/s to 1GiB/s",
        ),
        ("rate = \"1MiB/s\"\nburst = \"2\"", "is not a burst"),
    ] {
        let error = output(keys).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn what_only_an_output_that_merges_can_do_is_refused_where_it_does_not() {
    let output = |keys: &str| read(&format!("[[output]]\n{keys}\n")).map(|_| ());
    for key in [
        "backfill = true",
        "aggregate = \"10s\"",
        "spool = \"/var/spool/x\"",
    ] {
        assert_eq!(output(key), Ok(()));
        let error = output(&format!("{key}\non_full = \"block\"")).unwrap_err();
        assert!(error.contains("needs on_full = \"merge\""), "{error}");
    }
    for (keys, wrong) in [
        (
            "backfill = true\nformat = \"statsd\"",
            "output[0].backfill: needs format = \"dogstatsd\"",
        ),
        ("aggregate = \"10ms\"", "must be at least 100ms"),
        ("aggregate = \"10\"", "is not a time to merge for"),
        ("backlog_contexts = 0", "must be at least 1"),
        ("spool = \"x\"", "must begin at the root"),
        (
            "spool = \"/a/b\"\n[[output]]\nspool = \"/a/b\"",
            "output[1].spool: /a/b is another output's already",
        ),
    ] {
        let error = output(keys).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
    let none = read("[[output]]\naggregate = \"0s\"\n").unwrap();
    assert_eq!(none, read("[[output]]\n").unwrap());
}

#[test]
fn keys_without_effect_yet_are_noted_when_they_are_set() {
    let config = read("[hosts]\nnames = \"dns\"\n").unwrap();
    let notes = config.notes().join("\n");
    assert!(notes.contains("hosts.names has no effect"), "{notes}");
    assert!(Config::default().notes().is_empty());

    let listener = |address: &str| {
        let text = format!(
            "[[listener]]\naddress = \"{address}\"\nrate = \"1MiB/s\"\norigin = \"tags\"\nreceive_buffer = \"4MiB\"\n"
        );
        read(&text).unwrap().notes().join("\n")
    };
    let notes = listener("unixstream:///run/a");
    assert!(
        notes.starts_with("listener[0].receive_buffer has no effect"),
        "{notes}"
    );
    assert_eq!(notes.lines().count(), 1);
    let notes = listener("udp://127.0.0.1:1");
    assert!(notes.contains("listener[0].rate has no effect"), "{notes}");
    assert!(
        notes.contains("listener[0].origin has no effect"),
        "{notes}"
    );
}
