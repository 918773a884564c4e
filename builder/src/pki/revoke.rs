//! Taking back what was minted: a node's issuers, a client's certificates; and minting a node's seed anew.
//!
//! What is revoked is noted before anything else is done, and stays noted: a list only ever grows.
#![expect(clippy::disallowed_methods, reason = "an edge: reads and writes the directory of keys")]

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::charter::CharterMember;
use kiln_firstboot::revocation::RevocationList;
use kiln_firstboot::seed::{self, SeedHeader};
use kiln_firstboot::{durable, seed_disk};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{
    CLIENT_REVOKED, CLIENT_ROOT, CLIENT_ROOT_KEY, PEER_REVOKED, PEER_ROOT, PEER_ROOT_KEY, PRIVATE_FILE, PUBLIC_FILE,
    Pki, authority, lock,
};
use crate::authority::Validity;
use crate::exit::Refusal;
use crate::seed_archive::SeedContent;

/// A list after something was added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Where it is, PEM.
    pub list: Utf8PathBuf,
    /// Its number.
    pub number: u64,
    /// How many certificates are on it.
    pub certificates: usize,
}

impl Pki {
    /// Revokes every issuer that this member was ever given, and mints it a new seed.
    ///
    /// # Errors
    /// When keys cannot be read or written. Doing it again goes on from there; what is on the list stays there.
    pub fn revoke_node(&self, member: &CharterMember, now: i64) -> anyhow::Result<Revoked> {
        let _lock = lock(self.dir())?;
        let issuer = self.issuer_cert(member.fqdn.member_name());
        let revoked = self.list((PEER_ROOT, PEER_ROOT_KEY, PEER_REVOKED), &serials_of(&issuer)?, now)?;
        self.mint_seed(member, now)?;
        Ok(revoked)
    }

