//! The libvirt driver against a real libvirtd, and all that can be in its way.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]
#![expect(clippy::disallowed_methods, reason = "looks at the pool's files, and puts some there")]

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::Duration;

use camino::Utf8Path;
use kiln_builder::exit::Refusal;
use kiln_builder::host::libvirt::volume_name;
use kiln_builder::host::{Host, Image, Machine, Need, Transfer, Watch};
use kiln_builder::host_network;
use kiln_builder::lab::process::{self, Process};
use kiln_builder::profile::Profile;
use kiln_firstboot::digest::Sha256Digest;
use kiln_tests::libvirt_host::{LibvirtHost, Silent, machine, root, seed};
use kiln_tests::node::text;
use kiln_tests::program::{run, workspace};

/// What a refusal says, with its hint. That it is one is part of it.
fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    let error = result.expect_err("this must be refused");
    assert!(error.chain().any(|e| e.is::<Refusal>()), "{error:#}");
    format!("{error:#}")
}

fn said<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.expect_err("this must fail"))
}

fn proofs(world: &LibvirtHost, image: &Image) -> usize {
    let begin = volume_name::proof(&volume_name::image(&image.sha256), "");
    world.volumes().iter().filter(|v| v.starts_with(&begin)).count()
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_machine_lives_and_every_call_may_be_made_twice() {
    let world = LibvirtHost::new();
    let host = world.driver();
    let (one, two) = (world.image("one", 1), world.image("two", 1));
    let a = machine("prod", "etcd1");
    let need = Need { bridge: "br0".into(), bytes: 1 << 20, destroy: false };
    assert_eq!(host.preflight(&need).unwrap(), []);
    assert_eq!(world.seen(&a), None);

    // An image goes over once, and another one is another's matter.
    assert_eq!(host.ensure_image(&one, &Silent).unwrap(), Transfer { bytes: one.bytes });
    assert_eq!(host.ensure_image(&one, &Silent).unwrap(), Transfer { bytes: 0 });
    assert_eq!(host.ensure_image(&two, &Silent).unwrap(), Transfer { bytes: two.bytes });
    let base = world.pool().join(volume_name::image(&one.sha256));
    assert_eq!(Sha256Digest::of(&fs_err::read(&base).unwrap()), one.sha256);

    for _ in 0..2 {
        host.ensure_machine(&a, root(&one, 1), &one, &seed("first")).unwrap();
    }
    let seen = world.seen(&a).unwrap();
    assert_eq!((seen.handle.as_str(), &seen.uuid, seen.running), ("prod.etcd1", &a.uuid, false));
    assert_eq!((seen.root, seen.previous, seen.seed), (Some(root(&one, 1)), None, Some(seed("first").sha256)));
    assert_eq!((seen.data_bytes, seen.memory_mib, seen.vcpus), (Some(1 << 30), 64, 1));
    assert_eq!((seen.mac, seen.bridge.as_deref(), &seen.trouble[..]), (Some(a.mac), Some("br0"), &[][..]));
    let data = world.pool().join(volume_name::data(&a.mark));
    fs_err::OpenOptions::new().write(true).open(&data).unwrap().file().write_all_at(b"acknowledged", 4096).unwrap();
    let kept = || fs_err::read(&data).unwrap()[4096..4108] == *b"acknowledged";

    // The seed is readable by root alone and whole.
    let secret = world.pool().join(volume_name::seed(&a.mark, &seed("first").sha256));
    assert_eq!(fs_err::metadata(&secret).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs_err::read(&secret).unwrap(), *seed("first").bytes);

    // On, and nothing that needs it off is done.
    for _ in 0..2 {
        host.power_on(&a).unwrap();
    }
    assert!(world.seen(&a).unwrap().running);
    assert!(world.virsh(&["dominfo", &a.uuid]).contains("Autostart:      enable"));
    let before = world.state();
    for refused in [
        refusal(host.replace_root(&a, root(&two, 2), &two)),
        refusal(host.replace_seed(&a, &seed("second"))),
        refusal(host.redefine(&a)),
        refusal(host.wipe_data(&a)),
        refusal(host.destroy(&a, true)),
    ] {
        assert!(refused.contains("runs") && refused.contains("hint: "), "{refused}");
    }
    host.ensure_machine(&a, root(&one, 1), &one, &seed("first")).unwrap();
    host.drop_previous_root(&a).unwrap();
    assert_eq!(world.state(), before);
    assert!(host.console(&a).unwrap().is_empty(), "nothing on its disk speaks");
    for patience in [Duration::from_millis(700), Duration::ZERO] {
        host.power_off(&a, patience).unwrap();
    }
    assert!(!world.seen(&a).unwrap().running);

    // A new root, and the old one kept.
    for _ in 0..2 {
        host.replace_root(&a, root(&two, 2), &two).unwrap();
        let seen = world.seen(&a).unwrap();
        assert_eq!((seen.root, seen.previous), (Some(root(&two, 2)), Some(root(&one, 1))));
    }
    host.restore_root(&a).unwrap();
    assert_eq!(world.seen(&a).unwrap().root, Some(root(&one, 1)));
    assert!(refusal(host.restore_root(&a)).contains("no previous root"));
    host.replace_root(&a, root(&two, 2), &two).unwrap();
    host.replace_root(&a, root(&one, 3), &one).unwrap();
    // What was previous before is gone; and one may go back to a root whose name the previous one has.
    assert_eq!(world.seen(&a).unwrap().previous, Some(root(&two, 2)));
    host.replace_root(&a, root(&two, 2), &two).unwrap();
    let seen = world.seen(&a).unwrap();
    assert_eq!((seen.root, seen.previous), (Some(root(&two, 2)), Some(root(&one, 3))));
    for _ in 0..2 {
        host.drop_previous_root(&a).unwrap();
    }
    assert_eq!(world.seen(&a).unwrap().previous, None);

    for _ in 0..2 {
        host.replace_seed(&a, &seed("second")).unwrap();
    }
    assert_eq!(world.seen(&a).unwrap().seed, Some(seed("second").sha256));
    assert!(!secret.exists(), "the old seed is gone");

    let larger = Machine { memory_mib: 96, vcpus: 2, mtu: Some(1400), ..a.clone() };
    host.redefine(&larger).unwrap();
    // Size and card outlast what is done to the disks.
    host.replace_root(&a, root(&one, 4), &one).unwrap();
    let seen = world.seen(&a).unwrap();
    assert_eq!((seen.memory_mib, seen.vcpus, seen.root), (96, 2, Some(root(&one, 4))));
    assert!(world.virsh(&["dumpxml", &a.uuid]).contains("<mtu size='1400'/>"));
    host.power_on(&a).unwrap();
    host.power_off(&a, Duration::ZERO).unwrap();

    // Data stay when the machine goes, and are found again by the same node.
    assert!(kept());
    for _ in 0..2 {
        host.destroy(&a, false).unwrap();
    }
    assert_eq!(world.seen(&a), None);
    let left = |world: &LibvirtHost| world.volumes().into_iter().filter(|v| v.starts_with("prod")).collect::<Vec<_>>();
    assert_eq!(left(&world), ["prod.etcd1-data.raw"]);
    host.ensure_machine(&a, root(&one, 5), &one, &seed("third")).unwrap();
    assert!(kept());
    for _ in 0..2 {
        host.wipe_data(&a).unwrap();
        assert!(!kept());
    }
    assert_eq!(fs_err::metadata(&data).unwrap().len(), 1 << 30);

    // A data volume that is gone is not taken for a blank one.
    world.virsh(&["vol-delete", "--pool", "default", "prod.etcd1-data.raw"]);
    assert_eq!(world.seen(&a).unwrap().data_bytes, None);
    assert!(refusal(host.ensure_machine(&a, root(&one, 5), &one, &seed("third"))).contains("--wipe-data"));
    host.wipe_data(&a).unwrap();
    for _ in 0..2 {
        host.destroy(&a, true).unwrap();
    }
    assert_eq!(left(&world), Vec::<String>::new());
}

/// Ends the upload that runs, half-way.
struct Cutter<'a> {
    world: &'a LibvirtHost,
}

