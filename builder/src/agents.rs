//! Asks a cluster's agents where they stand, as an operator: over mTLS, from where the nodes are seen.
#![expect(clippy::disallowed_methods, reason = "an edge: reads keys, speaks over the network")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kiln_firstboot::agent::client;
use kiln_firstboot::cluster::EtcdSettings;
use kiln_firstboot::message::{Answer, Ask, NodeStatus};
use kiln_firstboot::revocation::Distrusted;
use kiln_firstboot::tls::{AgentTls, TlsParts};

use crate::pki::{OPERATOR, Pki};
use crate::profile::Node;
use crate::reach::Reach;

/// How long an agent may take to answer, which waits for its etcd.
const LIMIT: Duration = Duration::from_secs(5);

/// What each of these nodes answered, in their order; all are asked at once. One whose etcd is [waited for](EtcdSettings::patience) longer than
/// usual is so too.
///
/// # Errors
/// When the operator's certificate cannot be read or the nodes' network not be entered; a node that does not answer is data.
pub fn ask_all(
    reach: &Reach,
    pki: &Pki,
    etcd: &EtcdSettings,
    nodes: &[Node],
) -> anyhow::Result<Vec<anyhow::Result<NodeStatus>>> {
    let limit = LIMIT * etcd.patience();
    let tls = operator_tls(pki).context("reading the operator's certificate")?;
    let answers = reach.within(|| -> anyhow::Result<Vec<anyhow::Result<Answer>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        Ok(local.block_on(&runtime, async {
            let mut asked = Vec::new();
            for node in nodes {
                let (tls, fqdn, addresses) = (tls.clone(), node.fqdn.clone(), [node.address]);
                asked.push(tokio::task::spawn_local(async move {
                    client::ask(&tls, &fqdn, &addresses, &Ask::Status, limit).await
                }));
            }
            let mut answers = Vec::new();
            for one in asked {
                answers.push(one.await.unwrap_or_else(|e| Err(anyhow!(e))));
            }
            answers
        }))
    })?;
    let status = |answer| match answer {
        Answer::Status(status) => Ok(*status),
        other @ (Answer::Granted(_) | Answer::RetryAfter { .. } | Answer::Refused { .. }) => {
            Err(anyhow!("it answered something else than its status: {other:?}"))
        }
    };
    Ok(answers.into_iter().map(|answer| answer.and_then(status)).collect())
}

fn operator_tls(pki: &Pki) -> anyhow::Result<AgentTls> {
    let operator = pki.client(OPERATOR);
    AgentTls::new(&TlsParts {
        chain: &fs_err::read_to_string(operator.cert)?,
        key: &fs_err::read_to_string(operator.key)?,
        peer_roots: &fs_err::read_to_string(operator.server_root)?,
        client_roots: &fs_err::read_to_string(pki.client_root())?,
        charter: Arc::new(pki.charter().clone()),
        distrusted: Distrusted::default(),
    })
}

/// Answers for unit tests: what a member says of itself.
#[cfg(test)]
pub(crate) mod sample {
    use kiln_firstboot::digest::{Id128, Sha256Digest};
    use kiln_firstboot::message::{Holds, NodeStatus, Running};
    use kiln_firstboot::name::Fqdn;
    use kiln_firstboot::state::RaftId;

    /// A member of the image `[3; 32]`, activated, that holds this.
    pub(crate) fn status(fqdn: Fqdn, holds: Holds) -> NodeStatus {
        NodeStatus {
            fqdn,
            env: "t".into(),
            cluster: Id128([1; 16]),
            generation: 1,
            charter: Sha256Digest([2; 32]),
            boot_id: "b".into(),
            image_key: Sha256Digest([3; 32]),
            etcd_version: "3.6.14".parse().unwrap(),
            holds,
            phase: "member".into(),
            instance: None,
            boot_counter: 1,
            remembers: vec![],
            activated: true,
            row: 5,
            waiting_for: String::new(),
            waiting_since: 0,
        }
    }

    /// The voter 1 of a lineage, which it leads and serves.
    pub(crate) fn running(lineage: Id128) -> Running {
        Running {
            lineage,
            raft_cluster: RaftId(5),
            member: RaftId(1),
            learner: false,
            leader: Some(RaftId(1)),
            linearizable: true,
            applied_index: 1,
            revision: 1,
            alarms: vec![],
            unheard: vec![],
        }
    }
}