    /// Revokes every certificate that this client was ever given, and removes its key: the next one has another.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no such client.
    pub fn revoke_client(&self, name: &str, now: i64) -> anyhow::Result<Revoked> {
        let _lock = lock(self.dir())?;
        let files = self.client(name);
        let serials = serials_of(&files.cert)?;
        if serials.is_empty() {
            let clients = format!("`{}` has those there are", self.dir().join("clients"));
            return Err(Refusal::new(format!("no certificate was minted for a client `{name}`"), clients).into());
        }
        let revoked = self.list((CLIENT_ROOT, CLIENT_ROOT_KEY, CLIENT_REVOKED), &serials, now)?;
        for file in [&files.cert, &files.key] {
            match fs_err::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(revoked)
    }

    /// Mints a member's seed anew, with another issuer; the one before stays good until it ends or is revoked.
    ///
    /// # Errors
    /// When keys cannot be read or written; the seed is then the old one or the new one.
    pub fn renew_seed(&self, member: &CharterMember, now: i64) -> anyhow::Result<Utf8PathBuf> {
        let _lock = lock(self.dir())?;
        self.mint_seed(member, now)?;
        Ok(self.seed(member.fqdn.member_name()))
    }

    /// Adds serials to a list, signs it under the next number, and puts it into every seed.
    fn list(
        &self,
        (cert, key, name): (&str, &str, &str),
        add: &BTreeSet<Vec<u8>>,
        now: i64,
    ) -> anyhow::Result<Revoked> {
        let root = authority(self.dir(), cert, key)?;
        let path = self.dir().join(name);
        let old = fs_err::read(&path).context("reading a revocation list")?;
        let old = RevocationList::from_pem(&old, root.cert()).with_context(|| format!("reading `{path}`"))?;
        let serials = old.serials() | add;
        if serials != *old.serials() {
            let pem = root.revocation_list(old.number() + 1, &serials, now).context("signing a revocation list")?;
            durable::replace(path.as_std_path(), pem.as_bytes(), PUBLIC_FILE).context("writing a revocation list")?;
        }
        let new = fs_err::read(&path).context("reading a revocation list")?;
        let new = RevocationList::from_pem(&new, root.cert())?;
        for member in &self.charter().members {
            self.rewrite_seed(member, None)?;
        }
        Ok(Revoked { list: path, number: new.number(), certificates: new.serials().len() })
    }

    fn mint_seed(&self, member: &CharterMember, now: i64) -> anyhow::Result<()> {
        let members = &self.charter().members;
        let index = members.iter().position(|known| known == member).context("the charter has no such member")?;
        let validity = Validity::staggered(now, index, members.len());
        let root = authority(self.dir(), PEER_ROOT, PEER_ROOT_KEY)?;
        let issuer =
            root.issuer(member, validity).with_context(|| format!("minting the issuer of `{}`", member.fqdn))?;
        let path = self.issuer_cert(member.fqdn.member_name());
        note_serial(&path, &issuer.cert)?;
        self.rewrite_seed(member, Some((&issuer.cert, &issuer.key)))?;
        durable::replace(path.as_std_path(), issuer.cert.as_bytes(), PUBLIC_FILE)
            .context("writing an issuer's certificate")
    }

    /// Packs a member's seed again: with this issuer, if one is given, and with the lists as they are now.
    fn rewrite_seed(&self, member: &CharterMember, issuer: Option<(&str, &str)>) -> anyhow::Result<()> {
        let path = self.seed(member.fqdn.member_name());
        let file = fs_err::File::open(&path).context("opening a seed")?;
        let files = seed_disk::read_archive(file).with_context(|| format!("reading the seed `{path}`"))?;
        let files: Vec<(&str, Zeroizing<Vec<u8>>)> =
            files.into_iter().map(|(name, bytes)| (name, Zeroizing::new(bytes))).collect();
        let bytes = |name: &str| {
            let found = files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice());
            found.with_context(|| format!("the seed `{path}` has no `{name}`"))
        };
        let text =
            |name: &str| std::str::from_utf8(bytes(name)?).with_context(|| format!("reading `{name}` in `{path}`"));
        let header: SeedHeader = serde_json::from_slice(bytes(seed::HEADER)?)?;
        ensure!(header.fqdn == member.fqdn, "the seed `{path}` is that of {}", header.fqdn);
        let (issuer_cert, issuer_key) = match issuer {
            Some(issuer) => issuer,
            None => (text(seed::ISSUER_CERT)?, text(seed::ISSUER_KEY)?),
        };
        let list = |name: &str| fs_err::read_to_string(self.dir().join(name)).context("reading a revocation list");
        let content = SeedContent {
            header: &header,
            charter: bytes(seed::CHARTER)?,
            signature: bytes(seed::CHARTER_SIGNATURE)?,
            issuer_cert,
            issuer_key,
            peer_roots: text(seed::PEER_ROOTS)?,
            client_roots: text(seed::CLIENT_ROOTS)?,
            peer_revoked: &list(PEER_REVOKED)?,
            client_revoked: &list(CLIENT_REVOKED)?,
        };
        let packed = content.to_bytes().with_context(|| format!("packing the seed of `{}`", member.fqdn))?;
        durable::replace(path.as_std_path(), &packed, PRIVATE_FILE).context("writing a seed")
    }
}

/// `noted` with one line more: the serial of `cert`.
pub(super) fn with_serial(noted: &str, cert: &str) -> anyhow::Result<String> {
    let serial: String = serial(cert)?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{noted}{serial}\n"))
}

/// The serials noted beside `cert`, one a line.
pub(super) fn noted(cert: &Utf8Path) -> anyhow::Result<String> {
    match fs_err::read_to_string(cert.with_extension("serials")) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).context("reading a certificate's serials"),
    }
}

/// Notes the serial of what is about to be written to `cert`.
pub(super) fn note_serial(cert: &Utf8Path, pem: &str) -> anyhow::Result<()> {
    let path = cert.with_extension("serials");
    let text = with_serial(&noted(cert)?, pem)?;
    durable::replace(path.as_std_path(), text.as_bytes(), PUBLIC_FILE).context("noting a certificate's serial")
}

/// The serials of everything that ever was at `cert`.
fn serials_of(cert: &Utf8Path) -> anyhow::Result<BTreeSet<Vec<u8>>> {
    let path = cert.with_extension("serials");
    let read = |line: &str| -> Option<Vec<u8>> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(line.get(at..at + 2)?, 16).ok()).collect()
    };
    noted(cert)?
        .lines()
        .map(|line| read(line).with_context(|| format!("`{path}` has the line `{line}`, which is no serial")))
        .collect()
}

