//! One sender's flood of new contexts while the output is down, and what it leaves of others'
//! counts.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::support::counted::Counted;
use crate::support::daemon::{Program, daemon};
use crate::support::netns::{isolated, run};
use crate::support::receiver::{Pace, Receiver};
use crate::support::sender::Sender;
use crate::support::tally::Tally;

/// Contexts of the flood, each with one line: far more than may be queued and merged.
const FLOOD: usize = 3000;
const DATAGRAM_LINES: usize = 40;
/// Senders beside it, each with a context of its own, and what each counts in all.
const OTHERS: usize = 5;
const EACH: usize = 7;

/// An output that nobody listens behind yet, and its daemon.
struct Outage<'a> {
    directory: &'a Path,
    daemon: Program,
    address: String,
    sent: usize,
}

impl<'a> Outage<'a> {
    #[track_caller]
    fn begin(directory: &'a Path, listener: &str, keys: &str) -> Self {
        let address = format!("unixstream://{}/out.socket", directory.display());
        let body = format!(
            "interval = \"100ms\"\n\
             [collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"{listener}\"\norigin = \"none\"\n{keys}\
             [[output]]\naddress = \"{address}\"\nsources = [\"listeners\"]\n\
             queue = \"64KiB\"\nbacklog_contexts = 1000\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n"
        );
        let daemon = daemon(directory, &body);
        Self {
            directory,
            daemon,
            address,
            sent: 0,
        }
    }

    #[track_caller]
    fn until_taken(&mut self, lines: usize) {
        self.sent += lines;
        let (address, sent) = (self.address.clone(), self.sent);
        self.daemon.until("every line is taken", |daemon| {
            Counted::of(&daemon.stdout.text(), &address).accepted == sent
        });
    }

    #[track_caller]
    fn flood(&mut self, name: &str, send: impl Fn(&[u8])) {
        let lines: Vec<String> = (0..FLOOD)
            .map(|context| format!("{name}:1|c|#context:{context:060}\n"))
            .collect();
        for datagram in lines.chunks(DATAGRAM_LINES) {
            send(datagram.concat().as_bytes());
        }
        self.until_taken(FLOOD);
    }

    /// Lets the output go, and looks at what came of the others' counts.
    #[track_caller]
    fn end(mut self) {
        let out = self.directory.join("out");
        let receiver = Receiver::start_at(&self.address, &out, Pace::Full);
        let (address, sent) = (self.address, self.sent);
        let counted = |text: &str| Counted::of(text, &address);
        self.daemon.until("what was held is sent", |daemon| {
            counted(&daemon.stdout.text()).have_gone(sent)
        });
        let ended = self.daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let counted = counted(&ended.stdout);
        counted.assert_balanced();
        assert!(counted.dropped > FLOOD, "the flood passed: {counted:?}");
        receiver.sorted(counted.sent);
        let counts = Tally::of(receiver.lines()).counts;
        for other in 0..OTHERS {
            let count = counts.get(&format!("other{other}|c"));
            assert_eq!(count, Some(&EACH), "{counts:?}");
        }
    }
}

fn other_line(other: usize, count: usize) -> String {
    format!("other{other}:{count}|c")
}

#[test]
fn a_program_that_floods_by_unix_datagrams_does_not_displace_anothers_counts() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let socket = directory.join("in.socket");
    let mut outage = Outage::begin(directory, &format!("unixgram://{}", socket.display()), "");
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&socket).unwrap();
    let send = |datagram: &[u8]| assert_eq!(client.send(datagram).unwrap(), datagram.len());
    outage.flood("flood", send);
    for (other, count) in (0..OTHERS).flat_map(|other| [(other, 3), (other, EACH - 3)]) {
        let line = other_line(other, count);
        let _sender = Sender::start("unixgram", &socket, &line, None);
        outage.until_taken(1);
    }
    outage.flood("more", send);
    outage.end();
}

#[test]
fn a_host_that_floods_by_udp_does_not_displace_anothers_counts() {
    isolated(&[], || {
        for host in 1..=3 {
            run(&format!("ip addr add 10.9.0.{host}/32 dev lo"));
        }
        let directory = tempfile::tempdir().unwrap();
        // None of it is to be lost to the kernel.
        let keys = "receive_buffer = \"4MiB\"\n";
        let mut outage = Outage::begin(directory.path(), "udp://10.9.0.1:8125", keys);
        let [flooding, other] = ["10.9.0.2:0", "10.9.0.3:0"].map(|host| {
            let client = UdpSocket::bind(host).unwrap();
            client.connect("10.9.0.1:8125").unwrap();
            client
        });
        let send = |datagram: &[u8]| assert_eq!(flooding.send(datagram).unwrap(), datagram.len());
        outage.flood("flood", send);
        for (context, count) in (0..OTHERS).flat_map(|other| [(other, 3), (other, EACH - 3)]) {
            other.send(other_line(context, count).as_bytes()).unwrap();
        }
        outage.until_taken(2 * OTHERS);
        outage.flood("more", send);
        outage.end();
    });
}
