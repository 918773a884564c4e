//! Wrong inputs, broken downloads, a full disk and Ctrl-C: each gives a clear error, and the next run goes on from what is sound.
//!
//! The project is a tiny one whose base is made by a stub of mmdebstrap, so every build here ends, at the latest, where the base has no
//! kernel. How far it came is seen by the layers in the store.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]
#![expect(clippy::disallowed_methods, reason = "an edge: runs kiln and looks at its files")]

mod fixture;

use std::process::Child;
use std::sync::mpsc;

use fixture::{Answer, DEB, Project, TARBALL, names, text};
use kiln_firstboot::digest::Sha256Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a stub of mmdebstrap does to make an empty base: its last argument but one is the tar.
const EMPTY_BASE: &str = r#"for a; do tar=$last; last=$a; done; head -c 1024 /dev/zero > "$tar""#;
/// Where every build of the tiny project ends.
const NO_KERNEL: &str = "the base has no `boot/vmlinuz-*`";

/// A project whose every layer below `boot` can be made.
fn project() -> Project {
    let project = Project::new();
    project.stub("mmdebstrap", EMPTY_BASE);
    project
}

fn entries(project: &Project) -> usize {
    names(&project.store().join("entries")).len()
}

fn blob(project: &Project, bytes: &[u8]) -> std::path::PathBuf {
    project.store().join("blobs/sha256").join(Sha256Digest::of(bytes).to_string())
}

/// Nothing unfinished is left: every entry has its manifest, every blob is what its name says, and tmp is empty.
fn assert_sound(project: &Project) {
    let store = project.store();
    for entry in names(&store.join("entries")) {
        assert!(store.join("entries").join(&entry).join("manifest.json").is_file(), "{entry}");
    }
    for name in names(&store.join("blobs/sha256")) {
        let bytes = std::fs::read(store.join("blobs/sha256").join(&name)).unwrap();
        assert_eq!(Sha256Digest::of(&bytes).to_string(), name);
    }
}

fn assert_builds_as_far_as_it_can(project: &Project) {
    let output = project.build();
    assert!(text(&output).contains(NO_KERNEL), "{}", text(&output));
    // tools, etcd, base, hygiene, boot-packages: the last has the tools' inputs but is a layer of its own.
    assert_eq!(entries(project), 5);
    assert_sound(project);
    assert_eq!(names(&project.store().join("tmp")), [] as [&str; 0]);
}

