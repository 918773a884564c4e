//! The document of a closure: what it holds, chunk by chunk, under its sender's signature. Pure.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use kiln_firstboot::digest::{PublicKey, Sha256Digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Length of a chunk: the border on which partitions lie, so that a disk shares its chunks with the file systems on it; and far below what any
/// storage takes in one piece.
pub const CHUNK: u64 = 1 << 20;
/// Longest document that is read. An image of 2 GiB with its layers has one of half a MB.
pub const MAX_DOCUMENT: u64 = 64 << 20;
/// Longest file that is taken: a file of holes costs its sender nothing and us the time to hash it. No image is near it.
const MAX_FILE: u64 = 64 << 30;
/// What a document begins with.
const MAGIC: &str = "kiln-closure-1";

/// What a closure holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closure {
    /// Key of the image.
    pub image: Sha256Digest,
    /// The image and its layers.
    pub entries: Vec<Parcel>,
    /// Fetched inputs.
    pub inputs: Vec<Input>,
}

/// An entry of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// Its key.
    pub key: Sha256Digest,
    /// Its files by path, those that vouch for the others included.
    pub files: BTreeMap<String, File>,
    /// Its trees by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trees: BTreeMap<String, Tree>,
}

/// The bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its length.
    pub bytes: u64,
    /// Whether it is a program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Digests of its chunks; none for one of zeros.
    pub chunks: Vec<Option<Sha256Digest>>,
}

/// A tree: what is in it, and the bytes of its files behind each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// What is in it, a directory before what is in that.
    pub nodes: Vec<Node>,
    /// The bytes of all files.
    pub pack: File,
}

/// Something in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Node {
    /// A directory.
    Directory {
        /// Its path inside the tree.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file; its bytes are the next ones of the pack.
    File {
        /// Its path inside the tree.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Its length.
        bytes: u64,
    },
    /// A symbolic link, to somewhere in the tree.
    Link {
        /// Its path inside the tree.
        path: String,
        /// Where it leads.
        target: String,
    },
}

/// A fetched input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its digest, which is its name.
    pub sha256: Sha256Digest,
    /// Its bytes.
    pub file: File,
}

/// A document and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub closure: Closure,
    /// The key of its sender, whose signature it carries.
    pub sender: PublicKey,
    /// Digest of what was signed, which names what is on its way.
    pub id: Sha256Digest,
}

impl File {
    /// Its chunks that have bytes: each with its place and length.
    pub fn pieces(&self) -> impl Iterator<Item = (Sha256Digest, u64, u64)> + '_ {
        let piece = |(i, digest): (u64, &Option<Sha256Digest>)| {
            let at = i * CHUNK;
            digest.map(|digest| (digest, at, CHUNK.min(self.bytes - at)))
        };
        (0..).zip(&self.chunks).filter_map(piece)
    }

    fn check(&self, what: &str) -> Result<()> {
        ensure!(self.bytes <= MAX_FILE, "`{what}` is to have {} bytes, more than any image", self.bytes);
        let chunks = self.bytes.div_ceil(CHUNK);
        ensure!(self.chunks.len() as u64 == chunks, "`{what}` has {} chunks, not {chunks}", self.chunks.len());
        Ok(())
    }
}

impl Node {
    /// Its path inside the tree.
    pub fn path(&self) -> &str {
        match self {
            Self::Directory { path, .. } | Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }
}

impl Closure {
    /// Every file of it.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        let entries = self.entries.iter().flat_map(|p| p.files.values().chain(p.trees.values().map(|t| &t.pack)));
        self.inputs.iter().map(|i| &i.file).chain(entries)
    }

    /// Its chunks with their lengths, each once, in the order they are first needed.
    pub fn chunks(&self) -> Vec<(Sha256Digest, u64)> {
        let mut seen = BTreeSet::new();
        let all = self.files().flat_map(|file| file.pieces().map(|(digest, _, bytes)| (digest, bytes)));
        all.filter(|(digest, _)| seen.insert(*digest)).collect()
    }

