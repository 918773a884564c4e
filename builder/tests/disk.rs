//! A tiny disk, assembled twice and read back with other people's programs.
//!
//! Needs the packages of `[tools]` and `[boot]` of an image definition, unpacked; `KILN_TEST_TOOLS` and `KILN_TEST_BOOT` name the two directories.
#![expect(
    clippy::disallowed_methods,
    reason = "a test reads and writes files, and asks the environment where the tools are"
)]
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "an integration test: every function is part of it"
)]

use std::path::{Path, PathBuf};

use kiln_builder::disk::{BootSpec, DiskSpec, Qcow2, ToolTree, TreeEntry, assemble, build_boot, convert};
use kiln_builder::tool::Tool;
use kiln_firstboot::digest::Sha256Digest;

const EPOCH: u64 = 1_700_000_000;
const SIZES: (u64, u64, u64) = (34, 8, 16);

fn tree(variable: &str) -> ToolTree {
    let path =
        std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} must name a directory of unpacked packages"));
    ToolTree::new(path)
}

/// A base with a kernel, an initrd, a device, a file with a capability and a file that the image replaces.
fn write_base(path: &Path) {
    let mut builder = tar::Builder::new(fs_err::File::create(path).unwrap());
    let mut add = |path: &str, kind: tar::EntryType, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(EPOCH - 5);
        header.set_size(bytes.len() as u64);
        if path.ends_with("ping") {
            let capability =
                b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".as_slice();
            builder.append_pax_extensions([("SCHILY.xattr.security.capability", capability)]).unwrap();
        }
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    add("dev/", tar::EntryType::Directory, 0o755, b"");
    add("dev/null", tar::EntryType::Char, 0o666, b"");
    add("./", tar::EntryType::Directory, 0o755, b"");
    add("./boot/", tar::EntryType::Directory, 0o755, b"");
    add("./boot/initrd.img-1", tar::EntryType::Regular, 0o644, b"initrd");
    add("./boot/vmlinuz-1", tar::EntryType::Regular, 0o600, b"kernel");
    add("./etc/", tar::EntryType::Directory, 0o750, b"");
    add("./etc/fstab", tar::EntryType::Regular, 0o600, b"old");
    add("./etc/motd", tar::EntryType::Regular, 0o644, b"old too");
    add("./ping", tar::EntryType::Regular, 0o755, b"ping");
    builder.finish().unwrap();
}

fn make(dir: &Path) -> PathBuf {
    let (tools, boot_tree) = (tree("KILN_TEST_TOOLS"), tree("KILN_TEST_BOOT"));
    let (base, boot_dir, log, raw) = (dir.join("base.tar"), dir.join("boot"), dir.join("log"), dir.join("disk.raw"));
    write_base(&base);
    fs_err::create_dir(&boot_dir).unwrap();
    let below = [TreeEntry::file("opt/bin/etcd", "etcd"), TreeEntry::file("etc/motd", "new too")];
    let boot = BootSpec {
        key: Sha256Digest::of(b"boot"),
        epoch: EPOCH,
        vendor: "debian",
        command_line: "ro panic=30",
        esp_mib: SIZES.0,
        boot_mib: SIZES.1,
        root_mib: SIZES.2,
        base_tar: &base,
        entries: &below,
        boot_tree: &boot_tree,
        tools: &tools,
        dir: &boot_dir,
        log: &log,
    };
    build_boot(&boot).unwrap();
    let more = [
        TreeEntry::file("etc/fstab", "new"),
        TreeEntry::file("opt/bin/firstboot", "agent"),
        TreeEntry::file("usr/lib/kiln/image.json", "{}"),
    ];
    let entries = [&below[..], &more].concat();
    let disk = DiskSpec {
        key: Sha256Digest::of(b"image"),
        boot_key: boot.key,
        epoch: EPOCH,
        base_tar: &base,
        listed: None,
        boot_dir: &boot_dir,
        cloud: None,
        below: &below,
        entries: &entries,
        tools: &tools,
        raw: &raw,
        log: &log,
    };
    assemble(&disk).unwrap();
    raw
}

