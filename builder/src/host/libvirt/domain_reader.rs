//! What libvirt says of a machine, read.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use camino::Utf8PathBuf;

use super::domain_xml::{NAMESPACE, Note};
use super::xml::{Element, XmlError};
use crate::host::{Mark, Root};
use crate::mac::MacAddress;

/// A domain on a host, kiln's or anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What kiln wrote on it.
    pub note: Option<Note>,
    /// Memory in MiB at the next start.
    pub memory_mib: u32,
    /// Processors at the next start.
    pub vcpus: u32,
    /// Its first card's Ethernet address.
    pub mac: Option<MacAddress>,
    /// The bridge that card is on.
    pub bridge: Option<String>,
    /// The MTU it is given.
    pub mtu: Option<u32>,
    /// Its disks: serial, where it has one, and file.
    pub disks: Vec<(Option<String>, Utf8PathBuf)>,
}

/// Why a machine could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is no XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Something that every domain has is not there or makes no sense.
    #[error("the description of a machine has no sound `{0}`")]
    Lacks(&'static str),
    /// kiln's own note on it does not read.
    #[error("what kiln noted on the machine `{name}` has no sound `{field}`")]
    Note {
        /// The machine.
        name: String,
        /// The part of the note.
        field: &'static str,
    },
}

impl Found {
    /// Reads what `virsh dumpxml --inactive` prints.
    ///
    /// # Errors
    /// [`ReadError`]: a note of kiln's that does not read is an error and not a machine of somebody else's.
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let domain = Element::parse(text)?;
        let need = |path: &[&str], what| domain.text_at(path).filter(|t| !t.is_empty()).ok_or(ReadError::Lacks(what));
        let name = need(&["name"], "name")?.to_owned();
        let note = domain.at(&["metadata"]).and_then(|m| m.of_namespace(NAMESPACE, "node"));
        let note =
            note.map(|n| read_note(n).map_err(|field| ReadError::Note { name: name.clone(), field })).transpose()?;
        let card = domain.at(&["devices", "interface"]);
        let of_card =
            |child: &str, attribute: &str| card.and_then(|c| c.at(&[child])).and_then(|c| c.attribute(attribute));
        Ok(Self {
            uuid: need(&["uuid"], "uuid")?.to_owned(),
            note,
            memory_mib: memory_mib(&domain).ok_or(ReadError::Lacks("memory"))?,
            vcpus: need(&["vcpu"], "vcpu")?.parse().map_err(|_| ReadError::Lacks("vcpu"))?,
            // Another domain's card may be of a kind that has neither.
            mac: of_card("mac", "address").and_then(|m| m.parse().ok()),
            bridge: of_card("source", "bridge").map(str::to_owned),
            mtu: of_card("mtu", "size").and_then(|m| m.parse().ok()),
            disks: disks(&domain),
            name,
        })
    }

    /// The file of the disk of that serial.
    pub fn disk(&self, serial: &str) -> Option<&Utf8PathBuf> {
        self.disks.iter().find(|(s, _)| s.as_deref() == Some(serial)).map(|(_, file)| file)
    }
}

/// Every file that a domain's description names as a disk or as what one lies over: `virsh dumpxml`, of a running domain the whole chain.
///
/// # Errors
/// When it is no XML.
pub fn files(text: &str) -> Result<Vec<Utf8PathBuf>, XmlError> {
    let domain = Element::parse(text)?;
    let sources = domain.everywhere("disk").into_iter().flat_map(|disk| disk.everywhere("source"));
    Ok(sources.filter_map(|s| s.attribute("file")).map(Into::into).collect())
}

fn disks(domain: &Element) -> Vec<(Option<String>, Utf8PathBuf)> {
    let disks = domain.at(&["devices"]).into_iter().flat_map(|d| d.all("disk"));
    disks
        .filter_map(|disk| {
            let file = disk.at(&["source"])?.attribute("file")?;
            Some((disk.text_at(&["serial"]).map(str::to_owned), file.into()))
        })
        .collect()
}