    /// As a document signed by `sign`, which belongs to `sender`.
    ///
    /// # Errors
    /// None that is known: all of it is plain text and numbers.
    pub fn render(&self, sender: &PublicKey, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Vec<u8>> {
        let text = serde_json::to_string(self).context("writing down a closure")? + "\n";
        let signature: String = sign(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{MAGIC} {sender} {signature}\n{text}").into_bytes())
    }

    /// Reads what [`Closure::render`] wrote, and refuses whatever could do harm if it were done as it says.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn parse(document: &[u8]) -> Result<Signed> {
        let newline = document.iter().position(|byte| *byte == b'\n').context("this is no closure")?;
        let (head, text) =
            (std::str::from_utf8(&document[..newline]).context("this is no closure")?, &document[newline + 1..]);
        let mut words = head.split(' ');
        let (magic, sender, signature) = (words.next(), words.next(), words.next());
        ensure!(magic == Some(MAGIC) && words.next().is_none(), "this is no closure, or one of another kiln");
        let sender: PublicKey = sender.unwrap_or_default().parse().context("reading who sent the closure")?;
        let signature = unhex(signature.unwrap_or_default()).context("the closure's signature is none")?;
        ensure!(
            UnparsedPublicKey::new(&ED25519, sender.0).verify(text, &signature).is_ok(),
            "the closure is not what its sender signed"
        );
        let closure: Self = serde_json::from_slice(text).context("reading the closure")?;
        closure.check()?;
        Ok(Signed { closure, sender, id: Sha256Digest::of(text) })
    }

    fn check(&self) -> Result<()> {
        let keys: BTreeSet<_> = self.entries.iter().map(|parcel| parcel.key).collect();
        ensure!(keys.len() == self.entries.len(), "an entry is in the closure twice");
        ensure!(keys.contains(&self.image), "image {} is not in its closure", self.image);
        let inputs: BTreeSet<_> = self.inputs.iter().map(|input| input.sha256).collect();
        ensure!(inputs.len() == self.inputs.len(), "an input is in the closure twice");
        for parcel in &self.entries {
            parcel.check().with_context(|| format!("entry {}", parcel.key))?;
        }
        for input in &self.inputs {
            input.file.check(&input.sha256.to_string())?;
        }
        let mut lengths = BTreeMap::new();
        for (digest, _, bytes) in self.files().flat_map(File::pieces) {
            let known = *lengths.entry(digest).or_insert(bytes);
            ensure!(known == bytes, "chunk {digest} has {known} bytes in one place and {bytes} in another");
        }
        Ok(())
    }
}

impl Parcel {
    fn check(&self) -> Result<()> {
        let mut taken = BTreeSet::new();
        for (path, file) in &self.files {
            check_path(path)?;
            file.check(path)?;
            taken.insert(path.as_str());
        }
        for (name, tree) in &self.trees {
            check_path(name)?;
            ensure!(taken.insert(name), "`{name}` is a file and a tree");
            tree.check().with_context(|| format!("tree `{name}`"))?;
        }
        for path in &taken {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(|above| taken.contains(above));
            if let Some(above) = above {
                bail!("`{path}` is to lie in `{above}`, which is no directory");
            }
        }
        Ok(())
    }
}

impl Tree {
    fn check(&self) -> Result<()> {
        let (mut directories, mut seen, mut bytes) = (BTreeSet::from([""]), BTreeSet::new(), 0_u64);
        for node in &self.nodes {
            let path = node.path();
            check_path(path)?;
            ensure!(seen.insert(path), "`{path}` is in it twice");
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            ensure!(directories.contains(above), "`{path}` is to lie in `{above}`, which is no directory of the tree");
            match node {
                Node::Directory { .. } => drop(directories.insert(path)),
                Node::File { bytes: more, .. } => bytes = bytes.saturating_add(*more),
                Node::Link { target, .. } => {
                    ensure!(stays(above, target), "`{path}` leads out of the tree, to `{target}`")
                }
            }
        }
        self.pack.check("pack")?;
        ensure!(bytes == self.pack.bytes, "its files have {bytes} bytes, not {}", self.pack.bytes);
        Ok(())
    }
}

/// A path that stays below where it is put.
fn check_path(path: &str) -> Result<()> {
    let normal = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    ensure!(
        path.split('/').all(normal) && !path.contains('\0') && path.len() <= 4000,
        "`{path}` is no path inside an entry"
    );
    Ok(())
}

/// Whether a link in the directory `above` leads to somewhere in the tree, if no other link is on the way.
fn stays(above: &str, target: &str) -> bool {
    let mut depth = above.split('/').filter(|part| !part.is_empty()).count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    !target.is_empty() && !target.starts_with('/') && !target.contains('\0')
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn file(bytes: u64) -> File {
        let chunks = (0..bytes.div_ceil(CHUNK)).map(|i| Some(digest(&format!("{i} of {bytes}")))).collect();
        File { bytes, executable: false, chunks }
    }

    fn closure() -> Closure {
        let nodes = vec![
            Node::Directory { path: "usr".into(), mode: 0o755 },
            Node::File { path: "usr/tool".into(), mode: 0o755, bytes: 7 },
            Node::Link { path: "usr/link".into(), target: "../usr/./tool".into() },
        ];
        let tree = Tree { nodes, pack: file(7) };
        let parcel = Parcel {
            key: digest("image"),
            files: [("manifest.json".to_owned(), file(3)), ("a/disk.raw".to_owned(), file(CHUNK + 1))].into(),
            trees: [("root".to_owned(), tree)].into(),
        };
        Closure { image: parcel.key, entries: vec![parcel], inputs: vec![Input { sha256: digest("i"), file: file(9) }] }
    }

    fn signed(closure: &Closure) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let sender = PublicKey(pair.public_key().as_ref().try_into().unwrap());
        closure.render(&sender, |bytes| pair.sign(bytes).as_ref().to_vec()).unwrap()
    }

