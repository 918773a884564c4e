//! Mints everything a new cluster needs, or a new generation of its charter.
//!
//! All of it is written into a directory of another name, which then takes its place by one rename: a crash, a full disk or
//! Ctrl-C leaves either what was there before or everything.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the directory of keys")]

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::charter::{Charter, CharterMember};
use kiln_firstboot::digest::{Id128, PublicKey};
use kiln_firstboot::durable;
use kiln_firstboot::seed::SeedHeader;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{
    CHARTER, CHARTER_KEY, CHARTER_SIGNATURE, CLIENT_REVOKED, CLIENT_ROOT, CLIENT_ROOT_KEY, OPERATOR, PEER_REVOKED,
    PEER_ROOT, PEER_ROOT_KEY, PRIVATE_FILE, PUBLIC_FILE, Pki, TRUST, Trust, authority, lock, revoke,
};
use crate::authority::{Authority, BACKDATE_SECS, CLIENT_SECS, ROOT_SECS, Validity};
use crate::exit::Refusal;
use crate::profile::Profile;
use crate::seed_archive::SeedContent;

/// What is to be minted.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The cluster.
    pub profile: &'a Profile,
    /// The charter's generation: 1 for a new cluster, one more than the last to mint again on purpose, or whichever there is.
    pub generation: Option<u64>,
    /// Hours during which the founder may form the cluster, where not the profile's.
    pub window_hours: Option<u32>,
    /// Now, in Unix seconds.
    pub now: i64,
}

/// What [`init`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Minted a new cluster's keys.
    Minted,
    /// Minted a new generation: another charter, other issuers; the same roots, cluster and clients.
    Renewed,
    /// Everything was there.
    Unchanged,
}

/// Mints the keys of a cluster into `dir`, unless they are there.
///
/// # Errors
/// A [`Refusal`] when the keys there are not those the profile describes, or the generation is not the next one.
/// [`TryAgain`] while another process mints the same.
pub fn init(dir: &Utf8Path, order: &Order<'_>) -> anyhow::Result<(Pki, Outcome)> {
    let (parent, name) = dir.parent().zip(dir.file_name()).with_context(|| format!("`{dir}` cannot hold keys"))?;
    fs_err::create_dir_all(parent).context("making room for keys")?;
    let _lock = lock(dir)?;
    let staging = Staging { dir: parent.join(format!(".{name}.new")) };
    staging.clear().context("removing what an interrupted run left")?;

    let existing = Pki::open(dir)?;
    let Some(old) = existing else {
        let generation = order.generation.unwrap_or(1);
        if generation != 1 {
            return Err(Refusal::new(
                format!("there is no generation before {generation} in `{dir}`"),
                "a new cluster starts with generation 1; if its keys lie elsewhere, say where: --pki DIR",
            )
            .into());
        }
        Authorities::mint(order)?.write(&staging.dir, order, generation, None)?;
        durable::replace(staging.dir.join("README").as_std_path(), README.as_bytes(), PUBLIC_FILE)
            .context("writing keys")?;
        durable::sync_directory(staging.dir.as_std_path())?;
        fs_err::rename(&staging.dir, dir).context("putting the new keys in their place")?;
        durable::sync_directory(parent.as_std_path())?;
        let pki = Pki::open(dir)?.ok_or_else(|| anyhow!("`{dir}` vanished as soon as it was written"))?;
        return Ok((pki, Outcome::Minted));
    };

    old.is_for(order.profile)?;
    let current = old.charter().generation;
    match order.generation {
        Some(next) if next == current + 1 => {}
        Some(same) if same != current => {
            return Err(Refusal::new(
                format!("generation {same} does not follow {current}, which is in `{dir}`"),
                format!("the next is --generation {}", current + 1),
            )
            .into());
        }
        Some(_) | None => {
            let mut changes = differences(old.charter(), order.profile);
            if let Some(hours) = order.window_hours {
                changes.push(format!("a window of {hours} h is asked for, and the window is part of what was signed"));
            }
            if changes.is_empty() {
                return Ok((old, Outcome::Unchanged));
            }
            return Err(Refusal::new(
                format!("generation {current} of the charter is signed and cannot be changed: {}", changes.join("; ")),
                format!(
                    "undo the change; or, only if no cluster was formed or all of it is lost, mint anew: --generation {}",
                    current + 1
                ),
            )
            .into());
        }
    }
    Authorities::read(dir, &old)?.write(&staging.dir, order, current + 1, Some(&old))?;
    copy_clients(dir, &staging.dir)?;
    durable::replace(staging.dir.join("README").as_std_path(), README.as_bytes(), PUBLIC_FILE)
        .context("writing keys")?;
    durable::sync_directory(staging.dir.as_std_path())?;
    renameat2(AT_FDCWD, staging.dir.as_std_path(), AT_FDCWD, dir.as_std_path(), RenameFlags::RENAME_EXCHANGE)
        .with_context(|| format!("putting the new generation in place of `{dir}`"))?;
    durable::sync_directory(parent.as_std_path())?;
    let pki = Pki::open(dir)?.ok_or_else(|| anyhow!("`{dir}` vanished as soon as it was written"))?;
    // What `staging` removes when it is dropped is now the old generation: its seeds are worth nothing, their keys still are.
    Ok((pki, Outcome::Renewed))
}

