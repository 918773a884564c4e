//! Whether the machine's hardware virtualisation really boots the image's kernel.
//!
//! On nested hosts `/dev/kvm` may be there and guests die in the kernel's decompressor, or hang without a word. So the image itself
//! is booted until its kernel speaks; what came of it is remembered until the machine boots anew.
#![expect(clippy::disallowed_methods, reason = "an edge: boots a machine and reads what it says")]

use std::time::{Duration, Instant};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::host::Host;
use crate::profile::Accelerator;

/// How long the kernel has to speak. With working virtualisation it does within two seconds, grub included.
const SPEAKS_WITHIN: Duration = Duration::from_secs(12);
/// How often the console is read.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The first line of every Linux kernel.
const FIRST_WORDS: &str = "Linux version";

/// What a probe found.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    boot_id: String,
    works: bool,
}

/// The accelerator to use: what an earlier probe of this boot of the machine found, kept in `memory`, or a new probe.
///
/// # Errors
/// When the probe cannot be run at all; that KVM does not work is an answer, not an error.
pub fn choose(host: &Host, image: &Utf8Path, scratch: &Utf8Path, memory: &Utf8Path) -> anyhow::Result<Accelerator> {
    let boot_id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    // A memory that cannot be read is none: the probe costs seconds and decides the same again.
    let known: Option<Verdict> = fs_err::read(memory).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let works = match known {
        Some(verdict) if verdict.boot_id == boot_id => verdict.works,
        Some(_) | None => {
            let works = probe(host, image, scratch)?;
            if !works {
                log::warn!(
                    "hardware virtualisation does not boot this image here; the VMs are emulated, which is several times slower"
                );
            }
            fs_err::write(memory, serde_json::to_vec(&Verdict { boot_id, works })?)?;
            works
        }
    };
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

fn probe(host: &Host, image: &Utf8Path, scratch: &Utf8Path) -> anyhow::Result<bool> {
    if fs_err::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let console = scratch.join("kvm-probe.log");
    fs_err::write(&console, "")?;
    let running = host
        .tool("qemu-system-x86_64")?
        .env("TMPDIR", scratch)
        .args([
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-m",
            "512",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-drive", &format!("file={image},format=qcow2,if=virtio,snapshot=on")])
        .args(["-serial", &format!("file:{console}")])
        .start()?;
    let began = Instant::now();
    let works = loop {
        if String::from_utf8_lossy(&fs_err::read(&console)?).contains(FIRST_WORDS) {
            break true;
        }
        if running.try_wait()?.is_some() || began.elapsed() > SPEAKS_WITHIN {
            break false;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    // What was started is nsenter; the machine is its child and is found by the console it writes.
    let serial = format!("file:{console}");
    for process in
        host.processes()?.iter().filter(|p| p.runs("qemu-system-x86_64") && p.has_args(&["-serial", &serial]))
    {
        process.kill()?;
    }
    running.kill()?;
    fs_err::remove_file(&console)?;
    Ok(works)
}
