//! Images whose base ran commands of its own: a cloud image, and packages.
//!
//! The cloud image is made here, in the layout of Ubuntu's and in another one, and served on the loopback: what is shown is that kiln finds its
//! way on a disk it did not make, and that nothing of the disk's former life reaches a node.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "writes a definition and a profile, reads a disk")]

use std::path::{Path, PathBuf};

use kiln_builder::disk::cloud::CloudDisk;
use kiln_tests::cloud_image::{self, LEFT_BEHIND, OTHER, Part, STOCK, Server};
use kiln_tests::machine::Machine;
use kiln_tests::node::text;
use kiln_tests::places::{Scratch, Seeding};
use kiln_tests::program::{firstboot, output, run, workspace};
use serde_json::Value;

/// What is done in the cloud image: one package goes and comes back from its pinned .deb.
const CUSTOMIZE: &str = r#"[customize]
remove = ["qemu-guest-agent", "in-no-image"]
install = ["qemu-guest-agent"]
mask = ["made-up.timer"]
run = ["dpkg-query --show nftables > /etc/customized", "echo \"it's $0\" >> /etc/customized"]
delete = ["/var/lib/cloud/*"]
"#;

fn sha256(file: &Path) -> String {
    run(&["sha256sum", &text(file)]).split(' ').next().expect("it prints a sum").to_owned()
}

/// The shipped definition of a cloud image with another image and other wishes, and a profile like the lab's that names it.
fn scratch_with(image: &Path, server: &Server) -> Scratch {
    let scratch = Scratch::new(Seeding::Link);
    let project = &scratch.places.project;
    let shipped = fs_err::read_to_string(project.join("images/ubuntu-24.04-cloud.toml")).expect("reading a definition");
    let (head, rest) = shipped.split_once("[cloud]").expect("it has a cloud image");
    let (_, rest) = rest.split_once("[[archive]]").expect("it has an archive");
    let head = head.replace("\"ubuntu-24.04-cloud\"", "\"cloudy\"");
    // The first place has it no more.
    let (gone, url) = (server.url("gone.img"), server.url("cloud.img"));
    let cloud = format!("[cloud]\nurl = \"{gone}\"\nalternates = [\"{url}\"]\nsha256 = \"{}\"\n\n", sha256(image));
    let definition = format!("{head}{cloud}{CUSTOMIZE}\n[[archive]]{rest}");
    fs_err::write(project.join("images/cloudy.toml"), definition).expect("writing a definition");
    let profile = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    let profile = profile.replace("name = \"lab\"", "name = \"cloudy\"").replace("\"ubuntu-24.04\"", "\"cloudy\"");
    fs_err::write(project.join("profiles/cloudy.toml"), profile).expect("writing a profile");
    scratch.places.ok(&["pki", "init", "cloudy"]);
    scratch.places.ok(&["lock", "cloudy"]);
    scratch
}