/// libvirt always answers in KiB; what somebody wrote by hand it has converted by then.
fn memory_mib(domain: &Element) -> Option<u32> {
    let memory = domain.at(&["memory"])?;
    let amount: u64 = memory.text.trim().parse().ok()?;
    let kib = match memory.attribute("unit").unwrap_or("KiB") {
        "KiB" => amount,
        "MiB" => amount.checked_mul(1024)?,
        _other => return None,
    };
    u32::try_from(kib / 1024).ok()
}

fn read_note(node: &Element) -> Result<Note, &'static str> {
    let text = |field: &'static str| node.attribute(field).ok_or(field);
    let root = |field: &'static str| -> Result<Option<Root>, &'static str> {
        let Some(child) = node.children.iter().find(|c| c.local_name() == field) else { return Ok(None) };
        let image = child.attribute("image").and_then(|i| i.parse().ok()).ok_or(field)?;
        let generation = child.attribute("generation").and_then(|g| g.parse().ok()).ok_or(field)?;
        Ok(Some(Root { image, generation }))
    };
    Ok(Note {
        mark: Mark {
            cluster: text("cluster")?.parse().map_err(|_| "cluster")?,
            env: text("env")?.to_owned(),
            node: text("node")?.to_owned(),
        },
        root: root("root")?.ok_or("root")?,
        previous: root("previous")?,
        seed: text("seed")?.parse().map_err(|_| "seed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::libvirt::domain_xml::{render, tests::hosted};

    #[test]
    fn reads_back_what_kiln_writes() {
        let domain = hosted();
        let found = Found::parse(&render(&domain)).unwrap();
        let serials = [("kiln-root", &domain.root), ("kiln-data", &domain.data), ("kiln-seed", &domain.seed)];
        let disks = serials.map(|(serial, file)| (Some(serial.to_owned()), file.clone())).to_vec();
        assert_eq!(found.disk("kiln-data"), Some(&domain.data));
        assert_eq!(
            found,
            Found {
                name: domain.name,
                uuid: domain.uuid,
                note: domain.note,
                memory_mib: domain.memory_mib,
                vcpus: domain.vcpus,
                mac: Some(domain.mac),
                bridge: Some(domain.bridge),
                mtu: domain.mtu,
                disks
            }
        );
    }

    #[test]
    fn reads_anybodys_machine_and_the_chain_below_its_disks() {
        let text = "<domain><name>x</name><uuid>u</uuid><memory unit='KiB'>65536</memory><vcpu placement='static'>1</vcpu><devices>
            <disk device='cdrom'><target dev='sda'/></disk>
            <disk><source file='/p/x.s1'/><backingStore type='file'><source file='/p/x'/><backingStore type='file'><source file='/p/base'/></backingStore></backingStore></disk>
            </devices></domain>";
        let found = Found::parse(text).unwrap();
        assert_eq!((found.memory_mib, found.vcpus, found.note, found.mac), (64, 1, None, None));
        assert_eq!(found.disks, [(None, "/p/x.s1".into())]);
        assert_eq!(files(text).unwrap(), ["/p/x.s1", "/p/x", "/p/base"]);
    }

    #[test]
    fn a_note_that_does_not_read_is_not_taken_for_somebody_elses_machine() {
        let text = render(&hosted());
        for (from, to, field) in [
            ("cluster='ab", "cluster='xy", "cluster"),
            (" env='k8s0'", "", "env"),
            ("generation='2'", "generation='two'", "root"),
            ("kiln:root", "kiln:toor", "root"),
            ("generation='1'", "", "previous"),
            ("seed='1", "seed='", "seed"),
        ] {
            assert!(text.contains(from), "{from}");
            let found = Found::parse(&text.replace(from, to));
            assert_eq!(found, Err(ReadError::Note { name: "k8s0.k8s0etcd1".into(), field }), "{from}");
        }
    }
}