    #[test]
    fn reads_back_what_it_writes_and_notices_every_flipped_bit() {
        let document = signed(&closure());
        assert_eq!(Closure::parse(&document).unwrap().closure, closure());
        for byte in 0..document.len() {
            for bit in 0..8 {
                let mut flipped = document.clone();
                flipped[byte] ^= 1 << bit;
                assert!(Closure::parse(&flipped).is_err(), "byte {byte}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_could_do_harm_is_refused_with_a_sentence() {
        let parcel = |change: &dyn Fn(&mut Parcel)| {
            let mut closure = closure();
            change(&mut closure.entries[0]);
            closure
        };
        let node = |node: Node| parcel(&|p| p.trees.get_mut("root").unwrap().nodes.push(node.clone()));
        let named = |path: &str| parcel(&|p| drop(p.files.insert(path.into(), file(1))));
        let directory = |path: &str| node(Node::Directory { path: path.into(), mode: 0o755 });
        let link = |target: &str| node(Node::Link { path: "usr/l".into(), target: target.into() });
        let mut twice = closure();
        twice.entries.push(twice.entries[0].clone());
        let mut inputs = closure();
        inputs.inputs.push(inputs.inputs[0].clone());
        let mut other = closure();
        other.image = digest("another");
        let mut shared = closure();
        shared.inputs[0].file.chunks = shared.entries[0].files["manifest.json"].chunks.clone();
        let cases = [
            (named("../x"), "`../x` is no path inside an entry"),
            (named("/etc/passwd"), "`/etc/passwd` is no path inside an entry"),
            (named("a//b"), "`a//b` is no path inside an entry"),
            (named(""), "`` is no path inside an entry"),
            (named("manifest.json/x"), "`manifest.json/x` is to lie in `manifest.json`, which is no directory"),
            (named("root/x"), "`root/x` is to lie in `root`, which is no directory"),
            (named("root"), "`root` is a file and a tree"),
            (directory("usr/../../x"), "`usr/../../x` is no path inside an entry"),
            (directory("usr"), "`usr` is in it twice"),
            (directory("usr/link/x"), "`usr/link/x` is to lie in `usr/link`, which is no directory of the tree"),
            (link("../../etc/shadow"), "`usr/l` leads out of the tree, to `../../etc/shadow`"),
            (link("/etc/shadow"), "`usr/l` leads out of the tree, to `/etc/shadow`"),
            (link(""), "`usr/l` leads out of the tree, to ``"),
            (twice, "an entry is in the closure twice"),
            (inputs, "an input is in the closure twice"),
            (other, "is not in its closure"),
            (shared, "has 9 bytes in one place and 3 in another"),
            (parcel(&|p| p.files.get_mut("manifest.json").unwrap().bytes = u64::MAX), "more than any image"),
            (parcel(&|p| p.files.get_mut("manifest.json").unwrap().bytes = 2 * CHUNK), "has 1 chunks, not 2"),
            (node(Node::File { path: "usr/more".into(), mode: 0o644, bytes: u64::MAX }), "bytes, not 7"),
        ];
        for (closure, said) in cases {
            let error = format!("{:#}", Closure::parse(&signed(&closure)).unwrap_err());
            assert!(error.contains(said), "{said}: {error}");
        }
        assert!(Closure::parse(b"").is_err() && Closure::parse(b"kiln-closure-1\n{}").is_err());
    }

    #[test]
    fn a_chunk_that_is_needed_twice_is_carried_once() {
        let mut closure = closure();
        let count = closure.chunks().len();
        let again = closure.inputs[0].file.clone();
        closure.entries[0].files.insert("again".into(), again);
        assert_eq!(closure.chunks().len(), count);
    }
}