const README: &str =
    "Keys of one etcd cluster, made by `kiln pki init`. Keep a copy of this directory where no node can reach it:
without private/ no node can be added, no issuer renewed and nothing revoked. Nothing here ever goes into an image; each node gets
its own file of seeds/ and no other.
";

/// How the profile differs from what was signed. Which etcd may serve only matters where the profile would go below it.
fn differences(charter: &Charter, profile: &Profile) -> Vec<String> {
    let describe = |m: &CharterMember| {
        let addresses: Vec<String> = m.addresses.iter().map(ToString::to_string).collect();
        format!("`{}` at {}", m.fqdn, addresses.join(" and "))
    };
    let members = profile.members();
    let gone = charter.members.iter().filter(|m| !members.contains(m)).map(|m| format!("{} is gone", describe(m)));
    let new = members.iter().filter(|m| !charter.members.contains(m)).map(|m| format!("{} is new", describe(m)));
    let mut changes: Vec<String> = gone.chain(new).collect();
    if charter.founder != profile.formation.founder {
        changes.push(format!("the founder was `{}` and is now `{}`", charter.founder, profile.formation.founder));
    }
    if profile.min_etcd() < charter.min_etcd {
        changes.push(format!("etcd {} is older than the {} that was promised", profile.min_etcd(), charter.min_etcd));
    }
    changes
}

/// The keys that outlast a generation.
struct Authorities {
    cluster: Id128,
    peers: Authority,
    clients: Authority,
    charter_pkcs8: Zeroizing<Vec<u8>>,
    charter_pair: Ed25519KeyPair,
}

