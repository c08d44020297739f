//! What the daemon holds: busy, with many connections, and when nothing happens.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::process::binary;
use crate::round::{CONNECTIONS, Load, Setting, as_float};
use crate::workload::{Frames, Sink, Source, Workload, Writes};

/// Lines that a busy measurement sends.
pub(crate) const MESSAGES: u64 = 4_000_000;
const MANY: usize = 100;
const VERY_MANY: usize = 900;
const IDLE: usize = 500;
/// One default tick, and a little more.
const IDLE_SPAN: Duration = Duration::from_secs(12);
/// The longest wait for the lines of connections that then rest.
const PATIENCE: Duration = Duration::from_secs(10);

const BUSY: Workload = Workload {
    key: "memory",
    title: "8 KiB frames, to unix stream",
    source: Source::UnixStream,
    frames: Frames::Packed,
    writes: Writes::Frame,
    per_second: None,
    sink: Sink::UnixStream,
    messages: MESSAGES,
    cpu: None,
    rate: None,
};

/// The peak in KiB while so many connections send.
fn busy(connections: usize, messages: u64) -> io::Result<u64> {
    let mut setting = Setting::conntally(BUSY.sink, "off", Load::Plain)?;
    let outcome = setting.carry(&BUSY, connections, messages)?;
    setting.relay.end()?;
    Ok(outcome.peak_kib)
}

/// KiB resident without connections, and with as many that sent a line and then rest.
fn resting(connections: usize) -> io::Result<(u64, u64)> {
    let mut setting = Setting::conntally(Sink::UnixStream, "off", Load::Plain)?;
    let before = setting.relay.resident_kib()?;
    let line = b"resting.connection:1|c\n";
    let length = u32::try_from(line.len()).map_err(io::Error::other)?;
    let frame = [&length.to_le_bytes()[..], line].concat();
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = UnixStream::connect(setting.socket())?;
        stream.write_all(&frame)?;
        streams.push(stream);
    }
    let started = Instant::now();
    while setting.receiver.ask()? < connections as u64 {
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other("not every connection was served"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let after = setting.relay.resident_kib()?;
    setting.relay.end()?;
    Ok((before, after))
}

pub(crate) fn measure(messages: u64) -> io::Result<()> {
    let row =
        |what: &str, value: String, reach: &str| println!("{what:<46} {value:>16} {reach:>15}");
    println!();
    row("conntally", String::new(), "reach (≤)");

    let few = busy(CONNECTIONS, messages)?;
    row(
        "peak, 4 busy connections",
        format!("{:.1} MiB", as_float(few) / 1024.0),
        "6 MiB",
    );
    for connections in [MANY, VERY_MANY] {
        let many = busy(connections, messages)?;
        let further = connections - CONNECTIONS;
        row(
            &format!("peak, {connections} busy connections"),
            format!("{:.1} MiB", as_float(many) / 1024.0),
            "",
        );
        row(
            "  each further one",
            format!("{:.1} KiB", per(few, many, further)),
            "8 KiB",
        );
    }

    let (before, after) = resting(IDLE)?;
    row(
        &format!("each of {IDLE} idle connections"),
        format!("{:.1} KiB", per(before, after, IDLE)),
        "3 KiB",
    );

    let setting = Setting::conntally(Sink::UnixStream, "auto", Load::Plain)?;
    let cpu = setting.relay.cpu_seconds()?;
    thread::sleep(IDLE_SPAN);
    let used = (setting.relay.cpu_seconds()? - cpu) / IDLE_SPAN.as_secs_f64();
    row(
        "idle daemon, collecting",
        format!(
            "{:.1} MiB",
            as_float(setting.relay.resident_kib()?) / 1024.0
        ),
        "8 MiB",
    );
    row("  of a core", format!("{:.3} %", used * 100.0), "0.1 %");
    setting.relay.end()?;

    let binary = fs::metadata(binary())?;
    row(
        "release binary",
        format!("{:.1} MiB", as_float(binary.len()) / 1_048_576.0),
        "8 MiB",
    );
    Ok(())
}

fn per(before: u64, after: u64, connections: usize) -> f64 {
    (as_float(after) - as_float(before)) / as_float(connections as u64)
}
