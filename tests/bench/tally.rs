//! From flows to rows: 65,536 flows of 5,000 remote hosts, placed and counted.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntally::config::{self, StateView};
use conntally::flow::{Beginning, Flow, Protocol, State, Status, TcpState, Tuple};
use conntally::hosts::Hosts;
use conntally::hosts::local::LocalAddresses;
use conntally::hosts::ports::EphemeralPorts;
use conntally::hosts::select::Selector;
use conntally::tally::Tally;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use tokio::time::Instant;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const FLOWS: u32 = 1 << 16;
const HOSTS: u32 = 5_000;
const HERE: [u8; 4] = [10, 0, 0, 5];

fn main() {
    divan::main();
}

/// A mixture of what a busy server has: half inbound, half outbound.
fn flows(remote: impl Fn(u32) -> IpAddr, here: IpAddr) -> Vec<Flow> {
    (0..FLOWS)
        .map(|number| {
            // A Weyl sequence: every host, in no order.
            let mixed = number.wrapping_mul(0x9e37_79b9);
            let remote = remote((mixed >> 8) % HOSTS);
            let client_port = 32_768 + u16::try_from(number % 28_000).unwrap_or_default();
            let (src, dst) = if mixed & 1 == 0 {
                (here, remote)
            } else {
                (remote, here)
            };
            let state = TcpState::ALL[(mixed % 8) as usize + 1];
            Flow {
                original: Tuple {
                    src,
                    dst,
                    src_port: client_port,
                    dst_port: 443,
                },
                reply: Tuple {
                    src: dst,
                    dst: src,
                    src_port: 443,
                    dst_port: client_port,
                },
                protocol: Protocol::Tcp,
                state: State::Tcp(state),
                status: Status(Status::SEEN_REPLY | Status::ASSURED),
                zone: 0,
                mark: 0,
                beginning: Beginning::Seen,
            }
        })
        .collect()
}

fn v4(base: u32) -> Vec<Flow> {
    let remote = |number| IpAddr::from(Ipv4Addr::from_bits(base + number));
    flows(remote, HERE.into())
}

fn v6() -> Vec<Flow> {
    let remote = |number| {
        IpAddr::from(Ipv6Addr::from_bits(
            (0xfd00_0099 << 96) + u128::from(number),
        ))
    };
    flows(remote, IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5]))
}

fn local() -> LocalAddresses {
    let mut local = LocalAddresses::default();
    for network in [
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.5/32",
        "10.0.0.255/32",
        "fd00::5/128",
        "224.0.0.0/4",
        "ff00::/8",
    ] {
        if let Ok(network) = network.parse() {
            local.insert(network);
        }
    }
    local
}

fn bench(bencher: Bencher<'_, '_>, flows: &[Flow], config: &config::Hosts) {
    let hosts = Hosts::with_ephemeral_ports(config, EphemeralPorts::default());
    let local = local();
    let mut tally = Tally::new(StateView::General);
    bencher
        .counter(ItemsCount::new(flows.len()))
        .bench_local(|| {
            tally.clear();
            for flow in black_box(flows) {
                if let Some(placement) = hosts.place(flow, &local) {
                    tally.add(&placement, flow);
                }
            }
            tally.rows_in_use().count()
        });
}

#[divan::bench]
fn place_and_tally_v4(bencher: Bencher<'_, '_>) {
    bench(bencher, &v4(0x0a63_0000), &config::Hosts::default());
}

/// Without counting: what the rules alone cost.
#[divan::bench]
fn place_alone_v4(bencher: Bencher<'_, '_>) {
    let hosts = Hosts::with_ephemeral_ports(&config::Hosts::default(), EphemeralPorts::default());
    let (local, flows) = (local(), v4(0x0a63_0000));
    bencher
        .counter(ItemsCount::new(flows.len()))
        .bench_local(|| {
            let placed = black_box(&flows)
                .iter()
                .filter_map(|flow| hosts.place(flow, &local));
            placed.map(|placement| placement.remote).max()
        });
}

#[divan::bench]
fn place_and_tally_v6(bencher: Bencher<'_, '_>) {
    bench(bencher, &v6(), &config::Hosts::default());
}

#[divan::bench]
fn place_and_tally_with_ports(bencher: Bencher<'_, '_>) {
    let config = config::Hosts {
        ports: true,
        ..config::Hosts::default()
    };
    bench(bencher, &v4(0x0a63_0000), &config);
}

#[divan::bench]
fn place_and_tally_public_clients(bencher: Bencher<'_, '_>) {
    bench(bencher, &v4(0x0808_0000), &config::Hosts::default());
}

#[divan::bench]
fn place_and_tally_with_groups(bencher: Bencher<'_, '_>) {
    let groups = (0..32_u8)
        .filter_map(|third| {
            let network = format!("10.99.{third}.0/24").parse().ok()?;
            Some((network, format!("group{third}")))
        })
        .collect::<BTreeMap<_, _>>();
    let config = config::Hosts {
        groups,
        ..config::Hosts::default()
    };
    bench(bencher, &v4(0x0a63_0000), &config);
}

/// A tick over what was counted: 5,000 hosts, 100 of them apart.
#[divan::bench(args = [100, 10_000])]
fn select(bencher: Bencher<'_, '_>, max: usize) {
    let hosts = Hosts::with_ephemeral_ports(&config::Hosts::default(), EphemeralPorts::default());
    let local = local();
    let mut tally = Tally::new(StateView::General);
    for flow in v4(0x0a63_0000) {
        if let Some(placement) = hosts.place(&flow, &local) {
            tally.add(&placement, &flow);
        }
    }
    let mut selector = Selector::new(max);
    let now = Instant::now();
    for _ in 0..4 {
        selector.select(&tally, &hosts, now);
    }
    bencher.bench_local(|| selector.select(&tally, &hosts, now));
}
