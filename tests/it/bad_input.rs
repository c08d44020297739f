//! Bad input gets an error that names the file, the line, the key, and what would be right.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use crate::support::daemon::{Ended, Program, binary, clean, configuration, conntally, daemon};
use crate::support::tools::{find, skip};

/// Asserts the exit code, and that standard error has each of these parts.
#[track_caller]
fn fails(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for part in parts {
        assert!(
            ended.stderr.contains(part),
            "{part:?} is not in: {}",
            ended.stderr
        );
    }
}

/// `check`s a configuration of this text, and `run`s it: both must refuse it alike.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conntally.toml");
    fs::write(&path, text).unwrap();
    for command in ["check", "run"] {
        let ended = conntally([OsStr::new(command), "--config".as_ref(), path.as_ref()]);
        fails(&ended, 78, parts);
        assert!(ended.stdout.is_empty());
    }
}

/// Runs the program as a user without capabilities, in a network namespace of its own:
/// where nobody set `net.ipv4.ip_unprivileged_port_start`, and root is nobody.
fn unprivileged(test: &str, arguments: &[&OsStr]) -> Option<Ended> {
    let unshare = find("unshare")?;
    let isolated = |program: &OsStr| {
        let mut command = clean(&unshare);
        command.args(["-Un", "--"]).arg(program);
        command
    };
    let allowed = Program::start(&mut isolated("true".as_ref())).wait();
    if allowed.code != Some(0) {
        skip(test, "user namespaces are forbidden");
        return None;
    }
    let mut command = isolated(binary().as_ref());
    Some(Program::start(command.args(arguments)).wait())
}

#[test]
fn an_unknown_key_is_pointed_at() {
    refused(
        "interval = \"10s\"\n\n[hosts]\nmaximum = 5\n",
        &[
            "conntally.toml:4:1",
            "hosts.maximum",
            "`max`",
            "4 | maximum = 5",
            "| ^^^^^^^",
        ],
    );
}

#[test]
fn an_http_endpoint_without_a_port_is_pointed_at() {
    refused(
        "[admin]\nhttp = \"localhost\"\n",
        &[
            "conntally.toml:2:8",
            "admin.http",
            "\"localhost\" is not where HTTP can be served",
            "127.0.0.1:9318",
        ],
    );
}

#[test]
fn a_wrong_unit_is_pointed_at() {
    refused(
        "interval = \"10 parsecs\"\n",
        &[
            "conntally.toml:1:12",
            "interval",
            "10 parsecs",
            "ms, s, m, h",
            "^^^^",
        ],
    );
    refused(
        "[[output]]\nqueue = \"4 MB/s\"\n",
        &["conntally.toml:2:", "queue", "KiB", "^^^^"],
    );
}

#[test]
fn a_wrong_address_is_pointed_at() {
    refused(
        "[[output]]\naddress = \"127.0.0.1:8125\"\n",
        &["conntally.toml:2:11", "address", "udp://host:port", "^^^^"],
    );
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    refused(
        "interval = 10\n[hosts]\nmax = \"many\"\n[[listener]]\nmode = \"0999\"\n",
        &[
            "conntally.toml:1:",
            "conntally.toml:3:",
            "conntally.toml:5:",
        ],
    );
}

#[test]
fn what_is_no_toml_is_pointed_at() {
    refused("interval = \n", &["conntally.toml:1:"]);
}

#[test]
fn an_output_that_is_an_own_listener_is_refused() {
    let socket = "unixstream:///run/conntally/dsd_stream.socket";
    refused(
        &format!("[[output]]\naddress = \"{socket}\"\n[[listener]]\naddress = \"{socket}\"\n"),
        &["conntally.toml:2:", socket, "listener"],
    );
}

#[test]
fn a_mistake_in_a_fragment_names_the_fragment() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    fs::write(directory.join("conntally.toml"), "interval = \"1s\"\n").unwrap();
    fs::create_dir(directory.join("conf.d")).unwrap();
    fs::write(directory.join("conf.d/hosts.toml"), "[hosts]\nmaxx = 1\n").unwrap();
    let config = directory.join("conntally.toml");
    let ended = conntally(["check".as_ref(), "--config".as_ref(), config.as_os_str()]);
    fails(&ended, 78, &["conf.d/hosts.toml:2:1", "maxx", "`max`"]);
}

#[test]
fn a_missing_file_is_named() {
    for command in ["check", "run", "snapshot"] {
        let ended = conntally([command, "--config", "/nonexistent/conntally.toml"]);
        fails(&ended, 66, &["/nonexistent/conntally.toml", "--config"]);
    }
}

