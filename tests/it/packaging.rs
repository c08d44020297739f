//! What packages install beside the program: the units, and the examples of configurations.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::daemon::{Ended, Program, binary, clean, conntally};
use crate::support::tools::{find, skip};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(shipped(path)).unwrap()
}

/// `check`s a configuration where the environment has these variables.
fn check(config: &Path, variables: &[(&str, &str)]) -> Ended {
    let mut command = clean(binary());
    // The user and the directories of packages are not here.
    command
        .args(["check", "--file-only", "--config"])
        .arg(config);
    command.envs(variables.iter().copied());
    Program::start(&mut command).wait()
}

/// The units in a directory of their own, with these drop-ins, and the program where it is.
fn units(drop_ins: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let service = text("packaging/conntally.service");
    let program = binary().display().to_string();
    let service = service.replace("/usr/bin/conntally", &program);
    fs::write(directory.path().join("conntally.service"), service).unwrap();
    let socket = text("packaging/conntally.socket");
    fs::write(directory.path().join("conntally.socket"), socket).unwrap();
    let beside = directory.path().join("conntally.service.d");
    fs::create_dir(&beside).unwrap();
    for name in drop_ins {
        let drop_in = text(&format!("packaging/conntally.service.d/{name}"));
        fs::write(beside.join(name), drop_in).unwrap();
    }
    directory
}

/// What systemd-analyze says of these units; nothing where there is none.
fn analyze(test: &str, drop_ins: &[&str], arguments: &[&str]) -> Option<Ended> {
    let Some(program) = find("systemd-analyze") else {
        skip(test, "no systemd-analyze");
        return None;
    };
    let directory = units(drop_ins);
    let mut command = clean(program);
    command.env("SYSTEMD_COLORS", "0").args(arguments);
    command.current_dir(directory.path());
    Some(Program::start(&mut command).wait())
}

#[test]
fn the_program_writes_its_man_pages_and_completions() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("made");
    let ended = conntally(["generate", "man", "--out", out.to_str().unwrap()]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), ""));
    let page = fs::read_to_string(out.join("conntally-snapshot.1")).unwrap();
    assert!(page.contains(".TH conntally-snapshot 1 "), "{page}");
    assert!(out.join("conntally.toml.5").is_file());
    for (shell, file, beginning) in [
        ("bash", "conntally.bash", "_conntally() {"),
        ("fish", "conntally.fish", "# Print an optspec"),
        ("zsh", "_conntally", "#compdef conntally"),
    ] {
        let printed = conntally(["generate", "completions", shell]);
        assert!(printed.stdout.starts_with(beginning), "{}", printed.stdout);
        let to = ["--out", out.to_str().unwrap()];
        conntally([&["generate", "completions", shell][..], &to].concat());
        assert_eq!(fs::read_to_string(out.join(file)).unwrap(), printed.stdout);
    }

    let taken = out.join("conntally.toml.5");
    let ended = conntally(["generate", "man", "--out", taken.to_str().unwrap()]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let expected = format!("conntally: cannot write {}: ", taken.display());
    assert!(ended.stderr.starts_with(&expected), "{}", ended.stderr);
}

#[test]
fn every_example_is_a_configuration_without_a_remark() {
    let mut names = Vec::new();
    for entry in fs::read_dir(shipped("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        let ended = check(&path, &[]);
        assert_eq!(ended.code, Some(0), "{}: {}", path.display(), ended.stderr);
        assert_eq!(ended.stderr, "", "{}", path.display());
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    let expected = [
        "datadog-agent",
        "graphite",
        "relay-only",
        "statsd_exporter",
        "telegraf",
        "vector",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_configuration_in_the_daemonset_is_one() {
    let manifest = text("packaging/kubernetes/daemonset.yaml");
    let (_, below) = manifest.split_once("  conntally.toml: |\n").unwrap();
    let lines = below.lines().map_while(|line| {
        line.strip_prefix("    ")
            .or_else(|| line.is_empty().then_some(""))
    });
    let config: Vec<String> = lines.map(|line| format!("{line}\n")).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conntally.toml");
    fs::write(&path, config.concat()).unwrap();
    let node = [("NODE_NAME", "one"), ("NODE_ADDRESS", "192.0.2.1")];
    let ended = check(&path, &node);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{config:?}");
}

#[test]
fn systemd_has_no_remark_on_the_units() {
    let arguments = [
        "verify",
        "--man=no",
        "./conntally.service",
        "./conntally.socket",
    ];
    for drop_ins in [&[][..], &["strict.conf"], &["netns.conf"]] {
        let test = "systemd_has_no_remark_on_the_units";
        let Some(ended) = analyze(test, drop_ins, &arguments) else {
            return;
        };
        assert_eq!(ended.code, Some(0), "{drop_ins:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("conntally"), "{}", ended.stderr);
    }
}

/// As systemd 252 reckons: 10 is a service that may do everything.
#[test]
fn the_units_exposure_is_small_and_smaller_with_the_strict_drop_in() {
    let arguments = [
        "security",
        "--offline=true",
        "--no-pager",
        "./conntally.service",
    ];
    for (drop_ins, most) in [(&[][..], 1.8), (&["strict.conf"], 1.5)] {
        let test = "the_units_exposure_is_small_and_smaller_with_the_strict_drop_in";
        let Some(ended) = analyze(test, drop_ins, &arguments) else {
            return;
        };
        let told = "Overall exposure level for conntally.service: ";
        let (_, level) = ended.stdout.split_once(told).expect(&ended.stderr);
        let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
        assert!(level <= most, "{drop_ins:?}: {}", ended.stdout);
    }
}

#[test]
fn the_socket_unit_has_the_sockets_of_the_shipped_configuration() {
    let unit = text("packaging/conntally.socket");
    let values = |key: &str| -> Vec<String> {
        let line = format!("{key}=");
        let values = unit.lines().filter_map(|it| it.strip_prefix(&line));
        values.map(str::to_owned).collect()
    };
    let streams = values("ListenStream").into_iter();
    let datagrams = values("ListenDatagram").into_iter();
    let sockets: Vec<String> = streams
        .map(|path| format!("unixstream://{path}"))
        .chain(datagrams.map(|path| format!("unixgram://{path}")))
        .collect();
    let config: toml::Table = text("config/conntally.toml").parse().unwrap();
    let listeners = config["listener"].as_array().unwrap();
    let addresses: Vec<&str> = listeners
        .iter()
        .map(|one| one["address"].as_str().unwrap())
        .collect();
    assert_eq!(sockets, addresses);
    let mode = listeners[0]["mode"].as_str().unwrap();
    assert_eq!(values("SocketMode"), [mode]);
}
