//! What the daemon gives up at its start, and that it lives well with what is left.

mod check;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::clients::{framed, send};
use crate::support::daemon::{Program, binary, clean};
use crate::support::netns::{Peer, isolated, run};
use crate::support::receiver::Receiver;
use crate::support::tally::Tally;
use crate::support::tools::skip;

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;
const USER: &str = "user = \"nobody:nogroup\"\n";
/// `CAP_NET_ADMIN`, as `/proc/PID/status` shows sets of capabilities.
const NET_ADMIN: &str = "0000000000001000";
const NO_CAPABILITY: &str = "0000000000000000";
const GOES_ON: &str = "goes on with what the process before left";
const NEEDS_RESTART: &str = "the new configuration needs a restart";

/// A directory that every user may enter, with a program of its own, and the daemon's
/// configuration, sockets and receiver in it.
struct Place {
    directory: tempfile::TempDir,
    receiver: Receiver,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open).unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        copy_program(&directory.path().join("bin/conntally"));
        let receiver = Receiver::start("unixstream", &directory.path().join("out"));
        for path in ["out", "out/socket"] {
            let path = directory.path().join(path);
            if path.exists() {
                fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
            }
        }
        Self {
            directory,
            receiver,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A relay as `top` has it, with a listener in `run`, and what `more` adds.
    fn body(&self, top: &str, more: &str) -> String {
        format!(
            "interval = \"200ms\"\n{top}[report]\ntelemetry = false\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{}\"\n{more}\
             [admin]\nsocket = \"{}\"\n",
            self.path("run/in.socket").display(),
            self.receiver.address,
            self.path("run/admin.sock").display(),
        )
    }

    fn configure(&self, body: &str) -> PathBuf {
        let path = self.path("conntally.toml");
        fs::write(&path, body).unwrap();
        path
    }

    /// Starts the daemon, and waits until it is inside and listens.
    fn start(&self, body: &str) -> Program {
        let config = self.configure(body);
        let mut command = clean(self.path("bin/conntally"));
        let mut daemon = Program::start(command.arg("run").arg("--config").arg(config));
        daemon.until("it listens", |daemon| daemon.stderr.contains(" listening "));
        daemon
    }

    fn send(&self) {
        send(&self.path("run/in.socket"), &framed(b"inside.count:1|c\n"));
    }

    /// Waits until so many have come.
    fn until_received(&self, daemon: &mut Program, count: usize) {
        daemon.until("all arrives", |_| {
            let lines = self.receiver.lines();
            let lines = lines.iter().filter(|line| line.starts_with("inside."));
            Tally::of(lines).increments() == count
        });
    }
}

/// By a process of its own: whatever another test starts meanwhile would else hold the new file
/// open for writing, and what is, is not executed.
fn copy_program(to: &Path) {
    run(&format!("cp {} {}", binary().display(), to.display()));
}

/// Nobody but root may become another.
fn is_root(test: &str) -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        skip(test, "not root");
    }
    is
}

/// The values of a field of `/proc/PID/status`, of each thread.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may end meanwhile.
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let of_one = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    statuses.map(of_one).collect()
}

#[track_caller]
fn assert_threads(pid: u32, field: &str, expected: &str) {
    for found in of_threads(pid, field) {
        assert_eq!(found, expected, "{field}");
    }
}

