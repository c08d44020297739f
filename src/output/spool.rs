//! What an output still held at a stop, kept in a file until the next start.
//!
//! ## The file
//! A head of text, `conntally spool 1 FORMAT LINES BYTES CRC`, with the CRC-32 (IEEE) of
//! all that follows in hexadecimal; then `BYTES` bytes: `LINES` lines, each behind a letter
//! that says whose it is ([`Kind`]). It is written beside its place, made durable and then
//! put there, so that there is the whole of it or nothing. Once it has been read it is taken
//! away, and one that is damaged is put aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memchr::memchr;

use crate::config::{Format, LineSource};

/// What the head begins with.
const MAGIC: &str = "conntally spool 1";
/// The longest head.
const MAX_HEAD_BYTES: usize = 128;
/// Far more than an output holds.
const MAX_BYTES: u64 = 256 << 20;
/// Lines are nobody's business.
const MODE: u32 = 0o600;

/// Why a spool is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It can't be read or written.
    #[error("cannot {what} the spool {}: {error}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not what was written.
    #[error("the spool {} is damaged ({why}): put aside as {}", path.display(), aside.display())]
    Damaged {
        /// Its place.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// Where it is now.
        aside: PathBuf,
    },
}

/// Whose a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it came, from this source; it goes into the backlog again.
    Raw(LineSource),
    /// As the output's format has it; it goes into the queue again.
    Wire,
}

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::Raw(LineSource::Collector) => b'c',
            Self::Raw(LineSource::Listeners) => b'l',
            Self::Wire => b'w',
        }
    }

    const fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'c' => Self::Raw(LineSource::Collector),
            b'l' => Self::Raw(LineSource::Listeners),
            b'w' => Self::Wire,
            _ => return None,
        })
    }
}

/// The lines of a spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    body: Vec<u8>,
    lines: u64,
}

impl Contents {
    /// Adds lines, each with its newline, which the last one may lack.
    pub fn add(&mut self, kind: Kind, lines: &[u8]) {
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            self.body.push(kind.letter());
            self.body.extend_from_slice(line);
            if line.last() != Some(&b'\n') {
                self.body.push(b'\n');
            }
            self.lines += 1;
        }
    }

    /// How many lines there are.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// How long they are together, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// All of it, each line behind its letter.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.body
    }

    /// From what [`Contents::as_bytes`] gave; `None` where that was something else.
    #[must_use]
    pub fn from_bytes(body: Vec<u8>, lines: u64) -> Option<Self> {
        let contents = Self { body, lines };
        let is_whole = contents.body.is_empty() || contents.body.ends_with(b"\n");
        (is_whole && contents.iter().count() as u64 == lines).then_some(contents)
    }

    /// Each line, with its newline.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        let lines = self.body.split_inclusive(|&byte| byte == b'\n');
        lines.filter_map(|line| {
            let (&letter, line) = line.split_first()?;
            Kind::of(letter).map(|kind| (kind, line))
        })
    }
}

/// What was found of an earlier run.
#[derive(Debug)]
pub struct Found {
    /// Its lines.
    pub contents: Contents,
    /// Whether lines as they go are in the same format still.
    pub is_same_format: bool,
    /// How long it lay there, where the clock tells.
    pub age: Option<Duration>,
}

/// An output's place for a spool.
#[derive(Clone, Debug)]
pub struct Spool {
    path: PathBuf,
    format: Format,
}

impl Spool {
    /// At this path, for an output of this format.
    #[must_use]
    pub const fn new(path: PathBuf, format: Format) -> Self {
        Self { path, format }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
        let path = self.path.clone();
        move |error| SpoolError::File { what, path, error }
    }

    /// Takes what an earlier run left, and makes sure that there will be a place for what
    /// this one leaves.
    ///
    /// # Errors
    /// [`SpoolError::File`] when the file can't be read or its directory not written to;
    /// [`SpoolError::Damaged`] when it is not what was written: it is out of the way then.
    pub fn take(&self) -> Result<Option<Found>, SpoolError> {
        let fresh = self.beside(".new");
        create(&fresh).map_err(self.failed("prepare"))?;
        fs::remove_file(&fresh).map_err(self.failed("prepare"))?;
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(self.failed("open"))?,
        };
        let metadata = file.metadata().map_err(self.failed("read"))?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(self.failed("read"))?;
        match parse(bytes) {
            Ok((contents, format)) => {
                fs::remove_file(&self.path).map_err(self.failed("remove"))?;
                let age = metadata.modified().ok();
                Ok(Some(Found {
                    contents,
                    is_same_format: format == name(self.format),
                    age: age.and_then(|at| SystemTime::now().duration_since(at).ok()),
                }))
            }
            Err(why) => {
                let aside = self.beside(".damaged");
                fs::rename(&self.path, &aside).map_err(self.failed("put aside"))?;
                Err(SpoolError::Damaged {
                    path: self.path.clone(),
                    why,
                    aside,
                })
            }
        }
    }

    /// Puts these lines there, all or none.
    ///
    /// # Errors
    /// [`SpoolError::File`].
    pub fn keep(&self, contents: &Contents) -> Result<(), SpoolError> {
        let fresh = self.beside(".new");
        let written = self.write(&fresh, contents);
        if written.is_err() {
            // It may never have been made.
            drop(fs::remove_file(&fresh));
        }
        written.map_err(self.failed("write"))
    }

    fn write(&self, fresh: &Path, contents: &Contents) -> io::Result<()> {
        let mut file = create(fresh)?;
        let Contents { body, lines } = contents;
        let (format, bytes, crc) = (name(self.format), body.len(), checksum(body));
        writeln!(file, "{MAGIC} {format} {lines} {bytes} {crc}")?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(fresh, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// A new file, whatever lay there.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE);
    // Not through a link that somebody laid.
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

const fn name(format: Format) -> &'static str {
    match format {
        Format::Dogstatsd => "dogstatsd",
        Format::Statsd => "statsd",
        Format::Graphite => "graphite",
        Format::Influx => "influx",
    }
}

/// As the head has it, and in no other way of writing.
fn checksum(body: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(body))
}

