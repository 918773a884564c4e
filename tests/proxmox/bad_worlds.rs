//! Worlds that are not as they should be: a clear error each, and nothing lost.

use kiln_builder::exit::{Refusal, TryAgain};
use kiln_builder::host::{Host as _, Lack, Need};
use kiln_builder::profile::ProxmoxTrust;
use kiln_firstboot::digest::Sha256Digest;

use crate::hands::{FIRST_VMID, Hands, Silent, cluster, end, machine, open, path, root, seed, write};
use crate::server::authority;
use crate::world::{BRIDGE, DISKS, IMAGES, TOKEN, Trouble, Vm, World};

fn need() -> Need {
    Need { bridge: BRIDGE.into(), bytes: 8 << 30, destroy: true }
}

fn lacks(world: World) -> Vec<Lack> {
    let hands = Hands::on(world);
    let lacks = hands.driver.preflight(&need()).unwrap();
    hands.was_proper();
    lacks
}

#[test]
fn each_missing_privilege_is_named_with_the_line_that_grants_it() {
    assert!(lacks(World::new()).is_empty());
    for (path, privileges) in World::new().rights {
        for privilege in privileges {
            let mut world = World::new();
            world.rights.get_mut(&path).unwrap().remove(&privilege);
            let found = lacks(world);
            let named = found
                .iter()
                .find(|l| l.what.contains(&format!("lacks {privilege} on {path}")))
                .unwrap_or_else(|| panic!("{privilege}: {found:?}"));
            assert!(
                named.remedy.contains(&format!("pveum acl modify {path}")) && named.remedy.contains("--users kiln@pve"),
                "{}",
                named.remedy
            );
        }
    }
    // The agent's privilege had another name before 9.0.
    let old = lacks(World { version: "8.4.14".into(), ..World::new() });
    assert_eq!(old.iter().map(|l| l.what.as_str()).collect::<Vec<_>>(), ["the token lacks VM.Monitor on /pool/kiln"]);
}

#[test]
fn a_host_that_is_too_old_full_or_without_its_bridge_is_told_of_beforehand() {
    let what = |world: World| lacks(world).into_iter().map(|l| l.what).collect::<Vec<_>>().join("\n");
    assert!(what(World { version: "8.3.5".into(), ..World::new() }).contains("runs Proxmox VE 8.3; kiln needs 8.4"));
    let mut full = World::new();
    full.storages.get_mut(DISKS).unwrap().total = 1 << 30;
    assert!(what(full).contains("storage `local-lvm` has 1073741824 bytes left"));
    let mut other = World::new();
    other.storages.get_mut(IMAGES).unwrap().content = vec!["iso"];
    assert!(what(other).contains("does not take `import`"));
    let hands = Hands::new();
    let bridge = hands.driver.preflight(&Need { bridge: "vmbr9".into(), ..need() }).unwrap();
    assert!(bridge[0].what.contains("no bridge `vmbr9`"), "{bridge:?}");
}

#[test]
fn a_wrong_token_is_refused_and_nothing_is_taken_for_absent() {
    let hands = Hands::new();
    hands.deploy(1);
    write(&hands.folder, "token", format!("{TOKEN}=another\n").as_bytes());
    let stranger = open(&hands.server, &hands.folder, ProxmoxTrust::Authority(path(&hands.folder, "ca.pem"))).unwrap();
    let error = stranger.survey(&cluster()).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().unwrap().remedy.contains("pveum user token list kiln@pve"), "{error}");
    assert!(!format!("{error:#} {stranger:?}").contains("another"), "the secret is told");
    // Who may not see the machines does not find that there are none.
    hands.server.world().rights.get_mut("/pool/kiln").unwrap().remove("VM.Audit");
    let blind = hands.driver.survey(&cluster()).unwrap_err();
    assert!(blind.downcast_ref::<Refusal>().unwrap().what.contains("may not see the machines"), "{blind}");
    assert!(hands.driver.ensure_machine(&machine("etcd1"), root(1), &hands.image(1), &seed(1)).is_err());
    assert_eq!(hands.server.world().vms.len(), 1);
}

#[test]
fn only_the_certificate_that_was_pinned_is_believed() {
    let hands = Hands::new();
    let with = |trust| open(&hands.server, &hands.folder, trust).unwrap().survey(&cluster());
    assert!(with(ProxmoxTrust::Fingerprint(hands.server.fingerprint)).unwrap().is_empty());
    let pinned = format!("{:#}", with(ProxmoxTrust::Fingerprint(Sha256Digest([7; 32]))).unwrap_err());
    assert!(
        pinned.contains(&hands.server.fingerprint.to_string())
            && pinned.contains("is pinned\n  hint: is that the host you mean?"),
        "{pinned}"
    );
    write(&hands.folder, "other.pem", authority().pem().as_bytes());
    let other = format!("{:#}", with(ProxmoxTrust::Authority(path(&hands.folder, "other.pem"))).unwrap_err());
    assert!(other.contains("invalid peer certificate") && other.contains("hint:"), "{other}");
    assert_eq!(
        hands.server.world().count,
        2,
        "the token was shown to nobody else: only the first driver's two questions came"
    );
    write(&hands.folder, "empty.pem", b"");
    assert!(open(&hands.server, &hands.folder, ProxmoxTrust::Authority(path(&hands.folder, "empty.pem"))).is_err());
}

