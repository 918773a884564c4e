//! What `init` leaves on disk, and what it refuses.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use kiln_firstboot::seed;

use super::*;
use crate::exit::TryAgain;

const NOW: i64 = 1_800_000_000;
const LAB: &str = include_str!("../../../../profiles/lab.toml");

fn lab(change: impl Fn(String) -> String) -> Profile {
    Profile::parse(Utf8Path::new("profiles/lab.toml"), &change(LAB.to_owned())).unwrap()
}

fn home() -> (tempfile::TempDir, Utf8PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::try_from(home.path().join("pki/lab")).unwrap();
    (home, dir)
}

fn order(profile: &Profile) -> Order<'_> {
    Order { profile, generation: None, window_hours: None, now: NOW }
}

/// Every file below `dir`, by its path.
fn tree(dir: &Utf8Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in dir.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        if path.is_dir() {
            files.extend(tree(&path).into_iter().map(|(name, b)| (format!("{}/{name}", path.file_name().unwrap()), b)));
        } else {
            files.insert(path.file_name().unwrap().to_owned(), fs_err::read(&path).unwrap());
        }
    }
    files
}

/// As the agent reads it.
fn unpack(seed: &Utf8Path) -> BTreeMap<&'static str, Vec<u8>> {
    kiln_firstboot::seed_disk::read_archive(fs_err::File::open(seed).unwrap()).unwrap()
}

fn refusal(error: &anyhow::Error) -> &Refusal {
    error.downcast_ref().unwrap_or_else(|| panic!("not a refusal: {error:#}"))
}

#[test]
fn every_node_gets_a_seed_that_the_agent_believes() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    let (pki, outcome) = init(&dir, &order(&profile)).unwrap();
    assert_eq!(outcome, Outcome::Minted);
    assert_eq!((pki.charter().generation, pki.charter().members.len()), (1, 3));
    assert_eq!(pki.charter().not_before, NOW - 3600);
    assert_eq!(pki.charter().form_until, NOW + 72 * 3600);
    assert_eq!(pki.trust().cluster, pki.charter().cluster);
    let mut keys = std::collections::HashSet::new();
    for node in &profile.nodes {
        let files = unpack(&pki.seed(&node.name));
        let header: SeedHeader = serde_json::from_slice(&files[seed::HEADER]).unwrap();
        assert_eq!(
            (header.fqdn, header.cluster, header.env),
            (node.fqdn.clone(), pki.trust().cluster, "lab".to_owned())
        );
        let charter =
            Charter::open(&files[seed::CHARTER], &files[seed::CHARTER_SIGNATURE], &pki.trust().charter_key).unwrap();
        assert_eq!(charter, *pki.charter());
        assert_eq!(files[seed::ISSUER_CERT], fs_err::read(pki.issuer_cert(&node.name)).unwrap());
        assert_eq!(files[seed::PEER_ROOTS], fs_err::read(pki.peer_root()).unwrap());
        assert_eq!(files[seed::CLIENT_ROOTS], fs_err::read(pki.client_root()).unwrap());
        assert_ne!(files[seed::PEER_ROOTS], files[seed::CLIENT_ROOTS]);
        assert!(keys.insert(files[seed::ISSUER_KEY].clone()), "two nodes share a key");
    }
}

#[test]
fn b07_the_issuers_on_disk_expire_more_than_a_day_apart() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    let (pki, _) = init(&dir, &order(&profile)).unwrap();
    let mut ends: Vec<i64> = profile
        .nodes
        .iter()
        .map(|node| {
            let pem = fs_err::read(pki.issuer_cert(&node.name)).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
            pem.parse_x509().unwrap().validity().not_after.timestamp()
        })
        .collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[1] - pair[0] > 24 * 3600), "{ends:?}");
}

#[test]
fn secrets_are_for_their_owner_only_and_in_no_other_file() {
    let (_home, dir) = home();
    let (pki, _) = init(&dir, &order(&lab(|text| text))).unwrap();
    let mode = |path: &Utf8Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("private")), 0o700);
    let marker = b"PRIVATE KEY";
    for (name, bytes) in tree(pki.dir()) {
        let secret = bytes.windows(marker.len()).any(|w| w == marker) || name == CHARTER_KEY;
        assert_eq!(mode(&dir.join(&name)), if secret { 0o600 } else { 0o644 }, "{name}");
        let place = name.split('/').next().unwrap();
        assert_eq!(secret, place == "private" || place == "seeds" || name == "clients/root.key", "{name}");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    init(&dir, &order(&profile)).unwrap();
    let before = tree(dir.parent().unwrap());
    let (_, outcome) = init(&dir, &Order { now: NOW + 1000, ..order(&profile) }).unwrap();
    assert_eq!(outcome, Outcome::Unchanged);
    assert_eq!(tree(dir.parent().unwrap()), before);
}

#[test]
fn an_interrupted_run_is_started_over() {
    let (_home, dir) = home();
    let staging = dir.with_file_name(".lab.new");
    fs_err::create_dir_all(staging.join("private")).unwrap();
    fs_err::write(staging.join("private/peer-root.key"), "half a key").unwrap();
    let (_, outcome) = init(&dir, &order(&lab(|text| text))).unwrap();
    assert_eq!(outcome, Outcome::Minted);
    assert!(!staging.exists());
    let keys = fs_err::read_to_string(dir.join("private/peer-root.key")).unwrap();
    assert!(keys.starts_with("-----BEGIN PRIVATE KEY-----"), "the half-written key is gone");
}

