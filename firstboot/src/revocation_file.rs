//! The revocation lists of a node: the latest of what the seed, the disk and etcd hold, where etcd looks at every handshake.
#![expect(clippy::disallowed_methods, reason = "an edge: reads the lists and the roots")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use crate::agent::desk::Desk;
use crate::etcd::Etcd;
use crate::paths::Paths;
use crate::record::{REVOKED, REVOKED_END};
use crate::revocation::{Distrusted, RevocationList};
use crate::{durable, journal, record, seed};

/// Readable by the group, which the directory's setgid bit makes etcd's.
const MODE: u32 = 0o640;
/// Between two tries to listen to etcd.
const AGAIN: Duration = Duration::from_secs(1);

/// One of the two: whose root signs it, and where it lies.
#[derive(Debug)]
struct Kept {
    whose: &'static str,
    key: &'static str,
    roots: String,
    file: PathBuf,
    list: RevocationList,
}

/// The two lists of a node, as they lie on its disk.
#[derive(Debug)]
pub(crate) struct RevocationLists {
    kept: [Kept; 2],
    distrusted: Distrusted,
}

impl RevocationLists {
    /// Sees to it that the later one of the seed's list and the disk's is on the disk, for peers and for clients, and makes `distrusted` say
    /// the same. etcd refuses every caller without these files.
    ///
    /// # Errors
    /// When the seed has no list that its roots signed, or a file cannot be written.
    pub(crate) fn settle(paths: &Paths, distrusted: Distrusted) -> Result<Self> {
        let read = |name: &str| fs_err::read_to_string(paths.seed_dir().join(name));
        let settle = |whose, key, roots: &str, name: &str, file: PathBuf| -> Result<Kept> {
            let roots = read(roots)?;
            let seeded = RevocationList::from_pem(read(name)?.as_bytes(), &roots)
                .with_context(|| format!("reading `{name}` of the seed"))?;
            // One that other roots signed, or that cannot be read, is none.
            let present = fs_err::read(&file).ok().and_then(|der| RevocationList::from_der(&der, &roots).ok());
            let list = match present {
                Some(present) if present.number() > seeded.number() => present,
                Some(_) | None => seeded,
            };
            write(&file, &list)?;
            Ok(Kept { whose, key, roots, file, list })
        };
        let kept = [
            settle("peers", record::REVOKED_PEERS, seed::PEER_ROOTS, seed::PEER_REVOKED, paths.peer_revoked())?,
            settle(
                "clients",
                record::REVOKED_CLIENTS,
                seed::CLIENT_ROOTS,
                seed::CLIENT_REVOKED,
                paths.client_revoked(),
            )?,
        ];
        let lists = Self { kept, distrusted };
        lists.tell_handshakes();
        Ok(lists)
    }

    /// What an operator put into etcd, if it is a later list than the one kept; and which of the two it is.
    fn judge(&self, key: &[u8], value: &[u8]) -> Result<Option<(usize, RevocationList)>> {
        let Some(index) = self.kept.iter().position(|kept| kept.key.as_bytes() == key) else { return Ok(None) };
        let kept = &self.kept[index];
        let list =
            RevocationList::from_pem(value, &kept.roots).with_context(|| format!("reading `{}` in etcd", kept.key))?;
        Ok((list.number() > kept.list.number()).then_some((index, list)))
    }

    /// Keeps a later list, and believes it.
    fn adopt(&mut self, index: usize, list: RevocationList) -> Result<()> {
        let kept = &mut self.kept[index];
        write(&kept.file, &list)?;
        let (whose, count, number) = (kept.whose, list.serials().len(), list.number());
        kept.list = list;
        self.tell_handshakes();
        let text = format!(
            "revocation list {number} of the {whose}: {count} certificates are not believed any more; connections that stand live on until etcd is restarted"
        );
        journal::tell(&journal::REVOKED, &text, &[("KILN_NUMBER", &number.to_string())]);
        Ok(())
    }

    fn tell_handshakes(&self) {
        self.distrusted.replace(self.kept.iter().map(|kept| &kept.list));
    }
}

fn write(file: &Path, list: &RevocationList) -> Result<()> {
    if fs_err::read(file).is_ok_and(|present| present == list.der()) {
        return Ok(());
    }
    durable::replace(file, list.der(), MODE).with_context(|| format!("replacing `{}`", file.display()))
}

/// Takes every later list that an operator puts into etcd, for ever: this member alone is enough, a quorum is not asked.
pub(crate) async fn tend(desk: Arc<Desk>, mut lists: RevocationLists) {
    loop {
        if let Err(e) = follow(&desk.etcd, &mut lists).await {
            log::debug!("listening for revocations: {e:#}");
        }
        sleep(AGAIN).await;
    }
}

