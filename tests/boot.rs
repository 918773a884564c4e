//! The baked disk image by itself, booted by QEMU under both firmwares.
//!
//! No data disk and no seed are attached. That is a fault of its own (C1: halt, never "blank"), and the sentence on the console
//! proves that firmware, shim, grub, kernel, initrd, overlay, systemd and the agent have all done their part.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at files")]

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use kiln_tests::node::text;
use kiln_tests::program::{kill, kiln, run, spawn, workspace};
use kiln_tests::wait::until;

/// How long an emulated machine may take to boot on two busy cores.
const PATIENCE: Duration = Duration::from_secs(400);
/// UEFI with no secure boot keys enrolled; code and variables in one file (package `ovmf`).
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

struct Machine {
    process: Child,
    scratch: tempfile::TempDir,
}

impl Machine {
    /// Boots the lab's image; nothing is ever written to it (`snapshot=on`).
    fn boot(more: &[&str]) -> Self {
        let said = run(&[&text(&kiln()), "-C", &text(&workspace()), "--json", "build", "lab"]);
        let built: serde_json::Value = serde_json::from_str(&said).expect("build --json prints JSON");
        let image = built["image"].as_str().expect("build --json has image");
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

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs_err::read(self.scratch.path().join("console.log")).unwrap_or_default()).into_owned()
    }

    fn wait_said(&mut self, words: &str) {
        let log = self.scratch.path().to_owned();
        let read = |name: &str| {
            String::from_utf8_lossy(&fs_err::read(Path::join(&log, name)).unwrap_or_default()).into_owned()
        };
        until(
            &format!("the console to say {words:?}"),
            PATIENCE,
            || self.console().contains(words).then_some(()),
            || format!("{}\n{}", read("console.log"), read("qemu.log")),
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

fn halts_without_its_disks(firmware: &[&str]) {
    let mut machine = Machine::boot(firmware);
    machine.wait_said("kiln: halted");
    let console = machine.console();
    assert!(console.contains("kiln-seed") || console.contains("kiln-data"), "it names the missing disk:\n{console}");
    assert!(!console.contains("login:"), "nobody can log in:\n{console}");
}

#[test]
#[ignore = "needs QEMU and a built image: tests/run"]
fn boots_under_seabios_and_halts_without_its_disks() {
    halts_without_its_disks(&[]);
}

#[test]
#[ignore = "needs QEMU, OVMF and a built image: tests/run"]
fn boots_under_uefi_and_halts_without_its_disks() {
    halts_without_its_disks(&["-bios", OVMF]);
}
