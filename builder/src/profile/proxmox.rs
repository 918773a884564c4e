//! What a profile says of a host that Proxmox VE runs.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use camino::{Utf8Path, Utf8PathBuf};
use kiln_firstboot::digest::Sha256Digest;

use crate::toml_reader::{Item, Table};

/// The range of VMIDs, as the API's schema has it.
const VMIDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

/// What the Proxmox driver must know beside the URL of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxmoxSettings {
    /// The node's name in the Proxmox cluster; the host's name unless said otherwise.
    pub node: String,
    /// File that holds `USER@REALM!NAME=SECRET`; nobody but its owner may read it. In the profile, and those below, relative to it.
    pub token_file: Utf8PathBuf,
    /// Whose certificate is believed.
    pub trust: ProxmoxTrust,
    /// Storage with content `import`, where images are uploaded to; best one of its own.
    pub image_storage: String,
    /// Storage with content `images`, where the nodes' disks are made.
    pub disk_storage: String,
    /// Pool the machines are put in, on which the token has its rights.
    pub pool: String,
    /// The first VMID that new machines may have; the cluster's next free one unless said.
    pub first_vmid: Option<u32>,
}

/// How the server's certificate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxmoxTrust {
    /// It was issued by an authority in this PEM file, and names the host of the URL.
    Authority(Utf8PathBuf),
    /// It is the one with this SHA-256 fingerprint.
    Fingerprint(Sha256Digest),
}

/// Reads the fields of a Proxmox host. `endpoint` is read by who calls, and looked at here; `file` is the profile.
pub(super) fn settings(
    table: &Table<'_>,
    name: &str,
    endpoint: Option<&Item<'_>>,
    file: &Utf8Path,
) -> Option<ProxmoxSettings> {
    let url = "write the URL of the API: `endpoint = \"https://pve1.example:8006\"`";
    match endpoint {
        None => {
            table.need("endpoint", url);
        }
        Some(item) if item.text().is_some_and(|text| text.contains("://") && !is_api_url(text)) => {
            item.problem("the API is reached by https, at the root of a server", url);
        }
        Some(_) => {}
    }
    let token_file = table
        .need("token_file", "name the file with the API token: `token_file = \"pve1.token\"`")
        .and_then(|i| path(&i, file));
    let ca_file = table.get("ca_file");
    let fingerprint = table.get("fingerprint");
    let remedy = "give `ca_file`, a copy of the host's /etc/pve/pve-root-ca.pem, or `fingerprint`, the SHA-256 of its certificate";
    let trust = match (ca_file, fingerprint) {
        (Some(item), None) => path(&item, file).map(ProxmoxTrust::Authority),
        (None, Some(text)) => digest(&text).map(ProxmoxTrust::Fingerprint),
        (Some(_), Some(second)) => {
            second.problem("the certificate is to be known in two ways", "give `ca_file` or `fingerprint`, not both");
            None
        }
        (None, None) => {
            table.problem("nothing says how the server's certificate is known", remedy);
            None
        }
    };
    let node = match table.get("node") {
        Some(item) => word(&item, "the name of a Proxmox node", b"-"),
        None => Some(name.to_owned()),
    };
    let storage = |key: &str, content: &str| {
        let remedy = format!("name a storage with content `{content}`; `pvesm status --content {content}` lists them");
        table.need(key, &remedy).and_then(|i| word(&i, "the name of a storage", b"-_."))
    };
    let image_storage = storage("image_storage", "import");
    let disk_storage = storage("disk_storage", "images");
    let pool = table.need("pool", "name the pool of kiln's machines, made by `pveum pool add kiln`");
    let pool = pool.and_then(|i| word(&i, "the name of a pool", b"-_./"));
    let first_vmid = match table.get("first_vmid") {
        Some(item) => Some(item.small_integer(VMIDS)?),
        None => None,
    };
    Some(ProxmoxSettings {
        node: node?,
        token_file: token_file?,
        trust: trust?,
        image_storage: image_storage?,
        disk_storage: disk_storage?,
        pool: pool?,
        first_vmid,
    })
}

/// Whether a text is `https://HOST[:PORT]`, with a slash at its end or without.
fn is_api_url(text: &str) -> bool {
    text.strip_prefix("https://").is_some_and(|rest| {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        !rest.is_empty() && !rest.contains(['/', '?', '#', '@'])
    })
}

/// A file, found from where the profile lies.
fn path(item: &Item<'_>, profile: &Utf8Path) -> Option<Utf8PathBuf> {
    let text = item.text()?;
    if text.is_empty() {
        item.problem("this is empty", "name a file");
    }
    (!text.is_empty()).then(|| profile.parent().unwrap_or(Utf8Path::new("")).join(text))
}

/// Names that Proxmox makes of letters, digits and a few characters; `more` are those.
fn word(item: &Item<'_>, what: &str, more: &[u8]) -> Option<String> {
    let text = item.text()?;
    let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    if !sound {
        let more: Vec<String> = more.iter().map(|b| format!("`{}`", char::from(*b))).collect();
        item.problem(format!("`{text}` is not {what}"), format!("use letters, digits and {}", more.join(", ")));
    }
    sound.then(|| text.to_owned())
}

/// A fingerprint as `openssl x509 -fingerprint -sha256` and Proxmox's own pages print it: pairs of hex digits, with colons or without.
fn digest(item: &Item<'_>) -> Option<Sha256Digest> {
    let text = item.text()?;
    let found = text.replace(':', "").to_ascii_lowercase().parse().ok();
    if found.is_none() {
        item.problem(
            format!("`{text}` is not a SHA-256 fingerprint"),
            "write the 32 pairs of hex digits that `pvenode cert info` prints",
        );
    }
    found
}
