//! Upstream etcd releases kiln knows by their digest.
//!
//! etcd publishes `SHA256SUMS` and neither a signature nor a provenance, so such a pin is the root of trust and nothing lies beyond it.
//! The digests are those that kubespray and other projects pin, cross-checked between independent copies where there are several.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::version::EtcdVersion;

/// Release tarballs for linux-amd64, oldest first.
const RELEASES: [(&str, &str); 35] = [
    ("3.5.16", "b414b27a5ad05f7cb01395c447c85d3227e3fb1c176e51757a283b817f645ccc"),
    ("3.5.17", "eff6ac621d41711085d0f38fab17d8fa3705f6326c3ff11301a1f5a71fc94edd"),
    ("3.5.18", "6ddde039a7a506badf34e7edfb38e1ea90e36f05c8cfceba602045df623d86fa"),
    ("3.5.19", "16ae742def5f330800590e8d505d72830a3b0b7012e559e6bd76f0bc9864bf42"),
    ("3.5.20", "9ac85616fb8c0e45f485074dde0258ca2b7b42f1dd5320821af5a8b66daf7072"),
    ("3.5.21", "adddda4b06718e68671ffabff2f8cee48488ba61ad82900e639d108f2148501c"),
    ("3.5.22", "20174ab70a6f3df94da13ecac4610f42c47d25af82426f21c112c2c841ec499a"),
    ("3.5.23", "8b50d62d38cb2de005b42227dd14b33f6e01758970f248f9257789ecfaf634c9"),
    ("3.5.24", "042497e2ddcee06f22e5d486d81f58affa26b53ee423e2a6aaca3d3ea98c8191"),
    ("3.5.25", "168af82b59772e1811a9af7b358d42f5c6df44e0d9767afb006ecf12c4bbd607"),
    ("3.5.26", "0a682a91201dc8351d507210bc30b021a11e254eab806f03224b51e8fad29abb"),
    ("3.5.27", "0aad9a9e4e0817a021e933f9806a2b2960a62f949ad5a3d6436d8886945cb1bc"),
    ("3.5.28", "e11b6fab2ffbf0a1d6ee8f6227594045a19e0974ec779c42b8b5bb1942b2abe0"),
    ("3.5.29", "7692f812db0bfeee3a731c45046864cf729e552bad82ce7cb5b507053d033267"),
    ("3.5.30", "a495115162845640be08c6cda069ff961260dbced53207c5a83b1b006ff2ea8e"),
    ("3.5.31", "e76b75c73b10196dfeb1c52fcdf9f4014e51f3082f65f28fb2e69a7bec1f916b"),
    ("3.5.32", "83532f9290ee89106c4c9d0467220f65623c1faadaab800d727f7beccce4d7dd"),
    ("3.5.33", "5025b5b24d81a9616b6e284ccd439b9a3df055ef8fdcdc142af3ec8f6a3b3c95"),
    ("3.6.0", "42305b0dcbba7b6fdff0382d0c7b99c42026c88c44847a619ab58cde216725d9"),
    ("3.6.1", "1324664bfe56d178d1362a57462ca5a7b26a6d2cbe9e1c94b6820e32cb82d673"),
    ("3.6.2", "4b5d55d61e2218fab7c1cc1c00b341c469159ecde8cedd575fa858683f67e9f4"),
    ("3.6.3", "3f3b4aa9785d86322c50b296eebdc7a0a57b27065190154b5858bf6a7512ac10"),
    ("3.6.4", "4d5f3101daa534e45ccaf3eec8d21c19b7222db377bcfd5e5a9144155238c105"),
    ("3.6.5", "66bad39ed920f6fc15fd74adcb8bfd38ba9a6412f8c7852d09eb11670e88cac3"),
    ("3.6.6", "887afaa4a99f22d802ccdfbe65730a5e79aa5c9ce2c8799c67e9d804c50ecedb"),
    ("3.6.7", "cf8af880c5a01ee5363cefa14a3e0cb7e5308dcf4ed17a6973099c9a7aee5a9a"),
    ("3.6.8", "cf9cfe91a4856cb90eed9c99e6aee4b708db2c7888b88a6f116281f04b0ea693"),
    ("3.6.9", "633136f13fcadac52e5c0ddcb97912643af6fcb9cb362e75774d0f96f7666396"),
    ("3.6.10", "ed579fafab5701e3aaa95509969e7bc74776a4ae5269d32e3928408b406456ec"),
    ("3.6.11", "8756f7a4eaf921668a83de0bf13c0f65cae9186a165696e3ae8396afe6f557ed"),
    ("3.6.12", "d2564bb50b58e52fbaf3bde4a9561a1d04e20cdc761f795580e4d615d5d41355"),
    ("3.6.13", "b4928654aed84d90952620c7144555e4186d795e1e7414e65fe0cf6265fd0465"),
    ("3.6.14", "ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5"),
    ("3.7.1", "e8cd3fa8064c98137c5dbd78b76f969417ace84efb83c481041d7a52ffdd8fb9"),
    ("3.7.2", "3a3679bc51a4ee9d30bccea1da7cd4fe62c6fc1d2ca1255068d2c53bf3026135"),
];

