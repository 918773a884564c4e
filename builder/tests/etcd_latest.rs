//! `version = "latest"`: chosen from a mirror's list of releases when a lock is made, and frozen there.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "shared with tests that build")]
mod fixture;

use fixture::{Answer, Project, text};

/// What kiln knows of 3.6.14.
const KNOWN: &str = "ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5";

/// A project whose lock stays but for etcd, which comes from the server's list.
fn project(version: &str) -> Project {
    let project = Project::new();
    let file = project.at("profiles/t.toml");
    let url = &project.server.url;
    let etcd =
        format!("[etcd]\nsource = [{{ kind = 'release', version = '{version}', mirror = '{url}/etcd' }}]\n[network]");
    let profile = std::fs::read_to_string(&file).unwrap().replacen("[network]", &etcd, 1);
    std::fs::write(&file, profile).unwrap();
    project.write_lock();
    release(&project, &[("v3.6.15-rc.0", true), ("v3.6.14", false), ("v3.6.10", false)]);
    sums(&project, "3.6.14", KNOWN);
    project
}

/// Has the server tell of these releases, as GitHub's API does.
fn release(project: &Project, releases: &[(&str, bool)]) {
    let told = releases.iter().map(|(tag, pre)| {
        let files = ["SHA256SUMS", "etcd.tar.gz"].map(|name| serde_json::json!({ "name": name }));
        serde_json::json!({ "tag_name": tag, "name": tag, "draft": false, "prerelease": pre, "assets": files })
    });
    let list = serde_json::Value::from_iter(told).to_string();
    project.server.answer("etcd/releases.json", Answer::Whole(list.into_bytes()));
}

fn sums(project: &Project, version: &str, sum: &str) {
    let other = "0".repeat(64);
    let text = format!("{other}  etcd-v{version}-darwin-amd64.zip\n{sum}  etcd-v{version}-linux-amd64.tar.gz\n");
    project.server.answer(&format!("etcd/v{version}/SHA256SUMS"), Answer::Whole(text.into_bytes()));
}

fn update(project: &Project) -> std::process::Output {
    project.kiln(&["lock", "t", "--update", "etcd"])
}

fn locked(project: &Project) -> String {
    let lock = std::fs::read_to_string(project.at("profiles/t.lock")).unwrap();
    lock.split("[[etcd]]").nth(1).unwrap().trim().to_owned()
}

fn pinned(project: &Project, version: &str, sum: &str) -> String {
    let origin = format!("{}/etcd/v{version}/etcd-v{version}-linux-amd64.tar.gz", project.server.url);
    format!("kind = \"release\"\nversion = \"{version}\"\ntarball = {{ origin = \"{origin}\", sha256 = \"{sum}\" }}")
}

#[test]
fn the_newest_release_is_locked_and_stays_until_it_is_to_move() {
    let project = project("latest");
    let output = update(&project);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(locked(&project), pinned(&project, "3.6.14", KNOWN));
    let new = "5".repeat(64);
    release(&project, &[("v3.7.9", false), ("v3.6.14", false)]);
    sums(&project, "3.7.9", &new);
    let asked = project.server.asked("etcd/releases.json");
    assert!(project.kiln(&["lock", "t"]).status.success());
    assert_eq!(project.server.asked("etcd/releases.json"), asked, "a lock that answers is not looked behind");
    assert_eq!(locked(&project), pinned(&project, "3.6.14", KNOWN));
    let output = update(&project);
    assert!(output.status.success(), "{}", text(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("etcd   removed  3.6.14 (release)\n  etcd   added    3.7.9 (release)\n"), "{told}");
    assert_eq!(locked(&project), pinned(&project, "3.7.9", &new));
}

#[test]
fn a_line_stays_in_its_line() {
    let project = project("3.6");
    release(&project, &[("v3.7.9", false), ("v3.6.14", false)]);
    let output = update(&project);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(locked(&project), pinned(&project, "3.6.14", KNOWN));
}

#[test]
fn what_must_not_be_taken_is_refused_and_the_lock_stays() {
    let project = project("3.6");
    let before = locked(&project);
    let refuses = |what: &str| {
        let output = update(&project);
        assert_eq!(output.status.code(), Some(78), "{}", text(&output));
        assert!(text(&output).contains(what), "{}", text(&output));
        assert_eq!(locked(&project), before);
    };
    release(&project, &[("v3.6.15-rc.0", true), ("v3.6.10", false)]);
    refuses("`3.6` stands for and kiln takes: 3.6.10: no member can be added");
    release(&project, &[("v3.6.14", false)]);
    sums(&project, "3.6.14", &"1".repeat(64));
    refuses("and kiln knows ffe840ff");
    project.server.answer("etcd/releases.json", Answer::Status(404));
    let output = update(&project);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("releases.json`: the server answers 404"), "{}", text(&output));
    assert_eq!(locked(&project), before);
}