#[test]
fn a_machine_in_trouble_is_seen_as_such_and_not_touched() {
    type Spoil = fn(&mut Vm);
    let troubles: [(&str, Spoil); 9] = [
        ("is locked: backup", |vm| drop(vm.config.insert("lock".into(), "backup".into()))),
        ("is managed by Proxmox's high availability", |vm| vm.ha = true),
        ("changes that wait for its next start: memory", |vm| {
            drop(vm.pending.insert("memory".into(), Ok("512".into())))
        }),
        ("has snapshots (before)", |vm| vm.snapshots.push("before".into())),
        ("is called `web`", |vm| drop(vm.config.insert("name".into(), "web".into()))),
        ("is protected", |vm| drop(vm.config.insert("protection".into(), "1".into()))),
        ("has lost the note", |vm| drop(vm.config.insert("description".into(), "mine now".into()))),
        ("it is a copy", |vm| {
            let other = vm.config["smbios1"].replace("2ed6657d", "00000000");
            vm.config.insert("smbios1".into(), other);
        }),
        ("would not find as its data", |vm| {
            let other = vm.config["virtio1"].replace("kiln-data", "data");
            vm.config.insert("virtio1".into(), other);
        }),
    ];
    let hands = Hands::new();
    hands.deploy(1);
    hands.driver.ensure_image(&hands.image(2), &Silent).unwrap();
    hands.driver.replace_root(&machine("etcd1"), root(2), &hands.image(2)).unwrap();
    hands.write_data(b"a thousand writes");
    let start = hands.server.world().clone();
    for (what, spoil) in troubles {
        hands.server.set(start.clone());
        spoil(hands.server.world().vms.get_mut(&FIRST_VMID).unwrap());
        let state = || {
            let world = hands.server.world();
            format!("{:?} {:?}", world.vms, world.volumes)
        };
        let before = state();
        let seen = hands.only();
        assert!(
            seen.trouble.iter().any(|l| l.what.contains(what) && !l.remedy.is_empty()),
            "{what}: {:?}",
            seen.trouble
        );
        let (driver, node, image) = (&hands.driver, machine("etcd1"), hands.image(1));
        for refused in [
            driver.replace_root(&node, root(3), &image),
            driver.restore_root(&node),
            driver.drop_previous_root(&node),
            driver.replace_seed(&node, &seed(2)),
            driver.wipe_data(&node),
            driver.redefine(&node),
            driver.power_on(&node),
            driver.power_off(&node, std::time::Duration::ZERO),
            driver.destroy(&node, true),
            driver.destroy(&node, false),
            driver.ensure_machine(&node, root(2), &image, &seed(1)),
        ] {
            let refusal = refused.unwrap_err();
            assert!(refusal.downcast_ref::<Refusal>().is_some_and(|r| r.what.contains(what)), "{what}: {refusal:?}");
        }
        assert_eq!(state(), before, "{what}");
        hands.was_proper();
    }
}

#[test]
fn a_copy_or_a_machine_on_another_node_is_never_made_a_second_time() {
    let hands = Hands::new();
    hands.deploy(1);
    let copy = hands.server.world().vms[&FIRST_VMID].clone();
    hands.server.world().vms.insert(4200, copy);
    let make = || hands.driver.ensure_machine(&machine("etcd1"), root(1), &hands.image(1), &seed(1)).unwrap_err();
    assert!(
        make()
            .downcast_ref::<Refusal>()
            .unwrap()
            .what
            .contains("several machines say that they are node `etcd1`: 4100 on `pve1`, 4200 on `pve1`")
    );
    hands.server.world().vms.remove(&4200);
    hands.server.world().vms.get_mut(&FIRST_VMID).unwrap().node = "pve2".into();
    assert!(
        make()
            .downcast_ref::<Refusal>()
            .unwrap()
            .what
            .contains("is machine 4100 on `pve2`, and the profile puts it on `pve1`")
    );
    assert!(hands.seen().is_empty(), "another host's survey tells of it");
    assert_eq!(hands.server.world().vms.len(), 1);
    hands.was_proper();
}

