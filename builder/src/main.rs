//! `kiln`: parses the command line, runs it, prints the chain of an error once, and chooses the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use kiln_builder::cli::Cli;
use kiln_builder::{exit, interrupt, logger};

fn main() -> ExitCode {
    // The one TLS provider of the workspace; rustls panics at first use if it has to choose.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    logger::install(cli.verbose);
    let listening = interrupt::listen().context("listening for Ctrl-C");
    match listening.and_then(|()| cli.command.run(&cli.places)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if exit::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where even standard error is gone.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            exit::code(&error)
        }
    }
}
