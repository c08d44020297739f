use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::thread;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

const RELAY: &str = "[collector]\nsource = \"off\"\n[admin]\nsocket = \"/srv/run/admin.sock\"\n\
     [[listener]]\naddress = \"unixstream:///srv/run/in.socket\"\n\
     [[output]]\naddress = \"unix:///srv/elsewhere/out.socket\"\nspool = \"/srv/spool/one\"\n";

fn files() -> Vec<PathBuf> {
    vec!["/srv/etc/conntally.toml".into()]
}

/// That of a process in which all of it is in force.
fn standing(config: &Config) -> Standing {
    let needs = Needs::of(config, &files());
    Standing {
        capabilities: Some(needs.capability_set().bits()),
        enters: Some(needs.enters),
        files: Some(needs.files),
        ..Standing::of(&config.user, config.sandbox)
    }
}

#[test]
fn a_configuration_needs_the_directories_and_capabilities_of_its_keys() {
    let needs = Needs::of(&config(RELAY), &files());
    let told = needs.files.iter().map(|need| {
        let place = need.place.display();
        format!("{} {place} {:?}", need.key, need.r#use)
    });
    let expected = [
        "/srv/etc/conntally.toml /srv/etc Read",
        "listener[0].address /srv/run Sockets",
        "output[0].spool /srv/spool Spool",
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert!(needs.capabilities.is_empty() && !needs.enters);

    let needs = Needs::of(
        &config(
            "[collector]\nnetns = [\"blue\"]\n[admin]\nhttp = \"127.0.0.1:80\"\n\
             [[listener]]\naddress = \"udp://127.0.0.1:8125\"\n",
        ),
        &files(),
    );
    let names = user::names(needs.capability_set());
    assert_eq!(names, "CAP_NET_BIND_SERVICE,CAP_NET_ADMIN,CAP_SYS_ADMIN");
    assert!(needs.enters);
    assert_eq!(user::names(CapabilitySet::empty()), "none");
}

#[test]
fn what_was_given_up_is_told_key_by_key() {
    let before = config(RELAY);
    let standing = standing(&before);
    let told = |config: &Config, files: &[PathBuf]| standing.forbids(config, files);
    assert_eq!(told(&before, &files()), [""; 0]);
    let beneath = files().into_iter().chain(["/srv/etc/conf.d/a.toml".into()]);
    assert_eq!(told(&before, &beneath.collect::<Vec<_>>()), [""; 0]);

    let mut after = config(
        &RELAY
            .replace("/srv/spool/", "/srv/run/")
            .replace("off", "auto"),
    );
    after.user.user = "web".to_owned();
    after.sandbox = config::Sandbox::Off;
    after.collector.netns = vec!["/proc/1/ns/net".parse().unwrap()];
    after.listeners[0].address = "unixstream:///srv/etc/in.socket".parse().unwrap();
    let expected = [
        "user: it is changed at a start alone",
        "sandbox: it is changed at a start alone",
        "listener[0].address: /srv/etc is outside of the sandbox",
        "output[0].spool: /srv/run is outside of the sandbox",
        "collector.netns[0]: /proc/1/ns is outside of the sandbox",
        "collector.source: it needs CAP_NET_ADMIN, which was given up",
        "collector.netns: it needs CAP_SYS_ADMIN, which was given up",
        "collector.netns: setns(2) was given up",
        "collector.netns: /proc/PID of others is outside of the sandbox",
    ];
    assert_eq!(told(&after, &files()), expected);
    let free = Standing::of(&after.user, after.sandbox);
    assert_eq!(free.forbids(&after, &[]), [""; 0]);
}

#[test]
fn a_program_that_is_executed_is_told_what_it_may_do() {
    let before = config(RELAY);
    let standing = standing(&before);
    let (name, value) = standing.variable().unwrap();
    assert_eq!(serde_json::from_str::<Standing>(&value).unwrap(), standing);
    let free = Standing::of(&before.user, before.sandbox);
    assert_eq!(free.variable(), None);
    // A thread without `no_new_privs` was not told by one that has it.
    let environment = Environment::of(&[(name, &value)]);
    assert_eq!(Standing::inherited(&environment), None);
    let inside = thread::spawn(move || {
        set_no_new_privs(true).unwrap();
        Standing::inherited(&environment)
    });
    assert_eq!(inside.join().unwrap(), Some(standing));
}

/// Says loudly that this kernel can't show it; in CI it must.
fn skip(test: &str, came: &Came) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} may not be skipped here: {came}"
    );
    writeln!(io::stderr(), "SKIPPED: {test}: {came}").unwrap();
}

