//! A machine that boots an image by itself: no network, no data disk, no seed.
#![expect(clippy::disallowed_methods, reason = "reads what a machine said")]

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use tempfile::TempDir;

use crate::node::text;
use crate::program::{kill, spawn};
use crate::wait::until;

/// How long an emulated machine may take to boot on two busy cores.
const PATIENCE: Duration = Duration::from_secs(400);
/// UEFI with no secure boot keys enrolled; code and variables in one file (package `ovmf`).
pub const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    scratch: TempDir,
}

impl Machine {
    /// Boots a qcow2; nothing is ever written to it (`snapshot=on`).
    ///
    /// # Panics
    /// When QEMU cannot be started.
    pub fn boot(image: &str, more: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("making a scratch directory");
        let console = format!("file:{}", text(&scratch.path().join("console.log")));
        let root = format!("file={image},if=none,id=root,format=qcow2,snapshot=on");
        let mut argv =
            vec!["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-smp", "2"];
        argv.extend(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", &console]);
        argv.extend(["-drive", &root, "-device", "virtio-blk-pci,drive=root,serial=kiln-root"]);
        argv.extend(more);
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        let process = spawn(&argv, &scratch.path().join("qemu.log"));
        Self { process, scratch }
    }

    /// What its console said so far.
    pub fn console(&self) -> String {
        self.read("console.log")
    }

    /// Waits until its console has said `words`.
    ///
    /// # Panics
    /// When that takes too long, with all that was said.
    pub fn wait_said(&self, words: &str) {
        until(
            &format!("the console to say {words:?}"),
            PATIENCE,
            || self.console().contains(words).then_some(()),
            || format!("{}\n{}", self.console(), self.read("qemu.log")),
        );
    }

    /// That it booted all the way to the agent, which refuses to go on without its disks, and lets nobody in.
    ///
    /// # Panics
    /// When it does not.
    pub fn must_halt_without_its_disks(&self) {
        self.wait_said("kiln: halted");
        let console = self.console();
        assert!(
            console.contains("kiln-seed") || console.contains("kiln-data"),
            "it names the missing disk:\n{console}"
        );
        assert!(!console.contains("login:"), "nobody can log in:\n{console}");
    }

    fn read(&self, name: &str) -> String {
        let path = Path::join(self.scratch.path(), name);
        String::from_utf8_lossy(&fs_err::read(path).unwrap_or_default()).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}