/// The lines, and the name of their format; or what is wrong.
fn parse(mut bytes: Vec<u8>) -> Result<(Contents, String), &'static str> {
    const TORN: &str = "it is cut off";
    let head = bytes
        .get(..bytes.len().min(MAX_HEAD_BYTES))
        .unwrap_or_default();
    let end = memchr(b'\n', head).ok_or("it has no head")?;
    let head = head.get(..end).unwrap_or_default();
    let head = str::from_utf8(head).map_err(|_| "its head is no text")?;
    let fields = head
        .strip_prefix(MAGIC)
        .ok_or("it is of another version, or no spool")?;
    let mut fields = fields.split_ascii_whitespace();
    let mut field = || fields.next().ok_or("its head is cut off");
    let (format, lines, length) = (field()?.to_owned(), field()?, field()?);
    let crc = field()?.to_owned();
    let number = |text: &str| text.parse::<u64>().map_err(|_| "its head has no numbers");
    let (lines, length) = (number(lines)?, number(length)?);
    bytes.drain(..=end);
    if bytes.len() as u64 != length {
        return Err(TORN);
    }
    if checksum(&bytes) != crc {
        return Err("its checksum is another");
    }
    let contents = Contents::from_bytes(bytes, lines);
    let contents = contents.ok_or("its lines are not as many as it says")?;
    Ok((contents, format))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn spool(directory: &Path) -> Spool {
        Spool::new(directory.join("spool"), Format::Dogstatsd)
    }

    fn contents() -> Contents {
        let mut contents = Contents::default();
        contents.add(Kind::Wire, b"w:1|c\nbare:1|c");
        contents.add(Kind::Raw(LineSource::Collector), b"c:1|c\n");
        contents.add(Kind::Raw(LineSource::Listeners), b"l:1|c\nl:2|c\n");
        contents
    }

    #[test]
    fn what_is_kept_is_found_once() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool(directory.path());
        assert!(spool.take().unwrap().is_none());
        spool.keep(&contents()).unwrap();
        let mode = fs::metadata(spool.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let found = spool.take().unwrap().unwrap();
        assert_eq!(found.contents, contents());
        assert!(found.is_same_format && found.age.is_some());
        let lines: Vec<_> = found.contents.iter().collect();
        assert_eq!(lines.len() as u64, found.contents.lines());
        assert_eq!(lines[1], (Kind::Wire, &b"bare:1|c\n"[..]));
        assert_eq!(
            lines[4],
            (Kind::Raw(LineSource::Listeners), &b"l:2|c\n"[..])
        );
        assert!(spool.take().unwrap().is_none());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn lines_of_another_format_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        spool(directory.path()).keep(&contents()).unwrap();
        let other = Spool::new(directory.path().join("spool"), Format::Statsd);
        assert!(!other.take().unwrap().unwrap().is_same_format);
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool(&directory.path().join("none"));
        let error = spool.take().unwrap_err();
        assert!(matches!(error, SpoolError::File { .. }), "{error}");
        assert!(error.to_string().contains("/none/spool"), "{error}");
        assert!(spool.keep(&contents()).is_err());
    }

    #[test]
    fn another_version_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool(directory.path());
        fs::write(spool.path(), "conntally spool 2 x\n").unwrap();
        let error = spool.take().unwrap_err().to_string();
        assert!(error.contains("another version"), "{error}");
        assert!(spool.take().unwrap().is_none());
        assert!(spool.beside(".damaged").exists());
    }

    proptest! {
        /// Whatever is changed, cut off or added, it is found out.
        #[test]
        fn prop_damage_is_found_out(
            at in any::<prop::sample::Index>(),
            change in prop_oneof![Just(None), (1_u8..=255).prop_map(Some)],
        ) {
            let directory = tempfile::tempdir().unwrap();
            let spool = spool(directory.path());
            spool.keep(&contents()).unwrap();
            let mut bytes = fs::read(spool.path()).unwrap();
            let at = at.index(bytes.len());
            match change {
                Some(bits) => bytes[at] ^= bits,
                None => bytes.truncate(at),
            }
            fs::write(spool.path(), &bytes).unwrap();
            match spool.take() {
                // The name of the format is all that may be another.
                Ok(Some(found)) => prop_assert!(
                    found.contents == contents() && !found.is_same_format || found.is_same_format
                        && bytes.get(at).is_some_and(u8::is_ascii_whitespace)
                ),
                Ok(None) => prop_assert!(false, "it was there"),
                Err(error) => {
                    let is_damaged = matches!(error, SpoolError::Damaged { .. });
                    prop_assert!(is_damaged);
                    prop_assert!(spool.beside(".damaged").exists());
                }
            }
        }
    }
}
