//! A machine's life in a world where all goes well.

use std::time::Duration;

use kiln_builder::exit::Refusal;
use kiln_builder::host::{Host as _, Need, Transfer};
use kiln_firstboot::digest::Sha256Digest;

use crate::hands::{FIRST_VMID, Hands, Silent, cluster, machine, root, seed};
use crate::world::{BRIDGE, DISKS, IMAGES, Trouble, World};

#[test]
fn a_node_is_made_replaced_rolled_back_and_removed() {
    let hands = Hands::new();
    let (driver, node) = (&hands.driver, machine("etcd1"));
    assert_eq!(driver.preflight(&Need { bridge: BRIDGE.into(), bytes: 8 << 30, destroy: true }).unwrap(), []);
    assert!(hands.seen().is_empty());

    let image = hands.image(1);
    assert_eq!(driver.ensure_image(&image, &Silent).unwrap(), Transfer { bytes: image.bytes });
    assert_eq!(driver.ensure_image(&image, &Silent).unwrap(), Transfer { bytes: 0 }, "once for all machines");
    driver.ensure_machine(&node, root(1), &image, &seed(1)).unwrap();
    let made = hands.only();
    assert_eq!((made.handle.as_str(), made.uuid.as_str()), ("4100", node.uuid.as_str()));
    assert_eq!((made.root, made.previous, made.seed), (Some(root(1)), None, Some(seed(1).sha256)));
    assert_eq!((made.data_bytes, made.memory_mib, made.vcpus, made.running), (Some(8 << 30), 2048, 2, false));
    assert_eq!(
        (made.mac, made.bridge.as_deref(), made.mark, made.trouble),
        (Some(node.mac), Some(BRIDGE), node.mark.clone(), vec![])
    );
    {
        let world = hands.server.world();
        let config = &world.vms[&FIRST_VMID].config;
        assert_eq!((config["boot"].as_str(), config["onboot"].as_str()), ("order=virtio0", "0"));
        let serials = ["virtio0", "virtio1", "virtio2"].map(|slot| {
            config[slot].contains(&format!(
                "serial=kiln-{}",
                match slot {
                    "virtio0" => "root",
                    "virtio1" => "data",
                    _ => "seed",
                }
            ))
        });
        assert_eq!(serials, [true; 3]);
        assert!(config["virtio2"].contains("ro=1") && config["tags"] == "kiln;k8s0");
        let names: Vec<&String> = world.storages[IMAGES].files.keys().collect();
        assert_eq!(names, [&format!("kiln-{}.qcow2", image.sha256)], "no seed is left where others may read it");
    }
    assert_eq!(
        (hands.slot("virtio0").len() as u64, hands.slot("virtio2").as_slice()),
        (image.bytes, seed(1).bytes.as_slice())
    );

    driver.power_on(&node).unwrap();
    driver.power_on(&node).unwrap();
    assert!(hands.only().running);
    hands.write_data(b"a thousand writes");
    for refused in [
        driver.replace_root(&node, root(2), &image),
        driver.replace_seed(&node, &seed(2)),
        driver.wipe_data(&node),
        driver.redefine(&node),
        driver.destroy(&node, true),
        driver.ensure_machine(&node, root(2), &image, &seed(2)),
    ] {
        assert!(refused.unwrap_err().downcast_ref::<Refusal>().unwrap().what.contains("runs"));
    }
    driver.power_off(&node, Duration::from_secs(2)).unwrap();
    driver.power_off(&node, Duration::from_secs(2)).unwrap();

    for n in 2..4 {
        driver.ensure_image(&hands.image(n), &Silent).unwrap();
        driver.replace_root(&node, root(n), &hands.image(n)).unwrap();
        driver.replace_root(&node, root(n), &hands.image(n)).unwrap();
        driver.replace_seed(&node, &seed(n)).unwrap();
        let seen = hands.only();
        assert_eq!((seen.root, seen.previous, seen.seed), (Some(root(n)), Some(root(n - 1)), Some(seed(n).sha256)));
    }
    assert_eq!(hands.server.world().volumes.len(), 4, "root, the one before, data, seed");
    driver.restore_root(&node).unwrap();
    let back = hands.only();
    assert_eq!((back.root, back.previous), (Some(root(2)), None));
    let nothing = driver.restore_root(&node).unwrap_err();
    assert!(nothing.downcast_ref::<Refusal>().unwrap().what.contains("no previous root"));

    driver.replace_root(&node, root(3), &hands.image(3)).unwrap();
    driver.power_on(&node).unwrap();
    driver.drop_previous_root(&node).unwrap();
    driver.drop_previous_root(&node).unwrap();
    assert_eq!(hands.only().previous, None);
    driver.power_off(&node, Duration::from_secs(2)).unwrap();
    assert_eq!(hands.slot("virtio1"), b"a thousand writes");

    let larger = kiln_builder::host::Machine { memory_mib: 4096, vcpus: 4, mtu: None, ..node.clone() };
    driver.redefine(&larger).unwrap();
    assert_eq!((hands.only().memory_mib, hands.only().vcpus), (4096, 4));
    assert_eq!(hands.slot("virtio1"), b"a thousand writes");

    // The machine goes, the data stay, and the same node gets them back.
    driver.destroy(&node, false).unwrap();
    driver.destroy(&node, false).unwrap();
    assert!(hands.seen().is_empty());
    assert_eq!(hands.server.world().volumes.len(), 1);
    driver.ensure_machine(&node, root(2), &hands.image(2), &seed(3)).unwrap();
    assert_eq!(hands.only().handle, "4100");
    assert_eq!(hands.slot("virtio1"), b"a thousand writes");
    driver.wipe_data(&node).unwrap();
    assert!(hands.slot("virtio1").is_empty());
    assert_eq!(hands.only().data_bytes, Some(8 << 30));

    let collected = driver.collect(&[hands.image(2).sha256]).unwrap();
    assert_eq!(collected.volumes.len(), 2);
    driver.destroy(&node, true).unwrap();
    driver.destroy(&node, true).unwrap();
    let world = hands.server.world();
    assert!(world.vms.is_empty() && world.volumes.is_empty() && world.storages[IMAGES].files.len() == 1);
    drop(world);
    hands.was_proper();
}

