//! The programs under test and the real ones beside them, and running them.
#![expect(clippy::disallowed_methods, reason = "tests start processes and read where things are from the environment")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// An environment, after `env -i PATH=...`, unlike that of who builds: another zone with a quarter of an hour in it, a language whose letters
/// sort and fold otherwise, no home.
pub const STRANGE_ENVIRONMENT: [&str; 3] = ["TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8"];

/// What a command line is put behind to run with another mask, in another directory, and on one processor, the first it may have.
pub const STRANGE_PROCESS: [&str; 4] = [
    "sh",
    "-c",
    r#"umask 077; cd /; exec taskset --cpu-list "$(taskset --cpu-list --pid $$ | sed 's/.*: //; s/[-,].*//')" "$@""#,
    "strange",
];

/// The workspace's top directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// `kiln`, as `make build` left it; `KILN_BIN` names another.
///
/// # Panics
/// When it is not built: a test that skipped itself would hide that.
pub fn kiln() -> PathBuf {
    built("KILN_BIN", "kiln")
}

/// `firstboot`, as `make build` left it; `FIRSTBOOT_BIN` names another.
///
/// # Panics
/// When it is not built.
pub fn firstboot() -> PathBuf {
    built("FIRSTBOOT_BIN", "firstboot")
}

/// `firstboot` with power cuts and a clock to bend compiled in, as `tests/run` built it; `FIRSTBOOT_FAULTS_BIN` names another.
///
/// # Panics
/// When it is not built.
pub fn firstboot_with_faults() -> PathBuf {
    let path = std::env::var_os("FIRSTBOOT_FAULTS_BIN")
        .map_or_else(|| workspace().join("target/faults/firstboot"), PathBuf::from);
    assert!(path.exists(), "{} is not there: `make faults` builds it", path.display());
    path
}

fn built(variable: &str, name: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| workspace().join("target/release").join(name), PathBuf::from);
    assert!(path.exists(), "{} is not there: run `make build` first, or set {variable}", path.display());
    path
}

/// A real etcd program, `etcd`, `etcdctl` or `etcdutl`: from `KILN_TEST_ETCD_DIR`, else the one that `PATH` finds.
pub fn etcd(name: &str) -> PathBuf {
    std::env::var_os("KILN_TEST_ETCD_DIR").map_or_else(|| PathBuf::from(name), |dir| PathBuf::from(dir).join(name))
}

/// Runs a command line to its end.
///
/// # Panics
/// When it cannot be started.
pub fn output(argv: &[&str]) -> Output {
    Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("running {argv:?}: {error}"))
}

/// Runs a command line to its end with something to read.
///
/// # Panics
/// When it cannot be started.
pub fn output_with_input(argv: &[&str], input: &str) -> Output {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("running {argv:?}: {error}"));
    // A program that does not read its input has its reasons; its answer tells.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
    child.wait_with_output().expect("collecting a program")
}

/// Runs a command line that must succeed; returns what it printed.
///
/// # Panics
/// When it fails, with all it said.
pub fn run(argv: &[&str]) -> String {
    let output = output(argv);
    assert!(
        output.status.success(),
        "{argv:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("programs print UTF-8")
}

/// Runs a command line that must succeed, with something to read.
///
/// # Panics
/// When it fails, with all it said.
pub fn run_with_input(argv: &[&str], input: &str) {
    let output = output_with_input(argv, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{argv:?}: {}\n{stderr}", output.status);
}

/// Starts a command line with its output going to `log`.
///
/// # Panics
/// When it cannot be started.
pub fn spawn(argv: &[String], log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("opening a log");
    Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("sharing a log"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("starting {argv:?}: {error}"))
}

/// Ends a process at once, as a power cut would, and waits until it is gone.
pub fn kill(child: &mut Child) {
    // It may have ended by itself; then there is nothing to kill, and waiting still collects it.
    let _ = child.kill();
    let _ = child.wait();
}
