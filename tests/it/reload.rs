//! SIGHUP: another configuration, and the same connections.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::Signal;

use crate::support::clients::{framed, free_udp_port};
use crate::support::daemon::{Program, configuration, daemon};
use crate::support::receiver::Receiver;
use crate::support::tally::Tally;

fn body(directory: &Path, output: &str, more: &str) -> String {
    format!(
        "interval = \"200ms\"\n[collector]\nsource = \"off\"\n[report]\ntelemetry = false\n\
         [[listener]]\naddress = \"unixstream://{}/in.socket\"\norigin = \"none\"\n\
         [[output]]\naddress = \"{output}\"\n{more}",
        directory.display()
    )
}

/// Reads the configuration anew.
fn reload(daemon: &mut Program, directory: &Path, body: &str, said: &str) {
    configuration(directory, body);
    daemon.signal(Signal::HUP);
    daemon.until(said, |daemon| daemon.stderr.contains(said));
}

struct Client(UnixStream, usize);

impl Client {
    fn send(&mut self) {
        self.0.write_all(&framed(b"reloaded.count:1|c\n")).unwrap();
        self.1 += 1;
    }
}

#[test]
fn what_is_unchanged_goes_on_and_what_is_new_begins() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let mut daemon = daemon(directory, &body(directory, &receiver.address, ""));
    let pid = daemon.pid();
    let stream = UnixStream::connect(directory.join("in.socket")).unwrap();
    let mut client = Client(stream, 0);
    client.send();

    let port = free_udp_port();
    let udp = format!("[[listener]]\naddress = \"udp://127.0.0.1:{port}\"\n");
    let more = body(directory, &receiver.address, &udp);
    let listening = format!("listening address=udp://127.0.0.1:{port}");
    reload(&mut daemon, directory, &more, &listening);
    client.send();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .send_to(b"reloaded.count:1|c\n", ("127.0.0.1", port))
        .unwrap();
    client.1 += 1;

    reload(&mut daemon, directory, &more, "has not changed");
    client.send();
    let wrong = more.replace("[[output]]", "[[outputs]]");
    reload(&mut daemon, directory, &wrong, "stays as it was");
    assert!(daemon.stderr.contains("outputs"), "it says what is wrong");
    client.send();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!(
        "[[listener]]\naddress = \"tcp://{}\"\n",
        taken.local_addr().unwrap()
    );
    let refused = body(directory, &receiver.address, &tcp);
    reload(
        &mut daemon,
        directory,
        &refused,
        "goes on with the configuration of before",
    );
    client.send();
    socket
        .send_to(b"reloaded.count:1|c\n", ("127.0.0.1", port))
        .unwrap();
    client.1 += 1;
    daemon.until("all arrives", |_| {
        let lines = receiver.lines();
        let counts = lines.iter().filter(|line| line.starts_with("reloaded."));
        Tally::of(counts).increments() == client.1
    });
    assert_eq!(daemon.pid(), pid);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