#[test]
fn a_file_of_the_images_name_with_other_bytes_is_not_overwritten() {
    let hands = Hands::new();
    let image = hands.image(1);
    let name = format!("kiln-{}.qcow2", image.sha256);
    hands.server.world().storages.get_mut(IMAGES).unwrap().files.insert(name.clone(), b"half of it".to_vec());
    let error = hands.driver.ensure_image(&image, &Silent).unwrap_err();
    let refusal = error.downcast_ref::<Refusal>().unwrap();
    assert!(
        refusal.what.contains("has 10 bytes") && refusal.remedy.contains(&format!("pvesm free kiln-img:import/{name}")),
        "{refusal}"
    );
    assert_eq!(hands.server.world().storages[IMAGES].files[&name], b"half of it");
    // And bytes that change on the way are found out by the host.
    hands.server.world().storages.get_mut(IMAGES).unwrap().files.clear();
    let mut other = image.clone();
    other.sha256 = Sha256Digest([9; 32]);
    let error = format!("{:#}", hands.driver.ensure_image(&other, &Silent).unwrap_err());
    assert!(error.contains("checksum mismatch"), "{error}");
    assert!(hands.server.world().storages[IMAGES].files.is_empty());
    hands.was_proper();
}

#[test]
fn a_full_storage_is_said_and_loses_nothing() {
    let hands = Hands::new();
    hands.deploy(1);
    hands.write_data(b"a thousand writes");
    hands.driver.ensure_image(&hands.image(2), &Silent).unwrap();
    let used = hands.server.world().used(DISKS);
    hands.server.world().storages.get_mut(DISKS).unwrap().total = used;
    let before = end(&hands.server.world());
    let node = machine("etcd1");
    for failed in [
        hands.driver.replace_root(&node, root(2), &hands.image(2)),
        hands.driver.replace_seed(&node, &seed(2)),
        hands.driver.wipe_data(&node),
    ] {
        let error = format!("{:#}", failed.unwrap_err());
        assert!(error.contains("insufficient free space"), "{error}");
    }
    assert_eq!(end(&hands.server.world()), before);
    assert_eq!(
        (hands.only().root, hands.only().seed, hands.only().trouble),
        (Some(root(1)), Some(seed(1).sha256), vec![])
    );
    hands.server.world().storages.get_mut(IMAGES).unwrap().total = 10;
    let error = hands.driver.ensure_image(&hands.image(3), &Silent).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().unwrap().what.contains("has 0 bytes left"), "{error}");
    // With room again, all of it goes on.
    hands.server.world().storages.get_mut(DISKS).unwrap().total = 64 << 30;
    hands.driver.replace_root(&node, root(2), &hands.image(2)).unwrap();
    assert_eq!(hands.slot("virtio1"), b"a thousand writes");
    hands.was_proper();
}

#[test]
fn volumes_that_kiln_did_not_make_are_never_removed_with_a_machine() {
    let hands = Hands::new();
    hands.deploy(1);
    {
        let mut world = hands.server.world();
        let theirs = crate::world::Volume { owner: FIRST_VMID, size: 5, bytes: b"hello".to_vec() };
        world.volumes.insert("local-lvm:vm-4100-disk-9".into(), theirs);
        world.vms.get_mut(&FIRST_VMID).unwrap().config.insert("unused3".into(), "local-lvm:vm-4100-disk-9".into());
    }
    let (driver, node) = (&hands.driver, machine("etcd1"));
    let refused = driver.destroy(&node, true).unwrap_err();
    assert!(refused.downcast_ref::<Refusal>().unwrap().what.contains("did not make: unused3"), "{refused}");
    driver.ensure_image(&hands.image(2), &Silent).unwrap();
    driver.replace_root(&node, root(2), &hands.image(2)).unwrap();
    driver.wipe_data(&node).unwrap();
    driver.drop_previous_root(&node).unwrap();
    driver.destroy(&node, false).unwrap();
    assert_eq!(hands.server.world().volumes["local-lvm:vm-4100-disk-9"].bytes, b"hello");
    hands.was_proper();
}

#[test]
fn a_change_never_meets_another_configuration_than_was_looked_at() {
    let hands = Hands::new();
    hands.deploy(1);
    let larger = kiln_builder::host::Machine { memory_mib: 4096, ..machine("etcd1") };
    let start = hands.server.world().clone();
    let mut met = 0;
    for at in 1..40 {
        hands.server.set(start.clone());
        hands.server.arm(Trouble::Meddle(at));
        if let Err(error) = hands.driver.redefine(&larger) {
            assert!(error.downcast_ref::<TryAgain>().is_some(), "{at}: {error:?}");
            met += 1;
        }
        hands.server.heal();
        hands.driver.redefine(&larger).unwrap();
        assert_eq!(hands.only().memory_mib, 4096);
    }
    assert_eq!(met, 1, "there is one request between the last look and the change");
    hands.was_proper();
}

#[test]
fn there_is_no_log_of_the_console() {
    let hands = Hands::new();
    hands.deploy(1);
    let console = hands.driver.console(&machine("etcd1")).unwrap_err();
    assert!(console.downcast_ref::<Refusal>().unwrap().remedy.contains("qm terminal 4100"));
}