#[test]
fn root_becomes_the_user_in_every_thread_and_keeps_what_counting_needs() {
    if !is_root("root_becomes_the_user") {
        return;
    }
    isolated(&[], || {
        let place = Place::new();
        let body = place.body(USER, "");
        let mut daemon = place.start(&body);
        daemon.until("it counts", |daemon| daemon.stderr.contains("mode "));
        place.send();
        place.until_received(&mut daemon, 1);
        let pid = daemon.pid();
        assert!(
            of_threads(pid, "Name").len() > 1,
            "the collector has one too"
        );
        let id = ["65534"; 4].join("\t");
        assert_threads(pid, "Uid", &id);
        assert_threads(pid, "Gid", &id);
        assert_threads(pid, "Groups", "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_threads(pid, set, NET_ADMIN);
        }
        assert_threads(pid, "NoNewPrivs", "1");
        assert_threads(pid, "Seccomp", "2");
        let log = daemon.stderr.text();
        let told: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" sandbox "))
            .collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].ends_with("sandbox user=65534 capabilities=\"CAP_NET_ADMIN\" files=restricted system_calls=restricted"), "{log}");
        // The directory was missing.
        for made in ["run", "run/in.socket"] {
            let owner = fs::metadata(place.path(made)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (NOBODY, NOBODY), "{made}");
        }
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(!place.path("run/in.socket").exists(), "it is taken away");
        assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    });
}

#[test]
fn a_relay_keeps_no_capability() {
    if !is_root("a_relay_keeps_no_capability") {
        return;
    }
    let place = Place::new();
    let body = place.body(&format!("{USER}[collector]\nsource = \"off\"\n"), "");
    let daemon = place.start(&body);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_threads(daemon.pid(), set, NO_CAPABILITY);
    }
    assert_eq!(daemon.stop().code, Some(0));
}

/// More often than the kernel lets restrictions be stacked (16, `landlock(7)`), each time by a
/// new file in the program's place, as an upgrade leaves it.
#[test]
fn replacements_stay_inside_and_work_however_many_there_are() {
    if !is_root("replacements_stay_inside") {
        return;
    }
    isolated(&[], || {
        let place = Place::new();
        let mut daemon = place.start(&place.body(USER, ""));
        let mut stream = UnixStream::connect(place.path("run/in.socket")).unwrap();
        for time in 1..=20 {
            copy_program(&place.path("bin/new"));
            fs::rename(place.path("bin/new"), place.path("bin/conntally")).unwrap();
            daemon.signal(Signal::USR2);
            daemon.until("it goes on", |daemon| {
                daemon.stderr.text().matches(GOES_ON).count() == time
            });
            stream.write_all(&framed(b"inside.count:1|c\n")).unwrap();
        }
        place.until_received(&mut daemon, 20);
        let pid = daemon.pid();
        assert_threads(pid, "Uid", &["65534"; 4].join("\t"));
        assert_threads(pid, "CapEff", NET_ADMIN);
        assert_threads(pid, "Seccomp_filters", "2");
        drop(stream);
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(!place.path("run/in.socket").exists(), "it is taken away");
    });
}