/// On a thread of its own: both bind the calling thread alone.
fn on_a_thread(needs: Needs, restrict: fn(&Needs) -> Came, body: impl FnOnce() + Send + 'static) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let inside = thread::spawn(move || {
        set_no_new_privs(true).unwrap();
        match restrict(&needs) {
            Came::Restricted => body(),
            came => skip(&test, &came),
        }
    });
    inside.join().unwrap();
}

#[test]
fn files_that_no_key_needs_are_out_of_reach() {
    let directory = tempfile::tempdir().unwrap();
    let [run, spool, other] = ["run", "spool", "other"].map(|name| directory.path().join(name));
    for place in [&run, &spool, &other] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("file"), "there").unwrap();
    }
    let text = format!(
        "[[listener]]\naddress = \"unixstream://{}/in.socket\"\n\
         [[output]]\naddress = \"stdout:\"\nspool = \"{}/one\"\n",
        run.display(),
        spool.display()
    );
    let needs = Needs::of(&config(&text), &[]);
    on_a_thread(needs, files::restrict, move || {
        let denied = |outcome: io::Result<()>| outcome.unwrap_err().kind();
        let forbidden = io::ErrorKind::PermissionDenied;
        assert_eq!(
            denied(std::fs::read(other.join("file")).map(drop)),
            forbidden
        );
        assert_eq!(denied(std::fs::write(other.join("new"), "")), forbidden);
        assert_eq!(denied(std::fs::write(run.join("new"), "")), forbidden);
        assert_eq!(denied(std::fs::read(run.join("file")).map(drop)), forbidden);
        std::os::unix::net::UnixListener::bind(run.join("in.socket")).unwrap();
        std::fs::remove_file(run.join("in.socket")).unwrap();
        std::fs::write(spool.join("new"), "").unwrap();
        std::fs::rename(spool.join("new"), spool.join("one")).unwrap();
        std::fs::read("/proc/self/status").unwrap();
        std::fs::read("/etc/passwd").unwrap();
        // Whoever stands in the directory of the program or of its libraries may be executed.
        let this = std::env::current_exe().unwrap();
        let listed = std::process::Command::new(this).arg("--list").output();
        assert!(listed.unwrap().status.success());
    });
}

#[test]
fn calls_that_the_daemon_never_makes_fail_and_those_that_it_makes_do_not() {
    let needs = Needs::of(&config(RELAY), &[]);
    on_a_thread(needs, calls::filter, || {
        let packet = socket(AddressFamily::PACKET, SocketType::RAW, None);
        assert_eq!(packet.unwrap_err(), Errno::PERM);
        for family in [
            AddressFamily::UNIX,
            AddressFamily::INET,
            AddressFamily::INET6,
        ] {
            socket(family, SocketType::STREAM, None).unwrap();
        }
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let network = Some(LinkNameSpaceType::Network);
        let entered = move_into_link_name_space(own.as_fd(), network);
        assert_eq!(entered.unwrap_err(), Errno::PERM);
        let uid = rustix::process::geteuid();
        let changed = rustix::thread::set_thread_res_uid(uid, uid, uid);
        assert_eq!(changed.unwrap_err(), Errno::PERM);
        // Threads, and programs that are executed.
        thread::spawn(|| ()).join().unwrap();
        let ran = std::process::Command::new("true").status();
        assert!(ran.unwrap().success());
    });
    let mut needs = Needs::of(&config(RELAY), &[]);
    needs.enters = true;
    on_a_thread(needs, calls::filter, || {
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let network = Some(LinkNameSpaceType::Network);
        let entered = move_into_link_name_space(own.as_fd(), network);
        // Whoever may not enter it without the filter is told the same.
        if rustix::process::geteuid().is_root() {
            entered.unwrap();
        }
    });
}
