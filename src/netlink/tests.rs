use netlink_packet_core::NLM_F_DUMP;

use super::*;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;

fn links() -> Request {
    Request::new(RTM_GETLINK, NLM_F_DUMP, &[0; 16])
}

#[test]
fn a_dump_comes_to_its_end() {
    let mut netlink = Netlink::open(Subsystem::Route).unwrap();
    let mut links_seen = 0;
    let dumped = netlink.dump(&mut links(), &mut |message| {
        assert_eq!(message.kind, RTM_NEWLINK);
        links_seen += 1;
    });
    assert!(!dumped.unwrap().interrupted);
    assert!(links_seen > 0);
}

#[test]
fn a_datagram_that_does_not_fit_is_told_and_the_next_dump_is_whole() {
    let mut netlink = Netlink::open(Subsystem::Route).unwrap();
    netlink.buffer = Vec::with_capacity(64);
    let error = netlink.dump(&mut links(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, NetlinkError::Truncated { .. }), "{error}");
    assert_eq!(error.reason(), CollectError::Truncated);
    let mut links_seen = 0;
    let dumped = netlink.dump(&mut links(), &mut |_| links_seen += 1);
    assert!(!dumped.unwrap().interrupted);
    assert!(links_seen > 0);
}

#[test]
fn a_refusal_carries_the_kernels_error_and_leaves_the_socket_usable() {
    let mut netlink = Netlink::open(Subsystem::SocketDiag).unwrap();
    let nonsense = || Request::new(4711, NLM_F_DUMP, &[]);
    for _ in 0..2 {
        let error = netlink.dump(&mut nonsense(), &mut |_| {}).unwrap_err();
        assert_eq!(error.refusal(), Some(libc::EINVAL), "{error}");
        let error = netlink.ask(&mut nonsense(), |_| ()).unwrap_err();
        assert_eq!(error.refusal(), Some(libc::EINVAL), "{error}");
    }
}

#[test]
fn no_notice_is_no_wait() {
    let mut netlink = Netlink::open(Subsystem::Route).unwrap();
    netlink.notices(&mut |_| {}).unwrap();
}

#[test]
fn an_acknowledgement_is_no_refusal() {
    assert!(refusal(&0_i32.to_ne_bytes()).is_ok());
    assert!(refusal(&[]).is_ok());
    let error = refusal(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
    assert_eq!(error.reason(), CollectError::Permission);
}
