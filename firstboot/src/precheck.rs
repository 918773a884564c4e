//! `firstboot precheck`: the `ExecCondition=` of `etcd.service`. However etcd is started, it is asked first.
//!
//! It repeats, from the disk alone, what would be wrong in any start: rows 2 and 4 to 10 of the decision table as far as they need
//! no network. A start on an empty log needs a permit besides, which is spent here: one file, one start.
#![expect(clippy::disallowed_methods, reason = "an edge: leaf and permit are read here")]

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::digest::Id128;
use crate::disk;
use crate::disk_fact::{DataFact, DiskFacts, LEAST_FREE_MIB, WalFact};
use crate::durable;
use crate::fault::{Point, cut};
use crate::journal;
use crate::observation::StateView;
use crate::paths::Paths;
use crate::raft_id;
use crate::state::{Phase, RaftId, State};
use crate::state_file;
use crate::volume::VolumeLabel;

/// Allows this start of etcd, or says why not.
///
/// # Errors
/// The sentence that forbids the start. systemd takes exit code 1 as "condition not met": etcd is not started and not failed.
pub fn run(paths: &Paths) -> anyhow::Result<()> {
    journal::connect(paths.root());
    let verdict = check(paths);
    if let Err(refusal) = &verdict {
        journal::record(&journal::START_REFUSED, &format!("{refusal:#}"), &[]);
    }
    verdict.context("etcd may not start")
}

fn check(paths: &Paths) -> anyhow::Result<()> {
    let facts = disk::look(paths);
    // First: without its volume a node has no state either, and that is not what should be told.
    mounted(&facts.data)?;
    let state = match state_file::read(paths) {
        StateView::Read(state) => *state,
        StateView::Absent => bail!("there is no state file, so nothing says which member this is"),
        StateView::Unreadable(why) => bail!("the state file cannot be read: {why}"),
    };
    let start = judge(&facts, &state)?;
    leaf_is_whole(paths)?;
    if let Start::Empty(member) = start {
        spend_permit(paths, member)?;
        cut(Point::PermitSpent);
    }
    Ok(())
}

/// What kind of start the disk leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// On the member's own log.
    Log,
    /// On an empty log, with this fresh id.
    Empty(RaftId),
}

/// The volume's label and how many MiB are free, if it is there and can be written.
fn mounted(data: &DataFact) -> anyhow::Result<(&VolumeLabel, u64)> {
    match data {
        DataFact::Mounted { label, free_mib, .. } => Ok((label, *free_mib)),
        DataFact::Absent(why) | DataFact::Unusable(why) => bail!("the data volume is not mounted: {why}"),
        DataFact::ReadOnly(why) => bail!("the data volume is read-only: {why}"),
    }
}

/// What the disk allows. Pure; the model asks it, too.
///
/// # Errors
/// The sentence that forbids the start.
pub fn judge(facts: &DiskFacts, state: &State) -> anyhow::Result<Start> {
    let (label, free_mib) = mounted(&facts.data)?;
    ensure!(
        label.instance == state.instance && label.cluster == state.cluster && label.fqdn == state.fqdn,
        "the state file is of another volume than its label"
    );
    ensure!(
        free_mib >= LEAST_FREE_MIB,
        "the data volume has {free_mib} MiB free, etcd needs {LEAST_FREE_MIB} to start\nhint: make the data disk larger"
    );
    let expected = match &state.position {
        Phase::Blank => None,
        Phase::Evicted { member, .. } => bail!("the cluster has removed this node's member {member}"),
        Phase::Founding { lineage } => Some(founding_ids(state, *lineage)),
        Phase::Assigned { member, raft_cluster, .. } | Phase::Member { member, raft_cluster, .. } => {
            Some((*member, *raft_cluster))
        }
    };
    let Some(expected) = expected else {
        bail!("the state says that this volume is blank and belongs to no raft group")
    };
    match &facts.wal {
        WalFact::Bare { .. } if matches!(state.position, Phase::Founding { .. }) => {
            bail!("etcd's log has its header and nothing else; the agent has it cleared before the lineage is founded")
        }
        WalFact::Present { member, raft_cluster } | WalFact::Bare { member, raft_cluster } => {
            ensure!(
                (*member, *raft_cluster) == expected,
                "etcd's log is that of member {member} of raft cluster {raft_cluster}, the state says member {} of {}",
                expected.0,
                expected.1
            );
            Ok(Start::Log)
        }
        WalFact::Absent => match &state.position {
            Phase::Member { member, .. } => {
                bail!("the state says that this is member {member}, but etcd's log is gone")
            }
            Phase::Assigned { attempted: false, .. } => {
                bail!("the state does not record yet that this start is attempted")
            }
            Phase::Assigned { .. } | Phase::Founding { .. } | Phase::Blank | Phase::Evicted { .. } => {
                Ok(Start::Empty(expected.0))
            }
        },
        WalFact::Unreadable(why) => bail!("the first record of etcd's log cannot be read: {why}"),
        WalFact::Unknown => bail!("etcd's log could not be looked at"),
    }
}

