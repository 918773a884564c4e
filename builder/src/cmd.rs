//! One file per command, glue only. A new command is a module, a variant and an arm here.

pub mod build;
pub mod deploy;
pub mod destroy;
pub mod dns;
pub mod doctor;
pub mod explain;
pub mod explain_decision;
mod fleet;
pub mod generations;
pub mod lab;
pub mod lock;
pub mod net;
pub mod pki;
pub mod plan;
pub mod reimage;
pub mod rollout;
pub mod store;
pub mod transport;
pub mod trust;
pub mod verify;

use crate::cli::Places;

/// What kiln can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[expect(missing_docs, reason = "the help of a command is the doc of its arguments; a doc here would replace it")]
    Lock(lock::LockArgs),
    #[expect(missing_docs, reason = "as above")]
    Plan(plan::PlanArgs),
    #[expect(missing_docs, reason = "as above")]
    Build(build::BuildArgs),
    #[expect(missing_docs, reason = "as above")]
    Deploy(deploy::DeployArgs),
    #[expect(missing_docs, reason = "as above")]
    Reimage(reimage::ReimageArgs),
    #[expect(missing_docs, reason = "as above")]
    Rollback(reimage::RollbackArgs),
    #[expect(missing_docs, reason = "as above")]
    Destroy(destroy::DestroyArgs),
    #[expect(missing_docs, reason = "as above")]
    Generations(generations::GenerationsArgs),
    #[expect(missing_docs, reason = "as above")]
    Explain(explain::ExplainArgs),
    #[expect(missing_docs, reason = "as above")]
    Verify(verify::VerifyArgs),
    #[expect(missing_docs, reason = "as above")]
    ExplainDecision(explain_decision::ExplainDecisionArgs),
    #[expect(missing_docs, reason = "as above")]
    Rollout(rollout::RolloutArgs),
    #[expect(missing_docs, reason = "as above")]
    Doctor(doctor::DoctorArgs),
    #[expect(missing_docs, reason = "as above")]
    Store(store::StoreArgs),
    #[expect(missing_docs, reason = "as above")]
    Push(transport::PushArgs),
    #[expect(missing_docs, reason = "as above")]
    Pull(transport::PullArgs),
    #[expect(missing_docs, reason = "as above")]
    Trust(trust::TrustArgs),
    #[expect(missing_docs, reason = "as above")]
    Lab(lab::LabArgs),
    #[expect(missing_docs, reason = "as above")]
    Pki(pki::PkiArgs),
    #[expect(missing_docs, reason = "as above")]
    Dns(dns::DnsArgs),
    #[expect(missing_docs, reason = "as above")]
    Net(net::NetArgs),
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// Of the command; [`crate::exit::code`] chooses the exit code.
    pub fn run(self, places: &Places) -> anyhow::Result<()> {
        match self {
            Self::Lock(args) => args.run(places),
            Self::Plan(args) => args.run(places),
            Self::Build(args) => args.run(places),
            Self::Deploy(args) => args.run(places),
            Self::Reimage(args) => args.run(places),
            Self::Rollback(args) => args.run(places),
            Self::Destroy(args) => args.run(places),
            Self::Generations(args) => args.run(places),
            Self::Explain(args) => args.run(places),
            Self::Verify(args) => args.run(places),
            Self::ExplainDecision(args) => args.run(places),
            Self::Rollout(args) => args.run(places),
            Self::Doctor(args) => args.run(places),
            Self::Store(args) => args.run(places),
            Self::Push(args) => args.run(places),
            Self::Pull(args) => args.run(places),
            Self::Trust(args) => args.run(places),
            Self::Lab(args) => args.run(places),
            Self::Pki(args) => args.run(places),
            Self::Dns(args) => args.run(places),
            Self::Net(args) => args.run(places),
        }
    }
}