#[test]
fn an_unreadable_file_is_named() {
    const TEST: &str = "an_unreadable_file_is_named";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conntally.toml");
    fs::write(&path, "interval = \"1s\"\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let arguments: [&OsStr; 3] = ["check".as_ref(), "--config".as_ref(), path.as_ref()];
    if let Some(ended) = unprivileged(TEST, &arguments) {
        let file = path.display().to_string();
        fails(&ended, 77, &[&file, "ermission denied"]);
    }
}

#[test]
fn a_valid_file_is_said_to_be_valid() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "interval = \"1s\"\n");
    let ended = conntally(["check".as_ref(), "--config".as_ref(), path.as_os_str()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("valid"), "{}", ended.stdout);
    let ended = conntally([
        OsStr::new("check"),
        "--print".as_ref(),
        "--config".as_ref(),
        path.as_ref(),
    ]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let printed: toml::Table = ended.stdout.parse().unwrap();
    assert_eq!(printed["interval"].as_str(), Some("1s"));
    assert_eq!(printed["hosts"]["max"].as_integer(), Some(100));
}

#[test]
fn wrong_usage_is_told_apart_from_the_rest() {
    fails(&conntally(["frobnicate"]), 64, &["frobnicate", "--help"]);
    fails(&conntally(["run", "--frobnicate"]), 64, &["--frobnicate"]);
    fails(&conntally([""; 0]), 64, &["run", "check", "snapshot"]);
    fails(
        &conntally(["snapshot", "--format", "xml"]),
        64,
        &["xml", "json"],
    );
    let help = conntally(["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("snapshot"));
}

/// `run` with a listener at this address ends with an error.
#[track_caller]
fn listener_fails(address: &str, code: i32, parts: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let config = listener_at(directory.path(), address);
    let ended = conntally(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    fails(&ended, code, parts);
}

fn listener_at(directory: &Path, address: &str) -> std::path::PathBuf {
    configuration(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"{address}\"\n\
             [[output]]\naddress = \"stdout:\"\n"
        ),
    )
}

#[test]
fn a_socket_path_that_is_a_file_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "text").unwrap();
    let named = path.display().to_string();
    for scheme in ["unixstream", "unixgram"] {
        listener_fails(
            &format!("{scheme}://{named}"),
            1,
            &[&named, "not a unix socket"],
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let stream = directory.path().join("stream.socket");
    let datagram = directory.path().join("datagram.socket");
    let listener = UnixListener::bind(&stream).unwrap();
    let socket = UnixDatagram::bind(&datagram).unwrap();
    for (scheme, path) in [("unixstream", &stream), ("unixgram", &datagram)] {
        let named = path.display().to_string();
        listener_fails(&format!("{scheme}://{named}"), 1, &[&named, "in use"]);
        assert!(path.exists());
    }
    drop((listener, socket));
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let stream = directory.join("stream.socket");
    let datagram = directory.join("datagram.socket");
    // Dropped at once, they leave their files behind.
    UnixListener::bind(&stream).unwrap();
    UnixDatagram::bind(&datagram).unwrap();
    let daemon = daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\n\
             [[listener]]\naddress = \"unixgram://{}\"\n\
             [[output]]\naddress = \"stdout:\"\n",
            stream.display(),
            datagram.display()
        ),
    );
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("udp://{}", taken.local_addr().unwrap());
    listener_fails(&address, 1, &[&address, "in use"]);
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let address = "unixstream:///nonexistent/dsd.socket";
    listener_fails(address, 1, &[address, "no directory /nonexistent"]);
}

#[test]
fn a_port_without_permission_is_named() {
    const TEST: &str = "a_port_without_permission_is_named";
    let directory = tempfile::tempdir().unwrap();
    for address in ["udp://0.0.0.0:80", "tcp://0.0.0.0:80"] {
        let config = listener_at(directory.path(), address);
        let arguments: [&OsStr; 3] = ["run".as_ref(), "--config".as_ref(), config.as_ref()];
        if let Some(ended) = unprivileged(TEST, &arguments) {
            fails(&ended, 77, &[address, "ermission denied"]);
        }
    }
}

#[test]
fn a_missing_capability_is_named() {
    const TEST: &str = "a_missing_capability_is_named";
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "[collector]\nsource = \"conntrack\"\n");
    for command in ["run", "snapshot"] {
        let arguments: [&OsStr; 3] = [command.as_ref(), "--config".as_ref(), config.as_ref()];
        if let Some(ended) = unprivileged(TEST, &arguments) {
            fails(&ended, 77, &["CAP_NET_ADMIN"]);
        }
    }
}

#[test]
fn outputs_that_cannot_be_reached_are_named_and_the_daemon_goes_on() {
    let addresses = [
        "unixgram:///nonexistent/dsd.socket",
        "unixstream:///nonexistent/dsd.socket",
        "unix:///nonexistent/dsd.socket",
        "udp://no-such-host.invalid:8125",
        "tcp://127.0.0.1:1",
    ];
    let directory = tempfile::tempdir().unwrap();
    let outputs: String = addresses
        .iter()
        .flat_map(|address| ["[[output]]\naddress = \"", address, "\"\n"])
        .collect();
    let mut daemon = daemon(
        directory.path(),
        &format!("interval = \"100ms\"\n[collector]\nsource = \"off\"\n{outputs}"),
    );
    for address in addresses {
        daemon.until(&format!("{address} is named in the log"), |daemon| {
            let text = daemon.stderr.text();
            text.lines()
                .any(|line| line.contains("WARN") && line.contains(address))
        });
    }
    assert!(daemon.runs());
    assert_eq!(daemon.stop().code, Some(0));
}
