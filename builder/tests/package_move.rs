//! `kiln lock PROFILE --update NAME` against a small signed archive that moves on as Debian's does: old versions leave the lists.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: makes an archive, runs kiln and looks at its files")]

#[expect(dead_code, reason = "shared with tests that build")]
mod fixture;

use std::process::Command;

use fixture::{Answer, Project, text};
use kiln_firstboot::digest::Sha256Digest;

/// What the archive has at first: names, versions and dependencies. `core` is what every system has.
const FIRST: [(&str, &str, &str); 6] = [
    ("core", "1", ""),
    ("tool", "1", "libtool (= 1), old-helper"),
    ("libtool", "1", ""),
    ("old-helper", "1", ""),
    ("other", "1", "libother"),
    ("libother", "1", ""),
];
/// What it has later, and all it has then.
const LATER: [(&str, &str, &str); 7] = [
    ("core", "2", ""),
    ("tool", "2", "libtool (= 2), new-helper"),
    ("libtool", "2", ""),
    ("new-helper", "2", ""),
    ("old-helper", "2", ""),
    ("other", "2", "libother"),
    ("libother", "2", ""),
];

/// An archive's key, gone with its directory.
struct Signer {
    home: tempfile::TempDir,
    fingerprint: String,
}

impl Signer {
    fn new() -> Self {
        let mut signer = Self { home: tempfile::tempdir().unwrap(), fingerprint: String::new() };
        signer.gpg(&["--passphrase", "", "--quick-gen-key", "an archive of a test", "ed25519", "sign", "never"]);
        let listed = String::from_utf8(signer.gpg(&["--with-colons", "--list-keys"])).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        signer.fingerprint = line.split(':').nth(9).unwrap().to_owned();
        signer
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        let home = self.home.path().to_str().unwrap();
        let output = Command::new("gpg").args(["--batch", "--quiet", "--homedir", home]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        output.stdout
    }

    fn signed(&self, release: &str) -> Vec<u8> {
        let file = self.home.path().join("Release");
        std::fs::write(&file, release).unwrap();
        self.gpg(&["--clearsign", "--output", "-", file.to_str().unwrap()])
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // gpg leaves its agent behind, which ends by itself when its directory is gone; told, it ends now.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).output();
    }
}

/// Has the server serve an archive of these packages. What it had in its pool before stays there.
fn publish(project: &Project, signer: &Signer, date: &str, packages: &[(&str, &str, &str)]) {
    let mut list = String::new();
    for (name, version, depends) in packages {
        let (control, deb) = deb(project, name, version, depends);
        let filename = format!("pool/{name}/{name}_{version}_all.deb");
        let (size, sum) = (deb.len(), Sha256Digest::of(&deb));
        list.push_str(&format!("{}\nFilename: {filename}\nSize: {size}\nSHA256: {sum}\n\n", control.trim()));
        project.server.answer(&format!("debian/{filename}"), Answer::Whole(deb));
    }
    let (place, sum) = ("main/binary-amd64/Packages", Sha256Digest::of(list.as_bytes()));
    let release = format!(
        "Origin: Debian\nSuite: trixie\nCodename: trixie\nDate: {date}\nArchitectures: amd64\nComponents: main\nSHA256:\n {sum} {} {place}\n",
        list.len()
    );
    project.server.answer("debian/dists/trixie/InRelease", Answer::Whole(signer.signed(&release)));
    project.server.answer(&format!("debian/dists/trixie/{place}"), Answer::Whole(list.into_bytes()));
}

fn deb(project: &Project, name: &str, version: &str, depends: &str) -> (String, Vec<u8>) {
    let (dir, file) = (project.at(&format!("{name}-{version}")), project.at(&format!("{name}-{version}.deb")));
    std::fs::create_dir_all(dir.join("DEBIAN")).unwrap();
    let essential = if name == "core" { "Essential: yes\n" } else { "" };
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: kiln <kiln@example.org>\n{essential}{depends}Description: a test\n"
    );
    std::fs::write(dir.join("DEBIAN/control"), &control).unwrap();
    let mut command = Command::new("dpkg-deb");
    let output = command.args(["--build", "--root-owner-group", "-Znone"]).args([&dir, &file]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    (control, std::fs::read(file).unwrap())
}

/// A project that was locked when its archive had [`FIRST`], and whose archive has [`LATER`] now.
fn project() -> (Project, Signer) {
    let (project, signer) = (Project::new(), Signer::new());
    let file = project.at("images/tiny.toml");
    let definition = std::fs::read_to_string(&file).unwrap();
    let line = format!("distribution = \"debian\"\nmirror = \"{}/debian\"\n", project.server.url);
    let definition = definition
        .replace("distribution = \"debian\"\n", &line)
        .replace("04B54C3CDCA79751B16BC6B5225629DF75B188BD", &signer.fingerprint)
        .replacen("packages = [\"tool\"]", "packages = [\"tool\", \"other\"]", 1);
    std::fs::write(&file, definition).unwrap();
    std::fs::create_dir(project.at("images/keyrings")).unwrap();
    std::fs::write(project.at("images/keyrings/none.gpg"), signer.gpg(&["--export"])).unwrap();
    std::fs::remove_file(project.at("profiles/t.lock")).unwrap();
    publish(&project, &signer, "Sat, 21 Nov 2026 09:52:04 UTC", &FIRST);
    let locked = project.kiln(&["lock", "t"]);
    assert!(locked.status.success(), "{}", text(&locked));
    publish(&project, &signer, "Sun, 22 Nov 2026 09:52:04 UTC", &LATER);
    (project, signer)
}

fn lock_text(project: &Project) -> String {
    std::fs::read_to_string(project.at("profiles/t.lock")).unwrap()
}

/// `part change name` of everything that moved.
fn moved(project: &Project, names: &[&str]) -> Vec<String> {
    let output = project.kiln(&[&["lock", "t", "--json", "--update"], names].concat());
    assert!(output.status.success(), "{}", text(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let changes = told["moved"]["packages"].as_array().unwrap();
    let word = |change: &serde_json::Value, field: &str| change[field].as_str().unwrap().to_owned();
    changes.iter().map(|c| [word(c, "part"), word(c, "change"), word(c, "name")].join(" ")).collect()
}

#[test]
fn a_package_moves_with_what_must_move_and_the_others_stay() {
    let (project, _signer) = project();
    let before = lock_text(&project);
    assert_eq!(
        moved(&project, &["tool"]),
        [
            "base up libtool",
            "base added new-helper",
            "base removed old-helper",
            "base up tool",
            "boot up tool",
            "tools up tool",
        ]
    );
    let epoch = |lock: &str| lock.lines().find(|l| l.starts_with("source_date_epoch")).unwrap().to_owned();
    assert_eq!(epoch(&lock_text(&project)), epoch(&before));
    assert_eq!(moved(&project, &["tool"]), [] as [&str; 0], "it is the newest now");
    assert_eq!(moved(&project, &["libother"]), ["base up libother"]);
    assert_eq!(moved(&project, &["base"]), ["base up core", "base up other"], "what was held moves with its part");
}

#[test]
fn a_name_that_the_lock_does_not_have_is_refused_with_near_ones_and_the_lock_stays() {
    let (project, _signer) = project();
    let before = lock_text(&project);
    let output = project.kiln(&["lock", "t", "--update", "tol"]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output);
    assert!(said.contains("the lock has no package `tol`\n  hint: did you mean `tool`? "), "{said}");
    assert_eq!(lock_text(&project), before);
}

#[test]
fn without_a_lock_nothing_says_where_the_others_stay() {
    let (project, _signer) = project();
    std::fs::remove_file(project.at("profiles/t.lock")).unwrap();
    let output = project.kiln(&["lock", "t", "--update", "tool"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("make the whole lock anew: kiln lock t"), "{}", text(&output));
}

/// apt runs in a directory of its own: by a name relative to another it would find no configuration, and take the host's.
#[test]
fn a_home_by_a_relative_name_is_no_other_apt() {
    let (project, _signer) = project();
    let relative = ["lock", "t", "--update", "other", "-C", ".", "--home", "home"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    let output = command.args(relative).current_dir(project.dir.path()).env_remove("KILN_HOME").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(lock_text(&project).contains("name = \"other\", version = \"2\""), "{}", lock_text(&project));
}
