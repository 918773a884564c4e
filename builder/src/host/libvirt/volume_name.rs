//! Names of kiln's volumes and machines on a libvirt host.
//!
//! They say whose each is, so that two clusters on one host do not meet, and what is left behind by a call that was cut off is found again.
//! `.` parts environment and node: neither can hold one.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Sha256Digest;

use crate::host::{Mark, Root};

/// How much of a digest is in a name: 48 bits, for people; what decides is always compared whole.
const DIGITS: usize = 12;

fn short(digest: &Sha256Digest) -> String {
    digest.to_string()[..DIGITS].to_owned()
}

/// What a host calls a node's machine, and how the names of its volumes begin: `ENV.NODE`.
pub fn machine(mark: &Mark) -> String {
    format!("{}.{}", mark.env, mark.node)
}

/// A root: `ENV.NODE-root-gGENERATION-KEY.qcow2`.
pub fn root(mark: &Mark, root: &Root) -> String {
    format!("{}-root-g{}-{}.qcow2", machine(mark), root.generation, short(&root.image))
}

/// Whether `name` is what [`root`] calls some root of this node. Exactly: a node may be called `x-root-g1`.
pub fn is_root_of(mark: &Mark, name: &str) -> bool {
    let rest = name.strip_prefix(&format!("{}-root-g", machine(mark))).and_then(|n| n.strip_suffix(".qcow2"));
    rest.and_then(|r| r.split_once('-')).is_some_and(|(generation, key)| {
        !generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit()) && is_short(key)
    })
}

/// The data volume: `ENV.NODE-data.raw`.
pub fn data(mark: &Mark) -> String {
    format!("{}-data.raw", machine(mark))
}

/// A seed: `ENV.NODE-seed-DIGEST.raw`.
pub fn seed(mark: &Mark, seed: &Sha256Digest) -> String {
    format!("{}-seed-{}.raw", machine(mark), short(seed))
}

/// Whether `name` is what [`seed`] calls some seed of this node.
pub fn is_seed_of(mark: &Mark, name: &str) -> bool {
    name.strip_prefix(&format!("{}-seed-", machine(mark))).and_then(|n| n.strip_suffix(".raw")).is_some_and(is_short)
}

/// What the console has said: `ENV.NODE-console.log`. Once it is long, libvirt's log daemon puts `.0` and so on behind older parts.
pub fn console(mark: &Mark) -> String {
    format!("{}-console.log", machine(mark))
}

/// The image in the pool: `kiln-DIGEST.qcow2`, by the sha256 of the file.
pub fn image(sha256: &Sha256Digest) -> String {
    format!("kiln-{}.qcow2", short(sha256))
}

/// Beside an image that is being uploaded, and only then.
pub fn upload(image: &str) -> String {
    format!("{}.part", stem(image))
}

/// Beside an image that was read back and was whole; `mtime` is when its bytes last changed, as libvirt tells it.
pub fn proof(image: &str, mtime: &str) -> String {
    format!("{}.ok-{mtime}", stem(image))
}

/// Whether `name` is what [`upload`] or [`proof`] calls something, and beside which image.
pub fn beside(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once('.')?;
    let image = format!("{stem}.qcow2");
    (is_image(&image) && (rest == "part" || rest.starts_with("ok-"))).then_some(image)
}

/// Whether `name` is what [`image`] calls something.
pub fn is_image(name: &str) -> bool {
    name.strip_prefix("kiln-").and_then(|n| n.strip_suffix(".qcow2")).is_some_and(is_short)
}

fn is_short(digits: &str) -> bool {
    digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn stem(image: &str) -> &str {
    image.strip_suffix(".qcow2").unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_firstboot::digest::Id128;

    fn mark(env: &str, node: &str) -> Mark {
        Mark { cluster: Id128([7; 16]), env: env.into(), node: node.into() }
    }

    #[test]
    fn are_what_the_documents_say() {
        let (mark, digest) = (mark("k8s0", "k8s0etcd1"), Sha256Digest::of(b""));
        assert_eq!(root(&mark, &Root { image: digest, generation: 3 }), "k8s0.k8s0etcd1-root-g3-e3b0c44298fc.qcow2");
        assert_eq!(data(&mark), "k8s0.k8s0etcd1-data.raw");
        assert_eq!(seed(&mark, &digest), "k8s0.k8s0etcd1-seed-e3b0c44298fc.raw");
        assert_eq!(console(&mark), "k8s0.k8s0etcd1-console.log");
        let image = image(&digest);
        assert_eq!(image, "kiln-e3b0c44298fc.qcow2");
        assert_eq!(upload(&image), "kiln-e3b0c44298fc.part");
        assert_eq!(proof(&image, "17.5"), "kiln-e3b0c44298fc.ok-17.5");
        for beside_it in [upload(&image), proof(&image, "17.5")] {
            assert_eq!(beside(&beside_it), Some(image.clone()));
        }
    }

    #[test]
    fn knows_images_from_everything_else() {
        assert!(is_image("kiln-e3b0c44298fc.qcow2"));
        for name in
            ["kiln-e3b0c44298fc.part", "kiln-E3B0C44298FC.qcow2", "kiln-e3b0.qcow2", "a.b-root-g1-e3b0c44298fc.qcow2"]
        {
            assert!(!is_image(name), "{name}");
            assert!(beside(name).is_none() || name.ends_with(".part"), "{name}");
        }
    }

    proptest::proptest! {
        /// Whatever two nodes are called, nothing of the one is taken for the other's.
        #[test]
        fn no_two_nodes_share_a_name(
            a in "[a-z]{1,2}", b in "[a-z]{1,2}(-root-g1|-seed|-data)?", c in "[a-z]{1,2}", d in "[a-z]{1,2}(-root-g1|-seed|-data)?",
        ) {
            proptest::prop_assume!((&a, &b) != (&c, &d));
            let (one, other) = (mark(&a, &b), mark(&c, &d));
            let key = Sha256Digest::of(b"x");
            let of = |mark: &Mark| [root(mark, &Root { image: key, generation: 12 }), seed(mark, &key), data(mark), console(mark)];
            proptest::prop_assert!(is_root_of(&one, &of(&one)[0]) && is_seed_of(&one, &of(&one)[1]));
            for name in of(&one) {
                proptest::prop_assert!(!of(&other).contains(&name), "{name}");
                proptest::prop_assert!(!is_root_of(&other, &name) && !is_seed_of(&other, &name), "{name}");
            }
        }
    }
}