impl Authorities {
    fn mint(order: &Order<'_>) -> anyhow::Result<Self> {
        let cluster = Id128::random().map_err(|_| anyhow!("the system gives no random numbers"))?;
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| anyhow!("the system gives no random numbers"))?;
        let charter_pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        let validity = Validity::starting(order.now, ROOT_SECS);
        // Eight digits of the cluster tell apart the roots of two clusters that bore one name.
        let id = cluster.to_string();
        let root = |who: &str| format!("kiln {} {who} root {}", order.profile.name, &id[..8]);
        Ok(Self {
            cluster,
            peers: Authority::mint(&root("peer"), 1, validity).context("minting the peers' root")?,
            clients: Authority::mint(&root("client"), 0, validity).context("minting the clients' root")?,
            charter_pair: charter_pair(&charter_pkcs8)?,
            charter_pkcs8,
        })
    }

    fn read(dir: &Utf8Path, pki: &Pki) -> anyhow::Result<Self> {
        let charter_pkcs8 = Zeroizing::new(fs_err::read(dir.join(CHARTER_KEY)).context("reading the charter's key")?);
        Ok(Self {
            cluster: pki.trust().cluster,
            peers: authority(dir, PEER_ROOT, PEER_ROOT_KEY)?,
            clients: authority(dir, CLIENT_ROOT, CLIENT_ROOT_KEY)?,
            charter_pair: charter_pair(&charter_pkcs8)?,
            charter_pkcs8,
        })
    }

    /// What is revoked stays so: the roots are the same in every generation.
    fn revoked(&self, old: Option<&Pki>, now: i64) -> anyhow::Result<(String, String)> {
        let list = |name: &str, root: &Authority| match old {
            Some(old) => fs_err::read_to_string(old.dir().join(name)).context("reading a revocation list"),
            None => root.revocation_list(1, &BTreeSet::new(), now).context("signing a revocation list"),
        };
        Ok((list(PEER_REVOKED, &self.peers)?, list(CLIENT_REVOKED, &self.clients)?))
    }

    /// Writes a whole generation into `dir`, which must not exist yet; the one after `old`, if there was one.
    fn write(&self, dir: &Utf8Path, order: &Order<'_>, generation: u64, old: Option<&Pki>) -> anyhow::Result<()> {
        let put = |name: &str, bytes: &[u8], mode| {
            durable::replace(dir.join(name).as_std_path(), bytes, mode)
                .with_context(|| format!("writing keys: `{name}`"))
        };
        for part in ["", "private", "seeds", "issuers", "clients"] {
            let part = dir.join(part);
            let created = std::fs::DirBuilder::new().mode(0o700).create(&part);
            created.with_context(|| format!("making room for keys: `{part}`"))?;
        }
        let (charter, signature) = self.charter(order, generation)?;
        let public = self.charter_pair.public_key().as_ref().try_into().context("reading the charter's key")?;
        let trust =
            Trust { schema: 1, env: order.profile.name.clone(), cluster: self.cluster, charter_key: PublicKey(public) };
        put(TRUST, &serde_json::to_vec_pretty(&trust)?, PUBLIC_FILE)?;
        put(CHARTER, &charter.to_bytes(), PUBLIC_FILE)?;
        put(CHARTER_SIGNATURE, &signature, PUBLIC_FILE)?;
        put(CHARTER_KEY, &self.charter_pkcs8, PRIVATE_FILE)?;
        for (cert, key, authority) in
            [(PEER_ROOT, PEER_ROOT_KEY, &self.peers), (CLIENT_ROOT, CLIENT_ROOT_KEY, &self.clients)]
        {
            put(cert, authority.cert().as_bytes(), PUBLIC_FILE)?;
            put(key, authority.key().as_bytes(), PRIVATE_FILE)?;
        }
        let (peer_revoked, client_revoked) = self.revoked(old, order.now)?;
        put(PEER_REVOKED, peer_revoked.as_bytes(), PUBLIC_FILE)?;
        put(CLIENT_REVOKED, client_revoked.as_bytes(), PUBLIC_FILE)?;
        for (index, member) in charter.members.iter().enumerate() {
            let validity = Validity::staggered(order.now, index, charter.members.len());
            let issuer = self
                .peers
                .issuer(member, validity)
                .with_context(|| format!("minting the issuer of `{}`", member.fqdn))?;
            let header = SeedHeader {
                schema: 1,
                env: charter.env.clone(),
                cluster: charter.cluster,
                generation,
                fqdn: member.fqdn.clone(),
            };
            let seed = SeedContent {
                header: &header,
                charter: &charter.to_bytes(),
                signature: &signature,
                issuer_cert: &issuer.cert,
                issuer_key: &issuer.key,
                peer_roots: self.peers.cert(),
                client_roots: self.clients.cert(),
                peer_revoked: &peer_revoked,
                client_revoked: &client_revoked,
            };
            let seed = seed.to_bytes().with_context(|| format!("packing the seed of `{}`", member.fqdn))?;
            let node = member.fqdn.member_name();
            // Issuers of earlier generations are of the same root, and can still be revoked.
            let before = old.map_or(Ok(String::new()), |old| revoke::noted(&old.issuer_cert(node)))?;
            put(
                &format!("issuers/{node}.serials"),
                revoke::with_serial(&before, &issuer.cert)?.as_bytes(),
                PUBLIC_FILE,
            )?;
            put(&format!("issuers/{node}.crt"), issuer.cert.as_bytes(), PUBLIC_FILE)?;
            put(&format!("seeds/{node}.tar"), &seed, PRIVATE_FILE)?;
        }
        if generation == 1 {
            let client = self.clients.client(OPERATOR, None, Validity::starting(order.now, CLIENT_SECS))?;
            put(&format!("clients/{OPERATOR}.key"), client.key.as_bytes(), PRIVATE_FILE)?;
            put(
                &format!("clients/{OPERATOR}.serials"),
                revoke::with_serial("", &client.cert)?.as_bytes(),
                PUBLIC_FILE,
            )?;
            put(&format!("clients/{OPERATOR}.crt"), client.cert.as_bytes(), PUBLIC_FILE)?;
        }
        Ok(())
    }

    fn charter(&self, order: &Order<'_>, generation: u64) -> anyhow::Result<(Charter, Vec<u8>)> {
        let profile = order.profile;
        let hours = order.window_hours.unwrap_or(profile.formation.window_hours);
        let charter = Charter {
            schema: 1,
            env: profile.name.clone(),
            cluster: self.cluster,
            generation,
            domain: profile.domain.clone(),
            members: profile.members(),
            founder: profile.formation.founder.clone(),
            not_before: order.now - BACKDATE_SECS,
            form_until: order.now + i64::from(hours) * 3600,
            min_etcd: profile.min_etcd(),
        };
        charter.check().context("writing the charter")?;
        let signature = self.charter_pair.sign(&Charter::signed_bytes(&charter.to_bytes())).as_ref().to_vec();
        Ok((charter, signature))
    }
}

fn charter_pair(pkcs8: &[u8]) -> anyhow::Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| anyhow!("reading the charter's key: {error}"))
}

fn copy_clients(from: &Utf8Path, to: &Utf8Path) -> anyhow::Result<()> {
    for entry in from.join("clients").read_dir_utf8().context("reading the clients' certificates")? {
        let entry = entry.context("reading the clients' certificates")?;
        let mode = match entry.path().extension() {
            Some("crt" | "serials") => PUBLIC_FILE,
            Some("key") => PRIVATE_FILE,
            // What a crash left of a file that was being written.
            _ => continue,
        };
        let bytes = Zeroizing::new(fs_err::read(entry.path()).context("reading a client's certificate")?);
        let path = to.join("clients").join(entry.file_name());
        durable::replace(path.as_std_path(), &bytes, mode).context("copying a client's certificate")?;
    }
    Ok(())
}

/// Where a generation is written before it takes its place. Dropping it removes what then has that name.
struct Staging {
    dir: Utf8PathBuf,
}

impl Staging {
    fn clear(&self) -> std::io::Result<()> {
        match fs_err::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            log::warn!("{error}\n  hint: it holds keys; remove it");
        }
    }
}

#[cfg(test)]
mod tests;