#[test]
fn other_machines_are_left_alone() {
    let hands = Hands::new();
    let foreign = |tags: Option<&str>| crate::world::Vm {
        node: "pve1".into(),
        pool: Some("kiln".into()),
        config: tags
            .map(|t| ("tags".to_owned(), t.to_owned()))
            .into_iter()
            .chain([("name".to_owned(), "etcd1".to_owned())])
            .collect(),
        ..Default::default()
    };
    hands.server.world().vms = [(4100, foreign(None)), (4101, foreign(Some("kiln")))].into();
    hands.deploy(1);
    assert_eq!(hands.only().handle, "4102", "a name is no mark");
    let mut other = machine("etcd1");
    other.mark.cluster = "00000000000000000000000000000001".parse().unwrap();
    hands.driver.ensure_machine(&other, root(1), &hands.image(1), &seed(2)).unwrap();
    assert_eq!(hands.only().handle, "4102");
    assert_eq!(hands.driver.survey(&other.mark.cluster).unwrap()[0].handle, "4103");
    hands.driver.destroy(&machine("etcd1"), true).unwrap();
    assert_eq!(hands.server.world().vms.keys().copied().collect::<Vec<_>>(), [4100, 4101, 4103]);
    hands.was_proper();
}

#[test]
fn a_vmid_that_is_taken_in_between_is_given_up_for_the_next() {
    let hands = Hands::new();
    hands.server.world().snatched = Some(FIRST_VMID);
    hands.deploy(1);
    assert_eq!(hands.only().handle, "4101");
    // Taken by a guest that the token may not see.
    hands.server.world().vms.insert(4102, crate::world::Vm { node: "pve2".into(), ..Default::default() });
    let mut second = machine("etcd2");
    second.uuid = "00000000-0000-5000-8000-000000000002".into();
    hands.driver.ensure_machine(&second, root(1), &hands.image(1), &seed(2)).unwrap();
    let handles: Vec<String> = hands.seen().into_iter().map(|s| s.handle).collect();
    assert_eq!(handles, ["4101", "4103"]);
    // The question whether a VMID is free is answered with an error when it is not, and by nothing else here.
    hands.was_proper();
}