#[test]
fn what_the_sandbox_forbids_takes_a_restart_and_changes_nothing() {
    let place = Place::new();
    fs::create_dir_all(place.path("run")).unwrap();
    let top = "[collector]\nsource = \"off\"\n";
    let body = place.body(top, "");
    let mut daemon = place.start(&body);
    let mut asked = 0;
    for (change, said) in [
        (
            body.replace("run/in.socket", "bin/in.socket"),
            "listener[0].address: ",
        ),
        (
            place.body(&format!("sandbox = \"off\"\n{top}"), ""),
            "sandbox: ",
        ),
        (place.body(&format!("user = \"root\"\n{top}"), ""), "user: "),
        (
            place.body(
                top,
                &format!("spool = \"{}\"\n", place.path("spool").display()),
            ),
            "output[0].spool: ",
        ),
    ] {
        place.configure(&change);
        asked += 1;
        daemon.signal(Signal::HUP);
        daemon.until(said, |daemon| {
            let log = daemon.stderr.text();
            log.matches(NEEDS_RESTART).count() == asked && log.contains(said)
        });
        daemon.signal(Signal::USR2);
        daemon.until(said, |daemon| {
            let log = daemon.stderr.text();
            log.matches("nothing takes this process's place").count() == asked
        });
        place.send();
    }
    // What is within is done.
    let beside = place.body(
        top,
        &format!(
            "[[listener]]\naddress = \"unixgram://{}\"\n",
            place.path("run/beside.socket").display()
        ),
    );
    place.configure(&beside);
    daemon.signal(Signal::HUP);
    daemon.until("the other listens", |daemon| {
        daemon.stderr.contains("beside.socket")
    });
    place.until_received(&mut daemon, asked);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn an_ordinary_user_hears_of_it_in_one_line() {
    if !is_root("an_ordinary_user") {
        return;
    }
    let place = Place::new();
    let home = place.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = clean(place.path("bin/conntally"));
    command.env("XDG_RUNTIME_DIR", &home).arg("run");
    let mut daemon = Program::start(command.uid(NOBODY).gid(NOBODY));
    daemon.until("it reports", |daemon| {
        daemon.stdout.contains("conntrack.hosts")
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let about: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.contains("sandbox"))
        .collect();
    assert_eq!(about.len(), 1, "{}", ended.stderr);
    assert!(
        about[0].contains(" INFO sandbox files=restricted system_calls=restricted"),
        "{}",
        about[0]
    );
}

/// A container or an older kernel: the thread that starts the daemon may not ask for any of it.
#[test]
fn without_landlock_and_filters_the_daemon_says_so_and_goes_on() {
    let place = Place::new();
    fs::create_dir_all(place.path("run")).unwrap();
    let body = place.body("[collector]\nsource = \"off\"\n", "");
    let mut daemon = std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            refuse_both();
            place.start(&body)
        });
        started.join().unwrap()
    });
    daemon.until("it says so", |daemon| {
        let log = daemon.stderr.text();
        log.contains("files=open: the kernel has no landlock")
            && log.contains("system_calls=open: ")
    });
    place.send();
    place.until_received(&mut daemon, 1);
    assert_eq!(daemon.stop().code, Some(0));
}

/// From now on, this thread and what it starts find neither.
fn refuse_both() {
    use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp];
    let rules = calls.map(|call| (call, Vec::new())).into_iter().collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, machine).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn who_may_not_become_the_user_is_told_so_at_once() {
    if !is_root("who_may_not_become_the_user") {
        return;
    }
    let place = Place::new();
    let run = |body: &str, uid: u32| {
        let config = place.configure(body);
        let mut command = clean(place.path("bin/conntally"));
        command.arg("run").arg("--config").arg(config);
        Program::start(command.uid(uid).gid(uid)).wait()
    };
    let ended = run("user = \"root\"\n", NOBODY);
    assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    let said = "conntally: user: cannot become user 0 of group 0 (begin: ";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    let ended = run("user = \"no-such-user\"\n", 0);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    let said = "conntally: user: there is no user \"no-such-user\" in /etc/passwd";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
}

/// Network namespaces are entered from within: by name with everything in force, by a path in
/// /proc without the restriction of files.
#[test]
fn network_namespaces_are_entered_from_within() {
    if !is_root("network_namespaces_are_entered_from_within") {
        return;
    }
    isolated(&[], || {
        let place = Place::new();
        let other = Peer::apart();
        let named = format!("conntally-{}", std::process::id());
        run(&format!("ip netns add {named}"));
        for (user, netns, said, capabilities) in [
            (USER, &named, "files=restricted", Some("0000000000201000")),
            (
                "",
                &other.path(),
                "files=open: collector.netns leads into /proc",
                None,
            ),
        ] {
            let top = format!("{user}[collector]\nnetns = [\"{netns}\"]\n");
            let mut daemon = place.start(&place.body(&top, ""));
            daemon.until("both are counted", |daemon| {
                let log = daemon.stderr.text();
                log.contains(said) && log.matches("mode ").count() == 2
            });
            if let Some(capabilities) = capabilities {
                assert_threads(daemon.pid(), "CapEff", capabilities);
            }
            let ended = daemon.stop();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        }
        run(&format!("ip netns delete {named}"));
    });
}
