use std::os::unix::net::{UnixDatagram, UnixListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::time::timeout;

use super::udp::udp_socket;
use super::*;
use crate::address::HostPort;
use crate::output::own::take_out;
use crate::output::payload::{Delimiter, Shape};
use crate::telemetry::OutputError;

const PATIENCE: Duration = Duration::from_secs(30);

fn chunk(delimiter: Delimiter, lines: &str) -> Chunk {
    let mut chunk = Chunk::new(Shape {
        limit: 8,
        delimiter,
    });
    let mut count = lines.lines().count() as u64;
    chunk.append(&mut lines.as_bytes(), &mut count);
    chunk.seal();
    chunk
}

async fn connected(there: &UdpSocket) -> Transport {
    let end = there.local_addr().unwrap().to_string().parse().unwrap();
    Transport::connect(&Address::Udp(end), &OwnListeners::default())
        .await
        .unwrap()
}

async fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    let bytes = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap();
    buffer[..bytes.unwrap()].to_vec()
}

#[tokio::test]
async fn after_a_refusal_the_next_of_a_udp_receivers_addresses_is_used() {
    let there = UdpSocket::bind("[::1]:0").await.unwrap();
    let there_address = there.local_addr().unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody_address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut transport = Transport {
        socket: Socket::Udp(Udp {
            socket: udp_socket(nobody_address).await.unwrap(),
            addresses: vec![there_address, nobody_address],
            refusals: 0,
            is_on_trial: false,
        }),
        file: None,
    };
    let (mut throttle, counters) = (Throttle::default(), OutputCounters::default());
    let mut chunk = chunk(Delimiter::Datagram, "a:1|c\nb:1|c\nc:1|c\n");
    let refused = transport.send(&mut chunk, &mut throttle, &counters).await;
    assert!(matches!(refused, Err(SendError::Refused(_))));
    assert_eq!((chunk.lines(), counters.sent.get()), (3, 0));
    assert!(transport.next_address().await.unwrap());
    transport
        .send(&mut chunk, &mut throttle, &counters)
        .await
        .unwrap();
    for line in ["a:1|c\n", "b:1|c\n", "c:1|c\n"] {
        assert_eq!(received(&there).await, line.as_bytes());
    }
    assert_eq!((chunk.lines(), counters.sent.get()), (0, 3));
}

#[tokio::test]
async fn a_datagram_that_was_refused_is_the_next_one_again() {
    let there = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = there.local_addr().unwrap();
    let mut transport = connected(&there).await;
    let (mut throttle, counters) = (Throttle::default(), OutputCounters::default());
    let mut first = chunk(Delimiter::Datagram, "a:1|c\n");
    transport
        .send(&mut first, &mut throttle, &counters)
        .await
        .unwrap();
    drop(there);
    // The last of a chunk, which no other tells of.
    for lines in ["b:1|c\n", "c:1|c\nd:1|c\n"] {
        let mut chunk = chunk(Delimiter::Datagram, lines);
        let before = chunk.lines();
        let refused = transport.send(&mut chunk, &mut throttle, &counters).await;
        assert!(matches!(refused, Err(SendError::Refused(_))));
        assert_eq!((chunk.lines(), counters.sent.get()), (before, 1));
        assert!(!transport.next_address().await.unwrap(), "there is none");
    }
    let there = UdpSocket::bind(address).await.unwrap();
    let mut transport = transport.on_trial();
    let mut chunk = chunk(Delimiter::Datagram, "c:1|c\nd:1|c\n");
    transport
        .send(&mut chunk, &mut throttle, &counters)
        .await
        .unwrap();
    assert_eq!(received(&there).await, b"c:1|c\n");
    assert_eq!(received(&there).await, b"d:1|c\n");
    assert_eq!(counters.sent.get(), 3);
}

/// What a look at the receiver of `address` shows, after `change`.
async fn look_after(address: &str, path: &Path, change: impl FnOnce()) -> Option<Changed> {
    let address = address.parse().unwrap();
    let mut transport = Transport::connect(&address, &OwnListeners::default())
        .await
        .unwrap();
    assert!(transport.look(path).is_none(), "nothing has changed yet");
    change();
    transport.look(path)
}

#[tokio::test]
async fn a_receiver_that_is_replaced_or_dead_is_noticed_without_sending() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.socket");
    let datagrams = format!("unixgram://{}", path.display());
    let stream = format!("unixstream://{}", path.display());
    let bind = || UnixDatagram::bind(&path).unwrap();

    let there = bind();
    let same = look_after(&datagrams, &path, || ()).await;
    assert!(same.is_none());
    let changed = look_after(&datagrams, &path, || drop(there)).await;
    assert!(matches!(changed, Some(Changed::Dead(_))), "{changed:?}");

    std::fs::remove_file(&path).unwrap();
    let _there = bind();
    // Without its file it still receives.
    let changed = look_after(&datagrams, &path, || std::fs::remove_file(&path).unwrap()).await;
    assert!(changed.is_none(), "{changed:?}");

    let _there = bind();
    let mut other = None;
    let changed = look_after(&datagrams, &path, || {
        std::fs::remove_file(&path).unwrap();
        other = Some(bind());
    });
    assert!(matches!(changed.await, Some(Changed::Replaced)));

    std::fs::remove_file(&path).unwrap();
    let _there = UnixListener::bind(&path).unwrap();
    let mut other = None;
    let changed = look_after(&stream, &path, || {
        std::fs::remove_file(&path).unwrap();
        other = Some(UnixListener::bind(&path).unwrap());
    });
    assert!(matches!(changed.await, Some(Changed::Replaced)));
}