/// What debugfs prints of the file system at `at` of a disk.
fn ask(raw: &str, at: u64, request: &str) -> String {
    let output = output(&["debugfs", "-R", request, &format!("{raw}?offset={at}")]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Builds the image and looks at its disk; the path of the image.
fn customize(layout: [(u8, Part); 4]) -> (Scratch, Server, Value) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("making a directory");
    let image = cloud_image::make(dir.path(), layout);
    let server = Server::start(dir.path());
    let scratch = scratch_with(&image, &server);
    let lock = fs_err::read_to_string(scratch.places.project.join("profiles/cloudy.lock")).expect("reading the lock");
    assert!(lock.contains(&server.url("gone.img")) && lock.contains(&sha256(&image)), "{lock}");
    let built = scratch.places.json(&["build", "cloudy"]);
    let names: Vec<&str> =
        built["layers"].as_array().into_iter().flatten().filter_map(|l| l["name"].as_str()).collect();
    assert_eq!(names, ["tools", "etcd", "customized", "hygiene", "image"], "{built}");

    let raw = built["raw"].as_str().expect("build --json has raw");
    let disk = CloudDisk::find(Path::new(raw)).expect("reading the disk");
    let number = |part| layout.iter().find(|(_, p)| *p == part).map(|(number, _)| usize::from(*number));
    assert_eq!((Some(disk.root.number), Some(disk.boot.number)), (number(Part::Root), number(Part::Boot)));
    let (root, boot) = (disk.root.extent.start, disk.boot.extent.start);
    // What was wished, in the words of the base's own programs.
    let customized = ask(raw, root, "cat /etc/customized");
    assert!(customized.contains("nftables\t") && customized.contains("it's sh"), "{customized}");
    assert!(ask(raw, root, "stat /etc/systemd/system/made-up.timer").contains("/dev/null"));
    assert!(ask(raw, root, "stat /usr/sbin/qemu-ga").contains("Type: regular"));
    // What kiln puts in, by debugfs, at the place that the table says.
    assert!(ask(raw, root, "stat /usr/bin/firstboot").contains("Type: regular"));
    assert!(!ask(raw, root, "cat /etc/fstab").contains("LABEL="), "no partition but the root is mounted");
    let menu = ask(raw, boot, "cat /grub/grub.cfg");
    assert!(menu.contains(&format!("linux /vmlinuz root=PARTUUID={} ro ", disk.root.id)), "{menu}");
    // What it had and no node may have.
    for left in &LEFT_BEHIND[1..] {
        assert!(ask(raw, root, &format!("stat /{left}")).contains("File not found"), "{left}");
    }
    assert!(ask(raw, root, "stat /etc/machine-id").contains("Size: 0"));
    assert!(ask(raw, root, "ls /var/tmp").lines().all(|line| !line.contains("kiln")), "the script tidied up");
    for at in [root, boot] {
        run(&["e2fsck", "-f", "-n", &format!("{raw}?offset={at}")]);
    }
    (scratch, server, built)
}

/// The layers that a build made, by what `build --json` printed.
fn made_by(built: &Value) -> Vec<&str> {
    let layers = built["layers"].as_array().expect("build --json has layers");
    layers.iter().filter(|layer| layer["built"] == true).filter_map(|layer| layer["name"].as_str()).collect()
}

#[test]
#[ignore = "needs root, guestfs-tools, QEMU, a package archive and a built image: tests/run"]
fn a_cloud_image_is_customized_once_and_boots_to_the_agent() {
    let (scratch, server, built) = customize(STOCK);
    // Nothing is asked of anybody for a change of the agent: not even the image is there any more.
    drop(server);
    let agent = scratch.dir.path().join("firstboot");
    let mut bytes = fs_err::read(firstboot()).expect("reading firstboot");
    bytes.extend(b"another");
    fs_err::write(&agent, bytes).expect("writing another agent");
    let again = scratch.places.json(&["build", "cloudy", "--firstboot", &text(&agent)]);
    assert_eq!(made_by(&again), ["image"], "{again}");
    let sbom = PathBuf::from(built["raw"].as_str().expect("build --json has raw")).with_file_name("sbom.cdx.json");
    let sbom = fs_err::read_to_string(sbom).expect("reading the bill of materials");
    assert!(sbom.contains("\"customized/nftables\"") && sbom.contains("\"base/qemu-guest-agent\""), "{sbom}");
    let machine = Machine::boot(built["image"].as_str().expect("build --json has image"), &[]);
    machine.must_halt_without_its_disks();
}

#[test]
#[ignore = "needs root, guestfs-tools, a package archive and a built image: tests/run"]
fn other_numbers_and_another_order_of_partitions_are_no_matter() {
    customize(OTHER);
}

#[test]
#[ignore = "needs root, guestfs-tools and a built image: tests/run"]
fn packages_may_be_customized_and_every_later_layer_is_made_from_what_came_of_it() {
    let scratch = Scratch::new(Seeding::Link);
    let profile = fs_err::read_to_string(workspace().join("profiles/lab.toml")).expect("reading the lab's profile");
    scratch.add_profile("lab", &profile);
    scratch.take_public_keys("lab");
    let file = scratch.places.project.join("images/ubuntu-24.04.toml");
    let definition = fs_err::read_to_string(&file).expect("reading the definition");
    let wish = "[customize]\nremove = [\"qemu-guest-agent\"]\nrun = [\"getcap -r / 2>/dev/null; echo tuned > /boot/config-tuned; echo done > /etc/customized\"]\n";
    fs_err::write(&file, format!("{definition}\n{wish}")).expect("writing the definition");
    let built = scratch.places.json(&["build", "lab"]);
    assert_eq!(made_by(&built), ["customized", "hygiene", "boot", "image"], "{built}");
    let raw = built["raw"].as_str().expect("build --json has raw");
    let root = CloudDisk::find(Path::new(raw)).expect("reading the disk").root.extent.start;
    assert_eq!(ask(raw, root, "cat /etc/customized").lines().next(), Some("done"));
    assert!(ask(raw, root, "stat /usr/sbin/qemu-ga").contains("File not found"));
    assert!(ask(raw, root, "stat /usr/bin/firstboot").contains("Type: regular"));
    // What the base has beside it is as it was: owners, modes, links, attributes.
    let tar = |layer: &str| cloud_image::layer(&scratch.places, &built, layer).join("rootfs.tar");
    let (before, after) = (listing(&tar("base")), listing(&tar("customized")));
    let lost: Vec<&String> = before.iter().filter(|line| !after.contains(line)).collect();
    let touched = [
        "qemu",
        "var/lib/dpkg/",
        "var/cache/",
        "etc/init.d",
        "etc/rc",
        "etc/systemd",
        "var/lib/systemd",
        "./dev",
        "./boot/",
    ];
    let strange: Vec<_> = lost.iter().filter(|line| !touched.iter().any(|part| line.contains(part))).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// Mode, owner, name and target of every member of a tar that is no directory.
fn listing(tar: &Path) -> Vec<String> {
    let told = run(&["tar", "--list", "--verbose", "--numeric-owner", "--xattrs", "--full-time", "--file", &text(tar)]);
    let member = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {} {}", words[0].trim_end_matches(['*', '.']), words[1], words[2], words[5..].join(" "))
    };
    told.lines().filter(|line| line.starts_with(['-', 'l', 'h'])).map(member).collect()
}
