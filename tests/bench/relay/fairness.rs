//! How long the lines of a quiet client take, alone and while others flood the same relay.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use memchr::memmem::Finder;
use tokio::time::Instant;

use crate::process::Process;
use crate::round::{Load, Relay};
use crate::workload::{Frames, Reads, Source, Writes};

/// Lines of the quiet client in a round, and the rest between two of them.
const LINES: usize = 300;
const REST: Duration = Duration::from_millis(3);
/// Connections that flood.
const FLOODS: usize = 4;
/// Lines of the flood: more than a round lasts.
const ENDLESS: u64 = 1 << 40;
/// How long the flood takes to fill the queues on the way.
const FILLING: Duration = Duration::from_millis(500);
/// The longest that a line may take.
const PATIENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;

/// What marks a line of the quiet client.
const MARK: &[u8] = b"quiet.client:";

/// Latencies of a round, sorted.
struct Latencies(Vec<Duration>);

impl Latencies {
    /// In microseconds.
    fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place among a few hundred"
        )]
        let place = (self.0.len() as f64 * share) as usize;
        let found = self.0.get(place).or_else(|| self.0.last());
        found.map_or(f64::NAN, Duration::as_secs_f64) * 1e6
    }
}

/// Receives on `path`, and tells when each line of the quiet client comes.
fn receive(path: &Path) -> io::Result<Receiver<Instant>> {
    let listener = UnixListener::bind(path)?;
    let (tell, told) = channel();
    thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mark = Finder::new(MARK);
        let mut buffer = vec![0; READ_BYTES];
        // The end of the last read, as long as a mark may be cut in two.
        let mut kept = 0;
        loop {
            let length = stream.read(&mut buffer[kept..])?;
            if length == 0 {
                return Ok(());
            }
            let filled = kept + length;
            for _ in mark.find_iter(&buffer[..filled]) {
                if tell.send(Instant::now()).is_err() {
                    return Ok(());
                }
            }
            kept = filled.min(MARK.len() - 1);
            buffer.copy_within(filled - kept..filled, 0);
        }
    });
    Ok(told)
}

fn send(stream: &mut UnixStream, told: &Receiver<Instant>) -> io::Result<Latencies> {
    let mut latencies = Vec::new();
    for number in 0..LINES {
        let line = [MARK, format!("{number}|g\n").as_bytes()].concat();
        let length = u32::try_from(line.len()).map_err(io::Error::other)?;
        let frame = [&length.to_le_bytes()[..], &line].concat();
        let sent = Instant::now();
        stream.write_all(&frame)?;
        let came = told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        latencies.push(came - sent);
        thread::sleep(REST);
    }
    latencies.sort_unstable();
    Ok(Latencies(latencies))
}

/// A round with this relay: alone, and beside the flood.
fn round(relay: Relay) -> io::Result<[Latencies; 2]> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("out.socket");
    let told = receive(&out)?;
    let address = format!("unixstream://{}", out.display());
    let socket = directory.path().join("in.socket");
    let place = socket.display().to_string();
    let relay = relay.start(Source::UnixStream, &place, directory.path(), &address)?;
    let mut quiet = UnixStream::connect(&socket)?;
    let alone = send(&mut quiet, &told)?;
    let mut flood = Process::role(
        "generate",
        &[
            &Source::UnixStream.to_string(),
            &place,
            &FLOODS.to_string(),
            &Frames::Packed.to_string(),
            &Writes::Frame.to_string(),
            "0",
            &ENDLESS.to_string(),
        ],
    )?;
    flood.line()?;
    flood.nudge()?;
    thread::sleep(FILLING);
    let beside = send(&mut quiet, &told)?;
    drop((flood, relay));
    Ok([alone, beside])
}

fn median(rounds: &[[Latencies; 2]], which: usize, share: f64) -> f64 {
    let mut values: Vec<f64> = (rounds.iter())
        .filter_map(|round| round.get(which))
        .map(|latencies| latencies.quantile(share))
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn measure(rounds: usize) -> io::Result<()> {
    println!();
    println!(
        "{:<46} {:>16} {:>15} {:>16} {:>15} {:>10}",
        "a quiet client's latency, µs (medians)",
        "alone p50",
        "p99",
        "in a flood p50",
        "p99",
        "p99 ratio"
    );
    let relays = [
        ("bare", Relay::Bare(Reads::Single)),
        (
            "conntally, sending at once",
            Relay::Conntally {
                source: "off",
                load: Load::Plain,
                output: "flush_interval = \"0s\"\non_full = \"block\"\n",
            },
        ),
    ];
    let mut results = relays.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, relay), results) in relays.iter().zip(&mut results) {
            results.push(round(*relay)?);
        }
    }
    for ((name, _), rounds) in relays.iter().zip(&results) {
        let [alone, flooded] =
            [0, 1].map(|which| [0.5, 0.99].map(|share| median(rounds, which, share)));
        println!(
            "{name:<46} {:>16.0} {:>15.0} {:>16.0} {:>15.0} {:>10.1}",
            alone[0],
            alone[1],
            flooded[0],
            flooded[1],
            flooded[1] / alone[1]
        );
    }
    Ok(())
}