#[test]
fn refuses_what_the_charter_does_not_say() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    init(&dir, &order(&profile)).unwrap();
    let before = tree(&dir);

    let moved = lab(|text| text.replace("10.77.0.13", "10.77.0.14"));
    let error = init(&dir, &order(&moved)).unwrap_err();
    assert_eq!(
        refusal(&error).to_string(),
        "generation 1 of the charter is signed and cannot be changed: `etcd3.lab.kiln.test` at 10.77.0.13 is gone; \
         `etcd3.lab.kiln.test` at 10.77.0.14 is new\n  hint: undo the change; or, only if no cluster was formed or all of it \
         is lost, mint anew: --generation 2"
    );
    let founder = lab(|text| format!("{text}\n[formation]\nfounder = \"etcd2\"\n"));
    assert!(refusal(&init(&dir, &order(&founder)).unwrap_err()).what.contains("the founder was `etcd1.lab.kiln.test`"));
    let window = Order { window_hours: Some(5), ..order(&profile) };
    assert!(refusal(&init(&dir, &window).unwrap_err()).what.contains("a window of 5 h"));
    let elsewhere = lab(|text| text.replace("lab.kiln.test", "other.kiln.test"));
    assert!(refusal(&init(&dir, &order(&elsewhere)).unwrap_err()).what.contains("in `other.kiln.test`"));
    for generation in [3, 0] {
        let skipping = Order { generation: Some(generation), ..order(&profile) };
        assert_eq!(refusal(&init(&dir, &skipping).unwrap_err()).remedy, "the next is --generation 2");
    }
    assert_eq!(tree(&dir), before);
}

#[test]
fn the_next_generation_keeps_roots_cluster_and_clients() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    let (first, _) = init(&dir, &order(&profile)).unwrap();
    first.mint_client("app", NOW).unwrap();
    let before = tree(&dir);
    let moved = lab(|text| text.replace("10.77.0.13", "10.77.0.14"));
    let next = Order { profile: &moved, generation: Some(2), window_hours: Some(5), now: NOW + 1000 };
    let (second, outcome) = init(&dir, &next).unwrap();
    assert_eq!(outcome, Outcome::Renewed);
    assert_eq!(second.charter().generation, 2);
    assert_eq!(second.charter().members, moved.members());
    assert_eq!(second.charter().form_until, NOW + 1000 + 5 * 3600);
    assert_eq!(second.trust(), first.trust());
    let after = tree(&dir);
    let same: Vec<&str> =
        after.iter().filter(|(name, bytes)| before.get(*name) == Some(bytes)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        same,
        [
            "README",
            "client-revoked.crl",
            "client-root.crt",
            "clients/app.crt",
            "clients/app.key",
            "clients/app.serials",
            "clients/root.crt",
            "clients/root.key",
            "clients/root.serials",
            "peer-revoked.crl",
            "peer-root.crt",
            "private/charter.key",
            "private/client-root.key",
            "private/peer-root.key",
            "trust.json"
        ]
    );
    assert_eq!(after.len(), before.len());
    // Nothing of the first generation is left beside it.
    let beside: Vec<String> =
        dir.parent().unwrap().read_dir_utf8().unwrap().map(|e| e.unwrap().file_name().to_owned()).collect();
    assert_eq!(beside.iter().filter(|name| *name != ".lab.lock").collect::<Vec<_>>(), ["lab"]);
    // And once more: generation 2 is now what is there.
    assert_eq!(init(&dir, &Order { window_hours: None, ..next }).unwrap().1, Outcome::Unchanged);
}

#[test]
fn only_one_process_mints_at_a_time() {
    let (_home, dir) = home();
    fs_err::create_dir_all(dir.parent().unwrap()).unwrap();
    let _held = lock(&dir).unwrap();
    let error = init(&dir, &order(&lab(|text| text))).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&TryAgain("another `kiln pki` is changing the same keys".into())));
}

#[test]
fn keys_that_are_missing_or_bent_are_named() {
    let (_home, dir) = home();
    let profile = lab(|text| text);
    let error = Pki::load(&dir, &profile).unwrap_err();
    assert_eq!(refusal(&error).remedy, "mint them: kiln pki init lab");
    init(&dir, &order(&profile)).unwrap();
    let path = dir.join(CHARTER);
    let mut charter = fs_err::read(&path).unwrap();
    charter[20] ^= 1;
    fs_err::write(&path, charter).unwrap();
    let error = Pki::load(&dir, &profile).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&kiln_firstboot::charter::CharterError::Signature));
}

#[test]
fn a_client_is_named_soundly_and_renewed_with_its_key() {
    let (_home, dir) = home();
    let (pki, _) = init(&dir, &order(&lab(|text| text))).unwrap();
    for name in ["", "../x", "a b", ".x"] {
        assert!(refusal(&pki.mint_client(name, NOW).unwrap_err()).what.contains("cannot be the name"), "{name}");
    }
    let files = pki.mint_client("app", NOW).unwrap();
    let (cert, key) = (fs_err::read(&files.cert).unwrap(), fs_err::read(&files.key).unwrap());
    let again = pki.mint_client("app", NOW + 1).unwrap();
    assert_eq!(again, files);
    assert_ne!(fs_err::read(&files.cert).unwrap(), cert);
    assert_eq!(fs_err::read(&files.key).unwrap(), key);
}