impl Watch for Cutter<'_> {
    fn progress(&self, done: u64, total: u64) {
        if done > total / 4 {
            let socket = self.world.path("/run/libvirt/libvirt-sock");
            let all = process::all().expect("a list of processes");
            let mine = |p: &&Process| {
                p.runs("virsh") && p.argv.iter().any(|a| a.contains(&socket)) && p.has_args(&["vol-upload"])
            };
            all.iter().filter(mine).for_each(|p| p.kill().expect("killing virsh"));
        }
    }
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn an_upload_that_was_cut_is_never_taken_for_whole_and_other_bytes_are_left_alone() {
    let world = LibvirtHost::new();
    let host = world.driver();
    let image = world.image("one", 4);
    let name = volume_name::image(&image.sha256);
    let path = world.pool().join(&name);

    // virsh dies: what has arrived is removed, it would only fill the pool.
    said(host.ensure_image(&image, &Cutter { world: &world }));
    assert_eq!(world.volumes(), Vec::<String>::new());

    // kiln dies: what it leaves is its mark and a part.
    let half = world.scratch().join("half");
    fs_err::write(&half, &fs_err::read(&image.file).unwrap()[..1 << 20]).unwrap();
    world.virsh(&["vol-create-as", "default", &volume_name::upload(&name), "0", "--format", "raw"]);
    world.virsh(&["vol-create-as", "default", &name, &image.bytes.to_string(), "--format", "raw"]);
    world.virsh(&["vol-upload", "--pool", "default", &name, half.as_str()]);
    let a = machine("prod", "etcd1");
    let error = said(host.ensure_machine(&a, root(&image, 1), &image, &seed("x")));
    assert!(error.contains("not whole"), "{error}");
    assert_eq!(host.ensure_image(&image, &Silent).unwrap().bytes, image.bytes);
    assert_eq!(fs_err::read(&path).unwrap(), fs_err::read(&image.file).unwrap());
    assert_eq!((proofs(&world, &image), world.volumes().len()), (1, 2));

    // The file of the store is not what it should be: nothing of it stays on the host.
    let bad = Image { file: half, ..world.image("two", 1) };
    assert!(said(host.ensure_image(&bad, &Silent)).contains("is not the image it should be"));
    assert_eq!(world.volumes().len(), 2);

    // Somebody's bytes under that name, as many as the image has and fewer: refused, with nothing touched.
    let other = world.image("three", 1);
    let theirs = world.pool().join(volume_name::image(&other.sha256));
    for length in [usize::try_from(other.bytes).unwrap(), 1000] {
        fs_err::write(&theirs, vec![7; length]).unwrap();
        world.virsh(&["pool-refresh", "default"]);
        let before = world.state();
        for _ in 0..2 {
            let refused = refusal(host.ensure_image(&other, &Silent));
            assert!(refused.contains("other bytes") && refused.contains("virsh vol-delete"), "{refused}");
            assert_eq!(world.state(), before);
        }
    }
    // The right bytes, whoever put them there, are read once and taken.
    fs_err::copy(&other.file, &theirs).unwrap();
    world.virsh(&["pool-refresh", "default"]);
    assert_eq!((host.ensure_image(&other, &Silent).unwrap().bytes, proofs(&world, &other)), (0, 1));
    // Bytes that changed since they were read are read again.
    let file = fs_err::OpenOptions::new().write(true).open(&theirs).unwrap();
    file.file().write_all_at(b"changed", 70_000).unwrap();
    assert!(refusal(host.ensure_image(&other, &Silent)).contains("other bytes"));
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_full_pool_is_said_and_what_was_begun_goes_on_once_there_is_room() {
    let world = LibvirtHost::new();
    world.add_small_pool("small", 7);
    let host = world.driver_of("small");
    let (image, a) = (world.image("one", 4), machine("prod", "etcd1"));
    let need = Need { bridge: "no-bridge".into(), bytes: 1 << 30, destroy: false };
    let lacks: Vec<String> = host.preflight(&need).unwrap().into_iter().map(|l| l.what).collect();
    assert!(
        lacks[0].starts_with("its storage pool `small` has ") && lacks[1] == "it has no bridge `no-bridge`",
        "{lacks:?}"
    );
    let lacks = world.driver_of("none").preflight(&need).unwrap();
    assert_eq!(lacks[0].what, "it has no storage pool `none`");

    let room = world.path("/run/small/filler");
    let fill = |bytes: usize| {
        fs_err::write(&room, vec![1; bytes]).unwrap();
        world.virsh(&["pool-refresh", "small"]);
    };
    fill(5 << 20);
    let error = said(host.ensure_image(&image, &Silent));
    assert!(error.contains("bytes free") && error.contains("hint: make room"), "{error}");
    // Who takes the room meanwhile comes too late: all of it was the image's before its first byte went over.
    struct Filler<'a>(&'a str);
    impl Watch for Filler<'_> {
        fn progress(&self, _: u64, _: u64) {
            // Until the pool is full: that the last write fails is the point.
            let _ = fs_err::write(self.0, vec![1; 8 << 20]);
        }
    }
    fill(0);
    assert_eq!(host.ensure_image(&image, &Filler(&room)).unwrap().bytes, image.bytes);
    fill(0);
    host.ensure_machine(&a, root(&image, 1), &image, &seed("x")).unwrap();
    host.destroy(&a, true).unwrap();
    // Full to the last byte: neither a machine nor any half of one that the next call would trip over.
    let _ = fs_err::write(&room, vec![1; 8 << 20]);
    said(host.ensure_machine(&a, root(&image, 1), &image, &seed("x")));
    fill(0);
    host.ensure_machine(&a, root(&image, 1), &image, &seed("x")).unwrap();
    assert_eq!(host.survey(&a.mark.cluster).unwrap()[0].trouble, []);
}