fn serial(pem: &str) -> anyhow::Result<Vec<u8>> {
    let cert = CertificateDer::from_pem_slice(pem.as_bytes()).context("reading a certificate")?;
    let (_, cert) = X509Certificate::from_der(&cert).context("reading a certificate")?;
    Ok(cert.raw_serial().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::OPERATOR;
    use crate::pki::mint::{Order, init};
    use crate::profile::Profile;

    const NOW: i64 = 1_800_000_000;

    struct Site {
        _home: tempfile::TempDir,
        profile: Profile,
        pki: Pki,
    }

    fn site() -> Site {
        let home = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::try_from(home.path().join("pki/lab")).unwrap();
        let lab = include_str!("../../../profiles/lab.toml");
        let profile = Profile::parse(Utf8Path::new("profiles/lab.toml"), lab).unwrap();
        let order = Order { profile: &profile, generation: None, window_hours: None, now: NOW };
        let (pki, _) = init(&dir, &order).unwrap();
        Site { _home: home, profile, pki }
    }

    /// What the seed of the `n`th member has: its issuer, and the peers' and clients' lists.
    fn seeded(pki: &Pki, n: usize) -> (String, RevocationList, RevocationList) {
        let member = &pki.charter().members[n];
        let file = fs_err::File::open(pki.seed(member.fqdn.member_name())).unwrap();
        let files = seed_disk::read_archive(file).unwrap();
        let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
        let list = |name: &str, roots: &str| RevocationList::from_pem(&files[name], &text(roots)).unwrap();
        let (peers, clients) =
            (list(seed::PEER_REVOKED, seed::PEER_ROOTS), list(seed::CLIENT_REVOKED, seed::CLIENT_ROOTS));
        (text(seed::ISSUER_CERT), peers, clients)
    }

    #[test]
    fn b14_a_revoked_node_gets_another_issuer_and_every_seed_the_list() {
        let Site { pki, profile, .. } = &site();
        let member = pki.charter().members[1].clone();
        let (first, empty, _) = seeded(pki, 1);
        assert_eq!((empty.number(), empty.serials().len()), (1, 0));

        let renewed = pki.renew_seed(&member, NOW + 10).unwrap();
        assert_eq!(renewed, pki.seed("etcd2"));
        let (second, list, _) = seeded(pki, 1);
        assert!(second != first && list == empty, "renewed, and nothing is revoked");
        assert_eq!(fs_err::read_to_string(pki.issuer_cert("etcd2")).unwrap(), second);

        let revoked = pki.revoke_node(&member, NOW + 20).unwrap();
        assert_eq!((revoked.number, revoked.certificates), (2, 2));
        let (third, ..) = seeded(pki, 1);
        assert!(third != second);
        let expected: BTreeSet<_> = [serial(&first).unwrap(), serial(&second).unwrap()].into();
        for n in 0..3 {
            let (_, list, clients) = seeded(pki, n);
            assert_eq!((list.number(), list.serials(), clients.number()), (2, &expected, 1));
        }

        let order = Order { profile, generation: Some(2), window_hours: None, now: NOW + 30 };
        let (next, _) = init(pki.dir(), &order).unwrap();
        assert_eq!(seeded(&next, 0).1.serials(), &expected, "a generation later it is still revoked");
        let again = next.revoke_node(&next.charter().members[1], NOW + 40).unwrap();
        assert_eq!((again.number, again.certificates), (3, 4), "with the issuer that was minted when it was revoked");
    }

    #[test]
    fn b14_a_revoked_client_gets_another_key() {
        let Site { pki, .. } = &site();
        let read = |path: &Utf8Path| fs_err::read_to_string(path).unwrap();
        let first = pki.mint_client("api", NOW).unwrap();
        let (cert, key) = (read(&first.cert), read(&first.key));
        pki.mint_client("api", NOW + 1).unwrap();
        let revoked = pki.revoke_client("api", NOW + 2).unwrap();
        assert_eq!((revoked.number, revoked.certificates), (2, 2), "also the one before");
        assert!(!first.key.exists() && !first.cert.exists());
        assert!(seeded(pki, 2).2.serials().contains(&serial(&cert).unwrap()));
        pki.mint_client("api", NOW + 3).unwrap();
        assert_ne!(read(&first.key), key);
        assert_eq!(pki.revoke_client("api", NOW + 4).unwrap().certificates, 3);
        assert_eq!(pki.revoke_client("api", NOW + 5).unwrap().number, 3, "doing it again changes nothing");
        let error = pki.revoke_client("nobody", NOW).unwrap_err();
        assert!(error.is::<Refusal>(), "{error:#}");
        assert!(pki.client(OPERATOR).cert.exists());
    }
}
