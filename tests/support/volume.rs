//! A node's data disk for real: a sparse file behind a loop device, formatted and mounted by the agent's own disk step. What a
//! test does to a disk (fill it, freeze it, break its file system, put an old copy back) is done here.
#![expect(clippy::disallowed_methods, reason = "tests break disks")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::os::unix::fs::symlink;
use kiln_firstboot::digest::Sha256Digest;
use kiln_firstboot::paths::{DATA_SERIAL, Paths, SEED_SERIAL};

use crate::node::{Node, text};
use crate::program::{output, run};
use crate::wait::until;

/// Enough for etcd: precheck's least, and two preallocated log files of 64 MiB. Sparse, so it costs what is written.
pub const ROOMY_MIB: u64 = 512;

const MIB: u64 = 1 << 20;
/// The file that takes the room.
const FILLER: &str = "filler";

/// An image of a disk, and the loop device it is attached to while its node has power.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    mib: u64,
    device: Option<String>,
}

impl Disk {
    /// A blank disk.
    pub(crate) fn blank(image: PathBuf, mib: u64) -> Self {
        let disk = Self { image, mib, device: None };
        disk.wipe();
        disk
    }

    /// Zeroes it.
    pub(crate) fn wipe(&self) {
        let file = fs_err::File::create(&self.image).expect("making a disk's image");
        file.set_len(self.mib * MIB).expect("sizing a disk's image");
    }

    /// Attaches it, and names it and the seed as udev does.
    pub(crate) fn attach(&mut self, paths: &Paths, seed: &Path) {
        // `ip netns exec` gives every process a copy of all mounts. Shared, a copy goes when the disk is unmounted here; else it would keep
        // the file system alive below the next one.
        run(&["mount", "--make-shared", &text(paths.root())]);
        let device = run(&["losetup", "-f", "--show", &text(&self.image)]).trim().to_owned();
        fs_err::create_dir_all(paths.disk(DATA_SERIAL).parent().expect("it is under dev")).expect("making dev");
        symlink(&device, paths.disk(DATA_SERIAL)).expect("naming the data disk");
        symlink(seed, paths.disk(SEED_SERIAL)).expect("naming the seed disk");
        self.device = Some(device);
    }

    /// Unmounts and detaches it. All that was written reaches the image.
    pub(crate) fn detach(&mut self, mounted_at: &Path) {
        let Some(device) = self.device.take() else { return };
        let point = text(mounted_at);
        drop(output(&["fsfreeze", "--unfreeze", &point]));
        until(
            "the data disk to be let go",
            Duration::from_secs(20),
            || {
                let mounted = output(&["mountpoint", "-q", &point]).status.success();
                (!mounted || output(&["umount", &point]).status.success()).then_some(())
            },
            || String::from_utf8_lossy(&output(&["fuser", "-vm", &point]).stderr).into_owned(),
        );
        drop(output(&["losetup", "-d", &device]));
    }
}

impl Node {
    /// Gives it a real data disk of `mib` MiB, blank, in place of a directory. Powered off, before its first boot.
    pub fn use_disk(&mut self, mib: u64) {
        assert!(!self.is_on(), "a disk is attached to a powered-off node");
        self.disk = Some(Disk::blank(self.home.join("data.img"), mib));
    }

    /// A copy of its powered-off disk, as a hypervisor's snapshot is.
    pub fn save_disk(&self, name: &str) {
        assert!(!self.is_on(), "the disk of a running node is not consistent");
        run(&["cp", "--sparse=always", &text(self.image()), &text(&self.home.join(name))]);
    }

    /// Puts such a copy back.
    pub fn put_disk_back(&self, name: &str) {
        assert!(!self.is_on(), "a disk is swapped under a powered-off node");
        run(&["cp", "--sparse=always", &text(&self.home.join(name)), &text(self.image())]);
    }

    /// Fills its running volume up to the last `leave` MiB.
    pub fn fill_disk(&self, leave: u64) {
        let stat = nix::sys::statvfs::statvfs(&self.volume()).expect("asking how full a volume is");
        let free = stat.blocks_available() * stat.fragment_size() / MIB;
        let take = format!("{}MiB", free.saturating_sub(leave));
        run(&["fallocate", "--length", &take, &text(&self.volume().join(FILLER))]);
    }

    /// Gives the room back.
    pub fn clear_disk(&self) {
        fs_err::remove_file(self.volume().join(FILLER)).expect("removing the filler");
    }

    /// Everything that is written to its volume from now on waits, as on a disk that has stopped answering.
    pub fn stall_disk(&self) {
        run(&["fsfreeze", "--freeze", &text(&self.volume())]);
    }

    /// The disk answers again.
    pub fn resume_disk(&self) {
        run(&["fsfreeze", "--unfreeze", &text(&self.volume())]);
    }

    /// The kernel finds its file system broken and makes it read-only, as after a write error.
    pub fn break_disk(&self) {
        let device = self.disk.as_ref().and_then(|disk| disk.device.as_deref()).expect("a disk is attached");
        let name = device.trim_start_matches("/dev/");
        fs_err::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").expect("breaking a file system");
    }

    /// Looks at or changes the volume of a powered-off node.
    pub fn with_volume<T>(&self, act: impl FnOnce(&Path) -> T) -> T {
        assert!(!self.is_on(), "the volume of a running node is the node's");
        let point = self.home.join("data");
        if self.disk.is_none() {
            return act(&point);
        }
        run(&["mount", "-o", "loop", &text(self.image()), &text(&point)]);
        let done = act(&point);
        run(&["umount", &text(&point)]);
        done
    }

    /// Sum over every byte of its disk, powered off.
    pub fn disk_sum(&self) -> String {
        assert!(!self.is_on(), "the disk of a running node is the node's");
        run(&["sha256sum", &text(self.image())])
    }

    /// Sum over all names and bytes of its etcd's directory, powered off.
    pub fn data_sum(&self) -> Sha256Digest {
        self.with_volume(|volume| Sha256Digest::of(&tree(&volume.join("etcd"))))
    }

    fn image(&self) -> &Path {
        &self.disk.as_ref().expect("this node has a disk").image
    }
}

/// All files below `top`, names and bytes, in order.
fn tree(top: &Path) -> Vec<u8> {
    let mut paths: Vec<PathBuf> =
        fs_err::read_dir(top).expect("listing a directory").map(|entry| entry.expect("listing").path()).collect();
    paths.sort();
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend(text(path.strip_prefix(top).expect("it is below")).bytes());
        bytes.extend(if path.is_dir() { tree(&path) } else { fs_err::read(&path).expect("reading a file") });
    }
    bytes
}
