//! Asks the agents of a lab where they stand, as an operator: over mTLS, from inside the lab's network.
#![expect(clippy::disallowed_methods, reason = "an edge: reads keys, enters a network namespace")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kiln_firstboot::agent::client;
use kiln_firstboot::message::{Answer, Ask, NodeStatus};
use kiln_firstboot::revocation::Distrusted;
use kiln_firstboot::tls::{AgentTls, TlsParts};
use nix::sched::{CloneFlags, setns};

use super::host::Host;
use crate::pki::{OPERATOR, Pki};
use crate::profile::Profile;

/// How long an agent may take to answer. A VM under emulation needs most of a second for the handshake alone.
const LIMIT: Duration = Duration::from_secs(4);

/// What each node of the profile answered, in the profile's order.
///
/// # Errors
/// When the operator's certificate cannot be read or the lab's network not be entered; a node that does not answer is data.
pub fn ask_all(host: &Host, pki: &Pki, profile: &Profile) -> anyhow::Result<Vec<anyhow::Result<NodeStatus>>> {
    let tls = operator_tls(pki).context("reading the operator's certificate")?;
    let network = host.network()?;
    let targets: Vec<_> = profile.nodes.iter().map(|n| (n.fqdn.clone(), [n.address])).collect();
    // A thread of its own enters the lab's network; this one stays where it is.
    let answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> anyhow::Result<Vec<anyhow::Result<Answer>>> {
            setns(network.file(), CloneFlags::CLONE_NEWNET).context("entering the lab's network")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            Ok(local.block_on(&runtime, async {
                let mut asked = Vec::new();
                for (fqdn, addresses) in targets {
                    let tls = tls.clone();
                    asked.push(tokio::task::spawn_local(async move {
                        client::ask(&tls, &fqdn, &addresses, &Ask::Status, LIMIT).await
                    }));
                }
                let mut answers = Vec::new();
                for one in asked {
                    answers.push(one.await.unwrap_or_else(|e| Err(anyhow!(e))));
                }
                answers
            }))
        });
        asking.join().unwrap_or_else(|_| Err(anyhow!("the thread that asked the nodes died")))
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
