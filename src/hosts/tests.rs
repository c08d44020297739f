//! Each situation of addresses and translation, as connection tracking shows it.

use std::collections::BTreeMap;

use super::*;
use crate::flow::{Beginning, Status, Tuple};

const PEER: &str = "10.99.0.2";

/// This host's addresses: what the kernel's `local` table, broadcast and multicast
/// would hold, a virtual address on `lo`, and a pod network.
fn local() -> LocalAddresses {
    let mut local = LocalAddresses::default();
    for network in [
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.5/32",
        "198.51.100.5/32",
        "10.0.0.255/32",
        "255.255.255.255/32",
        "224.0.0.0/4",
        "ff00::/8",
        "10.96.0.53/32",
        "10.244.0.0/16",
        "fd00::5/128",
    ] {
        local.insert(network.parse().unwrap());
    }
    local
}

fn tuple(src: &str, dst: &str) -> Tuple {
    let end = |text: &str| {
        let (address, port) = text.rsplit_once(':').unwrap();
        (address.parse().unwrap(), port.parse().unwrap())
    };
    let ((src, src_port), (dst, dst_port)) = (end(src), end(dst));
    Tuple {
        src,
        dst,
        src_port,
        dst_port,
    }
}

/// An established TCP flow: the original way, and the reply way.
fn flow(original: [&str; 2], reply: [&str; 2]) -> Flow {
    Flow {
        original: tuple(original[0], original[1]),
        reply: tuple(reply[0], reply[1]),
        protocol: Protocol::Tcp,
        state: State::Tcp(TcpState::Established),
        status: Status(Status::SEEN_REPLY | Status::ASSURED),
        zone: 0,
        mark: 0,
        beginning: Beginning::Unknown,
    }
}

/// A flow that nothing translates.
fn plain(src: &str, dst: &str) -> Flow {
    flow([src, dst], [dst, src])
}

fn hosts(change: impl FnOnce(&mut config::Hosts)) -> Hosts {
    let mut config = config::Hosts {
        ports: true,
        ..config::Hosts::default()
    };
    change(&mut config);
    Hosts::with_ephemeral_ports(&config, EphemeralPorts::default())
}

/// Name, direction and port of a placement, as a text.
fn placed(hosts: &Hosts, flow: &Flow) -> String {
    hosts.place(flow, &local()).map_or_else(
        || "left out".to_owned(),
        |placement| {
            let name = hosts.name(placement.remote);
            let port = placement
                .port
                .map_or_else(|| "-".to_owned(), |port| port.to_string());
            format!("{} {name} {port}", placement.direction)
        },
    )
}

#[track_caller]
fn assert_placed(flow: &Flow, original: &str, translated: &str) {
    assert_eq!(placed(&hosts(|_| ()), flow), original, "nat = original");
    let config = |config: &mut config::Hosts| config.nat = NatView::Translated;
    assert_eq!(placed(&hosts(config), flow), translated, "nat = translated");
}

#[test]
fn what_this_host_dials_is_outbound() {
    let flow = plain("10.0.0.5:38220", "10.99.0.2:8080");
    assert_placed(&flow, "outbound 10.99.0.2 8080", "outbound 10.99.0.2 8080");
}

#[test]
fn what_dials_this_host_is_inbound_with_the_port_of_the_service() {
    let flow = plain("10.99.0.2:38220", "10.0.0.5:8080");
    assert_placed(&flow, "inbound 10.99.0.2 8080", "inbound 10.99.0.2 8080");
}

#[test]
fn a_service_address_dialled_is_the_remote_host_or_its_backend_is() {
    let flow = flow(
        ["10.0.0.5:44384", "10.96.0.1:80"],
        ["10.99.0.2:8080", "10.0.0.5:44384"],
    );
    assert_placed(&flow, "outbound 10.96.0.1 80", "outbound 10.99.0.2 8080");
}

