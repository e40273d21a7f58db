//! `zeroth`: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use coordinator::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    coordinator::cli::log(&cli);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            coordinator::cli::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
