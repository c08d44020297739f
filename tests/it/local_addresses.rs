//! The host's own addresses, as `ip` changes them.

use std::net::IpAddr;

use conntally::hosts::local::{LocalAddresses, LocalWatch};

use crate::support::netns::{eventually, isolated, run};

fn has(addresses: &LocalAddresses, address: &str) -> bool {
    addresses.contains(address.parse::<IpAddr>().unwrap())
}

#[test]
fn addresses_and_local_routes_are_seen_at_the_next_refresh() {
    isolated(&[], || {
        let mut watch = LocalWatch::open().unwrap();
        let mut addresses = LocalAddresses::default();
        assert!(watch.refresh(&mut addresses).unwrap());
        assert!(has(&addresses, "127.0.0.1") && has(&addresses, "127.9.9.9"));
        assert!(has(&addresses, "::1"));

        for (add, delete, address) in [
            (
                "ip address add 192.0.2.7/24 dev lo",
                "ip address del 192.0.2.7/24 dev lo",
                "192.0.2.7",
            ),
            (
                "ip address add 2001:db8::7/64 dev lo",
                "ip address del 2001:db8::7/64 dev lo",
                "2001:db8::7",
            ),
            (
                "ip route add local 10.9.0.0/16 dev lo",
                "ip route del local 10.9.0.0/16 dev lo",
                "10.9.200.1",
            ),
            (
                "ip -6 route add local 2001:db8:9::/48 dev lo",
                "ip -6 route del local 2001:db8:9::/48 dev lo",
                "2001:db8:9:1::1",
            ),
        ] {
            assert!(!has(&addresses, address), "{address}");
            for (command, there) in [(add, true), (delete, false)] {
                run(command);
                // The kernel routes to a new IPv6 address from a work queue, a moment later.
                eventually(command, || {
                    let changed = watch.refresh(&mut addresses).unwrap();
                    assert_eq!(changed, has(&addresses, address) == there, "{command}");
                    changed
                });
            }
        }
    });
}

#[test]
fn the_broadcast_address_of_a_network_is_local_and_its_neighbours_are_not() {
    isolated(&[], || {
        run("ip link add veth0 type veth peer name veth1");
        run("ip address add 192.0.2.7/24 broadcast 192.0.2.255 dev veth0");
        run("ip link set veth0 up");
        let mut addresses = LocalAddresses::default();
        LocalWatch::open().unwrap().refresh(&mut addresses).unwrap();
        assert!(has(&addresses, "192.0.2.7"));
        assert!(has(&addresses, "192.0.2.255"));
        assert!(!has(&addresses, "192.0.2.8"));
    });
}

#[test]
fn an_interface_that_goes_takes_its_addresses_along() {
    isolated(&[], || {
        let mut watch = LocalWatch::open().unwrap();
        let mut addresses = LocalAddresses::default();
        run("ip link add veth0 type veth peer name veth1");
        run("ip address add 192.0.2.7/24 dev veth0");
        run("ip link set veth0 up");
        watch.refresh(&mut addresses).unwrap();
        assert!(has(&addresses, "192.0.2.7"));
        run("ip link del veth0");
        watch.refresh(&mut addresses).unwrap();
        assert!(!has(&addresses, "192.0.2.7"));
    });
}

#[test]
fn routes_to_other_hosts_change_nothing() {
    isolated(&[], || {
        let mut watch = LocalWatch::open().unwrap();
        let mut addresses = LocalAddresses::default();
        watch.refresh(&mut addresses).unwrap();
        run("ip route add 198.51.100.0/24 dev lo");
        run("ip route add local 203.0.113.0/24 dev lo table 100");
        assert!(!watch.refresh(&mut addresses).unwrap());
        assert!(!has(&addresses, "198.51.100.1"));
        assert!(!has(&addresses, "203.0.113.1"));
    });
}

#[test]
fn configured_networks_survive_a_refresh() {
    isolated(&[], || {
        let mut watch = LocalWatch::open().unwrap();
        let mut addresses = LocalAddresses::new(&["10.42.0.0/16".parse().unwrap()]);
        watch.refresh(&mut addresses).unwrap();
        run("ip address add 192.0.2.7/32 dev lo");
        assert!(watch.refresh(&mut addresses).unwrap());
        assert!(has(&addresses, "10.42.1.1") && has(&addresses, "192.0.2.7"));
    });
}

#[test]
fn more_notices_than_the_socket_holds_lose_no_address() {
    isolated(&[], || {
        let mut watch = LocalWatch::open().unwrap();
        let mut addresses = LocalAddresses::default();
        watch.refresh(&mut addresses).unwrap();
        let routes =
            (0..2000).map(|n| format!("route add local 10.9.{}.{} dev lo", n / 256, n % 256));
        let batch = routes.collect::<Vec<_>>().join("\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        run(&format!("ip -batch {}", file.path().display()));
        assert!(watch.refresh(&mut addresses).unwrap());
        assert!(has(&addresses, "10.9.0.0") && has(&addresses, "10.9.7.207"));
        assert!(!has(&addresses, "10.9.7.208"));
    });
}
