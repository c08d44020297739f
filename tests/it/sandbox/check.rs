//! `conntally check` finds what a start would: on the host, and at the far end.

use std::net::{TcpListener, UdpSocket};

use crate::support::clients::{free_tcp_port, free_udp_port};
use crate::support::daemon::{Ended, configuration, conntally};

fn check(body: &str, arguments: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), body);
    let config = config.to_str().unwrap();
    conntally([&["check", "--config", config], arguments].concat())
}

#[test]
fn what_the_host_has_not_is_found_with_its_line() {
    let body = "user = \"no-such-user\"\n\
         [[listener]]\naddress = \"unixstream:///no/such/directory/in.socket\"\n\
         owner = \":no-such-group\"\n\
         [[output]]\naddress = \"stdout:\"\nspool = \"/no/such/directory/spool\"\n";
    let ended = check(body, &[]);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    for said in [
        ":1:8: user: there is no user \"no-such-user\" in /etc/passwd",
        ":3:11: listener[0].address: there is no directory /no/such/directory: make it",
        ":4:9: listener[0].owner: there is no group \"no-such-group\" in /etc/group",
        ":7:9: output[0].spool: there is no directory /no/such/directory: make it",
    ] {
        assert!(ended.stderr.contains(said), "no {said} in {}", ended.stderr);
    }
    let ended = check(body, &["--file-only"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended = check("user = \":nogroup\"\n", &["--file-only"]);
    assert!(
        ended.stderr.contains("user: \":nogroup\" names no user"),
        "{}",
        ended.stderr
    );
}

#[test]
fn outputs_that_nobody_listens_at_are_found_by_connecting() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = |address: String| format!("[[output]]\naddress = \"{address}\"\n");
    let well = [
        output(format!("tcp://{}", tcp.local_addr().unwrap())),
        output(format!("udp://{}", udp.local_addr().unwrap())),
        output("stdout:".to_owned()),
    ];
    let ended = check(&well.concat(), &["--connect"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let mut datagram = [0; 64];
    assert_eq!(udp.recv(&mut datagram).unwrap(), 0, "it means nothing");

    let away = [
        output(format!("tcp://127.0.0.1:{}", free_tcp_port())),
        output(format!("udp://127.0.0.1:{}", free_udp_port())),
        output(format!("unix://{}", missing.display())),
    ];
    let ended = check(&away.concat(), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended = check(&[well.concat(), away.concat()].concat(), &["--connect"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let told: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(told.len(), 3, "{}", ended.stderr);
    for (line, said) in told.iter().zip([
        "output[3].address: cannot connect to",
        "output[4].address: cannot connect to",
        "output[5].address: cannot connect to",
    ]) {
        assert!(line.contains(said), "no {said} in {line}");
    }
}
