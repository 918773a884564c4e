//! A cloud image in the layout of Ubuntu's, made of the lab's own parts by tools that are not kiln's; and a server to fetch it from.
#![expect(clippy::disallowed_methods, reason = "lays out files and writes a disk")]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use kiln_builder::disk::bios;
use kiln_builder::disk::gpt::Extent;
use serde_json::Value;

use crate::node::text;
use crate::places::Places;
use crate::program::{kill, run, run_with_input, spawn};
use crate::wait::until;

const MIB: u64 = 1 << 20;
/// The stock image's, for the kernel names neither of them: labels do.
const FSTAB: &str = "LABEL=cloudimg-rootfs / ext4 discard,commit=30,errors=remount-ro 0 1\nLABEL=BOOT /boot ext4 defaults 0 2\nLABEL=UEFI /boot/efi vfat umask=0077 0 1\n";

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Grub's core for BIOS machines.
    Bios,
    /// The EFI system partition.
    Esp,
    /// `/boot`.
    Boot,
    /// The root.
    Root,
}

/// Number and part, in the order on the disk: Ubuntu's.
pub const STOCK: [(u8, Part); 4] = [(14, Part::Bios), (15, Part::Esp), (16, Part::Boot), (1, Part::Root)];
/// Another order and other numbers, as no image has them.
pub const OTHER: [(u8, Part); 4] = [(9, Part::Root), (2, Part::Bios), (1, Part::Boot), (30, Part::Esp)];

/// Makes the image, a compressed qcow2, in `dir`, of what the lab's image is made of. It starts a kernel without an overlay, and has what a used
/// cloud image may have: see [`LEFT_BEHIND`].
///
/// # Panics
/// When the lab's image is not built, or a tool fails.
pub fn make(dir: &Path, layout: [(u8, Part); 4]) -> PathBuf {
    let own = Places::own();
    let built = own.json(&["build", "lab"]);
    let entry = |name: &str| layer(&own, &built, name);
    let (base, parts) = (entry("base").join("rootfs.tar"), entry("boot"));
    let at = |name: &str| dir.join(name);
    let tree = text(&at("tree"));
    run(&["mkdir", &tree]);
    run(&["tar", "--extract", "--file", &text(&base), "--directory", &tree, "./boot"]);
    for made in ["tree/boot/grub", "tree/boot/efi"] {
        fs_err::create_dir_all(at(made)).expect("making a directory");
    }
    fs_err::write(at("tree/boot/grub/grub.cfg"), "echo stock\nhalt\n").expect("writing grub's configuration");
    // Grub's core finds /boot by this.
    let told = run(&["dumpe2fs", "-h", &text(&parts.join("boot.ext4"))]);
    let uuid = told.lines().find_map(|line| line.strip_prefix("Filesystem UUID:")).expect("it has a UUID").trim();
    let boot = text(&at("boot.ext4"));
    run(&["mke2fs", "-q", "-t", "ext4", "-L", "BOOT", "-U", uuid, "-d", &text(&at("tree/boot")), &boot, "160M"]);
    let root = text(&at("root.ext4"));
    run(&["cp", "--sparse=always", &text(&parts.join("root.ext4")), &root]);
    let fstab = text(&at("fstab"));
    fs_err::write(&fstab, FSTAB).expect("writing fstab");
    let mut script = format!("rm etc/fstab\nwrite {fstab} etc/fstab\nmkdir var/lib/cloud\n");
    for left in LEFT_BEHIND {
        script.push_str(&format!("rm {left}\nwrite {fstab} {left}\n"));
    }
    run_with_input(&["debugfs", "-w", &root], &script);
    let raw = at("disk.raw");
    compose(&raw, layout, &parts, dir);
    let image = at("cloud.img");
    run(&["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", &text(&raw), &text(&image)]);
    image
}

/// What the image has and no node may have: a machine's identity, a log, what its first boot left.
pub const LEFT_BEHIND: [&str; 3] = ["etc/machine-id", "var/log/cloud-init.log", "var/lib/cloud/instance"];

/// Directory of a layer's entry.
///
/// # Panics
/// When the build did not tell of it.
pub fn layer(places: &Places, built: &Value, name: &str) -> PathBuf {
    let layers = built["layers"].as_array().expect("a build tells its layers");
    let layer = layers.iter().find(|l| l["name"] == name).unwrap_or_else(|| panic!("no {name} in {built}"));
    places.home.join("store/entries").join(layer["key"].as_str().expect("a layer has a key"))
}

fn compose(raw: &Path, layout: [(u8, Part); 4], parts: &Path, dir: &Path) {
    let file_of = |part| match part {
        Part::Bios => None,
        Part::Esp => Some(parts.join("esp.fat")),
        Part::Boot => Some(dir.join("boot.ext4")),
        Part::Root => Some(dir.join("root.ext4")),
    };
    let length = |part| file_of(part).map_or(4 * MIB, |file| fs_err::metadata(file).expect("it was made").len());
    let mut extents = Vec::new();
    let mut start = MIB;
    for (number, part) in layout {
        extents.push((number, part, Extent { start, length: length(part) }));
        start += length(part).next_multiple_of(MIB);
    }
    let disk = fs_err::File::create(raw).expect("making a disk").into_file();
    disk.set_len(start + MIB).expect("making a disk");
    let mut sgdisk = vec!["sgdisk".to_owned()];
    for (number, part, extent) in &extents {
        let (from, to) = (extent.start / 512, (extent.start + extent.length) / 512 - 1);
        let kind = match part {
            Part::Bios => "ef02",
            Part::Esp => "ef00",
            Part::Boot => "ea00",
            Part::Root => "8300",
        };
        sgdisk.extend([format!("--new={number}:{from}:{to}"), format!("--typecode={number}:{kind}")]);
    }
    sgdisk.push(text(raw));
    run(&sgdisk.iter().map(String::as_str).collect::<Vec<_>>());
    for (_, part, extent) in &extents {
        let Some(file) = file_of(*part) else {
            let read = |name: &str| fs_err::read(parts.join(name)).expect("reading a part of grub");
            let (code, core) = bios::embed(&read("boot.img"), &read("core.img"), *extent).expect("grub fits");
            disk.write_all_at(&code, 0).expect("writing the boot sector");
            disk.write_all_at(&core, extent.start).expect("writing grub's core");
            continue;
        };
        let seek = format!("seek={}", extent.start / MIB);
        let (from, to) = (format!("if={}", text(&file)), format!("of={}", text(raw)));
        run(&["dd", "bs=1M", "conv=sparse,notrunc", "status=none", &from, &to, &seek]);
    }
}

/// Serves a directory by plain HTTP on the loopback until it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// Starts it on a port that is free.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(dir: &Path) -> Self {
        let log = dir.join("server.log");
        let argv = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", &text(dir), "0"];
        let process = spawn(&argv.map(str::to_owned), &log);
        let port = || {
            let said = fs_err::read_to_string(&log).ok()?;
            said.split_once(" port ")?.1.split_once(' ')?.0.parse::<u16>().ok()
        };
        let told = || fs_err::read_to_string(&log).unwrap_or_default();
        let port = until("a server to say its port", Duration::from_secs(30), port, told);
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    /// Where a file of it is.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}