/// One partition as a file, for programs that know no offsets.
fn cut(raw: &Path, start_mib: u64, mib: u64) -> PathBuf {
    let out = raw.with_extension(start_mib.to_string());
    let bytes = fs_err::read(raw).unwrap();
    let at = |mib: u64| usize::try_from(mib << 20).unwrap();
    fs_err::write(&out, &bytes[at(start_mib)..at(start_mib + mib)]).unwrap();
    out
}

fn debugfs(fs: &Path, request: &str) -> String {
    Tool::new("debugfs").args(["-R", request]).arg(fs).read().unwrap()
}

#[test]
#[ignore = "needs unpacked tool and boot packages (KILN_TEST_TOOLS, KILN_TEST_BOOT), gdisk, mtools, e2fsprogs, qemu-utils"]
fn two_assemblies_are_equal_and_hold_what_they_should() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (raw, again) = (make(one.path()), make(two.path()));
    assert!(fs_err::read(&raw).unwrap() == fs_err::read(&again).unwrap(), "two disks of one spec differ");

    let verdict = Tool::new("sgdisk").arg("-v").arg(&raw).read().unwrap();
    assert!(verdict.contains("No problems found."), "{verdict}");
    let table = Tool::new("sgdisk").arg("-p").arg(&raw).read().unwrap();
    for partition in ["cloudimg-rootfs", "EF02  BIOS", "EF00  UEFI", "EA00  BOOT"] {
        assert!(table.contains(partition), "{table}");
    }

    let root = cut(&raw, 5 + SIZES.0 + SIZES.1, SIZES.2);
    assert_eq!(debugfs(&root, "cat /etc/fstab"), "new");
    assert_eq!(debugfs(&root, "cat /usr/lib/kiln/image.json"), "{}");
    assert_eq!(debugfs(&root, "cat /opt/bin/etcd"), "etcd");
    assert_eq!(debugfs(&root, "cat /etc/motd"), "new too");
    assert_eq!(debugfs(&root, "cat /opt/bin/firstboot"), "agent", "beside what the boot layer put there");
    assert!(debugfs(&root, "stat /etc").contains("Mode:  0750"), "the base's directory keeps its mode");
    assert!(debugfs(&root, "ea_list /ping").contains("security.capability (20)"), "capabilities survive");
    // A file that is not there makes debugfs complain on stderr and print nothing.
    assert_eq!(debugfs(&root, "cat /boot/vmlinuz-1"), "");
    assert_eq!(debugfs(&root, "cat /dev/null"), "");

    let boot = cut(&raw, 5 + SIZES.0, SIZES.1);
    assert_eq!(debugfs(&boot, "cat /vmlinuz"), "kernel");
    assert_eq!(debugfs(&boot, "cat /initrd.img"), "initrd");
    assert!(debugfs(&boot, "cat /grub/grub.cfg").contains(" ro panic=30\ninitrd /initrd.img\n"));
    for fs in [&root, &boot] {
        Tool::new("e2fsck").args(["-f", "-n"]).arg(fs).run().unwrap();
    }

    let esp = cut(&raw, 5, SIZES.0);
    let files = Tool::new("mdir").args(["-b", "-/", "-i"]).arg(&esp).arg("::").read().unwrap();
    let expected = [
        "::/EFI/",
        "::/EFI/BOOT/",
        "::/EFI/BOOT/BOOTX64.EFI",
        "::/EFI/BOOT/grubx64.efi",
        "::/EFI/BOOT/mmx64.efi",
        "::/EFI/debian/",
        "::/EFI/debian/grub.cfg",
    ];
    let mut files: Vec<&str> = files.lines().collect();
    files.sort_unstable();
    assert_eq!(files, expected);

    let qcow2 = one.path().join("disk.qcow2");
    convert(&Qcow2 { raw: &raw, qcow2: &qcow2, compress: false, log: &one.path().join("log") }).unwrap();
    Tool::new("qemu-img").arg("compare").arg(&raw).arg(&qcow2).run().unwrap();
}
