use super::*;
use crate::recipe::tests::recipe;
use crate::trust::seal::Sealer;

struct Scene {
    _dir: tempfile::TempDir,
    home: Utf8PathBuf,
    store: Store,
    key: Sha256Digest,
}

impl Scene {
    /// A store with one image, sealed by `home/signing`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Utf8Path::from_path(dir.path()).unwrap().to_owned();
        let store = Store::at(home.join("store"));
        let recipe = recipe();
        let key = recipe.keys().image;
        let sealer = Sealer { keys: home.join("signing"), now: 1_700_000_000 };
        let make = |dir: &Path| {
            fs_err::write(dir.join("recipe.json"), recipe.render()?)?;
            fs_err::write(dir.join("disk.qcow2"), "qcow2")?;
            fs_err::write(dir.join("disk.raw"), vec![1; 5000])?;
            fs_err::write(dir.join(SBOM), "{}")?;
            Ok(crate::store::Made::default())
        };
        let seal = |dir: &Path, manifest: &crate::store::Manifest| sealer.seal(dir, manifest, &recipe);
        store.ensure_sealed_entry(&key, "image", make, &seal).unwrap();
        Self { _dir: dir, home, store, key }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.store.entry_dir(&self.key)
    }

    fn standing_by(&self, keyring: &Keyring, depth: Depth) -> Standing {
        let entry = self.store.entry(&self.key).unwrap().unwrap();
        standing(&self.store, &entry, keyring, depth).unwrap()
    }

    fn standing(&self, depth: Depth) -> Standing {
        self.standing_by(&Keyring::read(&self.home.join("signing")).unwrap(), depth)
    }

    /// Changes a byte of a file, not its length.
    fn flip(&self, file: &str) {
        let path = self.dir().join(file);
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(path, bytes).unwrap();
    }
}

#[test]
fn what_this_home_made_is_trusted_and_its_sums_are_those_of_sha256sum() {
    let scene = Scene::new();
    assert!(matches!(scene.standing(Depth::Whole), Standing::Trusted { by, .. } if by == OWN));
    let sums = Sums::parse(&fs_err::read_to_string(scene.dir().join(SUMS)).unwrap()).unwrap();
    let names: Vec<_> = sums.0.iter().map(|s| s.path.as_str()).collect();
    assert_eq!(names, ["disk.qcow2", MANIFEST, PROVENANCE, "recipe.json", SBOM]);
    for sum in &sums.0 {
        assert_eq!(Sha256Digest::of(&fs_err::read(scene.dir().join(&sum.path)).unwrap()), sum.sha256, "{}", sum.path);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    for file in [SUMS, SIGNATURE, MANIFEST, PROVENANCE, SBOM, "recipe.json"] {
        let scene = Scene::new();
        scene.flip(file);
        // A manifest may be broken so that nothing can be read of it any more: then the store refuses it.
        let Ok(Some(entry)) = scene.store.entry(&scene.key) else { continue };
        let keyring = Keyring::read(&scene.home.join("signing")).unwrap();
        let found = standing(&scene.store, &entry, &keyring, Depth::Small).unwrap();
        assert!(matches!(found, Standing::Altered { .. }), "{file}: {found:?}");
    }
    for disk in ["disk.raw", "disk.qcow2"] {
        let scene = Scene::new();
        scene.flip(disk);
        assert!(matches!(scene.standing(Depth::Whole), Standing::Altered { what } if what.contains(disk)));
    }
}

#[test]
fn a_disk_altered_with_its_manifest_is_seen_at_a_glance() {
    let scene = Scene::new();
    scene.flip("disk.qcow2");
    let bytes = fs_err::read(scene.dir().join("disk.qcow2")).unwrap();
    let manifest = fs_err::read_to_string(scene.dir().join(MANIFEST)).unwrap();
    let forged = manifest.replace(&Sha256Digest::of(b"qcow2").to_string(), &Sha256Digest::of(&bytes).to_string());
    assert_ne!(forged, manifest);
    fs_err::write(scene.dir().join(MANIFEST), forged).unwrap();
    assert!(matches!(scene.standing(Depth::Small), Standing::Altered { what } if what.contains(MANIFEST)));
}

#[test]
fn a_strangers_image_is_run_once_its_key_is_trusted() {
    let scene = Scene::new();
    let stranger = scene.standing_by(&Keyring::default(), Depth::Whole);
    let Standing::Stranger { key } = stranger else { panic!("{stranger:?}") };
    let elsewhere = scene.home.join("elsewhere");
    let public = key_file(&scene.home.join("signing"), None);
    assert_eq!(Keyring::add(&elsewhere, "friend", &public).unwrap(), key);
    let keyring = Keyring::read(&elsewhere).unwrap();
    assert_eq!(scene.standing_by(&keyring, Depth::Whole), Standing::Trusted { by: "friend".into(), key });
    assert_eq!(
        (Keyring::remove(&elsewhere, "friend").unwrap(), Keyring::remove(&elsewhere, "friend").unwrap()),
        (true, false)
    );
    assert_eq!(Keyring::read(&elsewhere).unwrap(), Keyring::default());
}

#[test]
fn an_image_under_another_images_name_is_seen() {
    let scene = Scene::new();
    let other = Sha256Digest::of(b"other");
    let manifest = scene.store.entry(&scene.key).unwrap().unwrap().manifest;
    fs_err::rename(scene.dir(), scene.store.entry_dir(&other)).unwrap();
    assert!(scene.store.entry(&other).unwrap_err().to_string().contains("is that of"));
    let entry = Entry { dir: scene.store.entry_dir(&other), manifest };
    let keyring = Keyring::read(&scene.home.join("signing")).unwrap();
    let found = standing(&scene.store, &entry, &keyring, Depth::Small).unwrap();
    assert!(matches!(found, Standing::Altered { what } if what.contains("under another name")));
}

#[test]
fn only_what_is_unsigned_or_a_strangers_can_be_let_in() {
    let key = Sha256Digest::of(b"k");
    let stranger = Standing::Stranger { key: PublicKey([1; 32]) };
    let trusted = Standing::Trusted { by: "x".into(), key: PublicKey([1; 32]) };
    let altered = Standing::Altered { what: "x".into() };
    for (standing, plain, let_in) in
        [(trusted, true, true), (stranger, false, true), (Standing::Unsigned, false, true), (altered, false, false)]
    {
        assert_eq!(admit(&key, &standing, false).is_ok(), plain, "{standing:?}");
        assert_eq!(admit(&key, &standing, true).is_ok(), let_in, "{standing:?}");
    }
}

#[test]
fn a_seal_that_was_cut_off_leaves_an_unsigned_image_that_can_be_sealed_again() {
    let scene = Scene::new();
    fs_err::remove_file(scene.dir().join(SIGNATURE)).unwrap();
    assert_eq!(scene.standing(Depth::Small), Standing::Unsigned);
    let sealer = Sealer { keys: scene.home.join("signing"), now: 1_700_000_001 };
    let entry = scene.store.entry(&scene.key).unwrap().unwrap();
    sealer.seal(&entry.dir, &entry.manifest, &recipe()).unwrap();
    assert!(matches!(scene.standing(Depth::Whole), Standing::Trusted { .. }));
}