async fn follow(etcd: &Etcd, lists: &mut RevocationLists) -> Result<()> {
    let mut changes = etcd.follow(REVOKED, REVOKED_END).await?;
    while let Some(written) = changes.next().await? {
        for (key, value) in written {
            match lists.judge(&key, &value) {
                Ok(None) => {}
                // What cannot be kept is read again from etcd in a moment.
                Ok(Some((index, list))) => lists.adopt(index, list).inspect_err(|e| log::warn!("{e:#}"))?,
                Err(e) => journal::tell(&journal::NOTICE, &format!("a revocation list is not taken: {e:#}"), &[]),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_authority::Signer;

    struct Node {
        _scratch: tempfile::TempDir,
        paths: Paths,
        peers: Signer,
        clients: Signer,
    }

    impl Node {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let paths = Paths::new(scratch.path());
            fs_err::create_dir_all(paths.seed_dir()).unwrap();
            fs_err::create_dir_all(paths.tls_dir()).unwrap();
            let node =
                Self { _scratch: scratch, paths, peers: Signer::root("peers"), clients: Signer::root("clients") };
            node.seed(seed::PEER_ROOTS, &node.peers.cert);
            node.seed(seed::CLIENT_ROOTS, &node.clients.cert);
            node.seed(seed::PEER_REVOKED, &node.peers.revocation_list(1, &[]));
            node.seed(seed::CLIENT_REVOKED, &node.clients.revocation_list(1, &[]));
            node
        }
        fn seed(&self, name: &str, text: &str) {
            fs_err::write(self.paths.seed_dir().join(name), text).unwrap();
        }
        fn settle(&self) -> RevocationLists {
            RevocationLists::settle(&self.paths, Distrusted::default()).unwrap()
        }
        fn numbers(&self) -> (u64, u64) {
            let number = |file, roots| RevocationList::from_der(&fs_err::read(file).unwrap(), roots).unwrap().number();
            (
                number(self.paths.peer_revoked(), &self.peers.cert),
                number(self.paths.client_revoked(), &self.clients.cert),
            )
        }
    }

    #[test]
    fn b14_the_latest_list_wins_wherever_it_comes_from() {
        let node = Node::new();
        let issuer = node.peers.issuer_now(2);
        let mut lists = node.settle();
        assert_eq!(node.numbers(), (1, 1));
        let put =
            |lists: &mut RevocationLists, key: &str, pem: &str| match lists.judge(key.as_bytes(), pem.as_bytes())? {
                Some((index, list)) => lists.adopt(index, list),
                None => Ok(()),
            };
        put(&mut lists, record::REVOKED_PEERS, &node.peers.revocation_list(3, &[&issuer])).unwrap();
        assert_eq!(node.numbers(), (3, 1));
        put(&mut lists, record::REVOKED_PEERS, &node.peers.revocation_list(2, &[])).unwrap();
        assert_eq!(node.numbers(), (3, 1), "an older one takes nothing back");
        assert!(put(&mut lists, record::REVOKED_PEERS, &node.clients.revocation_list(9, &[])).is_err());
        assert!(put(&mut lists, record::REVOKED_CLIENTS, "forged").is_err());
        put(&mut lists, "/kiln/revoked/others", "whatever").unwrap();
        assert_eq!(node.numbers(), (3, 1));

        let mut lists = node.settle();
        assert_eq!(node.numbers(), (3, 1), "a seed that is older than what the disk has");
        put(&mut lists, record::REVOKED_CLIENTS, &node.clients.revocation_list(4, &[])).unwrap();
        node.seed(seed::PEER_REVOKED, &node.peers.revocation_list(5, &[&issuer]));
        node.settle();
        assert_eq!(node.numbers(), (5, 4), "a new seed");
        fs_err::write(node.paths.client_revoked(), "torn").unwrap();
        node.settle();
        assert_eq!(node.numbers(), (5, 1), "a torn file is none, and etcd would admit nobody with it");
    }

    #[test]
    fn b14_a_seed_without_a_list_of_its_roots_is_refused() {
        let node = Node::new();
        node.seed(seed::PEER_REVOKED, &Signer::root("peers").revocation_list(1, &[]));
        let error = RevocationLists::settle(&node.paths, Distrusted::default()).unwrap_err();
        assert!(
            format!("{error:#}").contains("reading `peer-revoked.crl` of the seed: none of the roots"),
            "{error:#}"
        );
    }
}
