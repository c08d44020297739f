//! Reading the configuration: files, `conf.d`, the environment.
//!
//! Each file is parsed behind as many spaces as the files before it have bytes, so
//! that a position in the merged tree says which file and line it came from.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::environment::{self, Environment};
use super::place::{File, Sources, Wrong, place_at_end};
use super::{Config, Mistake};

/// More mistakes than this are not looked for in one go.
const MAX_MISTAKES: usize = 50;
/// A configuration file beyond this size is surely something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there.
    #[error("no configuration file {}: name one with --config, or leave that out", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Files were read, and are wrong.
    #[error("{}", Joined(.0))]
    Wrong(Vec<Wrong>),
}

struct Joined<'a>(&'a [Wrong]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, wrong) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            wrong.fmt(f)?;
        }
        Ok(())
    }
}

/// A configuration that was found, and where.
#[derive(Debug)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    /// The files it came from, in order; empty for the built-in defaults.
    pub files: Vec<PathBuf>,
}

/// Where mistakes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the configuration itself.
    Text,
    /// And in what this host lacks of what it names.
    Host,
}

impl Scope {
    fn mistakes(self, config: &Config) -> Vec<Mistake> {
        let mut found = config.mistakes();
        if self == Self::Host {
            found.extend(config.mistakes_on_host());
        }
        found
    }
}

/// Reads `path` and `conf.d/*.toml` beside it, in order.
///
/// # Errors
/// Fails when a file cannot be read, and with every mistake that was found.
pub fn load(path: &Path, environment: &Environment, scope: Scope) -> Result<Loaded, ConfigError> {
    let mut files = vec![read(path)?];
    let directory = path
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .join("conf.d");
    for path in fragments(&directory)? {
        files.push(read(&path)?);
    }
    let config = parse_in(scope, &files, environment).map_err(ConfigError::Wrong)?;
    Ok(Loaded {
        config,
        files: files.into_iter().map(|file| file.path).collect(),
    })
}

