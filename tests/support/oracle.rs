//! What must hold of a cluster whatever happened to it: clients work while a scenario runs, and at its end everything that they
//! were told is weighed against everything that the nodes hold and have done.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use etcd_client::GetOptions;
use kiln_firstboot::digest::Id128;
use kiln_firstboot::state::{Phase, RaftId};

use crate::client::{Operator, in_space};
use crate::cluster::{Cluster, PATIENCE};
use crate::history::{Ask, History, Operation, Outcome};
use crate::node::Node;
use crate::wait::attempt;
use crate::workload::Workload;
use crate::{linearizable, revisions};

/// Watches one cluster: clients are at work from its making to its verdict.
#[derive(Debug)]
pub struct Oracle {
    workload: Workload,
}

impl Oracle {
    /// Sets clients to work on a cluster that serves, or will, or may never.
    pub fn watching(cluster: &Cluster) -> Self {
        Self::watching_as(cluster, "oracle/")
    }

    /// As [`Oracle::watching`], with a prefix for its keys that no earlier one of this cluster has had.
    pub fn watching_as(cluster: &Cluster, prefix: &str) -> Self {
        Self { workload: Workload::start(cluster, prefix) }
    }

    /// Writes that have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.workload.acknowledged()
    }

    /// Waits until clients have had `more` further writes acknowledged: the cluster serves.
    ///
    /// # Panics
    /// When it does not.
    pub fn goes_on(&self, more: usize, cluster: &Cluster) {
        self.workload.goes_on(more, cluster);
    }

    /// Ends the watch on a cluster that serves: every open member must come to the same data, every acknowledged write must be in
    /// it, and the rest of [`Oracle::safety`] must hold.
    ///
    /// # Panics
    /// When anything does not hold; says what.
    pub fn verdict(self, cluster: &Cluster) {
        judge_serving(cluster, self.workload).unwrap_or_else(|why| panic!("{why}\n{}", cluster.story()));
    }

    /// Ends the watch on a cluster that need not serve any more: what clients were told is linearizable and no revision fell, one
    /// cluster alone has ever served, and no raft id was started on an empty log twice.
    ///
    /// # Panics
    /// When anything does not hold; says what.
    pub fn safety(self, cluster: &Cluster) {
        judge_apart(cluster, self.workload).unwrap_or_else(|why| panic!("{why}\n{}", cluster.story()));
    }
}

/// [`Oracle::verdict`], told instead of panicking. Returns how many writes were acknowledged.
///
/// # Errors
/// With what does not hold.
pub fn judge_serving(cluster: &Cluster, workload: Workload) -> Result<usize, String> {
    let prefix = workload.prefix().to_owned();
    let mut history = workload.finish();
    let open: Vec<&Node> = cluster.nodes.iter().filter(|node| node.etcd_runs() && node.clients_open()).collect();
    if open.is_empty() {
        return Err("no member is open to clients".into());
    }
    let what = "a linearizable read of everything through every member";
    let reads = attempt(what, PATIENCE, || ask(cluster, &open, &prefix, &history))?;
    history.operations.extend(reads);
    judge(&history)?;
    same_data(cluster, &open)?;
    one_cluster(&cluster.nodes)?;
    ids_start_once(&cluster.nodes)?;
    Ok(history.acknowledged().count())
}

/// [`Oracle::safety`], told instead of panicking. Returns how many writes were acknowledged.
///
/// # Errors
/// With what does not hold.
pub fn judge_apart(cluster: &Cluster, workload: Workload) -> Result<usize, String> {
    let history = workload.finish();
    judge(&history)?;
    one_cluster(&cluster.nodes)?;
    ids_start_once(&cluster.nodes)?;
    Ok(history.acknowledged().count())
}

/// What clients were told can be explained, by etcd's own order and by any.
///
/// # Errors
/// With what cannot.
pub fn judge(history: &History) -> Result<(), String> {
    revisions::check(history)?;
    linearizable::check(history)
}

/// All clusters that ever let clients in are one, of one lineage.
///
/// # Errors
/// With those there were.
pub fn one_cluster<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<(), String> {
    let served: BTreeSet<(RaftId, Id128)> = nodes.into_iter().flat_map(Node::served).collect();
    if served.len() > 1 {
        return Err(format!("more than one cluster has served clients: {served:?}"));
    }
    Ok(())
}

/// No raft id was ever started on an empty log twice, as etcd itself logged its starts.
///
/// # Errors
/// With the id.
pub fn ids_start_once<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<(), String> {
    let mut started: BTreeMap<String, &Node> = BTreeMap::new();
    let nodes: Vec<&Node> = nodes.into_iter().collect();
    for node in &nodes {
        for member in fresh_starts(&node.etcd_log()) {
            if let Some(before) = started.insert(member.clone(), node) {
                let places = format!("on {} and on {}", before.fqdn, node.fqdn);
                return Err(format!("member {member} was started on an empty log twice, {places}"));
            }
        }
    }
    for node in nodes {
        // Guards this check itself: another etcd may word its log differently.
        if let Some(Phase::Member { member, .. }) = node.state().map(|state| state.position)
            && !started.contains_key(&member.to_string())
        {
            return Err(format!("no log of etcd tells of the first start of {}'s member {member}", node.fqdn));
        }
    }
    Ok(())
}

