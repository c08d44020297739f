use tokio::net::{TcpListener, UdpSocket};
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
    let mut transport = Transport::Udp(Udp {
        socket: udp_socket(nobody_address).await.unwrap(),
        addresses: vec![there_address, nobody_address],
        refusals: 0,
    });
    let (mut throttle, counters) = (Throttle::default(), OutputCounters::default());
    let mut chunk = chunk(Delimiter::Datagram, "a:1|c\nb:1|c\nc:1|c\n");
    // The first goes nowhere, which the second is told.
    while !matches!(
        transport.send(&mut chunk, &mut throttle, &counters).await,
        Err(SendError::Refused)
    ) {
        chunk = self::chunk(Delimiter::Datagram, "a:1|c\nb:1|c\nc:1|c\n");
    }
    let next = chunk.next_payload().unwrap().to_vec();
    transport.next_address().await.unwrap();
    transport
        .send(&mut chunk, &mut throttle, &counters)
        .await
        .unwrap();
    assert_eq!(received(&there).await, next);
    assert_eq!(chunk.lines(), 0);
}

#[tokio::test]
async fn a_udp_receiver_of_one_address_is_kept_after_a_refusal() {
    let there = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = there.local_addr().unwrap();
    let end = address.to_string().parse().unwrap();
    let mut transport = Transport::connect(&Address::Udp(end), &OwnListeners::default())
        .await
        .unwrap();
    transport.next_address().await.unwrap();
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
    let Transport::Tcp(stream) = transport else {
        panic!("not TCP");
    };
    assert!(stream.nodelay().unwrap());
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
    let mut transport = Transport::UnixStream(ours);
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