/// Sends `lines` to a unix stream receiver that reads `reads` bytes and goes: returns how
/// many lines it may not have read.
async fn at_risk_after(lines: &str, reads: usize) -> u64 {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut transport = Transport {
        socket: Socket::Stream(Stream::unix(ours)),
        file: None,
    };
    let (mut throttle, counters) = (Throttle::default(), OutputCounters::default());
    let mut chunk = chunk(Delimiter::LengthPrefix, lines);
    transport
        .send(&mut chunk, &mut throttle, &counters)
        .await
        .unwrap();
    theirs.read_exact(&mut vec![0; reads]).await.unwrap();
    drop(theirs);
    let error = timeout(PATIENCE, transport.closed()).await.unwrap();
    transport.lines_at_risk(Some(&error))
}

#[tokio::test]
async fn lines_that_a_dead_receiver_had_not_read_are_at_risk() {
    // Two payloads of 6 bytes, each behind 4.
    assert_eq!(at_risk_after("a:1|c\nb:1|c\n", 20).await, 0);
    assert_eq!(at_risk_after("a:1|c\nb:1|c\n", 10).await, 2, "a bound");
}

#[tokio::test]
async fn a_udp_receiver_of_one_address_is_kept_after_a_refusal() {
    let there = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut transport = connected(&there).await;
    assert!(transport.next_address().await.unwrap());
    let (mut throttle, counters) = (Throttle::default(), OutputCounters::default());
    let mut chunk = chunk(Delimiter::Datagram, "a:1|c\n");
    transport
        .send(&mut chunk, &mut throttle, &counters)
        .await
        .unwrap();
    assert_eq!(received(&there).await, b"a:1|c\n");
    assert_eq!(counters.sent.get(), 1);
    assert_eq!(counters.payloads.get(), 1);
    assert_eq!(counters.bytes.get(), 6);
}

#[tokio::test]
async fn a_tcp_receiver_is_reached_by_whichever_of_its_addresses_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let end = HostPort {
        host: "localhost".to_owned(),
        port,
    };
    let transport = Transport::connect(&Address::Tcp(end), &OwnListeners::default())
        .await
        .unwrap();
    assert!(matches!(transport.socket, Socket::Stream(_)));
}

#[tokio::test]
async fn a_name_of_an_own_listener_is_sent_to_by_its_other_addresses_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let end = |host: &str| HostPort {
        host: host.to_owned(),
        port,
    };
    for to in [Address::Tcp as fn(HostPort) -> Address, Address::Udp] {
        let own: OwnListeners = [&to(end("127.0.0.1"))].into_iter().collect();
        // As inet_aton(3) reads it, and no address yet.
        let error = Transport::connect(&to(end("127.1")), &own)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Own { .. }), "{error}");
        assert_eq!(error.kind(), OutputError::Connect);
        let other = Transport::connect(&to(end("127.2")), &own).await;
        assert!(!matches!(other, Err(ConnectError::Own { .. })));
    }
    let own: OwnListeners = [&Address::Udp(end("127.0.0.1"))].into_iter().collect();
    let tcp = Transport::connect(&Address::Tcp(end("127.1")), &own).await;
    assert!(tcp.is_ok(), "the port is another's");
    let mut both = vec![
        "127.0.0.1:1".parse().unwrap(),
        "127.0.0.2:1".parse().unwrap(),
    ];
    assert_eq!(take_out(&mut both, &["127.0.0.1:1".parse().unwrap()]), None);
    assert_eq!(both, ["127.0.0.2:1".parse().unwrap()]);
}

#[tokio::test]
async fn what_a_receiver_says_is_discarded_and_its_end_is_noticed() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut transport = Transport {
        socket: Socket::Stream(Stream::unix(ours)),
        file: None,
    };
    theirs.write_all(&[b'x'; 5000]).await.unwrap();
    drop(theirs);
    let error = timeout(PATIENCE, transport.closed()).await.unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_error_says_what_could_not_be_reached_and_counts_as_what_it_is() {
    for (address, text, kind) in [
        (
            "unixgram:///no/such/socket",
            "cannot connect to /no/such/socket",
            OutputError::Connect,
        ),
        (
            "unix:///no/such/socket",
            "cannot connect to /no/such/socket",
            OutputError::Connect,
        ),
        (
            "udp://no-such-host.invalid:1",
            "cannot look up \"no-such-host.invalid\"",
            OutputError::Resolve,
        ),
    ] {
        let error = Transport::connect(&address.parse().unwrap(), &OwnListeners::default())
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(error.kind(), kind);
    }
}