/// A machine that is nobody's of kiln's.
fn define_stranger(world: &LibvirtHost, name: &str, uuid: &str, disk: &str) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
        <os><type arch='x86_64'>hvm</type></os><devices><disk type='file'><driver name='qemu' type='qcow2'/>
        <source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    );
    let file = world.scratch().join("stranger.xml");
    fs_err::write(&file, xml).expect("writing a description");
    world.virsh(&["define", file.as_str()]);
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn what_is_not_kilns_or_was_changed_by_hand_is_left_alone_with_a_remedy() {
    let world = LibvirtHost::new();
    let host = world.driver();
    let (image, a, b) = (world.image("one", 1), machine("prod", "etcd1"), machine("prod", "etcd2"));
    let make = |machine: &Machine| host.ensure_machine(machine, root(&image, 1), &image, &seed("x"));
    host.ensure_image(&image, &Silent).unwrap();
    let other = "11111111-1111-4111-8111-111111111111";

    // Another's machine of our name, or with our UUID.
    for (name, uuid) in [("prod.etcd1", other), ("theirs", a.uuid.as_str())] {
        define_stranger(&world, name, uuid, "/x.qcow2");
        let before = world.state();
        for refused in [refusal(make(&a)), refusal(host.destroy(&a, true)), refusal(host.power_off(&a, Duration::ZERO))]
        {
            assert!(refused.contains(name) && refused.contains("virsh domrename"), "{refused}");
        }
        assert_eq!((world.seen(&a), world.state()), (None, before));
        world.virsh(&["undefine", name]);
    }
    // Another's disk of our name.
    world.virsh(&["vol-create-as", "default", &volume_name::data(&a.mark), "1M", "--format", "raw"]);
    define_stranger(&world, "theirs", other, world.pool().join(volume_name::data(&a.mark)).as_str());
    for refused in [refusal(make(&a)), refusal(host.destroy(&a, true))] {
        assert!(refused.contains("is a disk of the machine `theirs`"), "{refused}");
    }
    assert!(world.volumes().contains(&volume_name::data(&a.mark)));
    world.virsh(&["undefine", "theirs"]);
    host.destroy(&a, true).unwrap();

    // Another cluster of the same name.
    make(&a).unwrap();
    let mut namesake = a.clone();
    namesake.mark.cluster.0[0] ^= 1;
    namesake.uuid = other.into();
    assert!(refusal(make(&namesake)).contains("not this cluster's"));
    assert_eq!(host.survey(&namesake.mark.cluster).unwrap(), []);

    // Renamed by hand, copied, saved: seen, refused, and well again once it is mended as the remedy says.
    make(&b).unwrap();
    let troubled = |expected: &str, remedy: &str, mended: &dyn Fn()| {
        let seen = host.survey(&b.mark.cluster).unwrap().into_iter().filter(|s| s.mark == b.mark);
        let trouble: Vec<String> = seen.flat_map(|s| s.trouble).map(|lack| lack.to_string()).collect();
        assert!(trouble.iter().any(|t| t.contains(expected) && t.contains(remedy)), "{trouble:?}");
        let before = world.state();
        for refused in [
            refusal(make(&b)),
            refusal(host.replace_root(&b, root(&image, 2), &image)),
            refusal(host.replace_seed(&b, &seed("y"))),
            refusal(host.wipe_data(&b)),
            refusal(host.power_on(&b)),
            refusal(host.destroy(&b, true)),
        ] {
            assert!(refused.contains(expected) && refused.contains("hint: "), "{refused}");
        }
        assert_eq!(world.state(), before);
        mended();
        make(&b).unwrap();
    };
    world.virsh(&["domrename", "prod.etcd2", "old-etcd"]);
    troubled("was renamed from `prod.etcd2`", "virsh domrename old-etcd prod.etcd2", &|| {
        world.virsh(&["domrename", "old-etcd", "prod.etcd2"]);
    });
    let copy = world.virsh(&["dumpxml", &b.uuid]).replace(&b.uuid, other).replace("<name>prod.etcd2<", "<name>copy<");
    fs_err::write(world.scratch().join("copy.xml"), copy).unwrap();
    world.virsh(&["define", world.scratch().join("copy.xml").as_str()]);
    troubled("`copy` says it is the same node", "virsh undefine copy", &|| {
        world.virsh(&["undefine", "copy"]);
    });
    world.virsh(&["start", &b.uuid]);
    world.virsh(&["managedsave", &b.uuid]);
    troubled("its memory was saved", "virsh managedsave-remove prod.etcd2", &|| {
        world.virsh(&["managedsave-remove", &b.uuid]);
    });
    world.virsh(&["start", &b.uuid]);
    world.virsh(&["snapshot-create-as", &b.uuid, "before-upgrade", "--disk-only", "--diskspec", "vdb,snapshot=no"]);
    world.virsh(&["destroy", &b.uuid]);
    let seen = host.survey(&b.mark.cluster).unwrap().into_iter().find(|s| s.mark == b.mark).unwrap();
    assert_eq!(seen.root, None, "a root with a snapshot over it is not the root kiln made");
    troubled("it has snapshots: before-upgrade", "virsh snapshot-delete prod.etcd2", &|| {
        // What a person does who was told: the snapshot goes, and the disks are as they were.
        world.virsh(&["snapshot-delete", &b.uuid, "before-upgrade", "--metadata"]);
        let xml = world.virsh(&["dumpxml", "--inactive", &b.uuid]);
        let overlay = |disk: &str| format!("{disk}.before-upgrade");
        let (root, seed) =
            (volume_name::root(&b.mark, &root(&image, 1)), volume_name::seed(&b.mark, &seed("x").sha256));
        let mended = [root, seed].iter().fold(xml, |xml, volume| {
            let stem = volume.rsplit_once('.').unwrap().0;
            xml.replace(&overlay(stem), volume)
        });
        let mended = mended.replace("<driver name='qemu' type='qcow2'/>", "<driver name='qemu' type='raw'/>");
        fs_err::write(world.scratch().join("mended.xml"), mended).unwrap();
        world.virsh(&["define", world.scratch().join("mended.xml").as_str()]);
    });
    // The neighbour was never in the way.
    host.destroy(&a, true).unwrap();
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn images_go_only_when_every_chain_was_read_and_none_needs_them() {
    let world = LibvirtHost::new();
    world.add_small_pool("other", 8);
    let host = world.driver();
    let images = ["used", "running", "elsewhere", "kept", "free"].map(|text| world.image(text, 1));
    let [used, running, elsewhere, kept, free] = &images;
    for image in &images {
        host.ensure_image(image, &Silent).unwrap();
    }
    let (a, b) = (machine("prod", "etcd1"), machine("test", "etcd1"));
    host.ensure_machine(&a, root(used, 1), used, &seed("x")).unwrap();
    host.ensure_machine(&b, root(running, 1), running, &seed("x")).unwrap();
    host.power_on(&b).unwrap();
    // Somebody's machine lies over one of them, in another pool, and libvirt was not told.
    let over = world.pool().join(volume_name::image(&elsewhere.sha256));
    let (here, there) = (world.scratch().join("over.qcow2"), world.path("/run/other/over.qcow2"));
    run(&["qemu-img", "create", "-q", "-f", "qcow2", "-b", over.as_str(), "-F", "qcow2", here.as_str()]);
    fs_err::copy(&here, there).unwrap();
    // An upload that never ended.
    let begun = "kiln-0123456789ab";
    world.virsh(&["vol-create-as", "default", &format!("{begun}.part"), "0", "--format", "raw"]);
    world.virsh(&["vol-create-as", "default", &format!("{begun}.qcow2"), "1M", "--format", "raw"]);

    // One header that cannot be read, or one pool that is off, and everything stays.
    let broken = world.path("/run/other/broken.qcow2");
    fs_err::write(&broken, b"QFI\xfb\0\0\0\x03\0\0\0\0\xff\xff\xff\xff").unwrap();
    let before = world.state();
    let refused = refusal(host.collect(&[kept.sha256]));
    assert!(refused.contains("broken.qcow2") && refused.contains("lies over"), "{refused}");
    fs_err::remove_file(&broken).unwrap();
    world.virsh(&["pool-destroy", "other"]);
    let refused = refusal(host.collect(&[kept.sha256]));
    assert!(refused.contains("`other` is not active") && refused.contains("virsh pool-start other"), "{refused}");
    assert_eq!(world.state(), before);
    world.virsh(&["pool-start", "other"]);

    let collected = host.collect(&[kept.sha256]).unwrap();
    let mut gone = vec![volume_name::image(&free.sha256), format!("{begun}.qcow2"), format!("{begun}.part")];
    gone.sort();
    let mut named: Vec<String> = collected.volumes.iter().filter(|v| !v.contains(".ok-")).cloned().collect();
    named.sort();
    assert_eq!(named, gone);
    assert_eq!((proofs(&world, free), collected.bytes), (0, free.bytes + (1 << 20)));
    assert_eq!(host.collect(&[kept.sha256]).unwrap().volumes, Vec::<String>::new());
    for image in [used, running, elsewhere, kept] {
        assert_eq!(host.ensure_image(image, &Silent).unwrap().bytes, 0);
    }
    // Gone with its last machine.
    host.destroy(&a, true).unwrap();
    let collected = host.collect(&[kept.sha256]).unwrap();
    assert!(collected.volumes.contains(&volume_name::image(&used.sha256)), "{collected:?}");
    assert_eq!(collected.bytes, used.bytes);
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_host_that_goes_away_between_any_two_logins_loses_nothing() {
    let world = LibvirtHost::new();
    let host = world.driver();
    let (one, two) = (world.image("one", 1), world.image("two", 1));
    let a = machine("prod", "etcd1");
    type Step<'a> = (&'a str, &'a dyn Fn(&dyn Host) -> anyhow::Result<()>);
    let steps: [Step<'_>; 7] = [
        ("ensure_image", &|h| h.ensure_image(&one, &Silent).and_then(|_| h.ensure_image(&two, &Silent)).map(drop)),
        ("ensure_machine", &|h| h.ensure_machine(&a, root(&one, 1), &one, &seed("x"))),
        ("replace_root", &|h| h.replace_root(&a, root(&two, 2), &two)),
        ("replace_seed", &|h| h.replace_seed(&a, &seed("y"))),
        ("drop_previous_root", &|h| h.drop_previous_root(&a)),
        ("wipe_data", &|h| h.wipe_data(&a)),
        ("destroy", &|h| h.destroy(&a, true)),
    ];
    for (name, step) in steps {
        let mut logins = 0;
        while let Err(error) = step(&world.driver_that_goes_away_after(logins)) {
            assert!(world.logins_left() == 0 && format!("{error:#}").contains("pve1"), "{name}: {error:#}");
            // Looked at in between, it can always be read, and nothing is in trouble.
            if let Some(seen) = world.seen(&a) {
                assert_eq!(seen.trouble, [], "{name} after {logins} logins");
            }
            logins += 1;
            assert!(logins < 40, "{name} does not end: {error:#}");
        }
        println!("{name}: {logins} logins at most");
        let seen = world.seen(&a);
        if name == "replace_seed" {
            let seen = seen.unwrap();
            assert_eq!((seen.root, seen.previous), (Some(root(&two, 2)), Some(root(&one, 1))));
            assert_eq!((seen.seed, seen.data_bytes), (Some(seed("y").sha256), Some(1 << 30)));
        }
    }
    host.collect(&[]).unwrap();
    assert_eq!(world.volumes(), Vec::<String>::new());
}

/// The tutorial's profile, its hosts joined by a tunnel.
fn tunnelled() -> Profile {
    let mut profile = fs_err::read_to_string(workspace().join("profiles/k8s0.toml")).expect("the shipped profile");
    profile = profile.replacen("bridge = ", "vxlan = { id = 103 }\nbridge = ", 1);
    for (i, host) in ["pve1", "pve2"].iter().enumerate() {
        let table = format!("[hosts.{host}]\n");
        profile = profile.replace(&table, &format!("{table}address = \"192.0.2.{}\"\n", i + 1));
    }
    Profile::parse(Utf8Path::new("profiles/k8s0.toml"), &profile).expect("a sound profile")
}

#[test]
#[ignore = "needs netplan: tests/run"]
fn netplan_makes_of_what_kiln_says_a_bridge_and_a_tunnel_of_one_size() {
    let profile = tunnelled();
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("etc/netplan/60-kiln-k8s0.yaml");
    fs_err::create_dir_all(plan.parent().unwrap()).unwrap();
    fs_err::write(&plan, host_network::netplan(&profile, &profile.hosts[1]).unwrap()).unwrap();
    fs_err::set_permissions(&plan, std::fs::Permissions::from_mode(0o600)).unwrap();
    run(&["netplan", "generate", "--root-dir", &text(dir.path())]);
    let made = |file: &str| fs_err::read_to_string(dir.path().join("run/systemd/network").join(file)).unwrap();
    let tunnel = made("10-netplan-vx103.netdev");
    for line in
        ["Kind=vxlan", "VNI=103", "Local=192.0.2.2", "Remote=192.0.2.1", "DestinationPort=4789", "MTUBytes=1450"]
    {
        assert!(tunnel.lines().any(|l| l == line), "{line}\n{tunnel}");
    }
    assert!(made("10-netplan-vx103.network").contains("Bridge=k8s0-etcd"));
    let bridge = made("10-netplan-k8s0-etcd.netdev");
    assert!(bridge.contains("Kind=bridge") && bridge.contains("MTUBytes=1450"), "{bridge}");
}

#[test]
#[ignore = "needs root and libvirtd: tests/run"]
fn a_libvirt_network_of_kilns_answers_what_the_cluster_lives_by() {
    let world = LibvirtHost::new();
    let profile = tunnelled();
    let file = world.scratch().join("network.xml");
    fs_err::write(&file, host_network::libvirt(&profile).unwrap()).unwrap();
    world.virsh(&["net-define", "--validate", file.as_str()]);
    world.virsh(&["net-start", "k8s0"]);
    let ask = |question: &[&str]| {
        let answer = world.on_host("dig", &[&["@10.103.0.1", "+short", "+tries=3"], question].concat());
        let mut lines: Vec<String> = answer.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for node in &profile.nodes {
        let (name, address) = (node.fqdn.to_string(), node.address.to_string());
        assert_eq!(ask(&[&name, "A"]), [address.as_str()]);
        assert_eq!(ask(&["-x", &address]), [format!("{name}.")]);
    }
    for (service, port) in [("_etcd-server-ssl", 2380), ("_etcd-client-ssl", 2379)] {
        let all: Vec<String> = profile.nodes.iter().map(|n| format!("0 0 {port} {}.", n.fqdn)).collect();
        assert_eq!(ask(&[&format!("{service}._tcp.kloud.lan"), "SRV"]), all);
    }
    assert_eq!(world.on_host("cat", &["/sys/class/net/k8s0-etcd/mtu"]), "1450\n");
    // The bridge that is there now satisfies whoever looks before a deployment.
    let need = Need { bridge: profile.network.bridge.clone(), bytes: 0, destroy: false };
    assert_eq!(world.driver().preflight(&need).unwrap(), []);
}