#[test]
fn planning_touches_nothing() {
    let project = project();
    let firstboot = project.at("firstboot");
    let output = project.kiln(&["plan", "t", "--firstboot", firstboot.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(plan.contains("$ SOURCE_DATE_EPOCH=1700000000"), "{plan}");
    assert!(!project.store().exists());
    assert_eq!((project.server.asked(DEB), project.server.asked(TARBALL)), (0, 0));
}

#[test]
fn a_flipped_byte_in_a_cached_package_is_noticed_and_fetched_anew() {
    let project = project();
    assert_builds_as_far_as_it_can(&project);
    let path = blob(&project, &project.tool_deb);
    let mut bytes = project.tool_deb.clone();
    bytes[50_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    // Another agent is another image: only what must be made again looks at its inputs. A damaged base has to be made again.
    for entry in names(&project.store().join("entries")) {
        std::fs::remove_dir_all(project.store().join("entries").join(entry)).unwrap();
    }
    let before = project.server.asked(DEB);
    let output = project.build();
    let said = format!(
        "`tool.deb` in the store has changed (sha256 {}, pinned {})",
        Sha256Digest::of(&bytes),
        Sha256Digest::of(&project.tool_deb)
    );
    assert!(text(&output).contains(&said), "{}", text(&output));
    assert_eq!(project.server.asked(DEB), before + 1);
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_flipped_byte_in_a_cached_etcd_is_noticed_and_fetched_anew() {
    let project = project();
    assert_builds_as_far_as_it_can(&project);
    let mut bytes = project.tarball.clone();
    bytes[20] ^= 0x80;
    std::fs::write(blob(&project, &project.tarball), &bytes).unwrap();
    for entry in names(&project.store().join("entries")) {
        std::fs::remove_dir_all(project.store().join("entries").join(entry)).unwrap();
    }
    let output = project.build();
    assert!(text(&output).contains("etcd 3.6.14 (url)` in the store has changed"), "{}", text(&output));
    assert_eq!(project.server.asked(TARBALL), 2);
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn an_archive_with_other_bytes_is_refused_with_both_sums() {
    let project = project();
    let mut bytes = project.tool_deb.clone();
    bytes[50_000] ^= 1;
    project.server.answer(DEB, Answer::Whole(bytes.clone()));
    let output = project.build();
    assert_eq!(output.status.code(), Some(1));
    let said = format!(
        "fetching `{}/{DEB}`: its sha256 is {}, pinned is {} ({} bytes, pinned {})\nhint: the file there is not the one that was locked",
        project.server.url,
        Sha256Digest::of(&bytes),
        Sha256Digest::of(&project.tool_deb),
        bytes.len(),
        bytes.len()
    );
    assert!(text(&output).contains(&said), "{}", text(&output));
    // Asking again would not change the pin.
    assert_eq!(project.server.asked(DEB), 1);
    assert!(!blob(&project, &bytes).exists());
    project.server.answer(DEB, Answer::Whole(project.tool_deb.clone()));
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_file_cut_short_at_its_source_says_so() {
    let project = project();
    project.server.answer(DEB, Answer::Whole(project.tool_deb[..1000].to_vec()));
    let output = project.build();
    let said = format!("(1000 bytes, pinned {})\nhint: the file there is cut short", project.tool_deb.len());
    assert!(text(&output).contains(&said), "{}", text(&output));
    project.server.answer(DEB, Answer::Whole(project.tool_deb.clone()));
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_download_that_breaks_off_is_tried_three_times() {
    let project = project();
    project.server.answer(DEB, Answer::HalfThenGone(project.tool_deb.clone()));
    let output = project.build();
    let said = format!("fetching `{}/{DEB}`: no success in 3 tries", project.server.url);
    assert!(text(&output).contains(&said), "{}", text(&output));
    assert_eq!(project.server.asked(DEB), 3);
    assert_sound(&project);
    // A server that is only busy for a moment is not even mentioned.
    project.server.answer(DEB, Answer::FailsThen(1, project.tool_deb.clone()));
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_package_that_is_gone_points_to_a_new_lock() {
    let project = project();
    project.server.answer(DEB, Answer::Status(404));
    let output = project.build();
    assert!(text(&output).contains("the server answers 404\nhint: the archive may have moved on"), "{}", text(&output));
    assert_eq!(project.server.asked(DEB), 1);
}

#[test]
fn a_damaged_layer_is_named_with_its_remedy() {
    let project = project();
    assert_builds_as_far_as_it_can(&project);
    let store = project.store().join("entries");
    let etcd = names(&store).into_iter().find(|e| store.join(e).join("etcdctl").exists()).unwrap();
    std::fs::write(store.join(&etcd).join("etcdctl"), "").unwrap();
    let output = project.build();
    assert!(
        text(&output).contains("etcdctl` has 0 bytes, not 17: the store has been damaged\nhint: remove"),
        "{}",
        text(&output)
    );
    std::fs::remove_dir_all(store.join(&etcd)).unwrap();
    assert_builds_as_far_as_it_can(&project);
}

/// Sends Ctrl-C to kiln alone, as `kill` does; a terminal would reach its programs too.
fn interrupt(child: Child) -> std::process::Output {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    child.wait_with_output().unwrap()
}

fn start_build(project: &Project) -> Child {
    let firstboot = project.at("firstboot");
    project.command(&["build", "t", "--firstboot", firstboot.to_str().unwrap()]).spawn().unwrap()
}

#[test]
fn ctrl_c_while_fetching_loses_only_what_was_half_fetched() {
    let project = project();
    let (said, half) = mpsc::channel();
    project.server.answer(DEB, Answer::HalfThenSilence(project.tool_deb.clone(), said));
    let child = start_build(&project);
    half.recv().unwrap();
    let output = interrupt(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    assert!(!blob(&project, &project.tool_deb).exists());
    // etcd came first and is kept.
    assert!(blob(&project, &project.tarball).exists());
    project.server.answer(DEB, Answer::Whole(project.tool_deb.clone()));
    assert_builds_as_far_as_it_can(&project);
    assert_eq!(project.server.asked(TARBALL), 1);
}

#[test]
fn ctrl_c_while_the_base_grows_ends_the_program_too_and_leaves_no_base() {
    let project = project();
    let fifo = project.at("started");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    project.stub("mmdebstrap", &format!("touch \"$TMPDIR/half\"; echo $$ > {}; exec sleep 1000", fifo.display()));
    let child = start_build(&project);
    // Blocks until the stub has written.
    let pid: i32 = std::fs::read_to_string(&fifo).unwrap().trim().parse().unwrap();
    let output = interrupt(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!(kill(Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH), "the program outlived kiln");
    assert_eq!(entries(&project), 2, "tools and etcd");
    assert_sound(&project);
    project.stub("mmdebstrap", EMPTY_BASE);
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_failing_program_shows_its_last_words_and_its_log() {
    let project = project();
    project.stub("mmdebstrap", "echo 'E: it cannot be' >&2; exit 25");
    let output = project.build();
    let said = text(&output);
    assert!(
        said.contains("exit code 25; its last words:\n  | E: it cannot be\nhint: all of its output is in `"),
        "{said}"
    );
    let log = said.rsplit('`').nth(1).unwrap();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "E: it cannot be\n");
    project.stub("mmdebstrap", EMPTY_BASE);
    assert_builds_as_far_as_it_can(&project);
}

#[test]
fn a_full_disk_says_so_and_the_next_run_goes_on() {
    let project = project();
    std::fs::create_dir_all(project.store()).unwrap();
    let command = project.command(&["build", "t", "--firstboot", project.at("firstboot").to_str().unwrap()]);
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| kiln_builder::tool::shell_quote(w.to_str().unwrap()))
        .collect();
    let (store, line) = (project.store().display().to_string(), line.join(" "));
    // The small file system lives as long as the namespace, so both runs are in one.
    let script = format!(
        "mount -t tmpfs -o size=64k none {store} && {line}; echo; find {store}/blobs {store}/entries -type f | wc -l; mount -o remount,size=64m {store} && {line}; ls {store}/entries | wc -l"
    );
    // Building without root takes user namespaces too, so this asks for nothing that a build does not.
    let namespaces: &[&str] =
        if nix::unistd::geteuid().is_root() { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let output = std::process::Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", &script])
        .env("PATH", format!("{}:{}", project.at("stubs").display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        said.contains(&format!(
            "error: the file system of the store `{store}` is full; nothing unfinished was kept\nhint: free space there"
        )),
        "{said}"
    );
    assert!(said.contains(NO_KERNEL), "{said}");
    // First only etcd's tarball was there; in the end five layers.
    let counts: Vec<String> = String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
    assert_eq!(counts, ["1", "5"], "{said}");
}

#[test]
fn what_must_not_be_in_an_image_stops_its_build_before_the_slow_layers() {
    let project = project();
    let file = project.at("images/tiny.toml");
    let plain = std::fs::read_to_string(&file).unwrap();
    let with_tree = plain.replacen("packages", "tree = \"tree\"\npackages", 1);
    std::fs::create_dir_all(project.at("images/tree/var/log")).unwrap();
    std::fs::create_dir_all(project.at("images/tree/etc")).unwrap();
    std::fs::write(project.at("images/tree/var/log/left-over"), "x").unwrap();
    std::fs::write(project.at("images/tree/etc/shadow"), "root:$6$salt$hash:1::::::\n").unwrap();
    std::fs::write(&file, &with_tree).unwrap();
    let output = project.build();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    for said in
        ["/etc/shadow: `root` has a password [password]", "/var/log/left-over: a log [log]", "hint: leave it out"]
    {
        assert!(text(&output).contains(said), "{}", text(&output));
    }
    // tools, etcd, base, hygiene.
    assert_eq!(entries(&project), 4);

    let allow = |path: &str, rule: &str| format!("{{ path = \"{path}\", rule = \"{rule}\", reason = \"a test\" }}");
    let both = [allow("/var/log/left-over", "log"), allow("/etc/shadow", "password")].join(", ");
    std::fs::write(&file, format!("{with_tree}[hygiene]\nallow = [{both}]\n")).unwrap();
    assert_builds_as_far_as_it_can(&project);
    // Without the tree nothing needs them any more.
    std::fs::write(&file, format!("{plain}[hygiene]\nallow = [{both}]\n")).unwrap();
    let output = project.build();
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("/etc/shadow: allowed, and breaks no rule [password]"), "{}", text(&output));
}