/// The configuration where no file is: the environment's Datadog output or standard
/// output, and a unix stream socket in the runtime directory.
///
/// # Errors
/// Fails when the environment asks for what cannot be.
pub fn built_in(environment: &Environment) -> Result<Loaded, ConfigError> {
    let wrong = |message| {
        ConfigError::Wrong(vec![Wrong {
            message,
            place: None,
        }])
    };
    let mut config = environment::defaults(environment).map_err(wrong)?;
    if let Some(message) = environment.add_tags(&mut config).into_iter().next() {
        return Err(wrong(message));
    }
    let mistakes = config.mistakes();
    if mistakes.is_empty() {
        Ok(Loaded {
            config,
            files: Vec::new(),
        })
    } else {
        Err(ConfigError::Wrong(
            mistakes
                .into_iter()
                .map(|mistake| Wrong {
                    message: mistake.to_string(),
                    place: None,
                })
                .collect(),
        ))
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ConfigError::Missing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(unreadable(error)),
    };
    if size > MAX_FILE_BYTES {
        return Err(unreadable(io::Error::other(format!(
            "it has {size} bytes; a configuration has at most {MAX_FILE_BYTES}"
        ))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(File {
        path: path.to_owned(),
        text,
    })
}

fn fragments(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Merges and checks configuration files.
///
/// # Errors
/// Returns every mistake that was found.
pub fn parse(files: &[File], environment: &Environment) -> Result<Config, Vec<Wrong>> {
    parse_in(Scope::Text, files, environment)
}

fn parse_in(scope: Scope, files: &[File], environment: &Environment) -> Result<Config, Vec<Wrong>> {
    let sources = Sources::new(files);
    let mut wrong = Vec::new();
    let mut tree = DeTable::new();
    for (padded, file) in sources.padded.iter().zip(files) {
        let (root, errors) = DeTable::parse_recoverable(padded);
        wrong.extend(errors.iter().map(|error| {
            Wrong {
                message: error.message().to_owned(),
                // An unexpected end of the file is pointed at behind its last character.
                place: error
                    .span()
                    .and_then(|span| sources.place(span))
                    .or_else(|| place_at_end(file)),
            }
        }));
        merge(&mut tree, root.into_inner());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let written = tree.clone();
    expand(&mut tree, environment, &mut |span, message| {
        let key = take_out(&mut written.clone(), &span, "");
        wrong.push(Wrong {
            message: match key {
                Some(key) => format!("{key}: {message}"),
                None => message,
            },
            place: sources.place(span),
        });
    });
    let whole = tree.clone();
    let mut config = loop {
        match Config::deserialize(Deserializer::from(Spanned::new(0..0, tree.clone()))) {
            Ok(config) => break config,
            Err(error) => {
                let span = error.span();
                let key = span.clone().and_then(|span| take_out(&mut tree, &span, ""));
                let found = key.is_some();
                wrong.push(Wrong {
                    message: match key {
                        Some(key) => format!("{key}: {}{}", error.message(), hint(&key, &error)),
                        None => error.message().to_owned(),
                    },
                    place: span.and_then(|span| sources.place(span)),
                });
                if !found || wrong.len() >= MAX_MISTAKES {
                    return Err(wrong);
                }
            }
        }
    };
    for message in environment.add_tags(&mut config) {
        wrong.push(Wrong {
            message,
            place: None,
        });
    }
    // What was taken out for being wrong has its default now: a mistake that
    // follows from that alone would mislead.
    if wrong.is_empty() {
        wrong.extend(scope.mistakes(&config).into_iter().map(|mistake| Wrong {
            place: find(&whole, &mistake.key).and_then(|span| sources.place(span)),
            message: mistake.to_string(),
        }));
    }
    if wrong.is_empty() {
        Ok(config)
    } else {
        Err(wrong)
    }
}

/// What would be right, where the message of a type that is not ours does not say.
fn hint(key: &str, error: &toml::de::Error) -> &'static str {
    if error.message().starts_with("invalid type: integer")
        && error.message().ends_with("expected a string")
    {
        ": write it with its unit, in quotes, as in \"10s\" or \"8KiB\""
    } else if key.starts_with("hosts.aliases") {
        ": write an address = \"name\""
    } else if ["hosts.groups", "hosts.local", "hosts.ignore"]
        .iter()
        .any(|table| key.starts_with(table))
    {
        ": write a network with its prefix length, as in \"10.0.0.0/8\""
    } else {
        ""
    }
}

/// Tables are merged key by key, arrays of tables are joined, anything else is
/// replaced by what comes later.
fn merge<'i>(into: &mut DeTable<'i>, from: DeTable<'i>) {
    for (key, value) in from {
        match (
            into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut),
            value.get_ref(),
        ) {
            (Some(DeValue::Table(old)), DeValue::Table(_)) => {
                if let DeValue::Table(new) = value.into_inner() {
                    merge(old, new);
                }
            }
            (Some(DeValue::Array(old)), DeValue::Array(new))
                if old
                    .iter()
                    .chain(new.iter())
                    .all(|item| item.get_ref().is_table()) =>
            {
                if let DeValue::Array(new) = value.into_inner() {
                    for item in new {
                        old.push(item);
                    }
                }
            }
            _ => {
                // The position of the value that counts is the later one.
                into.remove(key.get_ref().as_ref());
                into.insert(key, value);
            }
        }
    }
}

/// Replaces `${NAME}` in every string value.
fn expand(
    table: &mut DeTable<'_>,
    environment: &Environment,
    complain: &mut dyn FnMut(Range<usize>, String),
) {
    for (_, value) in table {
        expand_value(value, environment, complain);
    }
}

fn expand_value(
    value: &mut Spanned<DeValue<'_>>,
    environment: &Environment,
    complain: &mut dyn FnMut(Range<usize>, String),
) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => match environment.expand(text) {
            Ok(Some(expanded)) => *text = expanded.into(),
            Ok(None) => {}
            Err(message) => complain(span, message),
        },
        DeValue::Array(items) => {
            for item in items.iter_mut() {
                expand_value(item, environment, complain);
            }
        }
        DeValue::Table(table) => expand(table, environment, complain),
        _ => {}
    }
}

/// Takes the innermost entry that covers `span` out of the tree; returns its key.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<String> {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let mut found = None;
    for (key, value) in &mut *table {
        let name = join(prefix, key.get_ref());
        match value.get_mut() {
            DeValue::Table(inner) => {
                if let Some(taken) = take_out(inner, span, &name) {
                    return Some(taken);
                }
            }
            DeValue::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let DeValue::Table(inner) = item.get_mut()
                        && let Some(taken) = take_out(inner, span, &format!("{name}[{index}]"))
                    {
                        return Some(taken);
                    }
                }
            }
            _ => {}
        }
        if covers(key.span()) || covers(value.span()) {
            found = Some((key.get_ref().to_string(), name));
        }
    }
    let (key, name) = found?;
    table.remove(key.as_str());
    Some(name)
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// The position of the value at a key such as `output[1].queue`, or of the nearest
/// table above it that is written.
fn find(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key
        .split_once('.')
        .map_or((key, None), |(a, b)| (a, Some(b)));
    let (name, index) = match first.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (first, None),
    };
    let value = table.get(name)?;
    let value = match (value.get_ref(), index) {
        (DeValue::Array(items), Some(index)) => items.get(index)?,
        _ => value,
    };
    match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => find(inner, rest).or_else(|| Some(value.span())),
        _ => Some(value.span()),
    }
}
