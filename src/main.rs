//! The `conntally` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    conntally::cli::main(std::env::args_os()).into()
}