#[test]
fn a_virtual_service_of_ipvs_has_its_address_here_and_its_backend_elsewhere() {
    let flow = flow(
        ["10.0.0.5:44384", "10.96.0.53:80"],
        ["10.99.0.2:8080", "10.0.0.5:44384"],
    );
    assert_placed(&flow, "outbound 10.96.0.53 80", "outbound 10.99.0.2 8080");
}

#[test]
fn a_client_of_a_published_port_is_inbound() {
    let flow = flow(
        ["10.99.0.2:41000", "10.0.0.5:8443"],
        ["172.17.0.2:443", "10.99.0.2:41000"],
    );
    assert_placed(&flow, "inbound 10.99.0.2 8443", "inbound 10.99.0.2 443");
}

#[test]
fn a_masqueraded_container_is_outbound() {
    let flow = flow(
        ["172.17.0.2:44384", "10.99.0.2:8080"],
        ["10.99.0.2:8080", "10.0.0.5:44384"],
    );
    assert_placed(&flow, "outbound 10.99.0.2 8080", "outbound 10.99.0.2 8080");
}

#[test]
fn a_port_that_a_router_forwards_is_a_published_port() {
    let flow = flow(
        ["10.99.0.2:35060", "198.51.100.5:8888"],
        ["10.88.0.2:8080", "10.99.0.2:35060"],
    );
    assert_placed(&flow, "inbound 10.99.0.2 8888", "inbound 10.99.0.2 8080");
}

#[test]
fn what_a_router_masquerades_both_ways_is_inbound_too() {
    let hairpin = flow(
        ["10.88.0.9:35060", "198.51.100.5:8888"],
        ["10.88.0.2:8080", "198.51.100.5:35060"],
    );
    assert_placed(&hairpin, "inbound 10.88.0.9 8888", "inbound 10.88.0.9 8080");
}

#[test]
fn what_passes_through_is_forwarded_to_its_destination() {
    assert_placed(
        &plain("10.88.0.2:35060", "10.99.0.2:80"),
        "forwarded 10.99.0.2 80",
        "forwarded 10.99.0.2 80",
    );
    assert_placed(
        &flow(
            ["10.88.0.2:35060", "10.96.0.1:80"],
            ["10.99.0.2:8080", "10.88.0.2:35060"],
        ),
        "forwarded 10.96.0.1 80",
        "forwarded 10.99.0.2 8080",
    );
}

#[test]
fn what_stays_within_the_host_is_left_out_unless_loopback_is_on() {
    let resolver = plain("127.0.0.1:40000", "127.0.0.53:53");
    let virtual_address = plain("10.0.0.5:40000", "10.96.0.53:53");
    let intercepted = flow(
        ["10.0.0.5:40000", "8.8.8.8:53"],
        ["127.0.0.53:5353", "10.0.0.5:40000"],
    );
    let pod = plain("10.244.1.2:40000", "10.0.0.5:6443");
    for flow in [resolver, virtual_address, intercepted, pod] {
        assert_placed(&flow, "left out", "left out");
    }
    let with_loopback = hosts(|config| config.loopback = true);
    assert_eq!(placed(&with_loopback, &resolver), "local 127.0.0.53 53");
    assert_eq!(
        placed(&with_loopback, &virtual_address),
        "local 10.96.0.53 53"
    );
    assert_eq!(placed(&with_loopback, &intercepted), "local 8.8.8.8 53");
}

#[test]
fn a_virtual_address_on_lo_takes_inbound_connections() {
    let flow = plain("10.99.0.2:40000", "10.96.0.53:53");
    assert_placed(&flow, "inbound 10.99.0.2 53", "inbound 10.99.0.2 53");
}

#[test]
fn a_pod_network_that_is_local_dials_and_is_dialled_as_this_host() {
    assert_placed(
        &plain("10.244.1.2:40000", "10.99.0.2:443"),
        "outbound 10.99.0.2 443",
        "outbound 10.99.0.2 443",
    );
    assert_placed(
        &plain("10.99.0.2:40000", "10.244.1.2:443"),
        "inbound 10.99.0.2 443",
        "inbound 10.99.0.2 443",
    );
}

