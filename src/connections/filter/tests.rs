//! What filters let through, and what they say of those that are none.

use super::*;

fn filter(pairs: &[(&str, &str)]) -> ConnectionFilter {
    let mut filter = ConnectionFilter::default();
    for (key, value) in pairs {
        filter.add(key, value).unwrap();
    }
    filter
}

fn admits(pairs: &[(&str, &str)], condition: Condition) -> Option<bool> {
    filter(pairs).admits(&Subject {
        host: &HostName::Name("db".into()),
        address: Some([10, 1, 2, 3].into()),
        protocol: Protocol::Tcp,
        direction: Direction::Outbound,
        ports: Some(ServicePorts {
            ports: [443, 8443, 443],
            count: 3,
        }),
        condition,
    })
}

const OPEN: Condition = Condition::Now(State::Tcp(TcpState::Established));
const CLOSED: Condition = Condition::Ended(End::Closed);
const REFUSED: Condition = Condition::Ended(End::Failed(Failure::Refused));

#[test]
fn of_one_key_any_value_does_and_of_several_keys_all_must_hold() {
    for (pairs, admitted) in [
        (&[][..], true),
        (&[("host", "db")], true),
        (&[("host", "10.1.2.3")], true),
        (&[("host", "10.0.0.0/8")], true),
        (&[("host", "web,10.1.0.0/16")], true),
        (&[("host", "web"), ("host", "db")], true),
        (&[("host", "192.0.2.0/24")], false),
        (&[("host", "fd00::/8")], false),
        (&[("port", "443")], true),
        (&[("port", "80,8443")], true),
        (&[("port", "80")], false),
        (&[("direction", "outbound"), ("protocol", "tcp")], true),
        (&[("direction", "outbound"), ("protocol", "udp")], false),
        (&[("direction", "inbound")], false),
    ] {
        assert_eq!(admits(pairs, OPEN), Some(admitted), "{pairs:?}");
    }
}

#[test]
fn a_state_is_general_or_raw_or_an_end() {
    for (state, open, closed, refused) in [
        ("open", true, false, false),
        ("established", true, false, false),
        ("time_wait", false, false, false),
        ("closed", false, true, false),
        ("failed", false, false, true),
        ("refused", false, false, true),
        ("timeout", false, false, false),
        ("open,failed", true, false, true),
    ] {
        let of = |condition| admits(&[("state", state)], condition);
        let expected = [open, closed, refused].map(Some);
        assert_eq!([OPEN, CLOSED, REFUSED].map(of), expected, "{state}");
    }
}

#[test]
fn what_is_not_known_is_not_decided_unless_something_else_decides_it() {
    let host = HostName::Folded("public");
    let subject = Subject {
        host: &host,
        address: None,
        protocol: Protocol::Tcp,
        direction: Direction::Inbound,
        ports: None,
        condition: CLOSED,
    };
    for (pairs, verdict) in [
        (&[("host", "10.0.0.0/8")][..], None),
        (&[("host", "public")], Some(true)),
        (&[("host", "10.0.0.0/8,public")], Some(true)),
        (&[("port", "443")], None),
        (&[("port", "443"), ("host", "db")], Some(false)),
        (&[("port", "443"), ("protocol", "udp")], Some(false)),
    ] {
        assert_eq!(filter(pairs).admits(&subject), verdict, "{pairs:?}");
    }
}

#[test]
fn a_wrong_filter_says_what_would_be_right() {
    for (key, value, part) in [
        ("hosts", "db", "there is no filter \"hosts\""),
        ("host", "10.0.0.0/33", "write an address, a network"),
        ("host", "", "write an address"),
        ("port", "http", "from 0 to 65535"),
        ("port", "65536", "from 0 to 65535"),
        ("state", "established,up", "\"up\" is no state"),
        ("direction", "in", "write outbound, inbound"),
        ("protocol", "TCP", "write tcp"),
    ] {
        let error = ConnectionFilter::default().add(key, value).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut filter = ConnectionFilter::default();
    let many = vec!["1"; MAX_VALUES + 1].join(",");
    assert_eq!(filter.add("port", &many), Err(FilterError::TooMany("port")));
}

#[test]
fn a_filter_reads_back_from_its_pairs() {
    let filter = filter(&[
        ("host", "db,10.0.0.0/8,fd00::1"),
        ("port", "443,0"),
        ("state", "open,closed,established,failed,reset"),
        ("direction", "local,inbound"),
        ("protocol", "udplite,tcp"),
    ]);
    let mut again = ConnectionFilter::default();
    for (key, value) in filter.pairs() {
        again.add(key, &value).unwrap();
    }
    assert_eq!(again, filter);
}
