//! Socket files, and what stands in a listener's way.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use conntally::config::{self, FileMode};
use conntally::listen::Listener;
use conntally::telemetry::Refusal;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

use super::{Rig, frame};

fn at(scheme: &str, path: &Path) -> config::Listener {
    config::Listener {
        address: format!("{scheme}://{}", path.display()).parse().unwrap(),
        ..config::Listener::default()
    }
}

async fn error_of(config: &config::Listener) -> String {
    Listener::bind(config).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dsd.socket");
    for scheme in ["unixstream", "unixgram"] {
        drop(UnixListener::bind(&path).unwrap());
        Listener::bind(&at(scheme, &path)).await.unwrap();
        assert!(!path.exists(), "left behind by {scheme}");

        drop(UnixDatagram::bind(&path).unwrap());
        Listener::bind(&at(scheme, &path)).await.unwrap();
        assert!(!path.exists(), "left behind by {scheme}");
    }
}

#[test]
fn of_many_that_bind_at_once_over_a_stale_file_one_does_and_nothing_is_left_behind() {
    const ROUNDS: usize = 200;
    const BINDERS: usize = 4;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dsd.socket");
    let (begin, end) = (Barrier::new(BINDERS), Barrier::new(BINDERS));
    let bound = AtomicUsize::new(0);
    thread::scope(|scope| {
        for binder in 0..BINDERS {
            let (path, directory, bound) = (&path, directory.path(), &bound);
            let (begin, end) = (&begin, &end);
            scope.spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                for round in 0..ROUNDS {
                    if binder == 0 {
                        drop(UnixListener::bind(path).unwrap());
                    }
                    begin.wait();
                    let scheme = ["unixstream", "unixgram"][round % 2];
                    let binding = async { Listener::bind(&at(scheme, path)).await };
                    let listener = runtime.block_on(binding);
                    match &listener {
                        Ok(_) => drop(bound.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            let error = error.to_string();
                            assert!(error.contains("address in use"), "{error}");
                        }
                    }
                    end.wait();
                    if listener.is_ok() {
                        let found: Vec<_> = fs::read_dir(directory).unwrap().collect();
                        assert_eq!(found.len(), 1, "{found:?}");
                    }
                    drop(listener);
                    if binder == 0 {
                        assert_eq!(bound.swap(0, Ordering::Relaxed), 1, "round {round}");
                    }
                    end.wait();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn who_holds_the_directory_locked_keeps_nobody_from_binding() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dsd.socket");
    let held = fs::File::open(directory.path()).unwrap();
    held.lock().unwrap();
    tokio::time::pause();
    Listener::bind(&at("unixstream", &path)).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let stream = directory.path().join("stream.socket");
    let datagram = directory.path().join("datagram.socket");
    let _listener = UnixListener::bind(&stream).unwrap();
    let _socket = UnixDatagram::bind(&datagram).unwrap();
    for scheme in ["unixstream", "unixgram"] {
        for path in [&stream, &datagram] {
            let error = error_of(&at(scheme, path)).await;
            let expected = format!(
                "address in use: another process listens on {scheme}://{}",
                path.display()
            );
            assert_eq!(error, expected);
            assert!(path.exists());
        }
    }
}

#[tokio::test]
async fn a_path_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "precious").unwrap();
    let error = error_of(&at("unixstream", &path)).await;
    let expected = format!("{} exists and is not a unix socket", path.display());
    assert!(error.ends_with(&expected), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = error_of(&at("unixgram", &missing.join("dsd.socket"))).await;
    let expected = format!("there is no directory {}", missing.display());
    assert!(error.ends_with(&expected), "{error}");
}

#[tokio::test]
async fn the_socket_file_has_its_mode_and_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dsd.socket");
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    for (scheme, mode) in [("unixstream", 0o722), ("unixgram", 0o660)] {
        let config = config::Listener {
            mode: FileMode(mode),
            owner: format!("{user}:{group}").parse().unwrap(),
            ..at(scheme, &path)
        };
        let _listener = Listener::bind(&config).await.unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{scheme}");
        assert_eq!((metadata.uid(), metadata.gid()), (user, group));
    }
    let config = config::Listener {
        owner: "no-such-user".parse().unwrap(),
        ..at("unixstream", &path)
    };
    let error = error_of(&config).await;
    assert!(
        error.ends_with("owner: there is no user \"no-such-user\" in /etc/passwd"),
        "{error}"
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_file_that_is_not_ours_any_more_is_left_at_exit() {
    let rig = Rig::stream(|_| {}).await;
    let path = rig.path().to_owned();
    fs::rename(&path, rig.beside("moved.socket")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let directory = rig.directory.path().to_owned();
    rig.stop.cancel();
    rig.task.await.unwrap();
    assert!(path.exists(), "in {}", directory.display());
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    for scheme in ["udp", "tcp"] {
        let mut config = config::Listener {
            address: format!("{scheme}://127.0.0.1:0").parse().unwrap(),
            ..config::Listener::default()
        };
        let first = Listener::bind(&config).await.unwrap();
        config.address = first.address().clone();
        let error = error_of(&config).await;
        let expected = format!(
            "address in use: another process listens on {}",
            config.address
        );
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn what_a_listener_cannot_do_is_said() {
    let listener = |address: &str| config::Listener {
        address: address.parse().unwrap(),
        ..config::Listener::default()
    };
    let with_uids = config::Listener {
        allow_uids: vec![0],
        ..listener("udp://127.0.0.1:0")
    };
    let with_tag = config::Listener {
        tags: vec!["a|b".to_owned()],
        ..listener("udp://127.0.0.1:0")
    };
    for (config, part) in [
        (listener("stdout:"), "write unixstream:///path"),
        (listener("unix:///run/x.socket"), "write unixstream:///path"),
        (
            with_uids,
            "allow_uids works with unixstream:// and unixgram://",
        ),
        (with_tag, "tags: \"a|b\" is not a tag"),
        (listener("udp://192.0.2.1:0"), "failed to bind"),
    ] {
        let error = error_of(&config).await;
        assert!(error.contains(part), "{error}");
    }
}

/// Set in the process that runs out of file descriptors.
const IN_CHILD: &str = "CONNTALLY_TEST_WITHOUT_DESCRIPTORS";

#[test]
fn accepting_goes_on_after_running_out_of_file_descriptors() {
    // The limit is a whole process's.
    if std::env::var_os(IN_CHILD).is_none() {
        let name = "listen::socket::accepting_goes_on_after_running_out_of_file_descriptors";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rig = Rig::stream(|_| {}).await;
        let mut client = UnixStream::connect(rig.path()).await.unwrap();
        let limit = getrlimit(Resource::Nofile);
        let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let mut none_left = limit;
        none_left.current = Some(used - 1);
        setrlimit(Resource::Nofile, none_left).unwrap();
        rig.until("refused", |counters| {
            counters.refused.get(Refusal::System) > 1
        })
        .await;
        setrlimit(Resource::Nofile, limit).unwrap();
        client.write_all(&frame("a:1|c")).await.unwrap();
        assert_eq!(rig.lines(1).await, "a:1|c\n");
    });
}