#[test]
fn broadcast_and_multicast_are_from_others_or_left_out() {
    let udp = |src, dst| Flow {
        protocol: Protocol::Udp,
        state: State::Unreplied,
        ..plain(src, dst)
    };
    for dst in ["10.0.0.255:137", "255.255.255.255:67", "224.0.0.251:5353"] {
        assert_placed(&udp("10.0.0.5:137", dst), "left out", "left out");
        let port = dst.rsplit_once(':').unwrap().1;
        let inbound = format!("inbound 10.99.0.2 {port}");
        assert_placed(&udp("10.99.0.2:137", dst), &inbound, &inbound);
    }
}

#[test]
fn version_six_is_placed_alike() {
    assert_placed(
        &plain("fd00::5:40000", "fd00::99:443"),
        "outbound fd00::99 443",
        "outbound fd00::99 443",
    );
    assert_placed(
        &plain("fd00::99:40000", "fd00::5:443"),
        "inbound fd00::99 443",
        "inbound fd00::99 443",
    );
    assert_placed(
        &plain("fe80::1:546", "ff02::1:547"),
        "inbound fe80::1 547",
        "inbound fe80::1 547",
    );
}

#[test]
fn protocols_without_ports_have_none() {
    let ping = Flow {
        protocol: Protocol::Icmp,
        state: State::Replied,
        ..plain("10.0.0.5:77", "10.99.0.2:2048")
    };
    assert_placed(&ping, "outbound 10.99.0.2 -", "outbound 10.99.0.2 -");
}

#[test]
fn ports_are_no_label_unless_asked_for() {
    let hosts = hosts(|config| config.ports = false);
    let flow = plain("10.0.0.5:38220", "10.99.0.2:8080");
    assert_eq!(placed(&hosts, &flow), "outbound 10.99.0.2 -");
}

#[test]
fn an_ephemeral_port_is_no_label() {
    let passive_ftp = plain("10.0.0.5:38220", "10.99.0.2:45000");
    assert_placed(&passive_ftp, "outbound 10.99.0.2 -", "outbound 10.99.0.2 -");
}

/// A TCP flow that the kernel picked up in mid-stream.
fn picked_up(src: &str, dst: &str) -> Flow {
    Flow {
        beginning: Beginning::Missed,
        ..plain(src, dst)
    }
}

#[test]
fn a_flow_picked_up_at_an_answer_is_turned_round() {
    assert_placed(
        &picked_up("10.0.0.5:9090", "10.99.0.2:43182"),
        "inbound 10.99.0.2 9090",
        "inbound 10.99.0.2 9090",
    );
    assert_placed(
        &picked_up("10.99.0.2:9091", "10.0.0.5:45354"),
        "outbound 10.99.0.2 9091",
        "outbound 10.99.0.2 9091",
    );
    let late_answer = Flow {
        protocol: Protocol::Udp,
        state: State::Unreplied,
        ..plain("10.99.0.2:53", "10.0.0.5:45354")
    };
    assert_placed(
        &late_answer,
        "outbound 10.99.0.2 53",
        "outbound 10.99.0.2 53",
    );
}

#[test]
fn a_client_cannot_turn_a_flow_round_by_its_port() {
    let seen = Flow {
        beginning: Beginning::Seen,
        ..plain("10.99.0.2:1234", "10.0.0.5:50051")
    };
    assert_placed(&seen, "inbound 10.99.0.2 -", "inbound 10.99.0.2 -");
}

#[test]
fn a_flow_whose_handshake_is_under_way_is_not_turned_round() {
    for state in [TcpState::SynSent, TcpState::SynRecv, TcpState::SynSent2] {
        let flow = Flow {
            state: State::Tcp(state),
            ..picked_up("10.99.0.2:5000", "10.0.0.5:50051")
        };
        assert_placed(&flow, "inbound 10.99.0.2 -", "inbound 10.99.0.2 -");
    }
}