#[test]
fn a_machine_that_does_not_shut_down_has_its_plug_pulled() {
    let hands = Hands::new();
    hands.deploy(1);
    hands.driver.power_on(&machine("etcd1")).unwrap();
    hands.server.world().vms.get_mut(&FIRST_VMID).unwrap().hangs = true;
    hands.driver.power_off(&machine("etcd1"), Duration::from_secs(1)).unwrap();
    assert!(!hands.only().running);
    let kinds: Vec<&str> = hands.server.world().tasks.iter().map(|t| t.kind).filter(|k| k.starts_with("qms")).collect();
    assert_eq!(kinds, ["qmstart", "qmshutdown", "qmstop"]);
    hands.was_proper();
}

#[test]
fn what_people_write_into_a_description_stays() {
    let hands = Hands::new();
    hands.deploy(1);
    {
        let mut world = hands.server.world();
        let description = world.vms.get_mut(&FIRST_VMID).unwrap().config.get_mut("description").unwrap();
        *description = format!("call Ada first\n{description}\nrack 7");
    }
    hands.driver.ensure_image(&hands.image(2), &Silent).unwrap();
    hands.driver.replace_root(&machine("etcd1"), root(2), &hands.image(2)).unwrap();
    let description = hands.server.world().vms[&FIRST_VMID].config["description"].clone();
    assert!(description.starts_with("call Ada first\n") && description.trim_end().ends_with("rack 7"), "{description}");
    hands.was_proper();
}

#[test]
fn a_task_that_warns_has_done_its_work_and_one_that_fails_says_why() {
    let hands = Hands::new();
    hands.deploy(1);
    let (driver, node, image) = (&hands.driver, machine("etcd1"), hands.image(2));
    driver.ensure_image(&image, &Silent).unwrap();
    hands.server.arm(Trouble::TaskFails(1));
    let failed = format!("{:#}", driver.replace_root(&node, root(2), &image).unwrap_err());
    assert!(
        failed.contains("making the root of `etcd1`")
            && failed.contains("| TASK ERROR: command '/usr/bin/qemu-img convert' failed"),
        "{failed}"
    );
    hands.server.arm(Trouble::TaskDies(1));
    let died = format!("{:#}", driver.replace_root(&node, root(2), &image).unwrap_err());
    assert!(died.contains("its worker died on `pve1`"), "{died}");
    assert_eq!((hands.only().root, hands.only().trouble), (Some(root(1)), vec![]));
    hands.server.arm(Trouble::TaskWarns(1));
    driver.replace_root(&node, root(2), &image).unwrap();
    assert_eq!((hands.only().root, hands.only().previous), (Some(root(2)), Some(root(1))));
    hands.was_proper();
}

#[test]
fn a_host_that_is_busy_for_a_moment_is_asked_again() {
    let hands = Hands::new();
    hands.deploy(1);
    for status in [503, 595] {
        hands.server.arm(Trouble::Answer(2, status));
        assert_eq!(hands.driver.survey(&cluster()).unwrap().len(), 1);
    }
    hands.was_proper();
}

#[test]
fn several_nodes_need_one_upload() {
    let hands = Hands::on(World { task_length: 2, ..World::new() });
    hands.deploy(1);
    for (n, node) in ["etcd2", "etcd3"].into_iter().enumerate() {
        let mut machine = machine(node);
        machine.uuid = format!("00000000-0000-5000-8000-{n:012}");
        assert_eq!(hands.driver.ensure_image(&hands.image(1), &Silent).unwrap().bytes, 0);
        hands.driver.ensure_machine(&machine, root(1), &hands.image(1), &seed(2)).unwrap();
    }
    let names: Vec<String> = hands.seen().into_iter().map(|s| s.mark.node).collect();
    assert_eq!(names, ["etcd1", "etcd2", "etcd3"]);
    let world = hands.server.world();
    assert_eq!((world.volumes.len(), world.used(DISKS) > 24 << 30), (9, true));
    assert_eq!(
        world.storages[IMAGES].files.keys().collect::<Vec<_>>(),
        [&format!("kiln-{}.qcow2", Sha256Digest::of(&world.storages[IMAGES].files.values().next().unwrap().clone()))]
    );
    drop(world);
    hands.was_proper();
}
