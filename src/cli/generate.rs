//! `conntally generate`: what a package installs beside the program: man pages and
//! completions, written by the program itself, so that they say what it does.

mod man;
mod reference;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _, Subcommand, ValueEnum};

use super::logging::{self, Role};
use super::{Cli, CliError, Verbosity};
use crate::config::Environment;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
    /// Write files into this directory, made if it is missing, instead of standard output.
    #[arg(short, long, value_name = "DIR", global = true)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// Man pages: of each command, and of the configuration file.
    Man,
    /// What a shell completes.
    Completions {
        /// Of which shell.
        shell: Shell,
    },
}

/// The shells that completions are written for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Fish => Self::Fish,
            Shell::Zsh => Self::Zsh,
        }
    }
}

/// A file of a package.
#[derive(Debug)]
struct Page {
    /// Its name, without a directory.
    name: String,
    text: Vec<u8>,
}

pub(super) fn generate(
    args: &GenerateArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let pages = match args.what {
        What::Man => man::pages(&command()).map_err(CliError::Output)?,
        What::Completions { shell } => vec![completions(shell)],
    };
    match &args.out {
        Some(directory) => write(&pages, directory),
        None => print(&pages).map_err(CliError::Output),
    }
}

/// The command line, complete, but for the command `help`: it says what the pages say.
fn command() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn completions(shell: Shell) -> Page {
    let shell = clap_complete::Shell::from(shell);
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "conntally", &mut text);
    let name = clap_complete::Generator::file_name(&shell, "conntally");
    Page { name, text }
}

fn write(pages: &[Page], directory: &Path) -> Result<(), CliError> {
    let errors = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    fs::create_dir_all(directory).map_err(errors(directory))?;
    for page in pages {
        let path = directory.join(&page.name);
        fs::write(&path, &page.text).map_err(errors(&path))?;
    }
    Ok(())
}

fn print(pages: &[Page]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for page in pages {
        out.write_all(&page.text)?;
    }
    out.flush()
}