#[test]
fn a_flow_to_a_redirected_port_is_not_turned_round() {
    let flow = Flow {
        beginning: Beginning::Missed,
        ..flow(
            ["10.99.0.2:5000", "10.0.0.5:50051"],
            ["172.17.0.2:50051", "10.99.0.2:5000"],
        )
    };
    assert_placed(&flow, "inbound 10.99.0.2 -", "inbound 10.99.0.2 -");
}

#[test]
fn a_udp_peer_behind_a_translator_is_not_turned_round() {
    let wireguard = Flow {
        protocol: Protocol::Udp,
        state: State::Assured,
        ..plain("10.99.0.2:1034", "10.0.0.5:51820")
    };
    assert_placed(&wireguard, "inbound 10.99.0.2 -", "inbound 10.99.0.2 -");
}

#[test]
fn a_reserved_port_is_a_service_and_a_label() {
    let config = config::Hosts {
        ports: true,
        ..config::Hosts::default()
    };
    let ports = EphemeralPorts::new(32768..=60999, [50051..=50051]);
    let hosts = Hosts::with_ephemeral_ports(&config, ports);
    let flow = plain("10.99.0.2:5000", "10.0.0.5:50051");
    assert_eq!(placed(&hosts, &flow), "inbound 10.99.0.2 50051");
}

#[test]
fn two_ephemeral_ports_leave_the_direction_as_it_is() {
    let flow = plain("10.0.0.5:45000", "10.99.0.2:50000");
    assert_placed(&flow, "outbound 10.99.0.2 -", "outbound 10.99.0.2 -");
}

fn groups(pairs: &[(&str, &str)]) -> BTreeMap<IpNet, String> {
    pairs
        .iter()
        .map(|(network, name)| (network.parse().unwrap(), (*name).to_owned()))
        .collect()
}

#[test]
fn the_longest_prefix_names_the_group_and_an_alias_beats_them_all() {
    let hosts = hosts(|config| {
        config.ports = false;
        config.groups = groups(&[
            ("10.0.0.0/8", "internal"),
            ("10.99.0.0/16", "storage"),
            ("10.99.0.7/32", "one"),
            ("fd00::/8", "internal"),
            ("fd00:1::/32", "lab"),
        ]);
        config.aliases = BTreeMap::from([
            ("10.99.0.7".parse().unwrap(), "db".to_owned()),
            ("fd00:1::7".parse().unwrap(), "db".to_owned()),
        ]);
    });
    for (dst, name) in [
        ("10.1.2.3:1", "internal"),
        ("10.99.0.8:1", "storage"),
        ("10.99.0.7:1", "db"),
        ("fd00:2::1:1", "internal"),
        ("fd00:1::1:1", "lab"),
        ("fd00:1::7:1", "db"),
        ("192.168.0.1:1", "192.168.0.1"),
    ] {
        let flow = plain("10.0.0.5:40000", dst);
        assert_eq!(placed(&hosts, &flow), format!("outbound {name} -"));
    }
}

#[test]
fn networks_and_addresses_of_one_name_are_one_host() {
    let hosts = hosts(|config| {
        config.groups = groups(&[("10.99.0.0/16", "a|b"), ("fd00::/8", "a_b")]);
        config.aliases = BTreeMap::from([(PEER.parse().unwrap(), "a b".to_owned())]);
    });
    let remote = |dst| {
        let flow = plain("10.0.0.5:40000", dst);
        hosts.place(&flow, &local()).unwrap().remote
    };
    assert_eq!(remote("10.99.0.2:1"), Remote::Named(0));
    assert_eq!(remote("10.99.9.9:1"), Remote::Named(0));
    assert_eq!(remote("fd00::99:1"), Remote::Named(0));
    assert_eq!(hosts.name(Remote::Named(0)), "a_b");
}

