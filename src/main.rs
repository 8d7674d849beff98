//! The one binary: parse, call a crate, print.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
