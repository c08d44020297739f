//! `--watch`: the same look again and again, until Ctrl-C. On a terminal a table takes the
//! place of the one before; everything else goes behind what was printed.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::termios::tcgetwinsize;

use super::{CliError, tell};
use crate::config::Interval;

/// More often, a look costs more than it tells.
const SHORTEST: Duration = Duration::from_millis(100);

/// What stands at the top of the screen, and what is left of a line and of the screen
/// (ECMA-48: CUP, EL, ED).
const HOME: &[u8] = b"\x1b[H";
const CLEAR_LINE: &[u8] = b"\x1b[K";
const CLEAR_BELOW: &[u8] = b"\x1b[J";

/// Whether a command looks once or goes on.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Look again at each interval (default: 2s) until Ctrl-C: a table in the place of the
    /// one before on a terminal, else below it.
    #[arg(
        short, long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
}

/// What a look prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Something to look at.
    Table,
    /// Lines for a program.
    Lines,
}

/// Reads an interval: with a unit, or in seconds.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let is_bare = text.bytes().all(|byte| byte.is_ascii_digit());
    let unit = if is_bare { "s" } else { "" };
    let Interval(interval) = format!("{text}{unit}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    if interval < SHORTEST {
        return Err(format!("{} ms is the shortest", SHORTEST.as_millis()));
    }
    Ok(interval)
}

impl WatchArgs {
    /// Looks once, or for as long as the program lives. Once a look was good, one that fails
    /// is told, and the next may be good again: daemons are restarted.
    pub(super) fn repeat(
        &self,
        shape: Shape,
        mut look: impl FnMut(&mut dyn Write) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let stdout = io::stdout();
        let in_place = self.watch.is_some() && shape == Shape::Table && stdout.is_terminal();
        let mut is_first = true;
        loop {
            let mut out = BufWriter::new(stdout.lock());
            let looked = if in_place {
                let mut page = Page::begin(out, is_first).map_err(CliError::Output)?;
                let looked = look(&mut page);
                page.end().map_err(CliError::Output)?;
                looked
            } else {
                if !is_first && shape == Shape::Table {
                    out.write_all(b"\n").map_err(CliError::Output)?;
                }
                look(&mut out).and_then(|()| out.flush().map_err(CliError::Output))
            };
            match looked {
                Ok(()) => {}
                Err(error @ (CliError::Client(_) | CliError::Collector(_))) if !is_first => {
                    tell(&format!("conntally: {error}"));
                }
                Err(error) => return Err(error),
            }
            let Some(interval) = self.watch else {
                return Ok(());
            };
            is_first = false;
            thread::sleep(interval);
        }
    }
}

/// As many lines as a terminal has, as long as it is wide.
struct Page<W> {
    out: W,
    columns: usize,
    /// Lines that there is still room for.
    room: usize,
    /// A line that has no end yet.
    line: Vec<u8>,
    hidden: u64,
}

impl<W: Write> Page<W> {
    /// From the top of this process's terminal.
    fn begin(mut out: W, clears: bool) -> io::Result<Self> {
        let size = tcgetwinsize(io::stdout())?;
        out.write_all(HOME)?;
        if clears {
            out.write_all(CLEAR_BELOW)?;
        }
        Ok(Self::of(out, size.ws_col.into(), size.ws_row.into()))
    }

    /// Of this size. The last two rows are for how much is hidden, and for the cursor.
    fn of(out: W, columns: usize, rows: usize) -> Self {
        Self {
            out,
            columns,
            room: rows.saturating_sub(2),
            line: Vec::new(),
            hidden: 0,
        }
    }

    fn put_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if self.room == 0 {
            self.hidden += 1;
            return Ok(());
        }
        self.room -= 1;
        let text = String::from_utf8_lossy(&line);
        let shown: String = text.chars().take(self.columns).collect();
        self.out.write_all(shown.as_bytes())?;
        self.out.write_all(CLEAR_LINE)?;
        self.out.write_all(b"\n")
    }

    fn end(mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.put_line()?;
        }
        if self.hidden > 0 {
            let hidden = format!("({} lines more)", self.hidden);
            self.room += 1;
            self.line = hidden.into_bytes();
            self.put_line()?;
        }
        self.out.write_all(CLEAR_BELOW)?;
        self.out.flush()
    }
}

impl<W: Write> Write for Page<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.line.extend_from_slice(end);
                    self.put_line()?;
                }
                None => self.line.extend_from_slice(piece),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(columns: usize, rows: usize, text: &str) -> String {
        let mut out = Vec::new();
        let mut page = Page::of(&mut out, columns, rows);
        page.write_all(text.as_bytes()).unwrap();
        page.end().unwrap();
        String::from_utf8(out)
            .unwrap()
            .replace("\u{1b}[K", "|")
            .replace("\u{1b}[J", "#")
    }

    #[test]
    fn a_page_is_as_large_as_its_terminal_and_says_what_it_hides() {
        assert_eq!(page(5, 4, "größer\nb\n"), "größe|\nb|\n#");
        assert_eq!(page(80, 4, "a\nb\nc\nd"), "a|\nb|\n(2 lines more)|\n#");
        assert_eq!(page(4, 0, "a\n"), "(1 l|\n#");
        assert_eq!(page(80, 24, ""), "#");
    }

    #[test]
    fn an_interval_has_a_unit_or_is_in_seconds() {
        assert_eq!(interval("3"), Ok(Duration::from_secs(3)));
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "99ms", "fast", "-1"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
