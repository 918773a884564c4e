//! `kiln rollout` with a test's machines for hands: the same command line, the same process to be killed, everything real but the hypervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use kiln_builder::cli::Places;
use kiln_builder::cmd::rollout::{Ground, RolloutArgs};
use kiln_builder::pki::Pki;
use kiln_builder::reach::Reach;
use kiln_builder::rollout::record::Target;
use kiln_builder::{exit, logger};
use kiln_tests::cluster::etcd_version;
use kiln_tests::machine_room::RemoteHands;

/// As `kiln`, but for the machines
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    places: Places,
    /// Socket of the machine room
    #[arg(long)]
    machines: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Rollout(RolloutArgs),
}

fn main() -> ExitCode {
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    logger::install(1);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit::code(&error)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let Command::Rollout(args) = &cli.command;
    let profile = cli.places.profile(args.profile()?)?;
    let pki = Pki::load(&cli.places.pki(&profile)?, &profile)?;
    let hands = RemoteHands { socket: cli.machines.clone() };
    let target = |to: Option<u64>| {
        let mut generations = hands.generations()?;
        generations.retain(|root| to.is_none_or(|to| root.generation == to));
        let root = generations.pop().context("there is no such generation")?;
        Ok(Target { root, etcd: etcd_version() })
    };
    let reach = Reach::default();
    let ground = Ground { profile: &profile, pki: &pki, reach: &reach, hands: &hands, target: &target };
    args.carry_out(&cli.places, &ground)
}
