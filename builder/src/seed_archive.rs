//! The seed of one node as bytes: a ustar archive that is also a whole small disk.
//!
//! The same content gives the same bytes: owners, times and modes are fixed.

use std::io;

use kiln_firstboot::seed::{self, SeedHeader};
use zeroize::Zeroizing;

/// What one node's seed holds.
#[derive(Debug)]
pub struct SeedContent<'a> {
    /// Whom it is for.
    pub header: &'a SeedHeader,
    /// The charter's signed bytes.
    pub charter: &'a [u8],
    /// The charter's signature.
    pub signature: &'a [u8],
    /// Certificate of the node's issuer, PEM.
    pub issuer_cert: &'a str,
    /// Key of the node's issuer, PEM.
    pub issuer_key: &'a str,
    /// Roots of the peers, PEM.
    pub peer_roots: &'a str,
    /// Roots of the clients, PEM.
    pub client_roots: &'a str,
    /// Issuers that are revoked, PEM.
    pub peer_revoked: &'a str,
    /// Clients that are revoked, PEM.
    pub client_revoked: &'a str,
}

impl SeedContent<'_> {
    /// The archive, filled up with zeros to [`seed::MAX_BYTES`]: a whole MiB, which every hypervisor takes for a disk.
    ///
    /// # Errors
    /// When the content does not fit.
    pub fn to_bytes(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let header = serde_json::to_vec(self.header)?;
        let size = usize::try_from(seed::MAX_BYTES).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // All of it at once: a buffer that grows leaves copies of the key behind.
        let mut bytes = Zeroizing::new(vec![0; size]);
        {
            let mut archive = tar::Builder::new(io::Cursor::new(bytes.as_mut_slice()));
            for name in seed::FILES {
                let content = match name {
                    seed::HEADER => &header,
                    seed::CHARTER => self.charter,
                    seed::CHARTER_SIGNATURE => self.signature,
                    seed::ISSUER_CERT => self.issuer_cert.as_bytes(),
                    seed::ISSUER_KEY => self.issuer_key.as_bytes(),
                    seed::PEER_ROOTS => self.peer_roots.as_bytes(),
                    seed::CLIENT_ROOTS => self.client_roots.as_bytes(),
                    seed::PEER_REVOKED => self.peer_revoked.as_bytes(),
                    seed::CLIENT_REVOKED => self.client_revoked.as_bytes(),
                    other => return Err(io::Error::other(format!("a seed has no `{other}`"))),
                };
                let mut entry = tar::Header::new_ustar();
                entry.set_size(content.len() as u64);
                entry.set_mode(0o400);
                entry.set_uid(0);
                entry.set_gid(0);
                entry.set_mtime(0);
                entry.set_entry_type(tar::EntryType::Regular);
                archive.append_data(&mut entry, name, content)?;
            }
            archive.finish()?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_firstboot::digest::Id128;
    use kiln_firstboot::name::Fqdn;

    fn header() -> SeedHeader {
        let fqdn = Fqdn::parse("etcd1.lab.kiln.test").unwrap();
        SeedHeader { schema: 1, env: "lab".into(), cluster: Id128([1; 16]), generation: 1, fqdn }
    }

    fn content<'a>(header: &'a SeedHeader, charter: &'a [u8]) -> SeedContent<'a> {
        let (issuer_cert, issuer_key, peer_roots, client_roots) = ("cert", "key", "peers", "clients");
        let (peer_revoked, client_revoked) = ("no peer", "no client");
        SeedContent {
            header,
            charter,
            signature: &[2; 64],
            issuer_cert,
            issuer_key,
            peer_roots,
            client_roots,
            peer_revoked,
            client_revoked,
        }
    }

    #[test]
    fn reads_back_in_the_order_of_the_contract() {
        let header = header();
        let bytes = content(&header, b"{}").to_bytes().unwrap();
        assert_eq!(*bytes, *content(&header, b"{}").to_bytes().unwrap());
        assert_eq!(bytes.len() as u64, seed::MAX_BYTES);
        let names: Vec<String> = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.header().mode().unwrap(), 0o400);
                assert!(entry.header().as_ustar().is_some());
                entry.path().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(names, seed::FILES);
        let read = kiln_firstboot::seed_disk::read_archive(bytes.as_slice()).unwrap();
        assert_eq!(serde_json::from_slice::<SeedHeader>(&read[seed::HEADER]).unwrap(), header);
        assert_eq!(read[seed::CHARTER_SIGNATURE], [2; 64]);
        assert_eq!(read[seed::ISSUER_KEY], b"key");
    }

    #[test]
    fn refuses_what_no_agent_would_read() {
        let header = header();
        let much = vec![b' '; 1 << 20];
        assert_eq!(content(&header, &much).to_bytes().unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
