//! `kiln lock` against archives that are away, unsigned or silent: a clear error, and the old lock stays as it was.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

#[expect(dead_code, reason = "shared with tests that build")]
mod fixture;

use std::sync::mpsc;

use fixture::{Answer, Project, names, text};

const LIST: &str = "debian/dists/trixie/InRelease";

/// A project whose archives are all on `mirror`.
fn project(mirror: impl Fn(&Project) -> String) -> Project {
    let project = Project::new();
    let file = project.at("images/tiny.toml");
    let definition = std::fs::read_to_string(&file).unwrap();
    let line = format!("distribution = \"debian\"\nmirror = \"{}\"\n", mirror(&project));
    std::fs::write(&file, definition.replace("distribution = \"debian\"\n", &line)).unwrap();
    std::fs::create_dir(project.at("images/keyrings")).unwrap();
    let keyring = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/keyrings/debian-13-archive.gpg");
    std::fs::copy(keyring, project.at("images/keyrings/none.gpg")).unwrap();
    project
}

fn lock_text(project: &Project) -> String {
    std::fs::read_to_string(project.at("profiles/t.lock")).unwrap()
}

#[test]
fn an_archive_that_does_not_answer_leaves_the_old_lock() {
    // Nobody listens on the discard port.
    let project = project(|_| "http://127.0.0.1:9/debian".to_owned());
    let before = lock_text(&project);
    let output = project.kiln(&["lock", "t", "--update"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("error: locking `t`: reading package lists: running `"), "{said}");
    assert!(said.contains("Could not connect to 127.0.0.1:9"), "{said}");
    assert_eq!(lock_text(&project), before);
}

#[test]
fn a_list_that_nobody_of_ours_signed_is_refused() {
    let project = project(|project| format!("{}/debian", project.server.url));
    let list = "Origin: Debian\nSuite: trixie\nDate: Sat, 21 Nov 2026 09:52:04 UTC\n";
    project.server.answer(LIST, Answer::Whole(list.into()));
    let before = lock_text(&project);
    let output = project.kiln(&["lock", "t", "--update"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("Clearsigned file isn't valid"), "{}", text(&output));
    assert_eq!(lock_text(&project), before);
}

#[test]
fn ctrl_c_while_reading_lists_leaves_the_old_lock_and_nothing_else() {
    let project = project(|project| format!("{}/debian", project.server.url));
    let (said, half) = mpsc::channel();
    project.server.answer(LIST, Answer::HalfThenSilence(vec![b'x'; 4096], said));
    let before = lock_text(&project);
    let child = project.command(&["lock", "t", "--update"]).spawn().unwrap();
    half.recv().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!(lock_text(&project), before);
    // The next run sweeps what this one left.
    project.server.answer(LIST, Answer::Status(404));
    assert_eq!(project.kiln(&["lock", "t", "--update"]).status.code(), Some(1));
    assert_eq!(names(&project.store().join("tmp")), [] as [&str; 0]);
}
