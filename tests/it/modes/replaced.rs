//! The daemon is replaced while connections begin and end: the next one is told of them.

use std::net::TcpListener;

use rustix::process::Signal;

use super::{BOTH, Watch, at, close, connect, corrected, entry, neighbour, owned, told};
use crate::support::inject;
use crate::support::netns::{Peer, isolated, track};

const TIMES: usize = 5;
/// Connections during each time, at least.
const EACH: usize = 150;

#[test]
fn what_begins_and_ends_while_the_daemon_is_replaced_is_counted_once() {
    isolated(&["nft"], || {
        let peer = neighbour();
        track();
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        for mode in BOTH {
            let watch = Watch::every("1h", mode, "", "");
            let mut opened = 0;
            for time in 1..=TIMES {
                watch.daemon.signal(Signal::USR2);
                let goes_on = || {
                    let log = watch.daemon.stderr.text();
                    let text = watch.daemon.stdout.text();
                    log.matches("goes on with what").count() == time
                        && text.matches("collector.flows:").count() > 2 * time
                };
                // In all of its course; some are over when the first dump is made.
                let mut begun = 0;
                while begun < EACH || !goes_on() {
                    let (dialled, accepted) = connect(&listener);
                    let entry = entry(&dialled);
                    close(dialled, accepted);
                    inject::delete([entry]);
                    begun += 1;
                }
                opened += begun;
            }
            let ended = watch.daemon.stop();
            assert_eq!(ended.code, Some(0), "{mode}: {}", ended.stderr);
            let rates = [
                ("closed 10.99.0.2 tcp outbound", opened),
                ("opened 10.99.0.2 tcp outbound", opened),
            ];
            assert_eq!(
                told(&ended.stdout),
                owned(&rates),
                "{mode} {}",
                ended.stderr
            );
            assert!(corrected(&ended.stdout).is_empty(), "{mode}");
        }
    });
}
