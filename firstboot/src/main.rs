//! `firstboot`: parses the command line, runs it, prints the chain of an error once, and chooses the exit code.
#![expect(clippy::print_stdout, reason = "a command's data goes to stdout from here")]

use std::process::ExitCode;

use clap::Parser as _;
use kiln_firstboot::cli::{Cli, Command};
use kiln_firstboot::paths::Paths;
use kiln_firstboot::{control, disk, explain, precheck, run, status_file};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let paths = Paths::new(cli.root);
    let done = match cli.command {
        Command::Run => run::run(&paths),
        Command::Status { json } => status_file::print(&paths, json).map(|text| print!("{text}")),
        Command::Explain => status_file::read(&paths).map(|file| print!("{}", status_file::explain(&file))),
        Command::Disk => disk::run(&paths),
        Command::Control => control::run(&paths),
        Command::Precheck => precheck::run(&paths),
        Command::ExplainDecision { file } => explain::explain_file(&file).map(|text| print!("{text}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("firstboot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
