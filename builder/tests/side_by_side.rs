//! Two builds at once: of one key the second waits for the first and makes nothing; of different keys neither waits.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "shared with tests that build")]
mod fixture;

use std::process::Child;

use fixture::{Project, names, text};

/// Where every build of the tiny project ends.
const NO_KERNEL: &str = "the base has no `boot/vmlinuz-*`";

fn start(project: &Project, profile: &str) -> Child {
    let firstboot = project.at("firstboot");
    project.command(&["build", profile, "--firstboot", firstboot.to_str().unwrap()]).spawn().unwrap()
}

/// A stub of mmdebstrap that tells it began, and makes its base when it is let go on: each by a pipe, so that nobody polls.
fn gated(project: &Project) {
    for pipe in ["began", "go"] {
        nix::unistd::mkfifo(&project.at(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let (began, go) = (project.at("began").display().to_string(), project.at("go").display().to_string());
    let script = format!(
        r#"for a; do tar=$last; last=$a; done; echo began > {began}; read -r line < {go}; head -c 1024 /dev/zero > "$tar""#
    );
    project.stub("mmdebstrap", &script);
}

#[test]
fn of_one_key_the_second_waits_and_makes_nothing() {
    let project = Project::new();
    gated(&project);
    let first = start(&project, "t");
    assert_eq!(std::fs::read_to_string(project.at("began")).unwrap(), "began\n");
    let mut second = start(&project, "t");
    // It says that it waits before it waits.
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(second.stderr.take().unwrap());
    while !said.contains("another kiln builds layer `base`; waiting for it") {
        assert!(std::io::BufRead::read_line(&mut lines, &mut said).unwrap() > 0, "{said}");
    }
    std::fs::write(project.at("go"), "go\n").unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(text(&first).contains(NO_KERNEL), "{}", text(&first));
    std::io::Read::read_to_string(&mut lines, &mut said).unwrap();
    second.wait().unwrap();
    assert!(said.contains(NO_KERNEL) && !said.contains("base: making it"), "{said}");
    assert_eq!(names(&project.store().join("entries")).len(), 5);
}

#[test]
fn of_different_keys_neither_waits_for_the_other() {
    let project = Project::new();
    // Another time is another base.
    let lock = std::fs::read_to_string(project.at("profiles/t.lock")).unwrap();
    let profile = std::fs::read_to_string(project.at("profiles/t.toml")).unwrap();
    std::fs::write(project.at("profiles/u.toml"), profile.replace("name = \"t\"", "name = \"u\"")).unwrap();
    std::fs::write(project.at("profiles/u.lock"), lock.replace("1700000000", "1700000001")).unwrap();
    let minted = project.kiln(&["pki", "init", "u"]);
    assert!(minted.status.success(), "{}", text(&minted));
    // Each base is made only when both have begun: the one who opens the pipe for reading waits for the one who opens it for writing.
    nix::unistd::mkfifo(&project.at("meet"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (meet, token) = (project.at("meet").display().to_string(), project.at("token").display().to_string());
    let script = format!(
        r#"for a; do tar=$last; last=$a; done
if mkdir {token} 2>/dev/null; then timeout 60 cat {meet} > /dev/null; else timeout 60 sh -c 'echo met > {meet}'; fi || exit 9
head -c 1024 /dev/zero > "$tar""#
    );
    project.stub("mmdebstrap", &script);
    let both = [start(&project, "t"), start(&project, "u")];
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(text(&output).contains(NO_KERNEL), "{}", text(&output));
    }
    // Tools, boot packages and etcd are the same.
    assert_eq!(names(&project.store().join("entries")).len(), 7);
}
