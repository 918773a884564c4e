//! Machines for one, three and six nodes on one host, the next generation, and several hosts at once; beside a full copy of the disk for each
//! machine, as by `virt-clone`.

use std::os::unix::fs::MetadataExt as _;

use kiln_tests::hypervisors::Hypervisors;
use kiln_tests::libvirt_host::LibvirtHost;
use kiln_tests::node::text;

use super::{debian_tree, mega, timed};

/// About an image's size.
const IMAGE_MIB: usize = 260;
/// Machines here have no system that would hear that they are to shut down.
const AT_ONCE: [&str; 2] = ["--patience", "0"];

/// On the host: gives a tree libvirt's sockets and the pool, and goes into it.
const ENTER: &str = r#"root=$1; pool=$2; shift 2
mkdir -p "$root/run/libvirt" "$root$pool" && mount --bind /run/libvirt "$root/run/libvirt" && mount --bind "$pool" "$root$pool" && exec chroot "$root" "$@""#;

pub(crate) fn compare() {
    let further = |more: (f64, u64), less: (f64, u64), nodes: f64| {
        format!(
            "{:5.2} s and {:.2} MB a further node",
            (more.0 - less.0) / nodes,
            mega(more.1.saturating_sub(less.1)) / nodes
        )
    };
    let one = deployed(&Hypervisors::with(&[1]));
    told("deploy, one host, 1 node", one, "");
    let three = deployed(&Hypervisors::with(&[3]));
    told("deploy, one host, 3 nodes", three, &further(three, one, 2.0));
    let world = Hypervisors::with(&[6]);
    let six = deployed(&world);
    told("deploy, one host, 6 nodes", six, &further(six, one, 5.0));
    world.build("two", IMAGE_MIB, 2000);
    // Makes it the next generation; there is nothing else to do.
    world.places.ok(&["deploy", "prod", "--no-wait", "--mixed"]);
    let reimage = |node: &str| {
        let before = on_disk(&world);
        let argv = [&["reimage", "prod", node, "--no-wait"][..], &AT_ONCE].concat();
        let (seconds, _) = timed(|| world.places.ok(&argv));
        (seconds, on_disk(&world).saturating_sub(before))
    };
    let first = reimage("etcd1");
    told("next generation, first node", first, "");
    let mut others = (0.0, 0);
    for node in ["etcd2", "etcd3", "etcd4", "etcd5", "etcd6"] {
        let next = reimage(node);
        others = (others.0 + next.0, others.1 + next.1);
    }
    told("next generation, 5 more nodes", others, &further(others, (0.0, 0), 5.0));
    let (seconds, bytes) = cloned(world.host());
    told(
        "  beside virt-clone, 1 VM",
        (seconds, bytes),
        &format!(
            "a full copy for each, started; kiln's further node takes {:.2} x its time and {:.3} x its bytes",
            (six.0 - one.0) / 5.0 / seconds,
            mega(six.1 - one.1) / 5.0 / mega(bytes)
        ),
    );
    for hosts in [3, 5] {
        let all = deployed(&Hypervisors::with(&vec![1; hosts]));
        told(
            &format!("deploy, {hosts} hosts, 1 node each"),
            all,
            &format!("{:5.2} x one host; they share this disk", all.0 / one.0),
        );
    }
}

/// Bytes on the hosts are what was sent and the empty overlays and data volumes that were made there: of a further node the seed alone is sent,
/// one MiB.
fn told(what: &str, (seconds, bytes): (f64, u64), more: &str) {
    println!("{what:32} {seconds:8.2} s   {:8.2} MB on the hosts   {more}", mega(bytes));
}

/// What `kiln deploy` takes for the first image.
fn deployed(world: &Hypervisors) -> (f64, u64) {
    world.build("one", IMAGE_MIB, 1000);
    let before = on_disk(world);
    let (seconds, _) = timed(|| world.places.ok(&["deploy", "prod", "--no-wait"]));
    (seconds, on_disk(world) - before)
}

/// Bytes that the hosts' volumes take.
fn on_disk(world: &Hypervisors) -> u64 {
    world.hosts().iter().map(in_pool).sum()
}

fn in_pool(host: &LibvirtHost) -> u64 {
    let pool = host.pool();
    let blocks = |name: String| std::fs::metadata(pool.join(name)).map_or(0, |about| about.blocks());
    host.volumes().into_iter().map(blocks).sum::<u64>() * 512
}

/// What it takes to clone a machine whose disk is as large as the image. Its disk is made here, and not counted.
fn cloned(host: &LibvirtHost) -> (f64, u64) {
    let image = host.image("template", IMAGE_MIB);
    let disk = host.pool().join("template.qcow2");
    std::fs::copy(&image.file, &disk).expect("copying a disk");
    host.virsh(&["pool-refresh", "default"]);
    let domain = host.scratch().join("template.xml");
    let xml = format!(
        "<domain type='qemu'><name>template</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os><features><acpi/></features>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    );
    std::fs::write(&domain, xml).expect("writing a domain");
    host.virsh(&["define", domain.as_str()]);
    let tree = text(&debian_tree::with("virtinst", &["virtinst"]));
    let pool = host.pool();
    let enter = ["--mount", "sh", "-c", ENTER, "enter", &tree, pool.as_str()];
    let before = in_pool(host);
    let clone =
        ["virt-clone", "--connect", "qemu:///system", "--original", "template", "--name", "clone", "--auto-clone"];
    let (seconds, _) = timed(|| {
        host.on_host("unshare", &[&enter[..], &clone].concat());
        host.virsh(&["start", "clone"]);
    });
    (seconds, in_pool(host) - before)
}