#[test]
fn names_that_hosts_have_anyway_mean_those_hosts() {
    let hosts = hosts(|config| {
        config.aliases = BTreeMap::from([
            ("10.1.0.1".parse().unwrap(), "public".to_owned()),
            ("10.1.0.2".parse().unwrap(), "other".to_owned()),
            ("10.1.0.3".parse().unwrap(), "10.1.0.4".to_owned()),
        ]);
    });
    let remote = |dst| {
        let flow = plain("10.0.0.5:40000", dst);
        hosts.place(&flow, &local()).unwrap().remote
    };
    let public = Remote::Public("10.1.0.1".parse().unwrap());
    assert_eq!(remote("10.1.0.1:1"), public);
    assert_eq!(remote("10.1.0.2:1"), Remote::Other);
    let address = Remote::Address("10.1.0.4".parse().unwrap());
    assert_eq!(remote("10.1.0.3:1"), address);
}

#[test]
fn ignored_networks_do_not_count_whichever_end_dialled() {
    let hosts = hosts(|config| {
        config.ignore = vec!["10.99.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()];
        config.aliases = BTreeMap::from([(PEER.parse().unwrap(), "peer".to_owned())]);
    });
    for flow in [
        plain("10.0.0.5:40000", "10.99.0.2:80"),
        plain("10.99.0.2:40000", "10.0.0.5:80"),
        plain("fd00::5:40000", "fd00::99:80"),
    ] {
        assert_eq!(placed(&hosts, &flow), "left out");
    }
    let other = plain("10.0.0.5:40000", "10.98.0.2:80");
    assert_eq!(placed(&hosts, &other), "outbound 10.98.0.2 80");
}

#[test]
fn inbound_public_clients_fold_unless_named_or_told_apart() {
    let inbound = plain("8.8.8.8:40000", "198.51.100.5:443");
    let outbound = plain("198.51.100.5:40000", "8.8.8.8:443");
    let fold = hosts(|_| ());
    assert_eq!(placed(&fold, &inbound), "inbound public 443");
    assert_eq!(placed(&fold, &outbound), "outbound 8.8.8.8 443");
    let private = plain("10.99.0.2:40000", "198.51.100.5:443");
    assert_eq!(placed(&fold, &private), "inbound 10.99.0.2 443");

    let apart = hosts(|config| config.public_inbound = PublicInbound::Apart);
    assert_eq!(placed(&apart, &inbound), "inbound 8.8.8.8 443");

    let named = hosts(|config| config.groups = groups(&[("8.8.0.0/16", "dns")]));
    assert_eq!(placed(&named, &inbound), "inbound dns 443");
}

#[test]
fn a_folded_placement_still_has_the_address() {
    let inbound = plain("8.8.8.8:40000", "198.51.100.5:443");
    let placement = hosts(|_| ()).place(&inbound, &local()).unwrap();
    assert_eq!(placement.remote, Remote::Public("8.8.8.8".parse().unwrap()));
}

#[test]
fn what_goes_to_the_remote_host_is_known_by_who_dialled() {
    let hosts = hosts(|_| ());
    let outward = |from, to| hosts.place(&plain(from, to), &local()).unwrap().outward;
    assert!(outward("10.0.0.5:40000", "10.1.0.1:80"));
    assert!(!outward("10.1.0.1:40000", "10.0.0.5:80"));
    // Picked up at an answer: the original way is the service's.
    let mut flow = plain("10.0.0.5:80", "10.1.0.1:40000");
    flow.beginning = Beginning::Missed;
    let placement = hosts.place(&flow, &local()).unwrap();
    assert_eq!(placement.direction, Direction::Inbound);
    assert!(placement.outward);
}

#[test]
fn a_remote_host_is_small() {
    assert!(size_of::<Remote>() <= 20);
}
