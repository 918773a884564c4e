//! What lies beside an image, before the tools of others, and a lab that runs only what it may.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "changes an image as an attacker would")]

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use kiln_tests::node::text;
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::{firstboot, run, workspace};

/// Checks CycloneDX documents against the schema of the standard: the library of the CycloneDX project for Python.
const VALIDATOR: &str = "cyclonedx-python-lib[json-validation]==11.12.0";
const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(error) if error else 0)
";

/// A home of its own with the lab's image in it, signed by its own key.
struct Scene {
    scratch: Scratch,
    agent: String,
    key: String,
}

impl Scene {
    fn new() -> Self {
        let scratch = Scratch::new(Seeding::Link);
        let profile = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
        scratch.add_profile("lab", &profile);
        scratch.places.ok(&["pki", "init", "lab"]);
        let agent = text(&firstboot());
        let built = scratch.places.json(&["build", "lab", "--firstboot", &agent]);
        let key = built["key"].as_str().expect("a build tells its key").to_owned();
        Self { scratch, agent, key }
    }

    /// A file beside the image.
    fn at(&self, file: &str) -> PathBuf {
        self.scratch.places.home.join("store/entries").join(&self.key).join(file)
    }

    fn signing(&self) -> PathBuf {
        self.scratch.places.home.join("signing")
    }

    /// What the lab says to the image; it must refuse it, before anything is started.
    fn refusal(&self) -> String {
        let wish = ["lab", "up", "lab", "--driver", "container", "--no-wait", "--firstboot", &self.agent];
        let output = self.scratch.places.run(&wish);
        let said = String::from_utf8(output.stderr).expect("kiln prints UTF-8");
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(!self.scratch.places.home.join("lab/lab").exists(), "nothing of the lab was made");
        said
    }

    fn standing(&self) -> String {
        let told = self.scratch.places.json(&["trust", "show", &self.key]);
        told["standing"].as_str().expect("an image stands somewhere").to_owned()
    }
}

/// A Python with the validator, made once in the build directory.
fn python() -> String {
    let dir = workspace().join("target/tools/cyclonedx");
    let (python, done) = (text(&dir.join("bin/python")), dir.join(VALIDATOR));
    if !done.exists() {
        // What an interrupted run left may be half.
        let _ = fs_err::remove_dir_all(&dir);
        run(&["python3", "-m", "venv", &text(&dir)]);
        run(&[&python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", VALIDATOR]);
        fs_err::write(done, "").expect("writing a mark");
    }
    python
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn the_tools_of_others_find_signature_sums_and_bill_of_materials_in_order() {
    let scene = Scene::new();
    let (public, sums, signature) =
        (scene.signing().join("signing.pub"), scene.at("sha256sums"), scene.at("sha256sums.sig"));
    let files = ["-inkey", &text(&public), "-in", &text(&sums), "-sigfile", &text(&signature)];
    run(&[&["openssl", "pkeyutl", "-verify", "-pubin", "-rawin"], &files[..]].concat());
    let checked = run(&["env", "-C", &text(&scene.at("")), "sha256sum", "--check", "--strict", "sha256sums"]);
    // The raw disk is what the image says to who reads it with another tool, byte for byte.
    run(&[
        "qemu-img",
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        &text(&scene.at("disk.raw")),
        &text(&scene.at("disk.qcow2")),
    ]);
    for file in ["disk.qcow2", "recipe.json", "sbom.cdx.json", "provenance.json", "manifest.json"] {
        assert!(checked.contains(&format!("{file}: OK")), "{checked}");
    }
    run(&[&python(), "-c", VALIDATE, &text(&scene.at("sbom.cdx.json"))]);

    let read =
        |file: &str| -> serde_json::Value { serde_json::from_slice(&fs_err::read(scene.at(file)).unwrap()).unwrap() };
    // Nothing that the recipe names is missing in the bill.
    let (recipe, bill) = (read("recipe.json"), read("sbom.cdx.json"));
    let listed: Vec<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|c| c["hashes"].as_array().into_iter().flatten())
        .filter_map(|h| h["content"].as_str())
        .collect();
    for packages in ["base_packages", "boot_packages"] {
        for package in recipe[packages].as_array().unwrap() {
            assert!(listed.contains(&package["sha256"].as_str().unwrap()), "{package}");
        }
    }
    assert!(listed.contains(&recipe["firstboot"].as_str().unwrap()));
    let statement = read("provenance.json");
    let image = statement["subject"].as_array().unwrap().iter().find(|s| s["name"] == "disk.qcow2").unwrap();
    let sum = run(&["sha256sum", &text(&scene.at("disk.qcow2"))]);
    assert!(sum.starts_with(image["digest"]["sha256"].as_str().unwrap()), "{image} {sum}");
}

#[test]
#[ignore = "needs root and a built image: tests/run"]
fn a_lab_runs_no_image_that_was_altered_or_that_nobody_trusted_signed() {
    let scene = Scene::new();
    assert_eq!(scene.standing(), "trusted");

    for disk in ["disk.raw", "disk.qcow2"] {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(scene.at(disk)).unwrap();
        let mut byte = [0];
        // In the partition table, or in the tables of the qcow2: both are data in every image.
        file.file().read_exact_at(&mut byte, 1030).unwrap();
        file.file().write_all_at(&[byte[0] ^ 1], 1030).unwrap();
        let said = scene.refusal();
        assert!(said.contains("is not what was signed") && said.contains(disk), "{said}");
        file.file().write_all_at(&byte, 1030).unwrap();
    }

    // The key that signed it, moved away: a stranger's image, until the key is added.
    let away = scene.scratch.dir.path().join("away");
    fs_err::rename(scene.signing(), &away).unwrap();
    assert!(scene.refusal().contains("which is not trusted here"));
    scene.scratch.places.ok(&["trust", "add", "friend", &text(&away.join("signing.pub"))]);
    assert_eq!(scene.standing(), "trusted");
    scene.scratch.places.ok(&["trust", "verify", &scene.key]);
    scene.scratch.places.ok(&["trust", "remove", "friend"]);
    assert_eq!(scene.standing(), "stranger");

    fs_err::remove_file(scene.at("sha256sums.sig")).unwrap();
    assert!(scene.refusal().contains("is not signed"));
    scene.scratch.places.ok(&["trust", "sign", &scene.key]);
    assert_eq!(scene.standing(), "trusted");

    // As if the lab had run something of next century.
    let ran = format!("{{\"schema\":1,\"key\":\"{}\",\"source_date_epoch\":4102444800}}", scene.key);
    fs_err::create_dir_all(scene.signing().join("ran")).unwrap();
    fs_err::write(scene.signing().join("ran/lab.json"), ran).unwrap();
    let said = scene.refusal();
    assert!(said.contains("is older than") && said.contains("--allow-older"), "{said}");
}
