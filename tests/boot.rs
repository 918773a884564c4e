//! The baked disk image by itself, booted by QEMU under both firmwares.
//!
//! No data disk and no seed are attached. That is a fault of its own (C1: halt, never "blank"), and the sentence on the console
//! proves that firmware, shim, grub, kernel, initrd, overlay, systemd and the agent have all done their part.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

use kiln_tests::machine::{Machine, OVMF};
use kiln_tests::places::Places;

fn halts_without_its_disks(firmware: &[&str]) {
    let built = Places::own().json(&["build", "lab"]);
    let machine = Machine::boot(built["image"].as_str().expect("build --json has image"), firmware);
    machine.must_halt_without_its_disks();
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