/// Member ids in etcd's log entries of a start on an empty log. (A start on its own log says "restarting local member".) etcd
/// writes the entry after it made the log.
fn fresh_starts(log: &str) -> Vec<String> {
    log.lines()
        .filter(|line| line.contains("\"starting local member\""))
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|entry| Some(entry.get("local-member-id")?.as_str()?.to_owned()))
        .collect()
}

/// Every one of these members has the same keys, values and revisions.
///
/// # Errors
/// When they do not come to the same within [`PATIENCE`].
pub fn same_data(cluster: &Cluster, nodes: &[&Node]) -> Result<(), String> {
    attempt("equal hashes at one revision on all members", PATIENCE, || {
        let (operator, addresses) = (cluster.operator(), addresses(nodes));
        let hashes = in_space(&cluster.network.switch(), move || async move {
            let mut first = operator.connect(addresses[0]).await?;
            let answer = first.get("kiln", None).await?;
            let revision = answer.header().context("etcd's answers have a header")?.revision();
            let mut hashes = Vec::new();
            for address in &addresses {
                let hash = operator.connect(*address).await?.hash_kv(revision).await?;
                hashes.push((*address, hash.hash(), hash.compact_version()));
            }
            Ok::<_, anyhow::Error>((revision, hashes))
        })
        .join()
        .map_err(|_| anyhow::anyhow!("asking for hashes panicked"))??;
        let distinct: BTreeSet<_> = hashes.1.iter().map(|(_, hash, compacted)| (hash, compacted)).collect();
        ensure!(distinct.len() == 1, "the members' data differ at revision {}: {:?}", hashes.0, hashes.1);
        Ok(())
    })
}

fn addresses(nodes: &[&Node]) -> Vec<std::net::Ipv4Addr> {
    nodes.iter().map(|node| node.address).collect()
}

/// Reads every key of the history, through each of these members, as further operations of it.
fn ask(cluster: &Cluster, nodes: &[&Node], prefix: &str, history: &History) -> Result<Vec<Operation>> {
    let (operator, addresses, prefix) = (cluster.operator(), addresses(nodes), prefix.to_owned());
    let end = history.operations.iter().map(|op| op.returned).max().unwrap_or(0);
    let keys: BTreeSet<String> = history.operations.iter().map(|op| op.key.clone()).collect();
    in_space(&cluster.network.switch(), move || async move {
        let mut reads = Vec::new();
        for (n, address) in addresses.iter().enumerate() {
            let at = end + 1 + 2 * n as u64;
            let (found, revision) = all(&operator, *address, &prefix).await?;
            reads.extend(keys.iter().map(|key| Operation {
                key: key.clone(),
                ask: Ask::Get,
                invoked: at,
                returned: at + 1,
                outcome: Outcome::Read { found: found.get(key).cloned(), revision },
            }));
        }
        Ok(reads)
    })
    .join()
    .map_err(|_| anyhow::anyhow!("reading everything panicked"))?
}

type Found = BTreeMap<String, (String, u64)>;

async fn all(operator: &Operator, address: std::net::Ipv4Addr, prefix: &str) -> Result<(Found, u64)> {
    let answer = operator.connect(address).await?.get(prefix, Some(GetOptions::new().with_prefix())).await?;
    let revision = answer.header().context("etcd's answers have a header")?.revision();
    let mut found = Found::new();
    for kv in answer.kvs() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.insert(text(kv.key()), (text(kv.value()), u64::try_from(kv.mod_revision())?));
    }
    Ok((found, u64::try_from(revision)?))
}

/// The lineage in a node's state, whatever its phase.
pub fn lineage(node: &Node) -> Option<Id128> {
    match node.state()?.position {
        Phase::Blank => None,
        Phase::Founding { lineage }
        | Phase::Assigned { lineage, .. }
        | Phase::Member { lineage, .. }
        | Phase::Evicted { lineage, .. } => Some(lineage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_on_an_empty_log_is_told_from_a_restart() {
        let log = "not json\n\
            {\"level\":\"info\",\"msg\":\"starting local member\",\"local-member-id\":\"ab\",\"cluster-id\":\"cd\"}\n\
            {\"level\":\"info\",\"msg\":\"restarting local member\",\"local-member-id\":\"ab\",\"cluster-id\":\"cd\"}\n";
        assert_eq!(fresh_starts(log), ["ab"]);
    }
}
