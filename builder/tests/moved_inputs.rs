//! Upstream moved or deleted an input: it is taken from the definition's alternates, or is in the store, and nothing else changes.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "shared with tests that build")]
mod fixture;

use fixture::{Answer, DEB, Project, names, text};

/// What a stub of mmdebstrap does to make an empty base, in which every build here ends.
const EMPTY_BASE: &str = r#"for a; do tar=$last; last=$a; done; head -c 1024 /dev/zero > "$tar""#;
const NO_KERNEL: &str = "the base has no `boot/vmlinuz-*`";
/// Where the alternates have the package: a plain copy, and an archive of archives at the lock's time.
const COPY: &str = "copy/pool/tool.deb";
const ARCHIVED: &str = "archive/20231114T221320Z/pool/tool.deb";

/// A project whose definition knows two places beside the locked one; the lock is as old as before.
fn project() -> Project {
    let project = Project::new();
    project.stub("mmdebstrap", EMPTY_BASE);
    let key = plan(&project);
    let file = project.at("images/tiny.toml");
    let url = &project.server.url;
    let line = format!("components = [\"main\"]\nalternates = [\"{url}/copy/\", \"{url}/archive/{{time}}\"]\n");
    let definition = std::fs::read_to_string(&file).unwrap().replace("components = [\"main\"]\n", &line);
    std::fs::write(&file, definition).unwrap();
    assert_eq!(plan(&project), key, "a place more makes no other image, and no lock stale");
    project
}

/// The key of what would be built.
fn plan(project: &Project) -> String {
    let firstboot = project.at("firstboot");
    let output = project.kiln(&["plan", "t", "--json", "--firstboot", firstboot.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["key"].as_str().unwrap().to_owned()
}

/// Builds as far as the tiny project can be built; what was said meanwhile.
fn builds(project: &Project) -> String {
    let said = text(&project.build());
    assert!(said.contains(NO_KERNEL), "{said}");
    assert_eq!(names(&project.store().join("entries")).len(), 5, "{said}");
    said
}

#[test]
fn a_package_that_its_archive_has_dropped_comes_from_the_first_alternate_that_has_it() {
    let project = project();
    project.server.answer(DEB, Answer::Status(404));
    project.server.answer(ARCHIVED, Answer::Whole(project.tool_deb.clone()));
    let said = builds(&project);
    assert!(said.contains(&format!("looking for `tool.deb` at `{}/{COPY}`, because of fetching", project.server.url)));
    assert_eq!([DEB, COPY, ARCHIVED].map(|path| project.server.asked(path)), [1, 1, 1]);
}

#[test]
fn a_package_that_was_replaced_in_place_comes_from_an_alternate_and_is_told() {
    let project = project();
    project.server.answer(DEB, Answer::Whole(b"something else".to_vec()));
    project.server.answer(COPY, Answer::Whole(project.tool_deb.clone()));
    let said = builds(&project);
    assert!(said.contains("its sha256 is"), "{said}");
    assert_eq!(project.server.asked(ARCHIVED), 0);
}

#[test]
fn what_was_fetched_once_needs_no_archive_any_more() {
    let project = project();
    builds(&project);
    for entry in names(&project.store().join("entries")) {
        std::fs::remove_dir_all(project.store().join("entries").join(entry)).unwrap();
    }
    project.server.answer(DEB, Answer::Status(404));
    project.server.answer(fixture::TARBALL, Answer::Status(404));
    let said = builds(&project);
    assert!(!said.contains("404"), "{said}");
    assert_eq!([DEB, COPY, ARCHIVED].map(|path| project.server.asked(path)), [1, 0, 0]);
}

#[test]
fn what_nobody_has_is_told_with_the_place_that_was_locked() {
    let project = project();
    project.server.answer(DEB, Answer::Status(410));
    project.server.answer(ARCHIVED, Answer::Whole(b"something else".to_vec()));
    let output = project.build();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output).split("error: ").nth(1).unwrap().to_owned();
    assert!(error.contains(&format!("fetching `{}/{DEB}`: the server answers 410", project.server.url)), "{error}");
    assert!(error.contains("`alternates`"), "{error}");
}
