//! Every place where a change of disks can be cut off, and what the note then tells.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn mark() -> Mark {
    Mark { cluster: "6ba7b8109dad11d180b400c04fd430c8".parse().unwrap(), env: "k8s0".into(), node: "etcd1".into() }
}

fn root(generation: u64) -> Root {
    Root { image: Sha256Digest::of(&generation.to_be_bytes()), generation }
}

fn config(slots: &[(&str, &str)]) -> VmConfig {
    let values: serde_json::Map<String, serde_json::Value> =
        slots.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    serde_json::from_value(values.into()).unwrap()
}

fn note(volumes: &[(&str, Holds)], previous: Option<&str>, step: Option<Step>) -> Note {
    let mut note = Note::new(mark(), "u".into());
    note.volumes = volumes.iter().map(|(volume, holds)| ((*volume).to_owned(), *holds)).collect();
    note.previous = previous.map(str::to_owned);
    note.step = step;
    note
}

#[test]
fn a_new_root_is_told_at_every_cut() {
    let step = Some(Step::Root { root: root(3), over: Some("s:b".into()) });
    let note = note(&[("s:a", Holds::Root(root(1))), ("s:b", Holds::Root(root(2)))], Some("s:a"), step);
    // Announced, and not yet come.
    let before = disks(&note, &config(&[("virtio0", "s:b"), ("unused0", "s:a")]));
    assert_eq!((before.root, before.previous, before.waste), (Some(root(2)), Some(("s:a".into(), root(1))), vec![]));
    // Come: what was in the slot is the previous one, and the one before that is waste.
    let swapped = config(&[("virtio0", "s:c"), ("unused0", "s:a"), ("unused1", "s:b")]);
    let after = disks(&note, &swapped);
    assert_eq!(
        (after.root, after.previous, &after.waste),
        (Some(root(3)), Some(("s:b".into(), root(2))), &vec!["s:a".to_owned()])
    );
    // The name of a removed volume is given again by the host: the settled note has forgotten it.
    let dropped = config(&[("virtio0", "s:c"), ("unused1", "s:b")]);
    let end = settled(&note, &dropped);
    assert_eq!(end.previous.as_deref(), Some("s:b"));
    assert!(!end.volumes.contains_key("s:a") && end.step.is_none());
    assert_eq!(disks(&end, &dropped), disks(&note, &dropped));
}

#[test]
fn a_root_comes_back_and_the_one_it_had_is_waste() {
    let step = Some(Step::Restore { back: "s:a".into(), drop: "s:b".into() });
    let note = note(&[("s:a", Holds::Root(root(1))), ("s:b", Holds::Root(root(2)))], Some("s:a"), step);
    let before = disks(&note, &config(&[("virtio0", "s:b"), ("unused0", "s:a")]));
    assert_eq!((before.root, before.previous.is_some(), before.waste), (Some(root(2)), true, vec![]));
    let after = disks(&note, &config(&[("virtio0", "s:a"), ("unused0", "s:b")]));
    assert_eq!((after.root, after.previous, after.waste), (Some(root(1)), None, vec!["s:b".to_owned()]));
}

#[test]
fn data_are_waste_only_when_they_were_told_to_be_wiped_and_others_are_there() {
    let volumes = [("s:d", Holds::Data)];
    let wipe = Some(Step::Wipe { drop: "s:d".into() });
    let waste = |step: Option<Step>, slots: &[(&str, &str)]| disks(&note(&volumes, None, step), &config(slots)).waste;
    assert_eq!(waste(wipe.clone(), &[("virtio1", "s:e"), ("unused0", "s:d")]), ["s:d"]);
    assert!(waste(wipe, &[("unused0", "s:d")]).is_empty());
    assert!(waste(None, &[("virtio1", "s:e"), ("unused0", "s:d")]).is_empty());
    assert!(waste(Some(Step::Data), &[("virtio1", "s:e"), ("unused0", "s:d")]).is_empty());
    let loose = disks(&note(&volumes, None, None), &config(&[("unused0", "s:d")])).loose_data;
    assert_eq!(loose.as_deref(), Some("s:d"));
}

#[test]
fn what_people_write_beside_the_note_stays() {
    let note = note(&[], None, None);
    let first = note.description("");
    assert_eq!(Note::parse(&first), Some(note.clone()));
    let written = format!("call Ada before you touch this\n{first}\nrack 7\n");
    let again = note.description(&written);
    assert!(again.starts_with("call Ada") && again.ends_with("rack 7"), "{again}");
    assert_eq!(Note::parse(&again), Some(note));
    assert_eq!(Note::parse("{\"kiln\":2}"), None);
    assert_eq!(mark_of_serial(&smbios_serial(&mark())), Some(mark()));
    assert_eq!(mark_of_serial("Zm9v"), None);
}

fn holds() -> impl Strategy<Value = Holds> {
    prop_oneof![
        (1..4u64).prop_map(|g| Holds::Root(root(g))),
        (0..3u8).prop_map(|n| Holds::Seed(Sha256Digest::of(&[n]))),
        Just(Holds::Data)
    ]
}

fn volume() -> impl Strategy<Value = String> {
    "s:[a-f]"
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4u64, proptest::option::of(volume())).prop_map(|(g, over)| Step::Root { root: root(g), over }),
        (volume(), volume()).prop_map(|(back, drop)| Step::Restore { back, drop }),
        (0..3u8).prop_map(|n| Step::Seed { seed: Sha256Digest::of(&[n]) }),
        Just(Step::Data),
        volume().prop_map(|drop| Step::Wipe { drop }),
    ]
}

proptest! {
    /// Whatever a note and a configuration say: nothing that the note does not know, that is in a slot, or that is data nobody wanted wiped
    /// is ever waste; and settling changes nothing that a reader sees.
    #[test]
    fn nothing_of_value_is_ever_waste(
        volumes in proptest::collection::btree_map(volume(), holds(), 0..6),
        slots in proptest::collection::vec(proptest::option::of(volume()), 6),
        previous in proptest::option::of(volume()),
        step in proptest::option::of(step()),
        parked: bool,
    ) {
        let mut note = Note::new(mark(), "u".into());
        (note.volumes, note.previous, note.step, note.parked) = (volumes, previous, step, parked);
        let names = ["virtio0", "virtio1", "virtio2", "unused0", "unused1", "unused2"];
        // A volume is in one place only.
        let mut seen = std::collections::BTreeSet::new();
        let placed: Vec<(&str, &str)> = names
            .into_iter()
            .zip(&slots)
            .filter_map(|(name, volume)| Some((name, volume.as_deref()?)))
            .filter(|(_, volume)| seen.insert(*volume))
            .collect();
        let config = config(&placed);
        let told = disks(&note, &config);
        for volume in &told.waste {
            prop_assert!(config.unused_key(volume).is_some());
            prop_assert!(told.previous.as_ref().is_none_or(|(p, _)| p != volume));
            match note.volumes.get(volume) {
                Some(Holds::Data) => {
                    let wanted = matches!(&note.step, Some(Step::Wipe { drop }) if drop == volume);
                    prop_assert!(wanted && config.volume(DATA).is_some());
                }
                Some(Holds::Root(_) | Holds::Seed(_)) => {}
                None => prop_assert!(false, "unknown volumes stay"),
            }
        }
        let again = disks(&settled(&note, &config), &config);
        prop_assert_eq!((again.root, &again.previous, again.seed), (told.root, &told.previous, told.seed));
        prop_assert_eq!(settled(&settled(&note, &config), &config), settled(&note, &config));
    }
}