/// The ids etcd computes for a one-voter cluster of this node and lineage.
pub(crate) fn founding_ids(state: &State, lineage: Id128) -> (RaftId, RaftId) {
    let token = raft_id::cluster_token(state.cluster, state.generation, lineage);
    let member = raft_id::member_id(&[state.fqdn.peer_url()], &token);
    (member, raft_id::raft_cluster_id(&[member]))
}

/// The leaf must be there with its issuer behind it: without the intermediate every peer refuses it, one by one and in its own log.
fn leaf_is_whole(paths: &Paths) -> anyhow::Result<()> {
    let pem = fs_err::read_to_string(paths.leaf_cert()).context("reading the leaf certificate")?;
    chain_is_whole(&pem).with_context(|| format!("reading `{}`", paths.leaf_cert().display()))?;
    fs_err::metadata(paths.leaf_key()).context("looking for the leaf's key")?;
    Ok(())
}

/// A leaf, and behind it the issuer that it names.
fn chain_is_whole(pem: &str) -> anyhow::Result<()> {
    let certificates: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    let [leaf, issuer] = &certificates[..] else {
        bail!("it has {} certificates, expected the leaf and its issuer", certificates.len())
    };
    let (_, leaf) = X509Certificate::from_der(leaf)?;
    let (_, issuer) = X509Certificate::from_der(issuer)?;
    ensure!(
        leaf.issuer() == issuer.subject() && issuer.is_ca(),
        "behind the leaf of `{}` is `{}`, which is not its issuer",
        leaf.issuer(),
        issuer.subject()
    );
    Ok(())
}

/// Removes the permit and makes that durable for as long as it matters, this boot; a second start finds none.
fn spend_permit(paths: &Paths, member: RaftId) -> anyhow::Result<()> {
    let permit = paths.empty_start_permit();
    // The agent may make files beside it; a permit is root's own file and no link.
    match fs_err::symlink_metadata(&permit) {
        Ok(found) => ensure!(
            found.is_file() && found.uid() == nix::unistd::geteuid().as_raw(),
            "`{}` was not written by root",
            permit.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("etcd's log is empty and there is no permit for such a start; the agent asks for one, once")
        }
        Err(error) => return Err(error).context("reading the permit for a start on an empty log"),
    }
    let text = fs_err::read_to_string(&permit).context("reading the permit for a start on an empty log")?;
    fs_err::remove_file(&permit).context("spending the permit for a start on an empty log")?;
    durable::sync_directory(permit.parent().unwrap_or(Path::new("/")))?;
    ensure!(text.trim() == member.to_string(), "the permit is for member {}, the state says {member}", text.trim());
    Ok(())
}