/// Where upstream tells of its releases, by GitHub's API, newest first. One page is enough for the newest of every line in support.
const LIST: &str = "https://api.github.com/repos/etcd-io/etcd/releases?per_page=100";
/// Where upstream keeps the files of its releases.
const DOWNLOADS: &str = "https://github.com/etcd-io/etcd/releases/download";

/// Where the list of releases is: at upstream's, or `releases.json` of a mirror.
pub fn list_url(mirror: Option<&str>) -> String {
    mirror.map_or_else(|| LIST.to_owned(), |mirror| format!("{}/releases.json", mirror.trim_end_matches('/')))
}

/// Name of a release's tarball.
pub fn file(version: EtcdVersion) -> String {
    format!("etcd-v{version}-linux-amd64.tar.gz")
}

/// Where a release's tarball is. A mirror has the files of each release in a directory `vVERSION`, as upstream has.
pub fn url(version: EtcdVersion, mirror: Option<&str>) -> String {
    format!("{}/v{version}/{}", downloads(mirror), file(version))
}

/// Where the sums of a release's files are.
pub fn sums_url(version: EtcdVersion, mirror: Option<&str>) -> String {
    format!("{}/v{version}/SHA256SUMS", downloads(mirror))
}

fn downloads(mirror: Option<&str>) -> &str {
    mirror.unwrap_or(DOWNLOADS).trim_end_matches('/')
}

/// The pin of a release, or nothing for one kiln does not know.
pub fn pin(version: EtcdVersion) -> Option<Sha256Digest> {
    let text = version.to_string();
    RELEASES.iter().find(|(known, _)| *known == text).and_then(|(_, digest)| digest.parse().ok())
}

/// The versions kiln knows, newest first.
pub fn known() -> impl Iterator<Item = &'static str> {
    RELEASES.iter().rev().map(|(version, _)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_version_with_a_digest_and_they_ascend() {
        let versions: Vec<EtcdVersion> = RELEASES.iter().map(|(version, _)| version.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b));
        assert!(versions.iter().all(|version| pin(*version).is_some()));
    }

    #[test]
    fn knows_the_default() {
        let version = "3.6.14".parse().unwrap();
        let digest = "ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5";
        assert_eq!(pin(version).map(|d| d.to_string()).as_deref(), Some(digest));
        assert_eq!(
            url(version, None),
            "https://github.com/etcd-io/etcd/releases/download/v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz"
        );
        let mirror = Some("http://m.test/etcd/");
        assert_eq!(url(version, mirror), "http://m.test/etcd/v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz");
        assert_eq!(sums_url(version, mirror), "http://m.test/etcd/v3.6.14/SHA256SUMS");
        assert_eq!(list_url(mirror), "http://m.test/etcd/releases.json");
    }
}