/// Writes the permit for one start of `member` on an empty log.
///
/// # Errors
/// When it cannot be written.
pub fn permit(paths: &Paths, member: RaftId) -> anyhow::Result<()> {
    durable::replace(&paths.empty_start_permit(), member.to_string().as_bytes(), 0o600)
        .context("writing the permit for a start on an empty log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::LeafRequest;
    use crate::observation::Observation;
    use crate::sample::{FOUNDER_IDS, LINEAGE, NOW, address, assigned, fqdn, member, observation};
    use crate::sample_authority::Signer;

    fn verdict(seen: &mut Observation) -> Result<Start, String> {
        let facts = DiskFacts {
            root: seen.root.clone(),
            data: seen.data.clone(),
            seed: crate::disk_fact::SeedFact::Unpacked,
            wal: seen.wal.clone(),
        };
        judge(&facts, seen.state_mut()).map_err(|error| error.to_string())
    }

    #[test]
    fn allows_a_start_on_the_members_own_log() {
        let ids = (RaftId(0xa), RaftId(0xc));
        for phase in [member(), assigned(true)] {
            assert_eq!(verdict(&mut observation(2, 3).in_phase(phase).with_wal(ids)), Ok(Start::Log));
        }
        let founding = Phase::Founding { lineage: LINEAGE };
        assert_eq!(verdict(&mut observation(1, 3).in_phase(founding).with_wal(FOUNDER_IDS)), Ok(Start::Log));
    }

    #[test]
    fn a_founder_does_not_start_on_a_log_that_lacks_its_first_entry_and_a_joiner_may() {
        let bare = |(member, raft_cluster)| WalFact::Bare { member, raft_cluster };
        let mut founding = observation(1, 3).in_phase(Phase::Founding { lineage: LINEAGE });
        founding.wal = bare(FOUNDER_IDS);
        assert!(verdict(&mut founding).unwrap_err().contains("header"));
        let mut joining = observation(2, 3).in_phase(assigned(true));
        joining.wal = bare((RaftId(0xa), RaftId(0xc)));
        assert_eq!(verdict(&mut joining), Ok(Start::Log));
    }

    #[test]
    fn an_empty_log_starts_only_with_a_fresh_id() {
        let of = |phase| verdict(&mut observation(1, 3).in_phase(phase));
        assert_eq!(of(Phase::Founding { lineage: LINEAGE }), Ok(Start::Empty(FOUNDER_IDS.0)));
        assert_eq!(of(assigned(true)), Ok(Start::Empty(RaftId(0xa))));
        assert_eq!(of(assigned(false)), Err("the state does not record yet that this start is attempted".into()));
        assert_eq!(of(member()), Err("the state says that this is member a, but etcd's log is gone".into()));
        assert_eq!(
            of(Phase::Blank),
            Err("the state says that this volume is blank and belongs to no raft group".into())
        );
    }

    #[test]
    fn refuses_what_decide_would_halt_on() {
        let with = |bend: &dyn Fn(&mut Observation)| {
            let mut seen = observation(2, 3).in_phase(member()).with_wal((RaftId(0xa), RaftId(0xc)));
            bend(&mut seen);
            verdict(&mut seen).unwrap_err()
        };
        assert!(
            with(&|s| s.wal = WalFact::Present { member: RaftId(1), raft_cluster: RaftId(0xc) }).contains("member 1")
        );
        assert!(with(&|s| s.wal = WalFact::Unreadable("short".into())).contains("short"));
        assert!(with(&|s| s.data = DataFact::ReadOnly("vdb".into())).contains("read-only"));
        assert!(with(&|s| s.data = DataFact::Absent("none".into())).contains("not mounted"));
        assert!(with(&|s| s.state_mut().instance = Id128([9; 16])).contains("another volume"));
        assert!(
            with(&|s| s.state_mut().position = Phase::Evicted { lineage: LINEAGE, member: RaftId(0xa) })
                .contains("removed")
        );
    }

    #[test]
    fn b15_etcd_does_not_start_without_the_issuer_behind_its_leaf() {
        let issuer = Signer::root("peers").issuer(1, NOW - 1000, NOW + 1000);
        let other = Signer::root("peers").issuer(2, NOW - 1000, NOW + 1000);
        let (own, addresses) = (fqdn(1), [address(1)]);
        let request = LeafRequest { fqdn: &own, addresses: &addresses, issuer_cert: &issuer.cert, now: NOW, floor: 0 };
        let chain = request.mint(&issuer.key.serialize_pem(), &rcgen::KeyPair::generate().unwrap()).unwrap();
        assert!(chain_is_whole(&chain).is_ok());
        let leaf = chain.split_inclusive("-----END CERTIFICATE-----").next().unwrap();
        let why = |pem: &str| chain_is_whole(pem).unwrap_err().to_string();
        assert_eq!(why(leaf), "it has 1 certificates, expected the leaf and its issuer");
        assert_eq!(why(""), "it has 0 certificates, expected the leaf and its issuer");
        assert!(why(&format!("{leaf}\n{leaf}")).contains("which is not its issuer"));
        assert!(why(&format!("{leaf}\n{}", other.cert)).contains("which is not its issuer"));
    }

    #[test]
    fn a_permit_is_spent_by_one_start_and_is_no_link() {
        let scratch = tempfile::tempdir().unwrap();
        let paths = Paths::new(scratch.path());
        fs_err::create_dir_all(paths.run()).unwrap();
        let spend = |id| spend_permit(&paths, RaftId(id)).map_err(|error| error.to_string());
        assert!(spend(0xa).unwrap_err().contains("no permit"));
        permit(&paths, RaftId(0xa)).unwrap();
        assert_eq!(spend(0xa), Ok(()));
        assert!(spend(0xa).unwrap_err().contains("no permit"));
        permit(&paths, RaftId(0xb)).unwrap();
        assert_eq!(spend(0xa), Err("the permit is for member b, the state says a".into()));
        fs_err::write(scratch.path().join("else"), "a").unwrap();
        fs_err::os::unix::fs::symlink(scratch.path().join("else"), paths.empty_start_permit()).unwrap();
        assert!(spend(0xa).unwrap_err().contains("was not written by root"));
    }
}
